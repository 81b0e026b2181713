"""The order of coarse blocks that are tasks: who next, with what priority, and when to end. Pure.

One `Machine` chooses, as for all model-parallel programs; who starts the tasks and hears of their
ends (:mod:`dask_petuum.runtime.cluster_blocks`) gives two functions. So the order can be tested
without a cluster, with ends in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dask_petuum.model_parallel.machine import Machine, Task

__all__ = ["UNSEEN", "Neighbours", "Update", "drive", "readers_of"]

#: Priority of a block that nobody has updated yet.
UNSEEN = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Update:
    """A block's update that has ended."""

    block: int
    #: How far the block moved.
    change: float


class Neighbours:
    """Blocks conflict where one reads the other; an `Interference` of strengths 0 and 1.

    Parameters
    ----------
    reads
        For a block, the blocks that its update reads.
    """

    def __init__(self, reads: Mapping[int, Sequence[int]]) -> None:
        self._linked = {block: set(others) for block, others in reads.items()}
        for block, others in reads.items():
            for other in others:
                self._linked.setdefault(other, set()).add(block)

    def conflicts(self, block: int, chosen: Sequence[int], rho: float) -> bool:
        """Tell whether a block reads a chosen one, or is read by it."""
        return not self._linked.get(block, set()).isdisjoint(chosen)


def readers_of(reads: Mapping[int, Sequence[int]]) -> dict[int, set[int]]:
    """For a block, the blocks that read it, from the blocks that each reads."""
    readers: dict[int, set[int]] = {}
    for block, others in reads.items():
        for other in others:
            readers.setdefault(other, set()).add(block)
    return readers


def drive(
    machine: Machine,
    start: Callable[[Task, float], None],
    ended: Callable[[], tuple[int, float]],
    limits: tuple[int, int, float | None],
    readers: Mapping[int, Collection[int]],
) -> list[Update]:
    """Start tasks of one block each, and others as these end, until there is nothing to do.

    Parameters
    ----------
    machine
        Of blocks that do not move; one rank, width 1.
    start
        Called with each task and its block's priority: how far the block moved last.
    ended
        Waits for any task that was started; gives its number and how far its block moved.
    limits
        Updates in all; tasks in flight at a time; and the change at or below which a block has
        come to rest, until one that it reads moves by more; None: none.
    readers
        For a block, the blocks that read it.

    Returns
    -------
    The updates, in the order in which they ended.
    """
    n_updates, n_together, tol = limits
    priorities: npt.NDArray[np.float64] = np.full(machine.n_blocks, UNSEEN)
    rest = _Rest(machine.n_blocks, tol, readers)
    updates: list[Update] = []
    n_started = 0
    while True:
        while (
            not rest.is_complete and n_started < n_updates and len(machine.in_flight) < n_together
        ):
            task = machine.ask(0)
            if task is None:
                break
            rest.start(task.blocks[0])
            start(task, float(priorities[task.blocks[0]]))
            n_started += 1
        if not machine.in_flight:
            return updates
        number, change = ended()
        (block,) = next(task.blocks for task in machine.in_flight if task.number == number)
        machine.done(number, [change], 0.0)
        priorities[block] = abs(change)
        rest.end(block, abs(change))
        updates.append(Update(block, change))


class _Rest:
    """Which blocks have come to rest: they did not move, and nothing that they read has since."""

    def __init__(
        self, n_blocks: int, tol: float | None, readers: Mapping[int, Collection[int]]
    ) -> None:
        self._tol = tol
        self._readers = readers
        self._moving = set(range(n_blocks))
        #: Of the blocks in flight: whether one that they read has moved since they started.
        self._late: dict[int, bool] = {}

    @property
    def is_complete(self) -> bool:
        return self._tol is not None and not self._moving

    def start(self, block: int) -> None:
        self._late[block] = False

    def end(self, block: int, change: float) -> None:
        late = self._late.pop(block)
        moved = self._tol is None or not change <= self._tol
        if moved or late:
            self._moving.add(block)
        else:
            self._moving.discard(block)
        if moved:
            of = self._readers.get(block, ())
            self._moving.update(of)
            self._late.update((reader, True) for reader in of if reader in self._late)
