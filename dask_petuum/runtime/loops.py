"""Which loop runs a program, and the tables of its own that the loop needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask_petuum.data import Partition
from dask_petuum.model_parallel import Rotation
from dask_petuum.runtime.block_program import ModelParallelProgram
from dask_petuum.runtime.exchange_loop import run_exchange
from dask_petuum.runtime.exchange_program import ExchangeProgram
from dask_petuum.runtime.free_loop import run_free
from dask_petuum.runtime.loop import run_loop
from dask_petuum.runtime.metrics import LoopPlan, RankResult, metrics_table
from dask_petuum.runtime.program import DataParallelProgram, Program
from dask_petuum.runtime.rotation_loop import run_rotation
from dask_petuum.runtime.shared_loop import run_shared
from dask_petuum.runtime.shared_tables import partials_table, violations_table
from dask_petuum.runtime.shared_width import coupling_table
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.spec import TableSpec

__all__ = ["check_consistency", "hidden_tables", "machine_of", "run_program"]


def hidden_tables(program: Program, plan: LoopPlan) -> list[TableSpec]:
    """Specify the tables that the program does not know of.

    Raises
    ------
    ValueError
        Where the program's ``n_violations`` does not fit the rest of it.
    """
    if isinstance(program, ModelParallelProgram):
        _check_violations(program)
    tables = [metrics_table(program, plan)]
    if isinstance(program, ModelParallelProgram) and not program.schedule().moves:
        tables.append(partials_table(program, plan))
        if program.width() is None:
            tables.append(coupling_table(program))
        if program.n_violations:
            tables.append(violations_table(program, plan))
    return tables


def machine_of(program: Program, n_partitions: int) -> dict[str, Any] | None:
    """Say what the scheduler needs to choose for a program whose blocks move freely, or None."""
    if not isinstance(program, ModelParallelProgram) or not _is_free(program):
        return None
    costs = [float(spec.cost) for spec in program.blocks()]
    return {"costs": costs, "n_partitions": n_partitions}


def _is_free(program: ModelParallelProgram) -> bool:
    policy = program.schedule()
    return isinstance(policy, Rotation) and policy.order == "free"


def check_consistency(program: Program, consistency: Consistency) -> None:
    """Refuse a model without a bound where ranks must come to the same.

    Raises
    ------
    ValueError
        For a model-parallel or exchanging program with "asp".
    """
    alike = (ModelParallelProgram, ExchangeProgram)
    if isinstance(program, alike) and not consistency.bounded:
        raise ValueError("model-parallel programs need a bound: consistency cannot be 'asp'")


def run_program(
    ctx: Any, program: Program, partitions: Sequence[Partition], plan: LoopPlan
) -> RankResult:
    """Run a program to its end in one rank."""
    if isinstance(program, ModelParallelProgram):
        if _is_free(program):
            return run_free(ctx, program, partitions, plan)
        if program.schedule().moves:
            return run_rotation(ctx, program, partitions, plan)
        return run_shared(ctx, program, partitions, plan)
    if isinstance(program, ExchangeProgram):
        return run_exchange(ctx, program, partitions, plan)
    if isinstance(program, DataParallelProgram):
        return run_loop(ctx, program, partitions, plan)
    raise TypeError(f"{type(program).__name__} is neither a data- nor a model-parallel program")


def _check_violations(program: ModelParallelProgram) -> None:
    name, n = type(program).__name__, program.n_violations
    given = type(program).violations is not ModelParallelProgram.violations
    if given != (n >= 1):
        allowed = ">= 1, as it has violations" if given else "0, as it has no violations"
        raise ValueError(f"{name}.n_violations must be {allowed}, got {n}")
    if n and program.schedule().moves:
        raise ValueError(f"{name}.violations: blocks that move have no priorities")
