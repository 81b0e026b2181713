"""The loop of programs whose blocks every rank has: a few are updated together in each round.

All ranks run the same :class:`~dask_petuum.model_parallel.machine.Machine` on the same history, so
they choose the same batch without a message. What they push is summed in a table of the store,
which has rows for the rounds under way; every rank commits the same sums. With a staleness of s,
a batch is committed s rounds after it was pushed, and other batches are under way meanwhile
(pipelining; Lee et al. 2014), none of which conflicts with it.

For a checkpoint the rounds come to rest: what is under way is committed, the tables are cleared,
and every rank goes on with a new machine that knows the blocks' last changes. So nothing of the
machine needs to be saved, and a run that goes on from the checkpoint does what this one does.

Where the program has violations, they are measured at the start of each clock, summed in the same
way in a table of their own, and given to the machine in every rank after the same round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from dask_petuum.checkpoint.saved import Saved
from dask_petuum.data import Partition
from dask_petuum.model_parallel.machine import Machine, Task
from dask_petuum.model_parallel.priority import Priority
from dask_petuum.runtime.block_program import Batch, ModelParallelProgram
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.loop import begin_states, run_arrays, state_arrays
from dask_petuum.runtime.metrics import LoopContext, LoopPlan, Metrics, RankResult, add_metrics
from dask_petuum.runtime.program import State
from dask_petuum.runtime.shared_tables import (
    PARTIALS_TABLE,
    VIOLATIONS_TABLE,
    n_looks,
    n_slots,
    rounds_of,
)
from dask_petuum.runtime.shared_width import spectral_width_over_ranks

__all__ = ["run_shared"]


def run_shared(
    ctx: LoopContext,
    program: ModelParallelProgram,
    partitions: Sequence[Partition],
    plan: LoopPlan,
) -> RankResult:
    """Run a program whose blocks are shared to its end in one rank."""
    ctx.defer_increments()
    metrics = Metrics(ctx, program, plan)
    states = begin_states(ctx, program, partitions)
    parts = list(zip(partitions, states, strict=True))
    rounds = _Rounds(ctx, program, parts, plan, _width(ctx, program, parts, plan))
    if ctx.saved is None:
        ctx.barrier()
    else:
        rounds.go_on_from(ctx.saved)
    stopped_by = "max_clocks"
    per_clock = rounds.per_clock
    while metrics.n_done < plan.max_clocks:
        rounds.look()
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
        if metrics.saves_now():
            rounds.settle()
            arrays = state_arrays(ctx, program, partitions, states)
            ctx.save(arrays | run_arrays(ctx, metrics, **rounds.state()))
    n_clocks = metrics.n_done
    ctx.barrier()
    rounds.commit(everything=True)
    metrics.update()
    outputs = {part.index: program.finish(ctx, part, state) for part, state in rounds.parts}
    history = metrics.history if ctx.rank == 0 else []
    blocks = dict(enumerate(rounds.values)) if ctx.rank == 0 else {}
    return RankResult(outputs, history, n_clocks, stopped_by, blocks)


def _width(
    ctx: LoopContext,
    program: ModelParallelProgram,
    parts: Sequence[tuple[Partition, State]],
    plan: LoopPlan,
) -> int:
    """Blocks in a batch: as the program says, as the checkpoint has it, or from the data."""
    width = program.width()
    if width is not None:
        return width
    if ctx.saved is not None:
        return int(ctx.saved.arrays("run", 0)["counts"][1])
    return spectral_width_over_ranks(ctx, program, parts, plan.slack + 1)


class _Rounds:
    """The rounds under way: batches that were pushed and are not yet committed.

    The mutable state is the blocks' `values`, the machine, what is under way, and when each block
    was committed last; alike in every rank.
    """

    def __init__(
        self,
        ctx: LoopContext,
        program: ModelParallelProgram,
        parts: Sequence[tuple[Partition, State]],
        plan: LoopPlan,
        width: int,
    ) -> None:
        specs = program.blocks()
        self._ctx = ctx
        self._program = program
        self._slack = plan.slack
        self._n_slots = n_slots(plan)
        self._width = width
        self.per_clock = rounds_of(program, width)
        self.parts = parts
        self.values = [spec.begin() for spec in specs]
        self.totals = dict.fromkeys(program.metrics, 0.0)
        self._specs = specs
        self._machine = self._new_machine(ctx.seed_of_run)
        self._view = ctx.table(PARTIALS_TABLE).view(np.arange(self._n_slots * width))
        self._under_way: deque[tuple[Task, Batch]] = deque()
        #: Sums to be taken out of the table again, by rank 0: (round, sums), oldest first.
        self._used: deque[tuple[int, Array]] = deque()
        self._n_rounds = 0
        self._looks = (
            _Looks(ctx, program, n_looks(self.per_clock, plan), plan)
            if program.n_violations
            else None
        )
        #: (n_blocks,) rounds begun when each block was committed last, and how far it moved then.
        self._committed_at = np.zeros(len(specs), dtype=np.int64)
        self._moved = np.zeros(len(specs))

    def _new_machine(self, seed: int | Sequence[int]) -> Machine:
        return Machine(
            len(self._specs),
            1,
            self._program.schedule(),
            costs=[spec.cost for spec in self._specs],
            interference=self._program.interference(),
            width=self._width,
            seed=seed,
        )

    def settle(self) -> None:
        """Come to rest: nothing under way, empty tables, a new machine; every rank does."""
        self._ctx.barrier()
        self.commit(everything=True)
        if self._ctx.rank == 0:
            self._view.inc(-self._view.values)
        self._used.clear()
        if self._looks is not None:
            self._looks.clear()
        self._ctx.barrier()
        self._begin_machine()

    def _begin_machine(self) -> None:
        """Take a new machine, which knows how far the blocks moved last."""
        self._machine = self._new_machine((self._ctx.seed_of_run, self._n_rounds))
        if isinstance(self._machine.policy, Priority):
            unknown = self._moved.max(initial=0.0) or 1.0
            self._machine.prioritise(np.where(self._committed_at > 0, self._moved, unknown))

    def state(self) -> dict[str, Array]:
        """What a checkpoint needs; but for the totals, it is the same in every rank."""
        own = {"totals": np.array([self.totals[name] for name in self._program.metrics])}
        if self._ctx.rank:
            return own
        flat = {
            f"values.{key}": np.concatenate([block[key].reshape(-1) for block in self.values])
            for key in self.values[0]
        }
        counts = np.array([self._n_rounds, self._width])
        return {
            **own,
            **flat,
            "counts": counts,
            "committed_at": self._committed_at,
            "moved": self._moved,
        }

    def go_on_from(self, saved: Saved) -> None:
        """Begin as the rounds were in a checkpoint."""
        state = saved.arrays("run", 0)
        self._n_rounds = int(state["counts"][0])
        self._committed_at, self._moved = state["committed_at"], state["moved"]
        for key in self.values[0]:
            flat, at = state[f"values.{key}"], 0
            for block in self.values:
                block[key][...] = flat[at : at + block[key].size].reshape(block[key].shape)
                at += block[key].size
        if self._ctx.rank == 0:  # what other ranks had to add to the next clock's metrics, too
            totals = sum(saved.arrays("run", rank)["totals"] for rank in saved.numbers("run"))
            self.totals = dict(zip(self._program.metrics, np.atleast_1d(totals), strict=True))
        self._begin_machine()

    def look(self) -> None:
        """Measure the violations before the round that comes next."""
        if self._looks is not None:
            self._looks.measure(self.parts, self._n_rounds)

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
                break
            self._under_way.popleft()
            total = self._view.values[self._rows(batch.number, len(task.blocks))].copy()
            used = self._view.values[self._rows(batch.number, self._width)].copy()
            self._used.append((batch.number, used))
            batch.update = self._program.pull(self._ctx, batch, total)
            for part, state in self.parts:
                add_metrics(self.totals, self._program.sync(self._ctx, part, state, batch))
            moved = _priorities(batch)
            self._machine.done(task.number, moved.tolist(), 0.0)
            self._committed_at[list(task.blocks)] = self._n_rounds
            self._moved[list(task.blocks)] = moved
        if self._looks is not None and not everything:
            self._prioritise(self._looks)

    def _prioritise(self, looks: _Looks) -> None:
        """Give the machine the violations whose sums are complete, and that alike in every rank."""
        while looks.is_complete(self._n_rounds):
            measured_at, totals = looks.take()
            priorities = np.asarray(self._program.priorities(totals, self.values))
            if priorities.shape != self._moved.shape:
                raise ValueError(
                    f"{type(self._program).__name__}.priorities must return an array of shape "
                    f"{self._moved.shape}, got {priorities.shape}"
                )
            # a block committed since would be updated again for what it no longer violates
            changed = self._committed_at > measured_at
            self._machine.prioritise(np.where(changed, self._moved, priorities))

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


class _Looks:
    """The violations of all blocks, on their way through the store.

    The mutable state is which were measured and not yet taken, and what is to be cleared.
    """

    def __init__(
        self, ctx: LoopContext, program: ModelParallelProgram, n_looks: int, plan: LoopPlan
    ) -> None:
        self._ctx = ctx
        self._program = program
        self._slack = plan.slack
        self._shape = (len(program.blocks()), program.n_violations)
        self._n_looks = n_looks
        n_rows = n_looks * self._shape[0]
        self._view = ctx.table(VIOLATIONS_TABLE).view(np.arange(n_rows))
        self._n_measured = 0
        #: Measured and not yet taken: (look, the round before which it was), oldest first.
        self._under_way: deque[tuple[int, int]] = deque()
        #: What the rows of each look hold that was taken.
        self._used: dict[int, Array] = {}

    def measure(self, parts: Sequence[tuple[Partition, State]], number: int) -> None:
        """Add this rank's violations before round `number`, and clear those that had the rows."""
        delta = np.zeros(self._shape)  # (n_blocks, n_violations)
        used = self._used.pop(self._n_measured - self._n_looks, None)
        if used is not None and self._ctx.rank == 0:
            delta -= used
        for part, state in parts:
            delta += self._checked(self._program.violations(self._ctx, part, state))
        self._view.inc(delta, at=np.arange(*self._rows(self._n_measured)))
        self._under_way.append((self._n_measured, number))
        self._n_measured += 1

    def clear(self) -> None:
        """Forget what was measured, and let rank 0 take it out of the table."""
        self._under_way.clear()
        self._used.clear()
        if self._ctx.rank == 0:
            self._view.inc(-self._view.values)

    def is_complete(self, n_rounds: int) -> bool:
        """Tell whether the sums of the oldest look have come, `n_rounds` being begun."""
        return bool(self._under_way) and self._under_way[0][1] + self._slack + 1 <= n_rounds

    def take(self) -> tuple[int, Array]:
        """Take the oldest look: the round before which it was, and the sums."""
        look, number = self._under_way.popleft()
        totals: Array = self._view.values[slice(*self._rows(look))].copy()
        self._used[look] = totals
        return number, totals

    def _rows(self, look: int) -> tuple[int, int]:
        first = look % self._n_looks * self._shape[0]
        return first, first + self._shape[0]

    def _checked(self, violations: Array | None) -> Array:
        values = np.asarray(violations, dtype=np.float64)
        if values.shape != self._shape:
            raise ValueError(
                f"{type(self._program).__name__}.violations must return an array of shape "
                f"{self._shape}, got {values.shape}"
            )
        return values


def _priorities(batch: Batch) -> Array:
    """How far each block moved: the largest part of its update."""
    if batch.update is None:
        return np.zeros(len(batch.blocks))
    update = np.abs(np.asarray(batch.update, dtype=np.float64))
    largest: Array = update.reshape(len(batch.blocks), -1).max(axis=1)
    return largest
