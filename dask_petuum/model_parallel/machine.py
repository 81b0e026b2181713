"""The machine that hands out tasks: which blocks, to which rank, never two that conflict.

A pure state machine. A rank asks and gets a task or nothing; it says that it is done, and its
blocks are free again. The machine knows each block's place and cost, what is in flight, and what
conflicts; the order is its policy's. No clock, no thread, no message and no randomness but that
of its seed: the same calls give the same tasks on every machine, so where all ranks know the same
history, each of them can run the machine for itself.

A decision costs microseconds at 10,000 blocks (``benchmarks/scheduler_decisions.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dask_petuum.exceptions import RankLostError

from .costs import Costs
from .picker import FloatArray, IntArray, Policy

__all__ = ["Interference", "Machine", "Task"]

#: ``(candidates, others, rho, makes_way)`` to whether each candidate is kept.
Screen = Callable[[Sequence[int], Sequence[int], float, bool], list[bool]]


class Interference(Protocol):
    """How strongly blocks depend on each other.

    One that also has a method ``screen`` as :class:`~dask_petuum.model_parallel.Correlation` has is
    asked once for all candidates of a decision.
    """

    def conflicts(self, block: int, chosen: Sequence[int], rho: float) -> bool:
        """Tell whether a block's strength with any chosen one is `rho` or more."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """Blocks that a rank is to update, and where they are."""

    #: Of the task, counted from 0 in the order of handing out.
    number: int
    #: Who is to do it.
    rank: int
    blocks: tuple[int, ...]
    #: For each block the rank that holds it now, -1: nobody, it begins (again) here.
    sources: tuple[int, ...]
    #: How often the first block was handed out before, to whomever.
    visit: int


