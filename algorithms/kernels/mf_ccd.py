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

__all__ = ["update_rows"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


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
    """Solve rows low..high for one block, each while its ratings are in the cache.

    Its residuals are brought up to date, its normal equations formed and solved, and its change is
    taken into the residuals.

    Parameters
    ----------
    rows : starts (n_rows + 1,), index and residual (n_entries,) of the padded rows
    before : (n_rows, 8), own values of the block that the other side changed last
    pack : (n_others + 1, 16): that change, and the other side's values of this block
    counts : (n_rows,), factor of each row's penalty
    penalties, free : (8,), the block's penalties, and 1 for lanes to solve for
    values : (n_rows, 8), updated in place
    change : (n_rows, 8), output

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
