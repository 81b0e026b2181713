"""Consistency models: how far a read may lag, and when values are fetched. Pure.

A rank in clock c (it has ended c clocks) with staleness s reads values that contain every
increment of every rank's clocks 0 .. c-s-1, possibly newer ones, and all of its own.

====  =====================================================================================
BSP   s = 0, and nothing newer than c-1: bulk-synchronous
SSP   fetched only when too old (Ho et al., NIPS 2013)
ESSP  fetched as soon as there is something newer (Dai et al., AAAI 2015)
ASP   no bound: a rank never waits
====  =====================================================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

__all__ = ["MODELS", "AutoStaleness", "Consistency", "Staleness"]

MODELS = ("bsp", "ssp", "essp", "asp")
#: How a user gives the bound: clocks; "auto"; or the range (low, high) that it moves in.
Staleness = int | str | tuple[int, int] | list[int]
#: Range that staleness="auto" moves in.
AUTO_RANGE = (0, 8)


@dataclass(frozen=True)
class Consistency:
    """A consistency model with its bound.

    Parameters
    ----------
    model
        "bsp", "ssp", "essp" or "asp".
    low, high
        The bound in clocks moves within [low, high]; equal where it is fixed.
    """

    model: str
    low: int = 0
    high: int = 0

    @classmethod
    def parse(cls, model: str, staleness: Staleness = 0) -> Consistency:
        """Check a user's choice.

        Parameters
        ----------
        model
            "bsp", "ssp", "essp" or "asp".
        staleness
            Clocks that a read may lag; or (low, high), in which each rank moves its bound by
            itself; or "auto", which is the range (0, 8).

        Raises
        ------
        ValueError
            For an unknown model, a negative bound, a bound where there can be none, or a range
            that is none.

        Examples
        --------
        >>> Consistency.parse("ssp", 2), Consistency.parse("essp", (1, 4)).high
        (Consistency(model='ssp', low=2, high=2), 4)
        """
        if model not in MODELS:
            raise ValueError(f"consistency must be one of {MODELS}, got {model!r}")
        if isinstance(staleness, tuple | list) or staleness == "auto":
            if model in ("bsp", "asp"):
                given = '"auto"' if staleness == "auto" else f"{staleness!r}"
                raise ValueError(f'staleness={given} needs "ssp" or "essp", not {model!r}')
            return cls(model, *(AUTO_RANGE if isinstance(staleness, str) else _range(staleness)))
        if not _is_integer(staleness):
            raise ValueError(
                f'staleness must be an integer, "auto" or a range (low, high), got {staleness!r}'
            )
        if staleness < 0:
            raise ValueError(
                f'staleness must be >= 0, got {staleness}; use consistency="asp" for no bound'
            )
        if model == "bsp" and staleness:
            raise ValueError(f'consistency="bsp" has staleness 0, got {staleness}; use "ssp"')
        return cls(model, staleness, staleness)

    @property
    def ordered(self) -> bool:
        """Whether owners hold batches until a clock is complete."""
        return self.model == "bsp"

    @property
    def eager(self) -> bool:
        """Whether values are fetched before they are needed."""
        return self.model in ("bsp", "essp")

    @property
    def bounded(self) -> bool:
        """Whether a rank ever waits."""
        return self.model != "asp"


def _range(given: Sequence[int]) -> tuple[int, int]:
    """Check a range."""
    if len(given) != 2 or not all(map(_is_integer, given)):
        raise ValueError(f"a range of staleness must be two integers (low, high), got {given!r}")
    low, high = given
    if not 0 <= low <= high:
        raise ValueError(f"a range of staleness must have 0 <= low <= high, got ({low}, {high})")
    return low, high


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


class AutoStaleness:
    """Moves the bound inside its range from measured times (after DSSP, Zhao et al. 2019).

    A rank that waited for more than ``WAIT_SHARE`` of its recent clocks' time lets its bound grow
    by one; a rank that hardly waited takes one back, since fresher values converge better.
    """

    WINDOW = 8
    WAIT_SHARE = 0.10
    IDLE_SHARE = 0.02

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high
        self.bound = low
        self._clocks: deque[tuple[float, float]] = deque(maxlen=self.WINDOW)

    def record(self, seconds: float, waited: float) -> int:
        """Take in one clock's length and the part of it that was waiting; return the bound."""
        self._clocks.append((seconds, waited))
        if self.low == self.high or len(self._clocks) < self.WINDOW:
            return self.bound
        total = sum(clock[0] for clock in self._clocks)
        share = sum(clock[1] for clock in self._clocks) / total if total > 0 else 0.0
        if share > self.WAIT_SHARE and self.bound < self.high:
            self.bound += 1
            self._clocks.clear()
        elif share < self.IDLE_SHARE and self.bound > self.low:
            self.bound -= 1
            self._clocks.clear()
        return self.bound
