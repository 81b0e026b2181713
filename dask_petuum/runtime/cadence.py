"""When a checkpoint is due: rank 0 decides, by clocks and by time."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Cadence"]


class Plan(Protocol):
    """What a cadence needs to know of a run."""

    @property
    def save_clocks(self) -> int | None:
        """Clocks between two checkpoints."""

    @property
    def save_seconds(self) -> float | None:
        """Seconds between two checkpoints."""


class Cadence:
    """Says when to wish for a checkpoint.

    Parameters
    ----------
    plan
        The limits.
    may_wish
        Whether this rank is the one that decides.
    """

    # The mutable state is when the last checkpoint was, and whether one is due at once.

    def __init__(self, plan: Plan, may_wish: bool) -> None:
        self._plan = plan
        self._may_wish = may_wish
        self._last_clock = 0
        self._last_time = time.monotonic()
        self._at_once = False

    def begin_again(self) -> None:
        """After a loss copies are missing: save as soon as possible."""
        self._at_once = True

    def saved(self, clock: int) -> None:
        """Note that all ranks save after a clock."""
        self._last_clock = clock
        self._last_time = time.monotonic()
        self._at_once = False

    def is_due(self, clock: int, requested: bool, busy: bool) -> bool:
        """Whether to wish for a checkpoint in a clock.

        Parameters
        ----------
        requested
            The client asked for one.
        busy
            One is under way.
        """
        if not self._may_wish or busy:
            return False
        clocks, seconds = self._plan.save_clocks, self._plan.save_seconds
        by_clock = clocks is not None and clock - self._last_clock >= clocks
        by_time = seconds is not None and time.monotonic() - self._last_time >= seconds
        return requested or self._at_once or by_clock or by_time
