"""Kernels of the store: find what changed, add it where it belongs.

All take C-contiguous arrays whose shapes fit (the codec and the owner have checked) and int32
positions. Positions are unique within a call, so the order of rows does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.jit import kernel

__all__ = [
    "add_cells",
    "add_rows",
    "add_rows_where",
    "count_changes",
    "count_rows",
    "gather_cells",
    "gather_rows",
    "mark_cells",
    "put_rows",
]

Array = npt.NDArray[Any]


@kernel()
def count_changes(delta: Array, counts: Array) -> int:
    """Count the nonzero cells of each row; return their sum.

    Parameters
    ----------
    delta : (n_rows, n_cols)
    counts : (n_rows,) int32, filled
    """
    total = 0
    for i in range(delta.shape[0]):
        n = 0
        for j in range(delta.shape[1]):
            n += delta[i, j] != 0
        counts[i] = n
        total += n
    return total


@kernel()
def gather_rows(values: Array, rows: Array, out: Array) -> None:
    """Copy rows: ``out[i] = values[rows[i]]``."""
    for i in range(rows.shape[0]):
        r = rows[i]
        for j in range(values.shape[1]):
            out[i, j] = values[r, j]


@kernel()
def gather_cells(delta: Array, counts: Array, cells: Array, values: Array) -> None:
    """List the nonzero cells.

    Parameters
    ----------
    delta : (n_rows, n_cols)
    counts : (n_rows,) int32, nonzero cells of each row
    cells : (n,) int64, filled with row * n_cols + column
    values : (n,) of the delta's dtype, filled
    """
    k = 0
    n_cols = delta.shape[1]
    for i in range(delta.shape[0]):
        if counts[i] == 0:
            continue
        if k + n_cols <= cells.shape[0]:
            # Without a branch on the values: what is not to stay is written over.
            for j in range(n_cols):
                cells[k] = i * n_cols + j
                values[k] = delta[i, j]
                k += delta[i, j] != 0
            continue
        for j in range(n_cols):
            if delta[i, j] != 0:
                cells[k] = i * n_cols + j
                values[k] = delta[i, j]
                k += 1


@kernel()
def mark_cells(versions: Array, rows: Array, cells: Array, n_cols: int, version: int) -> None:
    """Mark the rows in which cells lie.

    Parameters
    ----------
    versions : (n_rows,) int64, changed in place
    rows : (n,) int32
        Row of ``versions`` for each row that ``cells`` counts in.
    cells : (m,) int64, ascending
        row * n_cols + column.
    n_cols : int
    version : int
    """
    end = 0
    for k in range(cells.shape[0]):
        if cells[k] >= end:
            row = cells[k] // n_cols
            versions[rows[row]] = version
            end = (row + 1) * n_cols


@kernel()
def count_rows(cells: Array, n_cols: int) -> int:
    """Count the rows in which ascending cells lie."""
    end, n = 0, 0
    for k in range(cells.shape[0]):
        if cells[k] >= end:
            end = (cells[k] // n_cols + 1) * n_cols
            n += 1
    return n


@kernel()
def add_rows(values: Array, rows: Array, delta: Array) -> None:
    """Add rows: ``values[rows[i]] += delta[i]``."""
    for i in range(rows.shape[0]):
        r = rows[i]
        for j in range(delta.shape[1]):
            values[r, j] += delta[i, j]


@kernel()
def add_rows_where(values: Array, rows: Array, delta: Array, where: Array) -> None:
    """Add those rows of ``delta`` whose target is marked.

    Parameters
    ----------
    values : (n_rows, n_cols), changed in place
    rows : (n,) int32
    delta : (n, n_cols)
    where : (n_rows,) bool
    """
    for i in range(rows.shape[0]):
        r = rows[i]
        if where[r]:
            for j in range(delta.shape[1]):
                values[r, j] += delta[i, j]


@kernel()
def add_cells(values: Array, rows: Array, cells: Array, delta: Array, where: Array) -> None:
    """Add single cells, those whose row is marked.

    Parameters
    ----------
    values : (n_rows, n_cols), changed in place
    rows : (n,) int32
        Row of ``values`` for each row that ``cells`` counts in.
    cells : (m,) int64
        row * n_cols + column.
    delta : (m,)
    where : (n_rows,) bool
    """
    n_cols = values.shape[1]
    first, end, r = 0, 0, 0
    for k in range(cells.shape[0]):
        if cells[k] < first or cells[k] >= end:
            row = cells[k] // n_cols
            first, end, r = row * n_cols, (row + 1) * n_cols, rows[row]
        if where[r]:
            values[r, cells[k] - first] += delta[k]


@kernel()
def put_rows(values: Array, rows: Array, new: Array, mark: Array) -> None:
    """Replace rows and mark them: ``values[rows[i]] = new[i]``, ``mark[rows[i]] = True``."""
    for i in range(rows.shape[0]):
        r = rows[i]
        mark[r] = True
        for j in range(new.shape[1]):
            values[r, j] = new[i, j]


def positions(n_rows: int) -> Array:
    """The positions 0 .. n_rows-1 as the kernels take them."""
    return np.arange(n_rows, dtype=np.int32)
