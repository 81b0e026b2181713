"""The loop of programs whose blocks move in no fixed order: to whichever rank is idle.

The machine that chooses is in the Dask scheduler: only it hears from all ranks. A rank asks for
its next task while it works on one, says in the same message which it has done before, and the next
block comes from the rank where it lies meanwhile: neither the answer nor the block is waited for.
So a rank that is slow holds nobody up before the end of a pass; others visit the blocks that it has
not got to, also those that lie there. A rank has two blocks at most that are kept for it: the one
that it works on and the next. The order, and with it the result, depends on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dask_petuum.data import Partition
from dask_petuum.model_parallel import Machine, rotation
from dask_petuum.runtime.block_program import Batch, ModelParallelProgram
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.loop import begin_states, run_arrays, state_arrays
from dask_petuum.runtime.metrics import LoopContext, LoopPlan, Metrics, RankResult, add_metrics
from dask_petuum.runtime.program import State
from dask_petuum.runtime.rotation_loop import begin_block, block_arrays, block_seeds, visit
from dask_petuum.runtime.shelf import Shelf

__all__ = [
    "Asked",
    "Assignment",
    "Done",
    "FreeContext",
    "Tasks",
    "make_tasks",
    "run_free",
    "run_pass",
]

#: A task that is finished: its number and the seconds that it took.
Done = tuple[int, float]


@dataclass(frozen=True)
class Assignment:
    """One visit: which block, for which partition, and the partition where the block lies."""

    task: int
    block: int
    partition: int
    source: int


class Asked(Protocol):
    """A question for a task, under way."""

    @property
    def is_answered(self) -> bool:
        """Whether the answer is here."""

    def wait(self) -> Assignment | None:
        """Wait for the answer: a task, or None: the pass is over; raises why the run ended."""


class FreeContext(LoopContext, Protocol):
    """What the loop needs of a rank besides what all loops do."""

    @property
    def shelf(self) -> Shelf:
        """The blocks that lie here."""

    def ask_task(
        self, number: int, partitions: Sequence[int], done: Done | None, homes: Sequence[int]
    ) -> Asked:
        """Tell what is done, and ask for the next task of a pass for one of the partitions.

        Waits for nothing. A block that lies at another rank (``homes``: rank of each partition)
        is sent for as soon as the answer is here.
        """

    def tell_done(self, done: Done) -> None:
        """Tell what is done, and ask for nothing."""

    def fetched_block(self, block: int, task: int) -> dict[str, Array]:
        """Wait for the block of a task, which has been sent for; take it."""


class Tasks:
    """Gives out the tasks of a run, pass by pass; in the scheduler, or in the only rank.

    The mutable state is the machine's.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def finish(self, done: Done) -> None:
        """Note that a task is done."""
        self._machine.done(done[0], [0.0], done[1])

    def is_over(self, number: int) -> bool:
        """Whether pass ``number`` has ended."""
        machine = self._machine
        if machine.n_passes == number and machine.pass_is_over:
            machine.end_pass()
        return machine.n_passes > number

    def ask(self, partitions: Sequence[int]) -> Assignment | None:
        """Get a task for one of the partitions, or None: nothing is free now."""
        for partition in partitions:
            task = self._machine.ask(partition)
            if task is not None:
                return Assignment(task.number, task.blocks[0], partition, task.sources[0])
        return None


def make_tasks(costs: Sequence[float], n_partitions: int) -> Tasks:
    """Make the machine of a run, in which partitions take the part of ranks.

    Parameters
    ----------
    costs
        Of each block, > 0.
    """
    homes = [rotation.home(block, len(costs), n_partitions) for block in range(len(costs))]
    return Tasks(
        Machine(len(costs), n_partitions, rotation.Rotation("free"), costs=costs, homes=homes)
    )


def run_free(
    ctx: FreeContext,
    program: ModelParallelProgram,
    partitions: Sequence[Partition],
    plan: LoopPlan,
) -> RankResult:
    """Run a program whose blocks move freely to its end in one rank."""
    ctx.defer_increments()
    specs = program.blocks()
    rotation.check_sizes(len(specs), len(plan.homes))
    metrics = Metrics(ctx, program, plan)
    parts = {part.index: part for part in partitions}
    begun = begin_states(ctx, program, partitions)
    states = {part.index: state for part, state in zip(partitions, begun, strict=True)}
    for block, spec in enumerate(specs):
        if plan.homes[rotation.home(block, len(specs), len(plan.homes))] == ctx.rank:
            ctx.shelf.put(block, begin_block(ctx, block, spec))
    ctx.barrier()  # also behind a checkpoint: others ask for the blocks that lie here
    stopped_by = "max_clocks"
    first = metrics.n_done  # the machine counts passes from where it began
    while (number := metrics.n_done) < plan.max_clocks:
        totals = run_pass(ctx, program, parts, states, plan.homes, (number, number - first))
        for part in partitions:
            add_metrics(totals, program.measure(ctx, part, states[part.index]))
        metrics.add(totals)
        metrics.end_clock()
        stop = metrics.update()
        if stop:
            stopped_by = stop
            break
        if metrics.saves_now():
            # everybody must have come here: a rank that is a pass ahead takes blocks away
            ctx.barrier()
            arrays = state_arrays(ctx, program, partitions, [*states.values()])
            ctx.save(arrays | block_arrays(ctx.shelf.look()) | run_arrays(ctx, metrics))
            ctx.barrier()
    n_clocks = metrics.n_done
    ctx.barrier()
    metrics.update()
    outputs = {part.index: program.finish(ctx, part, states[part.index]) for part in partitions}
    history = metrics.history if ctx.rank == 0 else []
    return RankResult(outputs, history, n_clocks, stopped_by, ctx.shelf.take_all())


def run_pass(
    ctx: FreeContext,
    program: ModelParallelProgram,
    parts: Mapping[int, Partition],
    states: Mapping[int, State],
    homes: Sequence[int],
    numbers: tuple[int, int],
) -> dict[str, float]:
    """Do this rank's visits of a pass: its number in the run, and in the machine's count."""
    totals = dict.fromkeys(program.metrics, 0.0)
    done: Done | None = None
    asked = ctx.ask_task(numbers[1], list(parts), None, homes)
    while (task := asked.wait()) is not None:
        asked = ctx.ask_task(numbers[1], list(parts), done, homes)
        part, block = parts[task.partition], task.block
        if homes[task.source] == ctx.rank:
            values = ctx.shelf.take(block)
        else:
            values = ctx.fetched_block(block, task.task)
        began = time.perf_counter()
        batch = Batch((block,), (values,), numbers[0], block_seeds(ctx, part, block))
        add_metrics(totals, visit(ctx, program, part, states[part.index], batch))
        ctx.shelf.put(block, values)
        done = task.task, time.perf_counter() - began
        if not asked.is_answered:
            # perhaps there is no task before somebody gets the block that has just become free
            ctx.tell_done(done)
            done = None
    return totals
