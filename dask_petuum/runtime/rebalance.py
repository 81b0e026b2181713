"""Partitions move from slow ranks to fast ones: a pure decision (FlexRR, Harlap et al. 2016).

Where a rank is at half speed for good (a busy host, a slower machine), bounded staleness only hides
it for some clocks; work has to move. A rank's time is its load times its slowness; partitions move,
one at a time, from the rank with the longest time to wherever the pair's longer time is least.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["longest_time", "rebalance"]

#: A move must lower the longer time of its pair by this share of it, or it is not worth its cost.
LEAST_GAIN = 0.02


def rebalance(sizes: Sequence[int], ranks: Sequence[int], slowness: Sequence[float]) -> list[int]:
    """Return the rank of each partition, moved where that helps.

    Every rank that has a partition keeps one.

    Parameters
    ----------
    sizes
        (n_partitions,) work of each partition.
    ranks
        (n_partitions,) where each is.
    slowness
        (n_ranks,) time for a unit of work, > 0.

    Examples
    --------
    >>> rebalance([1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1.0, 2.0])
    [0, 0, 0, 0, 1, 1]
    """
    placed = list(ranks)
    loads = [0] * len(slowness)
    counts = [0] * len(slowness)
    for size, rank in zip(sizes, placed, strict=True):
        loads[rank] += size
        counts[rank] += 1
    while (move := _best_move(sizes, placed, slowness, (loads, counts))) is not None:
        partition, target = move
        source = placed[partition]
        placed[partition] = target
        loads[source] -= sizes[partition]
        loads[target] += sizes[partition]
        counts[source] -= 1
        counts[target] += 1
    return placed


def longest_time(sizes: Sequence[int], ranks: Sequence[int], slowness: Sequence[float]) -> float:
    """Return the time of the rank that takes longest."""
    loads = [0.0] * len(slowness)
    for size, rank in zip(sizes, ranks, strict=True):
        loads[rank] += size * slowness[rank]
    return max(loads)


def _best_move(
    sizes: Sequence[int],
    placed: Sequence[int],
    slowness: Sequence[float],
    held: tuple[list[int], list[int]],
) -> tuple[int, int] | None:
    loads, counts = held
    times = [load * slow for load, slow in zip(loads, slowness, strict=True)]
    slowest = max(range(len(times)), key=times.__getitem__)
    best, found = times[slowest] * (1 - LEAST_GAIN), None
    if counts[slowest] < 2:
        return None
    for partition, rank in enumerate(placed):
        if rank != slowest:
            continue
        size = sizes[partition]
        for target in range(len(times)):
            if target != slowest:
                longer = max(
                    (loads[target] + size) * slowness[target],
                    (loads[slowest] - size) * slowness[slowest],
                )
                if longer < best:
                    best, found = longer, (partition, target)
    return found
