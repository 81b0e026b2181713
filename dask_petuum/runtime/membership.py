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
from dask_petuum.runtime.pace import Pace

__all__ = ["Membership", "Reform"]

#: Time between two requests for a checkpoint that does not lie with workers that leave, seconds.
ASK_SECONDS = 2.0


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

    # The mutable state is why members are to change, since which checkpoint, the ranks' pace, and
    # when a checkpoint was asked for.

    def __init__(self, placed: Placed, can_save: bool) -> None:
        self._placed = placed
        self._can_save = can_save
        self._wish: Reform | None = None
        self._saved_before = -1
        self._pace = Pace(placed.work, placed.ranks)
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
        told = [news["ranks"].get(str(rank), {}) for rank in range(len(clocks))]
        busy = [float(state.get("busy", 0.0)) for state in told]
        slowness = self._pace.look(time.monotonic(), clocks, busy)
        if slowness is None:
            return None
        slowest = max(range(len(clocks)), key=slowness.__getitem__)
        address, times = self._placed.addresses[slowest], slowness[slowest] / min(slowness)
        return Reform(
            f"{address} takes {times:.1f} times as long for its work as the fastest; "
            "partitions move away from this slow rank",
            slowness=dict(zip(self._placed.addresses, slowness, strict=True)),
        )
