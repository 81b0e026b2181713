"""Checks of an estimator's input, in memory or lazy, and lazy predictions.

In memory, scikit-learn's own checks apply. Of a Dask collection only what is known without
computing is checked at once (columns, their names); the values are checked piece by piece where
they lie, in ``fit`` before the run starts, in a lazy prediction when it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_is_fitted,
    validate_data,
)

from dask_petuum.data import open_dataset
from dask_petuum.data.kinds import dask_backed, is_dask_frame
from dask_petuum.runtime.job import Job

__all__ = [
    "Checked",
    "check_choice",
    "check_number",
    "check_rows",
    "check_values",
    "check_weights",
    "float_dtype",
    "open_rows",
    "rows_to_apply",
    "weights_in_memory",
]

FLOATS = [np.float64, np.float32]


def check_rows(estimator: Any, X: Any, y: Any = None, *, reset: bool, min_rows: int = 1) -> Any:
    """Check the rows of ``fit`` (``reset=True``) or of later calls; learn or compare the columns.

    Returns
    -------
    X as float32 or float64, dense in C order or CSR; a Dask collection as it was given.

    Raises
    ------
    ValueError
        In scikit-learn's words.
    """
    if dask_backed(X) is None:
        return validate_data(
            estimator,
            X,
            **({} if y is None else {"y": y, "multi_output": False}),
            accept_sparse="csr",
            dtype=FLOATS,
            order="C",
            reset=reset,
            accept_large_sparse=True,
            ensure_min_samples=min_rows,
            skip_check_array=False,
        )
    dataset = open_dataset(X)
    if reset:
        if dataset.n_features is not None:
            estimator.n_features_in_ = dataset.n_features
        if dataset.feature_names is not None:
            estimator.feature_names_in_ = dataset.feature_names
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return X
    if dataset.n_features is not None and dataset.n_features != estimator.n_features_in_:
        raise ValueError(
            f"X has {dataset.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    known = getattr(estimator, "feature_names_in_", None)
    given = dataset.feature_names
    if known is not None and given is not None and not np.array_equal(known, given):
        raise ValueError(
            "The feature names should match those that were passed during fit: "
            f"expected {list(known)[:5]}, got {list(given)[:5]}."
        )
    return X


def check_values(X: Any, y: Any, sample_weight: Any) -> None:
    """Refuse NaN, infinity and negative weights; called on each piece where it lies."""
    check_array(X, accept_sparse="csr", dtype=None, ensure_min_samples=0, input_name="X")
    if sample_weight is not None:
        check_weights(sample_weight)


def weights_in_memory(X: Any, sample_weight: Any) -> Any:
    """Check the weights of rows in memory, as float64; those of lazy rows are left as given.

    Raises
    ------
    ValueError
        In scikit-learn's words for another length; see also `check_weights`.
    """
    if sample_weight is None or dask_backed(X) is not None:
        return sample_weight
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    check_weights(weights)
    return weights


def open_rows(estimator: Any, X: Any, y: Any = None, sample_weight: Any = None) -> Job:
    """Open a job for what was checked; lazy pieces are checked by `check_values` where they lie."""
    check = None if dask_backed(X) is None else check_values
    job: Job = estimator._open_job(X, y, sample_weight, check=check, dtype=float_dtype(X))
    return job


def check_weights(sample_weight: NDArray[Any]) -> None:
    """Refuse weights that are not finite or negative, naming the first."""
    bad = np.flatnonzero(~(np.isfinite(sample_weight) & (sample_weight >= 0)))
    if len(bad):
        raise ValueError(
            f"sample_weight must be finite and >= 0, got {sample_weight[bad[0]]} in row {bad[0]}"
        )


def check_number(name: str, value: Any, kind: Any, low: float, *, strict: bool = False) -> None:
    """Refuse a parameter that is not a number of ``kind`` (numbers.Integral or Real) from ``low``.

    ``strict``: above ``low``.
    """
    number = isinstance(value, kind) and not isinstance(value, bool)
    if not number or not (value > low if strict else value >= low):
        what = "an integer" if kind is Integral else "a number"
        raise ValueError(f"{name} must be {what} {'>' if strict else '>='} {low}, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a parameter that is not one of several words."""
    if not isinstance(value, str) or value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def float_dtype(X: Any) -> np.dtype[Any]:
    """Type in which rows are kept: float32 if they are, else float64."""
    given = dask_backed(X)
    if given is not None and is_dask_frame(given):
        kinds = set(given.dtypes)
        return np.dtype(np.float32 if kinds == {np.dtype(np.float32)} else np.float64)
    dtype = getattr(X, "dtype", None)
    return np.dtype(np.float32 if dtype == np.float32 else np.float64)


def rows_to_apply(estimator: Any, X: Any) -> tuple[Any, bool]:
    """Check that the estimator is fitted and X has its columns; X, and whether it is lazy."""
    check_is_fitted(estimator)
    X = check_rows(estimator, X, reset=False)
    given = dask_backed(X)
    return (X, False) if given is None else (given, True)


class Checked:
    """A function of rows that refuses NaN and infinity first; for `dask_petuum.lazy.map_rows`.

    So lazy rows are checked where they lie, and when they are there. Whole numbers become float64.

    Parameters
    ----------
    function
        Picklable; gets float32 or float64 rows, dense in C order or CSR.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, block: Any) -> Any:
        return self.function(check_array(block, accept_sparse="csr", dtype=FLOATS, order="C"))