class Machine:
    """Hands out tasks so that no two that conflict are in flight.

    Parameters
    ----------
    n_blocks, n_ranks
        How many there are; numbered from 0. With blocks that every rank has (``policy.moves`` is
        False), all ranks together are one.
    policy
        The order: `Rotation`, `Priority`, `RoundRobin` or `Random`.
    costs : (n_blocks,) of > 0, optional
        What each block is expected to cost, in any unit (nonzeros, tokens); all the same if None.
    homes : (n_blocks,) of ranks or -1, optional
        The rank that holds each block at the start; nobody if None.
    interference
        Who conflicts, by the policy's ``rho``; None: blocks conflict with themselves only.
    width
        The largest number of blocks in a task; 1 where blocks move.
    seed
        Of all that is random; any seed of ``np.random.SeedSequence``.

    Raises
    ------
    ValueError
        A size, cost, home or width that is not possible, or interference with a policy that has
        no ``rho``.

    Notes
    -----
    How many tasks are in flight at once is the caller's choice: ask as often as wanted.
    Not thread-safe.

    Examples
    --------
    >>> from dask_petuum.model_parallel import Rotation
    >>> machine = Machine(2, 2, Rotation("fixed"), homes=[0, 1])
    >>> machine.ask(0)
    Task(number=0, rank=0, blocks=(0,), sources=(0,), visit=0)
    >>> machine.ask(0) is None  # block 1 has to visit rank 1 first
    True
    >>> machine.done(machine.ask(1).number, [0.5], seconds=0.1)
    >>> machine.ask(0)
    Task(number=2, rank=0, blocks=(1,), sources=(1,), visit=1)
    >>> machine
    <Machine Rotation(order='fixed'), 2 blocks, 2 of 2 ranks, 2 tasks in flight, pass 0>
    """

    # over 7 arguments: the interface that programs are written against; five have defaults
    def __init__(  # noqa: PLR0913
        self,
        n_blocks: int,
        n_ranks: int,
        policy: Policy,
        *,
        costs: npt.ArrayLike | None = None,
        homes: npt.ArrayLike | None = None,
        interference: Interference | None = None,
        width: int = 1,
        seed: int | Sequence[int] = 0,
    ) -> None:
        _check(n_blocks, n_ranks, policy, interference, width)
        self.n_blocks = n_blocks
        self.n_ranks = n_ranks
        self.policy = policy
        #: The largest number of blocks in a task.
        self.width = width
        #: (n_blocks,) visits that are done.
        self.n_visits: IntArray = np.zeros(n_blocks, dtype=np.int64)
        #: (n_blocks,) uint8, 1 where the block is in flight.
        self.busy = np.zeros(n_blocks, dtype=np.uint8)
        #: (n_blocks,) the rank that holds each block, -1: nobody; of one in flight, whose it was.
        self.places = _checked_homes(homes, n_blocks, n_ranks)
        #: Passes that have ended.
        self.n_passes = 0
        self._costs = Costs(_checked_costs(costs, n_blocks), n_ranks)
        self._interference = interference
        self._rho = policy.rho
        #: Whether blocks conflict with others too, not only with themselves.
        self.checks = interference is not None and policy.rho is not None
        self._screen: Screen | None = getattr(interference, "screen", None)
        self._tasks: dict[int, Task] = {}
        self._n_tasks = 0
        self._n_handed = np.zeros(n_blocks, dtype=np.int64)
        self._handed_at = np.zeros(n_blocks, dtype=np.int64)
        self._alive = [True] * n_ranks
        self._picker = policy.start(self, n_blocks, n_ranks, seed)

    # The mutable state is the arrays and the tasks in flight above, and the picker's; only the
    # five methods below change it.

    def ask(self, rank: int) -> Task | None:
        """Return the best task for a rank; None: nothing now, ask again after a `done`.

        Raises
        ------
        ValueError
            There is no such rank, or it was lost.
        """
        self._check_rank(rank)
        blocks = self._picker.pick(rank, self.width)
        if not blocks:
            return None
        number = self._n_tasks
        chosen = np.array(blocks)
        sources = tuple(self.places[chosen].tolist())
        task = Task(number, rank, tuple(blocks), sources, int(self._n_handed[blocks[0]]))
        self._n_tasks += 1
        self._tasks[number] = task
        self.busy[chosen] = 1
        self._n_handed[chosen] += 1
        self._handed_at[chosen] = self._n_tasks
        return task

    def done(self, task_number: int, changes: Sequence[float], seconds: float) -> None:
        """Take a task's blocks back: free again, and at the task's rank.

        Parameters
        ----------
        changes
            For each block how far it moved (or its violation), the new priority: its absolute
            value counts.
        seconds
            How long the rank computed; 0 where nobody knows.

        Raises
        ------
        ValueError
            No such task is in flight, the changes are not finite or not one for each block, or
            the seconds are negative or not finite. The machine has not changed then.
        """
        task = self._task(task_number)
        moved = np.abs(np.asarray(changes, dtype=np.float64))
        if moved.shape != (len(task.blocks),):
            raise ValueError(
                f"changes must have one number for each of the {len(task.blocks)} blocks of "
                f"task {task_number}, got shape {moved.shape}"
            )
        if not np.isfinite(moved).all():
            raise ValueError(f"changes must be finite, got {list(changes)} for {task.blocks}")
        if not 0 <= seconds < np.inf:
            raise ValueError(f"seconds must be finite and >= 0, got {seconds}")
        del self._tasks[task_number]
        blocks = np.array(task.blocks)
        self.busy[blocks] = 0
        self.places[blocks] = task.rank
        self.n_visits[blocks] += 1
        self._costs.observe(task.rank, blocks, seconds)
        self._picker.finish(task.rank, blocks, moved)

    def abandon(self, task_number: int) -> list[int]:
        """Give up a task that cannot be done, as its blocks never came; return its blocks.

        They are free and nobody holds them any more; the visit does not count.

        Raises
        ------
        ValueError
            No such task is in flight.
        """
        task = self._task(task_number)
        del self._tasks[task_number]
        blocks = np.array(task.blocks)
        self.busy[blocks] = 0
        self.places[blocks] = -1
        self._picker.drop(task.rank, blocks)
        return list(task.blocks)

    def lost(self, rank: int) -> list[int]:
        """Go on without a rank; return the blocks that are lost with it, in ascending order.

        These are the blocks that it held and those in flight to it: nobody holds them now. A
        block on its way *from* the lost rank to another is not among them: who waits for it
        knows whether it came (`abandon`).

        Raises
        ------
        ValueError
            There is no such rank, or it was lost before.
        RankLostError
            No rank is left.
        """
        self._check_rank(rank)
        gone = {number for number, task in self._tasks.items() if task.rank == rank}
        blocks = [block for number in sorted(gone) for block in self.abandon(number)]
        held = (self.places == rank) & (self.busy == 0)
        blocks += np.flatnonzero(held).tolist()
        self.places[held] = -1
        self._alive[rank] = False
        self._picker.lose(rank)
        if not any(self._alive):
            raise RankLostError(f"rank {rank} was the last one; nobody is left to do a task")
        return sorted(blocks)

    def prioritise(self, priorities: npt.ArrayLike) -> None:
        """Set the priorities of all blocks at once, as after a full look at the violations.

        Parameters
        ----------
        priorities : (n_blocks,) of finite numbers
            Their absolute values count, as those of the changes in `done`.

        Raises
        ------
        TypeError
            The policy has no priorities.
        ValueError
            Another shape, or a number that is not finite.
        """
        values = np.abs(np.asarray(priorities, dtype=np.float64))
        if values.shape != (self.n_blocks,) or not np.isfinite(values).all():
            raise ValueError(f"priorities must be {self.n_blocks} finite numbers")
        self._picker.prioritise(values)

    def end_pass(self) -> None:
        """Begin the next pass.

        Raises
        ------
        ValueError
            Blocks move and some have not been everywhere yet.
        """
        if self.policy.moves and not self.pass_is_over:
            raise ValueError(f"the pass is not over: {self!r}")
        self._picker.end_pass()
        self.n_passes += 1

    @property
    def pass_is_over(self) -> bool:
        """Whether every block had the visits of a pass.

        That is one at each rank that is left where blocks move, else one since the pass began.
        """
        return self._picker.pass_is_over()

    @property
    def in_flight(self) -> tuple[Task, ...]:
        """The tasks that are not done, in the order of handing out."""
        return tuple(self._tasks.values())

    @property
    def costs(self) -> FloatArray:
        """(n_blocks,) what each block is believed to cost, in the unit given. Do not change."""
        return self._costs.values

    @property
    def slowness(self) -> FloatArray:
        """(n_ranks,) seconds per unit of cost of each rank, nan: not known. Do not change."""
        return self._costs.slowness

    @property
    def waits(self) -> IntArray:
        """(n_blocks,) how many tasks have been handed out since each block was."""
        return self._n_tasks - self._handed_at

    def keep(
        self, candidates: Sequence[int], others: Sequence[int], makes_way: bool = False
    ) -> list[bool]:
        """Tell of each candidate whether it may be handed out; see `picker.View`."""
        together = [block for task in self._tasks.values() for block in task.blocks]
        if self._screen is not None and self._rho is not None:
            return self._screen(candidates, [*together, *others], self._rho, makes_way)
        free = [not busy for busy in self.busy[np.array(candidates, dtype=np.int64)].tolist()]
        if self._interference is None or self._rho is None:
            return free
        together += others
        kept = []
        for block, fits in zip(candidates, free, strict=True):
            fits = fits and not self._interference.conflicts(block, together, self._rho)
            if fits or makes_way:
                together.append(block)
            makes_way = makes_way and fits
            kept.append(fits)
        return kept

    def __repr__(self) -> str:
        return (
            f"<Machine {self.policy!r}, {self.n_blocks} blocks, "
            f"{sum(self._alive)} of {self.n_ranks} ranks, {len(self._tasks)} tasks in flight, "
            f"pass {self.n_passes}>"
        )

    def _task(self, number: int) -> Task:
        if number not in self._tasks:
            raise ValueError(f"no task {number} is in flight; it is done, lost or was never there")
        return self._tasks[number]

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.n_ranks:
            raise ValueError(f"rank must be 0 .. {self.n_ranks - 1}, got {rank}")
        if not self._alive[rank]:
            raise ValueError(f"rank {rank} was lost")


