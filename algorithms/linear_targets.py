"""What linear regressions share: checks of the targets before a fit, predictions after it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_array

from dask_petuum.data.blocks import check_container
from dask_petuum.data.kinds import dask_backed
from dask_petuum.lazy import map_rows

from .input_values import check_finite
from .inputs import Checked, check_rows, check_values, rows_to_apply, weights_in_memory

__all__ = ["LinearPredictionMixin", "check_targets", "check_values_and_targets"]


def check_targets(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool = True
) -> tuple[Any, Any, Any]:
    """Check what ``fit`` was given; of lazy input only what is known without computing.

    ``reset``: learn the columns; else compare them with those of the last fit.

    Raises
    ------
    ValueError
        In scikit-learn's words.
    """
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"{name} requires y to be passed, but the target y is None")
    if dask_backed(X) is not None:
        return check_rows(estimator, X, reset=reset), y, sample_weight
    X, y = check_rows(estimator, X, y, reset=reset)
    return X, _numbers(y), weights_in_memory(X, sample_weight)


def check_values_and_targets(X: Any, y: Any, sample_weight: Any) -> None:
    """Refuse bad values of rows, targets and weights; called on each lazy piece where it lies."""
    check_values(X, None, sample_weight)
    _numbers(y, chunk=True)


class LinearPredictionMixin:
    """Predictions from ``coef_`` and ``intercept_``; lazy where the rows are."""

    coef_: NDArray[Any]
    intercept_: Any

    def predict(self, X: Any) -> Any:
        """Return ``X coef_ + intercept_``, (n_rows,); lazy for a Dask collection."""
        X, lazy = rows_to_apply(self, X)
        function = partial(_predict, self.coef_, self.intercept_)
        if not lazy:
            return function(X)
        return map_rows(
            Checked(function, len(self.coef_)), X, n_columns=None, dtype=self.coef_.dtype
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R^2; reads lazy rows in pieces."""
        predicted = self.predict(X)
        if dask_backed(predicted) is None:
            return float(super().score(X, y, sample_weight))  # type: ignore[misc]
        y = y if dask_backed(y) is None else dask_backed(y)
        y = y.to_dask_array() if hasattr(y, "to_dask_array") else y
        weights = 1.0 if sample_weight is None else sample_weight
        total = predicted.shape[0] if sample_weight is None else sample_weight.sum()
        mean = (weights * y).sum() / total
        rest = (weights * (y - predicted) ** 2).sum()
        return float((1.0 - rest / (weights * (y - mean) ** 2).sum()).compute())


def _numbers(y: Any, *, chunk: bool = False) -> NDArray[np.float64]:
    out: NDArray[np.float64] = check_array(
        check_container(y, "y"),
        ensure_2d=False,
        dtype=np.float64,
        input_name="y",
        ensure_min_samples=0,
        ensure_all_finite=False,
    )
    check_finite(out, "y", chunk=chunk)
    return out


def _predict(coef: NDArray[Any], intercept: float, X: Any) -> NDArray[Any]:
    out: NDArray[Any] = safe_sparse_dot(X, coef) + coef.dtype.type(intercept)
    return out
