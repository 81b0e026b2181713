"""Numbers that an estimator cannot work with: not finite, too large to square, too many columns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

__all__ = ["check_finite", "check_labels", "check_width", "host_memory"]

#: Magnitudes up to which the square, summed over a million (float32) values, fits the type.
LARGEST = {np.dtype(np.float32): 1e16, np.dtype(np.float64): 1e140}
#: Columns that a table of the store may have.
MOST_COLUMNS = 2**31 - 1


def check_finite(X: Any, name: str = "X", *, chunk: bool = False) -> None:
    """Refuse NaN, infinity and magnitudes whose squares do not fit, naming the first.

    One pass over the values (a sum of squares) where all is well.

    Parameters
    ----------
    X
        ndarray (1-d or 2-d) or CSR or CSC; whole numbers pass.
    name
        What to call it in errors.
    chunk
        Say that the row is counted within a chunk.

    Raises
    ------
    ValueError
        With the value, row and column.
    """
    values: Any = X.data if sp.issparse(X) else X  # type: ignore[attr-defined]
    if values.dtype.kind != "f" or not values.size:
        return
    largest = LARGEST.get(values.dtype.newbyteorder("="), 1e140)
    flat = values.ravel(order="K")
    with np.errstate(all="ignore"):
        if np.dot(flat, flat) <= largest**2:  # False for NaN
            return
        bad = ~(np.abs(values) <= largest)
    if not bad.any():
        return
    value, row, column = _first(X, bad)
    where = f"row {row}{' of its chunk' if chunk else ''}{column}"
    if np.isnan(value):
        raise ValueError(f"Input {name} contains NaN: got nan in {where}; fill or drop it first.")
    if np.isinf(value):
        raise ValueError(f"Input {name} contains infinity: got {value} in {where}.")
    raise ValueError(
        f"{name} has the value {value} in {where}: beyond {largest:g} sums of squares do not fit "
        f"{values.dtype}; scale it."
    )


def check_labels(y: NDArray[Any], name: str = "y", *, chunk: bool = False) -> None:
    """Refuse labels that are missing, are no classes or cannot be ordered.

    Raises
    ------
    ValueError
        In scikit-learn's words, or naming the value and its row.
    TypeError
        Labels of kinds that cannot be compared.
    """
    if y.dtype.kind == "M":  # any dates are classes; scikit-learn does not know them
        return
    check_finite(y, name, chunk=chunk)
    try:
        with np.errstate(invalid="ignore"):  # whole numbers beyond int64
            np.unique(y)
            check_classification_targets(y)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in y.tolist()})
        raise TypeError(
            f"{name} has labels that cannot be ordered, of types {kinds}: {error}"
        ) from None


def check_width(estimator: Any, n_features: int) -> None:
    """Refuse so many columns that what is to be learnt cannot be held.

    Raises
    ------
    ValueError
        More columns than a table may have, or a model that is larger than this machine's memory.
    """
    name = type(estimator).__name__
    if n_features > MOST_COLUMNS:
        raise ValueError(
            f"X has {n_features} features, {name} takes {MOST_COLUMNS} at most; number them anew, "
            "or hash them into fewer"
        )
    n_columns = 1
    for parameter in ("n_components", "n_clusters"):
        n_columns = max(n_columns, int(getattr(estimator, parameter, 1)))
    n_bytes = 8 * n_features * n_columns
    if n_bytes > host_memory():
        raise ValueError(
            f"X has {n_features} features: {n_columns} numbers for each of them take "
            f"{n_bytes / 2**30:.0f} GiB, this machine has {host_memory() / 2**30:.0f}; number the "
            "features anew, or hash them into fewer"
        )


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first(X: Any, bad: NDArray[np.bool_]) -> tuple[Any, int, str]:
    """First marked value, its row, and its column in words."""
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    if isinstance(X, np.ndarray):
        return X[place], place[0], f", column {place[1]}" if X.ndim == 2 else ""
    outer = int(np.searchsorted(X.indptr, place[0], side="right")) - 1
    inner = int(X.indices[place[0]])
    row, column = (inner, outer) if X.format == "csc" else (outer, inner)
    return X.data[place], row, f", column {column}"