def _check(
    n_blocks: int, n_ranks: int, policy: Policy, interference: Interference | None, width: int
) -> None:
    if n_blocks < 1 or n_ranks < 1:
        raise ValueError(f"n_blocks and n_ranks must be >= 1, got {n_blocks} and {n_ranks}")
    if width < 1 or (policy.moves and width > 1):
        allowed = "1, as the blocks move" if policy.moves else ">= 1"
        raise ValueError(f"width must be {allowed}, got {width}")
    if interference is not None and policy.rho is None:
        raise ValueError(f"interference has no meaning with {policy!r}: it has no rho")


def _checked_costs(costs: npt.ArrayLike | None, n_blocks: int) -> FloatArray:
    if costs is None:
        return np.ones(n_blocks)
    values = np.array(costs, dtype=np.float64)
    if values.shape != (n_blocks,) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"costs must be {n_blocks} finite numbers > 0, got {values}")
    return values


def _checked_homes(homes: npt.ArrayLike | None, n_blocks: int, n_ranks: int) -> IntArray:
    if homes is None:
        return np.full(n_blocks, -1, dtype=np.int64)
    values = np.array(homes)
    if values.shape != (n_blocks,) or values.dtype.kind not in "iu":
        raise ValueError(f"homes must be {n_blocks} whole numbers, got {values}")
    if not ((values >= -1) & (values < n_ranks)).all():
        raise ValueError(f"homes must be ranks 0 .. {n_ranks - 1} or -1, got {values}")
    return values.astype(np.int64)
