"""Which rank gets which partition: a pure decision from sizes and from where they lie.

Partitions stay where they are unless that leaves a rank with more than ``slack`` times the mean
load; then as few as needed are moved. List scheduling by decreasing size (Graham 1969, "Bounds on
multiprocessing timing anomalies") for what has a choice, and moves from full to empty ranks for
the rest. The decision knows nothing of Dask, of memory limits or of the network's shape.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

__all__ = ["place_partitions"]


def place_partitions(
    sizes: Sequence[int],
    homes: Sequence[Sequence[int]],
    n_ranks: int,
    slack: float = 1.25,
) -> list[int]:
    """Return the rank of each partition.

    The biggest load is at most ``slack`` times the mean, or the rank that has it holds no
    partition smaller than its distance from the mean (so that no single move would help): with
    partitions that are small beside the mean, the bound always holds. Every rank has a partition
    if there are as many partitions as ranks. If each partition has one home at most and these are
    balanced, nothing moves. Equal arguments give equal results, in every process.

    Parameters
    ----------
    sizes
        (n_partitions,) work of each partition, e.g. its nonzeros.
    homes
        (n_partitions,) ranks that hold each partition already; may be empty.
    n_ranks
        Number of ranks, at least 1.
    slack
        Load over the mean load that is accepted to save moves; at least 1.

    Returns
    -------
    list of int
        (n_partitions,) ranks. Within a rank, partitions keep the order of their numbers.

    Raises
    ------
    ValueError
        An argument outside its range.

    Notes
    -----
    O(n_partitions log n_partitions) plus O(n_ranks + log n_partitions) for each move.

    Examples
    --------
    >>> place_partitions([5, 5, 5, 5], [[0], [0], [0], [1]], 2)
    [1, 0, 0, 1]
    """
    _check(sizes, homes, n_ranks, slack)
    loads = _Loads(sizes, n_ranks)
    _place_at_homes(loads, homes)
    _place_the_homeless(loads, homes)
    limit = slack * sum(sizes) / n_ranks
    _move_to_other_homes(loads, homes, limit)
    _move_the_excess(loads, limit)
    _fill_empty_ranks(loads)
    return loads.ranks


class _Loads:
    """Who holds what while placing.

    The mutable state is ``ranks`` (-1: nowhere yet), ``totals`` and ``held``; only `put` changes
    it.
    """

    def __init__(self, sizes: Sequence[int], n_ranks: int) -> None:
        self.sizes = sizes
        self.ranks = [-1] * len(sizes)
        self.totals = [0] * n_ranks
        #: Per rank, its (size, partition) pairs in rising order.
        self.held: list[list[tuple[int, int]]] = [[] for _ in range(n_ranks)]

    def put(self, partition: int, rank: int) -> None:
        """Place a partition, or move it."""
        size, before = self.sizes[partition], self.ranks[partition]
        if before >= 0:
            self.totals[before] -= size
            del self.held[before][bisect_left(self.held[before], (size, partition))]
        self.ranks[partition] = rank
        self.totals[rank] += size
        insort(self.held[rank], (size, partition))

    def order(self, rank: int) -> tuple[int, int, int]:
        """Return what ranks are compared by: load, then number of partitions, then number."""
        return self.totals[rank], len(self.held[rank]), rank

    def least(self, ranks: Iterable[int]) -> int:
        """Return the rank with the least load among ``ranks``."""
        return min(ranks, key=self.order)


def _place_at_homes(loads: _Loads, homes: Sequence[Sequence[int]]) -> None:
    """Place what has a home: first those without a choice, then the biggest first."""
    resident = [number for number, ranks in enumerate(homes) if ranks]
    resident.sort(key=lambda number: (len(set(homes[number])) > 1, -loads.sizes[number], number))
    for partition in resident:
        loads.put(partition, loads.least(homes[partition]))


def _place_the_homeless(loads: _Loads, homes: Sequence[Sequence[int]]) -> None:
    """Place what has no home on the emptiest ranks, the biggest first."""
    homeless = [number for number, ranks in enumerate(homes) if not ranks]
    homeless.sort(key=lambda number: (-loads.sizes[number], number))
    heap = [loads.order(rank) for rank in range(len(loads.totals))]
    heapq.heapify(heap)
    for partition in homeless:
        rank = heap[0][2]
        loads.put(partition, rank)
        heapq.heapreplace(heap, loads.order(rank))


def _move_to_other_homes(loads: _Loads, homes: Sequence[Sequence[int]], limit: float) -> None:
    """Bring ranks down to ``limit`` by what costs nothing: another home that has room."""
    for full in sorted(range(len(loads.totals)), key=loads.order, reverse=True):
        for size, partition in reversed(loads.held[full].copy()):
            if loads.totals[full] <= limit:
                break
            others = [rank for rank in homes[partition] if rank != full]
            if others and loads.totals[target := loads.least(others)] + size <= limit:
                loads.put(partition, target)


def _move_the_excess(loads: _Loads, limit: float) -> None:
    """Move partitions off ranks above ``limit``, as long as that lowers the pair's bigger load.

    Each move lowers the sum of squared loads, so it ends. The least load never falls, so a rank
    that cannot be helped now cannot be helped later.
    """
    all_ranks = range(len(loads.totals))
    waiting = {rank for rank in all_ranks if loads.totals[rank] > limit}
    while waiting:
        full = max(waiting, key=loads.order)
        target = loads.least(all_ranks)
        partition = _best_to_move(loads, full, target, limit)
        if partition is None:
            waiting.discard(full)
            continue
        loads.put(partition, target)
        if loads.totals[full] <= limit:
            waiting.discard(full)
        if loads.totals[target] > limit:
            waiting.add(target)


def _best_to_move(loads: _Loads, full: int, target: int, limit: float) -> int | None:
    """Return the partition to move from rank ``full`` to ``target``, None if none helps.

    The smallest that is enough if ``target`` has room for it and it is not far more than enough,
    else the biggest of those below, else the one that leaves the smaller maximum of the two loads.
    """
    held = loads.held[full]
    excess = loads.totals[full] - limit
    gap = loads.totals[full] - loads.totals[target]
    enough = bisect_left(held, (excess, -1))
    beyond = bisect_left(
        held, (limit - loads.totals[target], len(loads.sizes))
    )  # no room from here
    below = min(enough, beyond) - 1
    has_below = below >= 0 and held[below][0] > 0
    if enough < beyond and (held[enough][0] <= 2 * excess or not has_below):
        return held[enough][1]
    if has_below:
        return held[below][1]
    middle = bisect_left(held, (gap / 2, -1))
    candidates = [pair for pair in held[max(middle - 1, 0) : middle + 1] if 0 < pair[0] < gap]
    if not candidates:
        return None
    return min(candidates, key=lambda pair: (max(pair[0], gap - pair[0]), pair[1]))[1]


def _fill_empty_ranks(loads: _Loads) -> None:
    """Give each empty rank the smallest partition that its rank can spare."""
    for rank, held in enumerate(loads.held):
        if held:
            continue
        spare = [p for p, holder in enumerate(loads.ranks) if len(loads.held[holder]) > 1]
        if not spare:
            return
        loads.put(min(spare, key=lambda p: (loads.sizes[p], p)), rank)


def _check(
    sizes: Sequence[int], homes: Sequence[Sequence[int]], n_ranks: int, slack: float
) -> None:
    if n_ranks < 1:
        raise ValueError(f"n_ranks must be >= 1, got {n_ranks}.")
    if not slack >= 1:
        raise ValueError(f"slack must be >= 1, got {slack}.")
    if len(homes) != len(sizes):
        raise ValueError(f"There are {len(sizes)} sizes but {len(homes)} homes.")
    if min(sizes, default=0) < 0:
        raise ValueError(f"sizes must be >= 0, got {min(sizes)}.")
    for number, ranks in enumerate(homes):
        if any(not 0 <= rank < n_ranks for rank in ranks):
            raise ValueError(f"homes[{number}] is {list(ranks)}, but ranks are 0 to {n_ranks - 1}.")
