"""Checks at the border of a view: row numbers, positions, increments. Errors say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.exceptions import TableError
from dask_petuum.store.numbers import checked_array, fitting
from dask_petuum.store.spec import TableSpec

__all__ = [
    "checked_delta",
    "checked_positions",
    "checked_rows",
    "is_sparse",
    "same_rows",
    "spread_rows",
]

Array = npt.NDArray[Any]


def checked_rows(spec: TableSpec, rows: Sequence[int] | Array | None) -> Array | None:
    """Check the rows of an access plan.

    Returns
    -------
    int64 array, ascending, or None for all rows.

    Raises
    ------
    TableError
        Where rows are not integers, repeated, out of order or out of range.
    """
    if rows is None:
        return None
    checked = checked_array(rows, f"rows of table {spec.name!r}")
    if checked.size == 0:
        return np.empty(0, dtype=np.int64)
    if checked.ndim != 1 or checked.dtype.kind not in "iu":
        raise TableError(
            f"rows of table {spec.name!r} must be a 1-d sequence of integers, "
            f"got shape {checked.shape} of {checked.dtype}"
        )
    if (checked[1:] <= checked[:-1]).any():
        raise TableError(
            f"rows of table {spec.name!r} must be ascending and unique; use numpy.unique"
        )
    if checked[0] < 0 or checked[-1] >= spec.n_rows:
        raise TableError(
            f"rows of table {spec.name!r} must be within 0 .. {spec.n_rows - 1}, "
            f"got {checked[0]} .. {checked[-1]}"
        )
    if len(checked) == spec.n_rows:
        return None
    return np.asarray(checked, dtype=np.int64)


def checked_positions(n_rows: int, at: Sequence[int] | Array | None) -> Array | None:
    """Check positions within a view of ``n_rows`` rows: integers, in range, unique."""
    if at is None:
        return None
    where = checked_array(at, "positions")
    if where.size == 0:
        return np.empty(0, dtype=np.int64)
    if where.ndim != 1 or where.dtype.kind not in "iu":
        raise TableError(f"positions must be a 1-d sequence of integers, got {at!r}")
    if where.min() < 0 or where.max() >= n_rows:
        raise TableError(
            f"positions must be within 0 .. {n_rows - 1} of the view, "
            f"got {where.min()} .. {where.max()}"
        )
    if len(np.unique(where)) != len(where):
        raise TableError("positions must be unique; add up the increments of a row first")
    return np.asarray(where, dtype=np.int64)


def checked_delta(spec: TableSpec, shape: tuple[int, int], delta: Any, where: Array | None) -> Any:
    """Check an increment's shape and type.

    Returns
    -------
    ndarray of the table's dtype, or a ``csr_array`` where a sparse table got a sparse increment.

    Raises
    ------
    TableError
        For another shape, for floats added to an integer table, and for numbers that do not fit.
    """
    expected = shape if where is None else (len(where), shape[1])
    what = f"increments of table {spec.name!r}"
    delta = checked_array(delta, what)
    if is_sparse(delta) and not spec.sparse:
        delta = delta.toarray()
    if delta.shape != expected:
        raise TableError(
            f"an increment of table {spec.name!r} must have shape {expected}, got {delta.shape}"
        )
    dtype = np.dtype(spec.dtype)
    if delta.dtype != dtype:
        if delta.dtype.kind not in ("iub" if dtype.kind == "i" else "iubf"):
            raise TableError(
                f"table {spec.name!r} holds {spec.dtype}: cannot add {delta.dtype}; "
                f"{'round first' if delta.dtype.kind == 'f' else 'give numbers'}"
            )
        if not is_sparse(delta):
            return fitting(delta, dtype, what)
        values = fitting(delta.data, dtype, what)
        delta = sp.csr_array((values, delta.indices, delta.indptr), shape=delta.shape)
    return delta


def is_sparse(values: Any) -> bool:
    """Whether values are a scipy.sparse array; unlike ``issparse``, narrows no type."""
    return bool(sp.issparse(values))


def same_rows(rows: Array | None, other: Array | None) -> bool:
    """Whether two checked declarations name the same rows (None: all)."""
    if rows is None or other is None:
        return rows is other
    return bool(np.array_equal(rows, other))


def spread_rows(delta: Any, where: Array | None, shape: tuple[int, int]) -> Any:
    """Put the rows of ``delta`` at their places in a sparse array of the given shape.

    Parameters
    ----------
    delta
        (n, n_cols) array or sparse array.
    where
        (n,) row of each; None: as they are.
    """
    coo = sp.coo_array(delta)
    if where is None:
        return coo.tocsr()
    row, col = coo.coords
    return sp.coo_array((coo.data, (where[row], col)), shape=shape).tocsr()
