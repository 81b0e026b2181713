"""When a fit should go on with other workers: a decision from what the scheduler tells.

Workers that have joined are used, workers that leave are left, and partitions move away from a rank
that is slow for good. All three wait for a checkpoint, which is asked for, and then begin another
epoch there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dask_petuum.config import get
from dask_petuum.exceptions import RunError
from dask_petuum.runtime.rebalance import longest_time, rebalance

__all__ = ["Membership", "Reform"]

#: Seconds and clocks of an epoch before ranks are compared.
WATCH_SECONDS = 3.0
WATCH_CLOCKS = 5
#: Time between two requests for a checkpoint that does not lie with workers that leave, seconds.
ASK_SECONDS = 2.0
#: The longest time of a rank must fall to this share by moving partitions.
WORTH_MOVING = 0.8


class Reform(RunError):
    """The epoch ends so that the fit goes on with other members."""

    def __init__(
        self, text: str, leaving: Sequence[str] = (), slowness: dict[str, float] | None = None
    ) -> None:
        super().__init__(text)
        self.leaving = leaving
        self.slowness = slowness


class Placed(Protocol):
    """What there is to place."""

    @property
    def addresses(self) -> Sequence[str]:
        """Worker of each rank."""

    @property
    def ranks(self) -> Sequence[int]:
        """Rank of each partition."""

    @property
    def work(self) -> Sequence[int]:
        """Work of each partition."""


class Saving(Protocol):
    """The run that is looked at."""

    def request_save(self) -> None:
        """Ask for a checkpoint."""


class Membership:
    """Looks at the news of one epoch.

    Parameters
    ----------
    placed
        The partitions and their ranks.
    can_save
        Whether the run has checkpoints: without, its members stay.
    """

    # The mutable state is why members are to change, since which checkpoint, since when the epoch
    # has been watched, and when a checkpoint was asked for.

    def __init__(self, placed: Placed, can_save: bool) -> None:
        self._placed = placed
        self._can_save = can_save
        self._wish: Reform | None = None
        self._saved_before = -1
        self._since: tuple[float, list[int], list[float]] | None = None
        self._asked: float | None = None

    def look(self, run: Saving, news: Mapping[str, Any]) -> None:
        """Take in what is new.

        Raises
        ------
        Reform
            Where a checkpoint is there and the members are to change.
        """
        if not self._can_save or news["ended"]:
            return
        wish = self._leaving(news) or self._joined(news) or self._slow(news)
        if self._wish is None and wish is not None:
            self._saved_before = news["saved_clock"]
            self._wish = wish
            run.request_save()
        elif self._wish is not None and news["saved_clock"] > self._saved_before:
            raise wish or self._wish
        elif self._wish is None and news.get("exposed"):
            self._ask_again(run)

    def _ask_again(self, run: Saving) -> None:
        """Ask for a checkpoint, from time to time."""
        now = time.monotonic()
        if self._asked is None or now - self._asked > ASK_SECONDS:
            self._asked = now
            run.request_save()

    def _leaving(self, news: Mapping[str, Any]) -> Reform | None:
        leaving = [address for address in self._placed.addresses if address in news["leaving"]]
        others = set(news["workers"]) - set(news["leaving"])
        if not leaving or not others:
            return None
        return Reform(f"{', '.join(leaving)} retire", leaving)

    def _joined(self, news: Mapping[str, Any]) -> Reform | None:
        n_ranks = len(self._placed.addresses)
        joined = sorted(set(news["workers"]) - set(self._placed.addresses) - set(news["leaving"]))
        if not joined or n_ranks >= len(self._placed.work):
            return None
        return Reform(f"{', '.join(joined)} joined")

    def _slow(self, news: Mapping[str, Any]) -> Reform | None:
        """Compare the ranks' time for a unit of work over the last few seconds."""
        if not get("recovery.rebalance"):
            return None
        clocks = list(news["clocks"])
        busy = [
            float(news["ranks"].get(str(rank), {}).get("busy", 0.0)) for rank in range(len(clocks))
        ]
        now = time.monotonic()
        if self._since is None or len(self._since[1]) != len(clocks):
            if min(clocks) > 0:
                self._since = now, clocks, busy
            return None
        began, clocks_then, busy_then = self._since
        made = [n - n_then for n, n_then in zip(clocks, clocks_then, strict=True)]
        if now - began < WATCH_SECONDS or min(made) < WATCH_CLOCKS:
            return None
        self._since = now, clocks, busy
        work = self._placed.work
        loads = [0] * len(clocks)
        for size, rank in zip(work, self._placed.ranks, strict=True):
            loads[rank] += size
        seconds = [
            (n - n_then) / max(m, 1) for n, n_then, m in zip(busy, busy_then, made, strict=True)
        ]
        slowness = [max(s, 1e-9) / max(load, 1) for s, load in zip(seconds, loads, strict=True)]
        ranks = self._placed.ranks
        better = longest_time(work, rebalance(work, ranks, slowness), slowness)
        if better > WORTH_MOVING * longest_time(work, ranks, slowness):
            return None
        return Reform(
            "partitions move away from a slow rank",
            slowness=dict(zip(self._placed.addresses, slowness, strict=True)),
        )
