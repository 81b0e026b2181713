"""Which workers are slow for good: a decision from what ranks tell of their clocks. Pure.

A rank that is slow for some seconds (a neighbour's burst, a garbage collection) is not worth a new
epoch: two windows in a row must say that moving partitions helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dask_petuum.runtime.rebalance import longest_time, rebalance

__all__ = ["Pace"]

#: Seconds and clocks of a window before ranks are compared.
WATCH_SECONDS = 3.0
WATCH_CLOCKS = 5
#: Windows in a row that must agree.
N_WINDOWS = 2
#: The longest time of a rank must fall to this share by moving partitions.
WORTH_MOVING = 0.8


class _Seen(NamedTuple):
    """What there was at a time: clocks made and seconds busy, by rank."""

    now: float
    clocks: Sequence[int]
    busy: Sequence[float]


class Pace:
    """Compares the ranks of one epoch.

    Parameters
    ----------
    work
        (n_partitions,) work of each partition.
    ranks
        (n_partitions,) rank of each.
    """

    # The mutable state is the beginnings of the windows that are looked at, the oldest first.

    def __init__(self, work: Sequence[int], ranks: Sequence[int]) -> None:
        self._work = work
        self._ranks = ranks
        self._seen: list[_Seen] = []

    def __repr__(self) -> str:
        return f"<Pace, {max(len(self._seen) - 1, 0)} windows with a slow rank>"

    def look(self, now: float, clocks: Sequence[int], busy: Sequence[float]) -> list[float] | None:
        """Take in what the ranks have done.

        Parameters
        ----------
        now
            Seconds.
        clocks
            (n_ranks,) clocks that each has made.
        busy
            (n_ranks,) seconds that each has computed.

        Returns
        -------
        (n_ranks,) seconds for a unit of work where partitions should move, else None.
        """
        seen = _Seen(now, list(clocks), list(busy))
        if not self._seen:
            if min(clocks) > 0:
                self._seen = [seen]
            return None
        last = self._seen[-1]
        made = [n - n_then for n, n_then in zip(clocks, last.clocks, strict=True)]
        if now - last.now < WATCH_SECONDS or min(made) < WATCH_CLOCKS:
            return None
        if not self._is_worth_moving(self._slowness(last, seen)):
            self._seen = [seen]
            return None
        self._seen.append(seen)
        if len(self._seen) <= N_WINDOWS:
            return None
        first = self._seen.pop(0)
        slowness = self._slowness(first, seen)
        return slowness if self._is_worth_moving(slowness) else None

    def _slowness(self, first: _Seen, last: _Seen) -> list[float]:
        """Seconds of each rank for a unit of work between two times."""
        loads = [0] * len(first.clocks)
        for size, rank in zip(self._work, self._ranks, strict=True):
            loads[rank] += size
        out = []
        for rank, load in enumerate(loads):
            made = max(last.clocks[rank] - first.clocks[rank], 1)
            seconds = (last.busy[rank] - first.busy[rank]) / made
            out.append(max(seconds, 1e-9) / max(load, 1))
        return out

    def _is_worth_moving(self, slowness: Sequence[float]) -> bool:
        moved = rebalance(self._work, self._ranks, slowness)
        longest = longest_time(self._work, self._ranks, slowness)
        return longest_time(self._work, moved, slowness) <= WORTH_MOVING * longest
