"""The loop of a data-parallel program, written once for every way of running.

Clock 0 is ``start`` on every partition; clocks 1 .. n are ``step``. A run that goes on from a
checkpoint begins behind the clock of that, with the states that were saved there.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.metrics import LoopContext, LoopPlan, Metrics, RankResult
from dask_petuum.runtime.program import DataParallelProgram, Program, State

__all__ = ["begin_states", "run_arrays", "run_loop", "state_arrays"]


def run_loop(
    ctx: LoopContext,
    program: DataParallelProgram,
    partitions: Sequence[Partition],
    plan: LoopPlan,
) -> RankResult:
    """Run a program to its end in one rank.

    Returns
    -------
    RankResult
        Outputs by partition number; the history in rank 0.
    """
    ctx.defer_increments()
    metrics = Metrics(ctx, program, plan)
    states = begin_states(ctx, program, partitions)
    if ctx.saved is None:
        ctx.barrier()
    stopped_by = "max_clocks"
    while metrics.n_done < plan.max_clocks:
        metrics.add(_step_all(ctx, program, partitions, states))
        metrics.end_clock()
        stop = metrics.update()
        if stop:
            stopped_by = stop
            break
        if metrics.saves_now():
            ctx.save(state_arrays(ctx, program, partitions, states) | run_arrays(ctx, metrics))
    n_clocks = metrics.n_done
    ctx.barrier()
    metrics.update()
    outputs = {
        part.index: program.finish(ctx, part, state)
        for part, state in zip(partitions, states, strict=True)
    }
    return RankResult(outputs, metrics.history if ctx.rank == 0 else [], n_clocks, stopped_by)


def begin_states(
    ctx: LoopContext, program: Program, partitions: Sequence[Partition]
) -> list[State]:
    """Make the states of a rank's partitions: new ones, or those of the checkpoint."""
    saved = ctx.saved
    if saved is None:
        return [program.start(ctx, part) for part in partitions]
    return [program.resume(ctx, part, saved.arrays("state", part.index)) for part in partitions]


def state_arrays(
    ctx: LoopContext,
    program: Program,
    partitions: Sequence[Partition],
    states: Sequence[State],
) -> dict[str, Array]:
    """Name the arrays that a checkpoint keeps of a rank's partitions."""
    return {
        f"state/{part.index}/{key}": values
        for part, state in zip(partitions, states, strict=True)
        for key, values in program.save(ctx, part, state).items()
    }


def run_arrays(ctx: LoopContext, metrics: Metrics, **more: Array) -> dict[str, Array]:
    """Name the arrays that a checkpoint keeps of a rank besides."""
    return {f"run/{ctx.rank}/{key}": v for key, v in {**metrics.state(), **more}.items()}


def _step_all(
    ctx: Context,
    program: DataParallelProgram,
    partitions: Sequence[Partition],
    states: Sequence[State],
) -> dict[str, float]:
    totals = dict.fromkeys(program.metrics, 0.0)
    for partition, state in zip(partitions, states, strict=True):
        values = program.step(ctx, partition, state)
        if set(values) != set(program.metrics):
            raise ValueError(
                f"{type(program).__name__}.step returned metrics {sorted(values)}, "
                f"its `metrics` names {sorted(program.metrics)}"
            )
        for name in program.metrics:
            totals[name] += float(values[name])
    return totals
