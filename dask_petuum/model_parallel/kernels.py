"""Kernels of the policies: the best block of many, in microseconds at 10,000 blocks.

All take C-contiguous arrays of equal length whose dtypes the pickers have fixed. Ties go to the
block with the lowest number, so that every machine chooses the same.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from dask_petuum.jit import kernel

__all__ = ["best_to_visit"]

Array = npt.NDArray[Any]


@kernel()
def best_to_visit(
    rank: int,
    visited: Array,
    busy: Array,
    places: Array,
    left: Array,
    costs: Array,
    sign: float,
) -> int:
    """Return the free block that a rank should visit next; -1 where there is none.

    A block that the rank holds comes before all others; then the one with the most work left for
    all ranks (``sign`` +1) or the least (-1), where work is visits left times cost.

    Parameters
    ----------
    visited, busy : (n_blocks,) uint8, 1 where this rank was there in this pass; where in flight
    places, left : (n_blocks,) int64, who holds the block; how many ranks have to visit it yet
    costs : (n_blocks,) float64
    """
    best = -1
    best_held = False
    best_work = 0.0
    for j in range(visited.shape[0]):
        if visited[j] or busy[j]:
            continue
        held = places[j] == rank
        work = sign * left[j] * costs[j]
        if best < 0 or (held and not best_held) or (held == best_held and work > best_work):
            best = j
            best_held = held
            best_work = work
    return best
