"""The loop of programs whose blocks every rank has: a few are updated together in each round.

All ranks run the same :class:`~dask_petuum.model_parallel.machine.Machine` on the same history, so
they choose the same batch without a message. What they push is summed in a table of the store,
which has rows for the rounds under way; every rank commits the same sums. With a staleness of s,
a batch is committed s rounds after it was pushed, and other batches are under way meanwhile
(pipelining; Lee et al. 2014), none of which conflicts with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.model_parallel.machine import Machine, Task
from dask_petuum.runtime.block_program import Batch, ModelParallelProgram
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.metrics import LoopContext, LoopPlan, Metrics, RankResult, add_metrics
from dask_petuum.runtime.program import State
from dask_petuum.store.spec import TableSpec

__all__ = ["partials_table", "run_shared"]

PARTIALS_TABLE = "__partials__"


def partials_table(program: ModelParallelProgram, plan: LoopPlan) -> TableSpec:
    """Specify the table in which pushes are summed: ``width`` rows for each round under way."""
    shape = (_n_slots(plan) * program.width(), program.n_partials)
    return TableSpec(PARTIALS_TABLE, shape, "float64", dims=("slot", "partial"))


def _n_slots(plan: LoopPlan) -> int:
    """Rounds whose rows are in use.

    The rows of round r may change again from round r + n on. Whoever begins that round knows that
    all others have pushed round r + n - s - 1 (s: the slack); so they have committed what is
    committed after the round before, r + n - 2 s - 2.
    """
    return 2 * plan.slack + 2


def run_shared(
    ctx: LoopContext,
    program: ModelParallelProgram,
    partitions: Sequence[Partition],
    plan: LoopPlan,
) -> RankResult:
    """Run a program whose blocks are shared to its end in one rank."""
    ctx.defer_increments()
    metrics = Metrics(ctx, program, plan)
    states = [program.start(ctx, part) for part in partitions]
    rounds = _Rounds(ctx, program, list(zip(partitions, states, strict=True)), plan)
    ctx.barrier()
    stopped_by = "max_clocks"
    per_clock = program.rounds_per_clock()
    for _ in range(plan.max_clocks):
        for number in range(per_clock):
            rounds.begin()
            if number == per_clock - 1:
                for part, state in rounds.parts:
                    add_metrics(rounds.totals, program.measure(ctx, part, state))
                metrics.add(rounds.totals)
                rounds.totals = dict.fromkeys(program.metrics, 0.0)
            ctx.clock()
            rounds.commit()
        stop = metrics.update()
        if stop:
            stopped_by = stop
            break
    n_clocks = metrics.n_done
    ctx.barrier()
    rounds.commit(everything=True)
    metrics.update()
    outputs = {part.index: program.finish(ctx, part, state) for part, state in rounds.parts}
    history = metrics.history if ctx.rank == 0 else []
    blocks = dict(enumerate(rounds.values)) if ctx.rank == 0 else {}
    return RankResult(outputs, history, n_clocks, stopped_by, blocks)


class _Rounds:
    """The rounds under way: batches that were pushed and are not yet committed.

    The mutable state is the blocks' `values`, the machine, and `_under_way`; alike in every rank.
    """

    def __init__(
        self,
        ctx: LoopContext,
        program: ModelParallelProgram,
        parts: Sequence[tuple[Partition, State]],
        plan: LoopPlan,
    ) -> None:
        specs = program.blocks()
        self._ctx = ctx
        self._program = program
        self._slack = plan.slack
        self._n_slots = _n_slots(plan)
        self._width = program.width()
        self.parts = parts
        self.values = [spec.begin() for spec in specs]
        self.totals = dict.fromkeys(program.metrics, 0.0)
        self._machine = Machine(
            len(specs),
            1,
            program.schedule(),
            costs=[spec.cost for spec in specs],
            interference=program.interference(),
            width=self._width,
            seed=ctx.seed_of_run,
        )
        self._view = ctx.table(PARTIALS_TABLE).view()
        self._under_way: deque[tuple[Task, Batch]] = deque()
        #: Sums to be taken out of the table again, by rank 0: (round, sums), oldest first.
        self._used: deque[tuple[int, Array]] = deque()
        self._n_rounds = 0

    def begin(self) -> None:
        """Choose a batch, push for it, and clear the rows of the one committed last."""
        delta = np.zeros((self._view.values.shape[0], self._program.n_partials))
        while self._used and self._used[0][0] <= self._n_rounds - self._n_slots:
            number, used = self._used.popleft()
            if self._ctx.rank == 0:
                delta[self._rows(number, self._width)] -= used
        if self._machine.pass_is_over:
            self._machine.end_pass()
        task = self._machine.ask(0)
        if task is not None:
            values = tuple(self.values[block] for block in task.blocks)
            seeds = np.random.SeedSequence(self._ctx.seed_of_run, spawn_key=(task.number,))
            batch = Batch(task.blocks, values, self._n_rounds, seeds)
            rows = self._rows(self._n_rounds, len(task.blocks))
            for part, state in self.parts:
                delta[rows] += self._checked(self._program.push(self._ctx, part, state, batch))
            self._under_way.append((task, batch))
        self._n_rounds += 1
        changed = np.flatnonzero(delta.any(axis=1))
        if len(changed):
            self._view.inc(delta[changed], at=changed)

    def commit(self, everything: bool = False) -> None:
        """Commit the batches whose sums are complete, and that alike in every rank."""
        while self._under_way:
            task, batch = self._under_way[0]
            if not everything and batch.number + self._slack + 1 > self._n_rounds:
                return
            self._under_way.popleft()
            total = self._view.values[self._rows(batch.number, len(task.blocks))].copy()
            used = self._view.values[self._rows(batch.number, self._width)].copy()
            self._used.append((batch.number, used))
            batch.update = self._program.pull(self._ctx, batch, total)
            for part, state in self.parts:
                add_metrics(self.totals, self._program.sync(self._ctx, part, state, batch))
            self._machine.done(task.number, _priorities(batch).tolist(), 0.0)

    def _rows(self, number: int, n: int) -> slice:
        """The first n rows of a round."""
        first = number % self._n_slots * self._width
        return slice(first, first + n)

    def _checked(self, partial: object) -> Array:
        values = np.asarray(partial, dtype=np.float64)
        task, program = self._machine.in_flight[-1], self._program
        if values.shape != (len(task.blocks), program.n_partials):
            raise ValueError(
                f"{type(program).__name__}.push must return an array of shape "
                f"{(len(task.blocks), program.n_partials)}, got {values.shape}"
            )
        return values


def _priorities(batch: Batch) -> Array:
    """How far each block moved: the largest part of its update."""
    if batch.update is None:
        return np.zeros(len(batch.blocks))
    update = np.abs(np.asarray(batch.update, dtype=np.float64))
    largest: Array = update.reshape(len(batch.blocks), -1).max(axis=1)
    return largest
