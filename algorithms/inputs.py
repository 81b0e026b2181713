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
from scipy.sparse import issparse
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_is_fitted,
    validate_data,
)

from dask_petuum.data import Partition, open_dataset
from dask_petuum.data.blocks import as_matrix, check_container
from dask_petuum.data.kinds import dask_backed, is_dask_frame
from dask_petuum.runtime.job import Check, Job

from .input_values import check_finite, check_labels, check_width

__all__ = [
    "Checked",
    "check_choice",
    "check_chunk_width",
    "check_number",
    "check_rows",
    "check_values",
    "check_weights",
    "float_dtype",
    "of_known_width",
    "open_rows",
    "rows_to_apply",
    "weights_in_memory",
]

FLOATS = [np.float64, np.float32]
#: So that a weighted sum of squares fits float64; see also `input_values`.
LARGEST_WEIGHT = 1e20


def check_rows(
    estimator: Any, X: Any, y: Any = None, *, reset: bool, min_rows: int = 1, columns: bool = False
) -> Any:
    """Check the rows of ``fit`` (``reset=True``) or of later calls; learn or compare the columns.

    Parameters
    ----------
    columns
        Dense in Fortran order or CSC, and y of numbers; else C order or CSR.

    Returns
    -------
    X as float32 or float64; a Dask collection as it was given. With y: both.

    Raises
    ------
    ValueError
        In scikit-learn's words, or naming the value and its place.
    TypeError
        For a masked array, dates, and objects that are no numbers.
    """
    if dask_backed(X) is not None:
        _check_lazy(estimator, X, reset=reset)
        return X
    given: Any = check_container(X)
    shape: tuple[int, ...] = getattr(given, "shape", ())
    if reset and issparse(given) and len(shape) == 2:
        check_width(estimator, shape[1])  # before it becomes CSC
    labelled = {} if y is None else {"y": _target(y, numbers=columns), "multi_output": False}
    try:
        checked = validate_data(
            estimator,
            given,
            **labelled,
            **({"y_numeric": True} if columns and labelled else {}),
            accept_sparse="csc" if columns else "csr",
            dtype=FLOATS,
            order="F" if columns else "C",
            reset=reset,
            accept_large_sparse=True,
            ensure_all_finite=False,
            ensure_min_samples=min_rows,
            skip_check_array=False,
        )
    except OverflowError as error:
        raise ValueError(f"X has a number that does not fit float64: {error}") from error
    rows, target = checked if labelled else (checked, None)
    if reset:
        check_width(estimator, rows.shape[1])
    if not columns:
        rows = as_matrix(rows)  # kernels want sorted indices without duplicates
    check_finite(rows)
    if columns and labelled:
        check_finite(target, "y")  # objects are numbers by now
    return (rows, target) if labelled else rows


def _target(y: Any, *, numbers: bool) -> Any:
    """Refuse a mask, and numbers that are not finite or too large; the rest is scikit-learn's."""
    if numbers or isinstance(y, np.ma.MaskedArray):
        check_container(y, "y")
    if isinstance(y, np.ndarray):
        check_finite(y, "y")
    return y


def _check_lazy(estimator: Any, X: Any, *, reset: bool) -> None:
    """Learn or compare what is known of a Dask collection's columns."""
    dataset = open_dataset(X)
    if reset:
        estimator.__dict__.pop("n_features_in_", None)
        if dataset.n_features is not None:
            estimator.n_features_in_ = dataset.n_features
            check_width(estimator, dataset.n_features)
        if dataset.feature_names is not None:
            estimator.feature_names_in_ = dataset.feature_names
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    if dataset.n_features is not None and dataset.n_features != estimator.n_features_in_:
        raise ValueError(_other_width(estimator, dataset.n_features))
    known = getattr(estimator, "feature_names_in_", None)
    given = dataset.feature_names
    if known is not None and given is not None and not np.array_equal(known, given):
        raise ValueError(
            "The feature names should match those that were passed during fit: "
            f"expected {list(known)[:5]}, got {list(given)[:5]}."
        )


def check_values(X: Any, y: Any, sample_weight: Any) -> None:
    """Refuse bad values of rows, labels and weights; called on each piece where it lies."""
    check_array(
        X,
        accept_sparse="csr",
        dtype=None,
        ensure_min_samples=0,
        ensure_all_finite=False,
        input_name="X",
    )
    check_finite(X, chunk=True)
    if y is not None and len(y):
        check_labels(y, chunk=True)
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
    given = check_container(sample_weight, "sample_weight")
    weights = _check_sample_weight(given, X, dtype=np.float64)
    check_weights(weights)
    return weights


def open_rows(
    estimator: Any, X: Any, y: Any = None, sample_weight: Any = None, check: Check = check_values
) -> Job:
    """Open a job for what was checked; lazy pieces are checked by `check` where they lie."""
    lazy = dask_backed(X) is not None
    job: Job = estimator._open_job(
        X, y, sample_weight, check=check if lazy else None, dtype=float_dtype(X)
    )
    if lazy and sample_weight is not None and not sum(job.map(_weight)) > 0:
        job.close()
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return of_known_width(estimator, job)


def _weight(partition: Partition) -> float:
    weights = partition.sample_weight
    return float(partition.n_rows if weights is None else weights.sum(dtype=np.float64))


def of_known_width(estimator: Any, job: Job) -> Job:
    """Return a job whose columns are those of the fit; learn them where nothing told them."""
    if estimator.__dict__.setdefault("n_features_in_", job.n_features) != job.n_features:
        job.close()
        raise ValueError(_other_width(estimator, job.n_features))
    return job


def check_weights(sample_weight: NDArray[Any]) -> None:
    """Refuse weights that are not finite or negative, naming the first."""
    bad = np.flatnonzero(~((sample_weight >= 0) & (sample_weight <= LARGEST_WEIGHT)))
    if not len(bad):
        return
    value, where = sample_weight[bad[0]], f"in row {bad[0]}"
    if 0 <= value < np.inf:
        raise ValueError(f"sample_weight must be at most {LARGEST_WEIGHT:g}, got {value} {where}")
    raise ValueError(f"sample_weight must be finite and >= 0, got {value} {where}")


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
    """A function of rows that refuses bad values first; for `dask_petuum.lazy.map_rows`.

    So lazy rows are checked where they lie, and when they are there. Whole numbers become float64.

    Parameters
    ----------
    function
        Picklable; gets float32 or float64 rows, dense in C order or CSR.
    n_features
        Columns that they must have.
    """

    def __init__(self, function: Callable[[Any], Any], n_features: int) -> None:
        self.function = function
        self.n_features = int(n_features)

    def __call__(self, block: Any) -> Any:
        rows = check_array(
            block, accept_sparse="csr", dtype=FLOATS, order="C", ensure_all_finite=False
        )
        check_chunk_width(rows, self.n_features)
        check_finite(rows, chunk=True)
        return self.function(rows)


def check_chunk_width(block: Any, n_features: int) -> None:
    """Refuse a lazy chunk of other columns than the fit's, now that it is there."""
    if block.shape[1] != n_features:
        raise ValueError(
            f"a chunk of X has {block.shape[1]} features, {n_features} are expected as input"
        )


def _other_width(estimator: Any, n_features: int) -> str:
    return (
        f"X has {n_features} features, but {type(estimator).__name__} is expecting "
        f"{estimator.n_features_in_} features as input."
    )
