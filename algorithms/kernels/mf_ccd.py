"""Kernels of cyclic descent: one side's rows solved for a block of 8 factors.

Rows of ratings are padded to a multiple of 8 entries; padding has residual 0 and points at a row
of zeros, which the other side's ``pack`` has at its end (row ``n_others``): it adds nothing.

References
----------
H.-F. Yu et al., "Scalable coordinate descent approaches to parallel matrix factorization for
recommender systems", ICDM 2012 (CCD++: one factor of both sides at a time).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

from .mf_simd import gather_row, solve, spread_row

__all__ = ["gather_rows", "solve_rows", "spread_rows", "update_rows"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@kernel()
def gather_rows(
    rows: tuple[NDArray[np.int64], Ints, Floats],
    low: int,
    high: int,
    before: Floats,
    pack: Floats,
    sums: Floats,
) -> None:
    """Bring the residuals of rows low..high up to date and form their normal equations.

    Parameters
    ----------
    rows : starts (n_rows + 1,), index and residual (n_entries,) of the padded rows
    before : (n_rows, 8), own values of the block that the other side changed last
    pack : (n_others + 1, 16): that change, and the other side's values of this block
    sums : (n_rows, 44), output: the upper triangle of G row by row, then b, of rows low..high
    """
    starts, index, residual = rows
    own = np.empty((10, 8), np.float32)
    for i in range(low, high):
        gather_row(index, residual, starts[i], starts[i + 1], before[i], pack, own)
        place = 0
        for k in range(8):
            for m in range(k, 8):
                sums[i, place] = own[k, m]
                place += 1
        for k in range(8):
            sums[i, place + k] = own[8, k]


@kernel()
def solve_rows(
    sums: Floats,
    low: int,
    high: int,
    counts: Floats,
    penalties: Floats,
    free: Floats,
    values: Floats,
    change: Floats,
) -> None:
    """Solve rows low..high for one block.

    Parameters
    ----------
    sums : (n_rows, 44), as `gather_rows` leaves them
    counts : (n_rows,), factor of each row's penalty
    penalties, free : (8,), the block's penalties, and 1 for lanes to solve for
    values : (n_rows, 8), updated in place
    change : (n_rows, 8), output
    """
    penalty = np.empty(8, np.float32)
    own = np.empty((10, 8), np.float32)
    for i in range(low, high):
        place = 0
        for k in range(8):
            penalty[k] = penalties[k] * counts[i]
            for m in range(k, 8):
                own[k, m] = own[m, k] = sums[i, place]
                place += 1
        for k in range(8):
            own[8, k] = sums[i, place + k]
        solve(own, penalty, values[i], free, change[i])
        for k in range(8):
            values[i, k] += change[i, k]


@kernel()
def spread_rows(
    rows: tuple[NDArray[np.int64], Ints, Floats], low: int, high: int, change: Floats, pack: Floats
) -> None:
    """Take the rows' own changes (n_rows, 8) into the residuals of rows low..high."""
    starts, index, residual = rows
    for i in range(low, high):
        spread_row(index, residual, starts[i], starts[i + 1], change[i], pack)


@kernel()
def update_rows(
    rows: tuple[NDArray[np.int64], Ints, Floats],
    low: int,
    high: int,
    before: Floats,
    pack: Floats,
    counts: Floats,
    penalties: Floats,
    free: Floats,
    values: Floats,
    change: Floats,
) -> float:
    """Do `gather_rows`, `solve_rows` and `spread_rows` row by row, while a row is in the cache.

    Returns
    -------
    Sum of the squared residuals of the rows, after they were brought up to date and before the
    rows' own change.
    """
    starts, index, residual = rows
    sums = np.empty((10, 8), np.float32)
    penalty = np.empty(8, np.float32)
    total = 0.0
    for i in range(low, high):
        gather_row(index, residual, starts[i], starts[i + 1], before[i], pack, sums)
        for k in range(8):
            penalty[k] = penalties[k] * counts[i]
            total += np.float64(sums[9, k])
        solve(sums, penalty, values[i], free, change[i])
        for k in range(8):
            values[i, k] += change[i, k]
        spread_row(index, residual, starts[i], starts[i + 1], change[i], pack)
    return total
