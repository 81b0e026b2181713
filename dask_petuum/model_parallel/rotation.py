"""Rotation: blocks travel past the data, and each visits every rank once in a pass.

A cell is (rank, block): what the rank's data have to say about the block. In *fixed* order a pass
has ``n_blocks`` steps, and rank i has block ``(step + start_i) mod n_blocks`` where ``start_i =
i n_blocks // n_ranks``. So no two ranks have the same block in a step, every rank meets every block
once in a pass, a block goes from rank i to rank i - 1 (and from 0 to the last one), and between two
holders there are ``n_blocks / n_ranks - 1`` steps in which it can travel unnoticed. All of that
holds over the border of a pass too: the formula has the period ``n_blocks``. The result is that of
one rank that takes the steps one by one, so it is serialisable, and the same whoever is slow.

In *free* order whichever rank is idle takes a block that it has not visited in this pass: nobody
waits for a slow rank, but the order, and so the result, depends on the clock.

Petuum's ring moves blocks likewise (Lee et al., NIPS 2014, section 3.1), with as many blocks as
ranks; the free order is that of NOMAD (Yun et al., VLDB 2014) with a bound on who is ahead: a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from .kernels.trees import best_to_visit
from .picker import FloatArray, IntArray, View

__all__ = [
    "Cell",
    "Rotation",
    "block_at",
    "first_block",
    "holder",
    "home",
    "next_holder",
    "plan",
    "previous_holder",
]


class Cell(NamedTuple):
    """One visit of a block at a rank, in the fixed order."""

    #: 0 .. n_blocks-1 within a pass; all ranks' cells of a step have different blocks.
    step: int
    block: int
    #: The rank that has the block before; in a run's first pass, nobody where the rank is its home.
    previous: int
    #: The rank to send the block to afterwards, also after the last visit of a pass.
    next: int


def first_block(rank: int, n_blocks: int, n_ranks: int) -> int:
    """Return the block that a rank has in step 0; its blocks at the start begin there.

    Examples
    --------
    >>> [first_block(rank, 7, 3) for rank in range(3)]
    [0, 2, 4]
    """
    return rank * n_blocks // n_ranks


def block_at(rank: int, step: int, n_blocks: int, n_ranks: int) -> int:
    """Return the block that a rank has in a step, counted over all passes.

    Examples
    --------
    >>> [[block_at(rank, step, 4, 2) for step in range(4)] for rank in range(2)]
    [[0, 1, 2, 3], [2, 3, 0, 1]]
    """
    return (step + first_block(rank, n_blocks, n_ranks)) % n_blocks


def holder(block: int, step: int, n_blocks: int, n_ranks: int) -> int:
    """Return the rank that has a block in a step; -1 while it travels.

    Examples
    --------
    >>> [holder(1, step, 4, 2) for step in range(4)]
    [-1, 0, -1, 1]
    """
    start = (block - step) % n_blocks
    rank = _last_start(start, n_blocks, n_ranks)
    return rank if first_block(rank, n_blocks, n_ranks) == start else -1


def home(block: int, n_blocks: int, n_ranks: int) -> int:
    """Return the rank that a block visits first: the one at which it should begin.

    Examples
    --------
    >>> [home(block, 7, 3) for block in range(7)]
    [0, 0, 1, 1, 2, 2, 2]
    """
    return _last_start(block, n_blocks, n_ranks)


def _last_start(start: int, n_blocks: int, n_ranks: int) -> int:
    """Return the last rank whose first block is not behind `start`: the largest i n/p <= start."""
    return ((start + 1) * n_ranks - 1) // n_blocks


def next_holder(rank: int, n_ranks: int) -> int:
    """Return the rank that has a block after this one, in every step and pass."""
    return (rank - 1) % n_ranks


def previous_holder(rank: int, n_ranks: int) -> int:
    """Return the rank that has a block before this one."""
    return (rank + 1) % n_ranks


def plan(n_blocks: int, n_ranks: int) -> list[list[Cell]]:
    """Return for each rank the cells of one pass, in its order.

    For the same result on any number of ranks, make the plan for the data's partitions instead
    of the ranks and let each rank play the parts of its own ones, step by step.

    Raises
    ------
    ValueError
        There are fewer blocks than ranks.

    Examples
    --------
    >>> for cells in plan(2, 2):
    ...     print([tuple(cell) for cell in cells])
    [(0, 0, 1, 1), (1, 1, 1, 1)]
    [(0, 1, 0, 0), (1, 0, 0, 0)]
    """
    check_sizes(n_blocks, n_ranks)
    return [
        [
            Cell(
                step,
                block_at(rank, step, n_blocks, n_ranks),
                (rank + 1) % n_ranks,
                next_holder(rank, n_ranks),
            )
            for step in range(n_blocks)
        ]
        for rank in range(n_ranks)
    ]


def check_sizes(n_blocks: int, n_ranks: int) -> None:
    """Refuse a rotation in which some rank would never have a block."""
    if n_ranks < 1:
        raise ValueError(f"n_ranks must be >= 1, got {n_ranks}")
    if n_blocks < n_ranks:
        raise ValueError(
            f"a rotation needs at least one block for each rank, got n_blocks={n_blocks} "
            f"for n_ranks={n_ranks}; use more blocks or fewer ranks"
        )


@dataclass(frozen=True)
class Rotation:
    """Let every block visit every rank once in a pass, at one rank at a time.

    Parameters
    ----------
    order
        "fixed": by the formula of this module, the same in every run; "free": an idle rank takes
        what is free and best, so that nobody waits for a slow one.

    Raises
    ------
    ValueError
        Another order.
    """

    order: Literal["fixed", "free"] = "fixed"

    #: A block is at one rank at a time.
    moves = True
    #: Blocks conflict with themselves only.
    rho = None

    def __post_init__(self) -> None:
        if self.order not in ("fixed", "free"):
            raise ValueError(f'order must be "fixed" or "free", got {self.order!r}')

    @staticmethod
    def plan(n_blocks: int, n_ranks: int) -> list[list[Cell]]:
        """Return for each rank the cells of one pass in fixed order; see `rotation.plan`."""
        return plan(n_blocks, n_ranks)

    def start(self, view: View, n_blocks: int, n_ranks: int, seed: Any) -> FixedOrder | FreeOrder:
        """Make the picker of one run; nothing in it is random."""
        check_sizes(n_blocks, n_ranks)
        make = FixedOrder if self.order == "fixed" else FreeOrder
        return make(view, n_blocks, n_ranks)


class VisitsOfAPass:
    """Which rank has visited which block in this pass; what both orders share.

    The mutable state is `visited` and `left`; only the methods here change it.
    """

    def __init__(self, view: View, n_blocks: int, n_ranks: int) -> None:
        self._view = view
        self._n_blocks = n_blocks
        self._n_ranks = n_ranks
        self._alive = np.ones(n_ranks, dtype=np.uint8)
        #: 1 where the rank has visited the block in this pass, or has it now.
        self._visited = np.zeros((n_ranks, n_blocks), dtype=np.uint8)
        #: How many ranks have to visit the block yet in this pass, those that have it now included.
        self._left = np.full(n_blocks, n_ranks, dtype=np.int64)

    def finish(self, rank: int, blocks: IntArray, changes: FloatArray) -> None:
        """Count the visits that are done."""
        self._left[blocks] -= 1

    def drop(self, rank: int, blocks: IntArray) -> None:
        """Take back visits that came to nothing."""
        self._visited[rank, blocks] = 0

    def lose(self, rank: int) -> None:
        """Expect no more visits of a rank; its tasks have been dropped before."""
        self._alive[rank] = 0
        self._left -= 1 - self._visited[rank].astype(np.int64)

    def prioritise(self, priorities: FloatArray) -> None:
        """Refuse: every block has the same number of visits."""
        raise TypeError("Rotation visits all blocks alike and takes no priorities")

    def pass_is_over(self) -> bool:
        """Tell whether every block has been at every rank that is there."""
        return not self._left.any()

    def end_pass(self) -> None:
        """Forget the visits; all begin again."""
        self._visited[:] = 0
        self._left[:] = self._alive.sum()


class FixedOrder(VisitsOfAPass):
    """The plan's order, with lost ranks left out."""

    def __init__(self, view: View, n_blocks: int, n_ranks: int) -> None:
        super().__init__(view, n_blocks, n_ranks)
        self._next_step = [0] * n_ranks

    def pick(self, rank: int, width: int) -> list[int]:
        """Give a rank the next block of its plan if all before it are done with that block."""
        for step in range(self._next_step[rank], self._n_blocks):
            block = block_at(rank, step, self._n_blocks, self._n_ranks)
            if self._visited[rank, block]:  # a visit before it was dropped
                continue
            self._next_step[rank] = step
            if self._view.busy[block] or not self._is_next(block, rank):
                return []
            self._visited[rank, block] = 1
            return [block]
        return []

    def _is_next(self, block: int, rank: int) -> bool:
        """Tell whether nobody alive has to visit the block before this rank."""
        turn = home(block, self._n_blocks, self._n_ranks)
        while turn != rank:
            if self._alive[turn] and not self._visited[turn, block]:
                return False
            turn = next_holder(turn, self._n_ranks)
        return True

    def drop(self, rank: int, blocks: IntArray) -> None:
        """Go back to the step of a visit that came to nothing."""
        super().drop(rank, blocks)
        start = first_block(rank, self._n_blocks, self._n_ranks)
        steps = (blocks - start) % self._n_blocks
        self._next_step[rank] = min(self._next_step[rank], int(steps.min()))

    def end_pass(self) -> None:
        """Go back to step 0."""
        super().end_pass()
        self._next_step = [0] * self._n_ranks


class FreeOrder(VisitsOfAPass):
    """An idle rank takes the best of the free blocks that it has not visited."""

    def pick(self, rank: int, width: int) -> list[int]:
        """Give a rank a block that it holds, else the one with the most work left.

        A block that many have to visit yet must not be left to the end, where it would be visited
        by one after the other. Simulated for 4-16 ranks, 1-16 blocks each, even and log-normal
        costs, even and uneven ranks (2026-11): a pass takes at most 1.08 of the lower bound (the
        slowest rank's work, or the longest block's); with the least work left, up to 1.47.
        """
        view = self._view
        block = best_to_visit(
            rank, self._visited[rank], view.busy, view.places, self._left, view.costs
        )
        if block < 0:
            return []
        self._visited[rank, block] = 1
        return [int(block)]
