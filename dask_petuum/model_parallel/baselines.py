"""RoundRobin and Random: all blocks alike, the baselines that `Priority` is compared with.

Both go through all blocks before any comes again: in their own order, or in one shuffled anew for
each round. (Draws with replacement, Petuum's own baseline, would leave a third of the blocks out
of each round.) A block that conflicts waits aside and is tried first at the next decision. The one
that waits longest is reserved: whatever conflicts with it waits too, so that it is handed out at
the latest when all that is in flight now is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .picker import FloatArray, IntArray, View, checked_rho

__all__ = ["Random", "RoundRobin"]

#: Blocks that may wait aside for each place in a task, before no more are tried.
WAITING = 4


@dataclass(frozen=True)
class RoundRobin:
    """Hand out the blocks in their own order, again and again.

    Parameters
    ----------
    rho
        Strength (absolute correlation) from which two blocks are never in flight together, in
        (0, 1]; None: no check.

    Raises
    ------
    ValueError
        `rho` is out of its range.
    """

    rho: float | None = None

    #: Every rank has all blocks.
    moves = False

    def __post_init__(self) -> None:
        checked_rho(self.rho)

    def start(self, view: View, n_blocks: int, n_ranks: int, seed: Any) -> InRounds:
        """Make the picker of one run; nothing in it is random."""
        return InRounds(view, n_blocks, lambda: np.arange(n_blocks))


@dataclass(frozen=True)
class Random:
    """Hand out all blocks in a random order, another one in each round.

    Parameters
    ----------
    rho
        As of `RoundRobin`.

    Raises
    ------
    ValueError
        `rho` is out of its range.
    """

    rho: float | None = None

    #: Every rank has all blocks.
    moves = False

    def __post_init__(self) -> None:
        checked_rho(self.rho)

    def start(self, view: View, n_blocks: int, n_ranks: int, seed: Any) -> InRounds:
        """Make the picker of one run."""
        random = np.random.Generator(np.random.PCG64(seed))
        return InRounds(view, n_blocks, lambda: random.permutation(n_blocks))


class InRounds:
    """Rounds through all blocks; who does not fit waits and comes first the next time.

    The mutable state is the round's order, the place in it, and who waits; `pick` changes it, and
    `drop` adds to who waits.
    """

    def __init__(self, view: View, n_blocks: int, order: Callable[[], IntArray]) -> None:
        self._view = view
        self._n_blocks = n_blocks
        self._new_order = order
        self._order: list[int] = []
        self._at = 0
        #: Blocks of this round or the last that did not fit, the one that waits longest first.
        self._waiting: list[int] = []
        self._unseen = np.ones(n_blocks, dtype=bool)
        self._n_unseen = n_blocks

    def pick(self, rank: int, width: int) -> list[int]:
        """Choose of those who wait, and then of the round."""
        chosen: list[int] = []
        waiting: list[int] = []
        queue = self._waiting
        seen = set(queue)
        while queue and len(chosen) < width:
            n = width - len(chosen)
            self._sort(queue[:n], chosen, waiting)
            queue = queue[n:]
        waiting += queue
        untried = self._n_blocks - len(seen)
        while len(chosen) < width and len(waiting) < WAITING * width and untried > 0:
            n = min(width - len(chosen), WAITING * width - len(waiting), untried)
            untried -= n
            self._sort(self._next(n, seen), chosen, waiting)
        self._waiting = waiting
        return chosen

    def _sort(self, blocks: list[int], chosen: list[int], waiting: list[int]) -> None:
        """Put blocks where they belong: they are handed out, or they wait."""
        verdicts = self._view.keep(blocks, [*chosen, *waiting[:1]], makes_way=not waiting)
        for block, fits in zip(blocks, verdicts, strict=True):
            (chosen if fits else waiting).append(block)

    def _next(self, n: int, seen: set[int]) -> list[int]:
        """Take the next `n` blocks of the rounds that were not seen in this decision."""
        blocks: list[int] = []
        while len(blocks) < n:
            if self._at == len(self._order):
                self._order = self._new_order().tolist()
                self._at = 0
            block = self._order[self._at]
            self._at += 1
            if block not in seen:  # one that waits from the last round has its turn already
                seen.add(block)
                blocks.append(block)
        return blocks

    def finish(self, rank: int, blocks: IntArray, changes: FloatArray) -> None:
        """Count the blocks done in this pass."""
        self._n_unseen -= int(np.count_nonzero(self._unseen[blocks]))
        self._unseen[blocks] = False

    def drop(self, rank: int, blocks: IntArray) -> None:
        """Let blocks come again: their visit came to nothing."""
        dropped = blocks.tolist()
        self._waiting = [*dropped, *(block for block in self._waiting if block not in dropped)]

    def lose(self, rank: int) -> None:
        """Do nothing: every rank has all blocks."""

    def prioritise(self, priorities: FloatArray) -> None:
        """Refuse: all blocks are alike."""
        raise TypeError("RoundRobin and Random hand out all blocks alike and take no priorities")

    def pass_is_over(self) -> bool:
        """Tell whether every block was done at least once in this pass."""
        return self._n_unseen == 0

    def end_pass(self) -> None:
        """Begin the next pass."""
        self._unseen[:] = True
        self._n_unseen = self._unseen.size
