"""The loop of a data-parallel program, written once for every way of running.

Clock 0 is ``start`` on every partition; clocks 1 .. n are ``step``.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Context
from dask_petuum.runtime.metrics import LoopContext, LoopPlan, Metrics, RankResult
from dask_petuum.runtime.program import DataParallelProgram, State

__all__ = ["run_loop"]


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
    states = [program.start(ctx, partition) for partition in partitions]
    ctx.barrier()
    stopped_by = "max_clocks"
    for _ in range(plan.max_clocks):
        metrics.add(_step_all(ctx, program, partitions, states))
        ctx.clock()
        stop = metrics.update()
        if stop:
            stopped_by = stop
            break
    n_clocks = metrics.n_done
    ctx.barrier()
    metrics.update()
    outputs = {
        part.index: program.finish(ctx, part, state)
        for part, state in zip(partitions, states, strict=True)
    }
    return RankResult(outputs, metrics.history if ctx.rank == 0 else [], n_clocks, stopped_by)


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
