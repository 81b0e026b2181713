"""Does to a crew what a schedule of faults says, while a fit runs: the monitor of that fit.

A fault is due from a clock on. It strikes when the one before has been survived: another epoch has
begun and has a checkpoint; so a fit without files is never asked to survive what it does not
promise, the loss of a part and its copy. In a fit with files faults strike as soon as they are due.
Also when all ranks are done, where they were faster than their records: until the client has their
results, these can be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from members import Members

__all__ = ["Fault", "Injector", "least_strikes", "schedules"]

#: The fewest and the most workers that a schedule leaves.
FEWEST, MOST = 2, 4
#: Workers that a fault takes at least; retire and vanish become join where few are left.
STRIKES = {"kill": 1, "stop": 1, "pair": 2, "all": FEWEST}


@dataclass(frozen=True)
class Fault:
    """What (a method of the crew, or pair, or all), how many clocks after the last, whom."""

    what: str
    after: int
    rank: int


def schedules(kinds: Sequence[str], longest: int = 20) -> st.SearchStrategy[list[Fault]]:
    """Schedules of faults of these kinds, each as often as it is named, in any order."""
    n = len(kinds)
    times = st.lists(st.integers(1, longest), min_size=n, max_size=n)
    ranks = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    return st.builds(
        lambda *drawn: [Fault(*fault) for fault in zip(*drawn, strict=True)],
        st.permutations(kinds),
        times,
        ranks,
    )


def least_strikes(schedule: Sequence[Fault]) -> int:
    """How many workers a schedule takes at least; those that join are no faults."""
    return sum(STRIKES.get(fault.what, 0) for fault in schedule)


@dataclass
class Injector:
    """A monitor that strikes, and asks for the fit's end when all has been survived.

    Parameters
    ----------
    at_once
        Do not wait for a fault to be survived: the fit has files.
    ends
        Ask for the end of the fit some clocks after the last fault.
    """

    crew: Members
    schedule: Sequence[Fault]
    at_once: bool = False
    ends: bool = True
    done: list[str] = field(default_factory=list)
    epochs: set[str] = field(default_factory=set)

    # The mutable state is `done`, `epochs`, since which clock the next fault counts, and the epoch
    # that the last one struck.

    def __post_init__(self) -> None:
        self._left = list(self.schedule)
        self._since = 0
        self._struck: str | None = None
        self._before = self.crew.n_faults

    @property
    def n_struck(self) -> int:
        """Workers that were taken so far."""
        return self.crew.n_faults - self._before

    def __call__(self, record: Any) -> bool:
        """Look what is due after a clock."""
        clock = int(record["clock"])
        board = self.crew.board()
        if board is None or board.failure is not None:
            return False
        self.epochs.add(board.run_id)
        if self._struck is not None:
            survived = board.run_id != self._struck and board.saved_clock > 0
            if not survived and not (self.at_once and self._left):
                return False
            if survived:
                self._struck = None
        if not self._left:
            return self.ends and self._struck is None and clock >= self._since + 5
        if clock >= self._since + self._left[0].after:
            self._since = clock
            self._struck = board.run_id
            self._strike(self._left.pop(0), list(board.addresses))
        return False

    def _strike(self, fault: Fault, ranks: list[str]) -> None:
        crew: Any = self.crew
        what = fault.what
        fewest, most = crew.n_members
        if what in ("vanish", "retire") and fewest <= FEWEST:
            what = "join"
        if what == "join" and most >= MOST:
            what = "kill"
        whom = ranks[fault.rank % len(ranks)]
        self.done.append(f"{what} rank {fault.rank % len(ranks)} of {len(ranks)} at {self._since}")
        print(self.done[-1], flush=True)
        if what == "join":
            crew.join()
        elif what == "pair":
            for address in {whom, ranks[(fault.rank + 1) % len(ranks)]}:
                crew.kill(address)
        elif what == "all":
            for address in ranks:
                crew.kill(address)
        else:
            getattr(crew, what)(whom)
