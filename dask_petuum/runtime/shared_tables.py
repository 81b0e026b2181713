"""The tables through which rounds of shared blocks are summed, and how many rows they need."""

from __future__ import annotations

from dask_petuum.runtime.block_program import ModelParallelProgram
from dask_petuum.runtime.metrics import LoopPlan
from dask_petuum.store.spec import TableSpec

__all__ = [
    "PARTIALS_TABLE",
    "VIOLATIONS_TABLE",
    "n_looks",
    "n_slots",
    "partials_table",
    "rounds_of",
    "violations_table",
]

PARTIALS_TABLE = "__partials__"
VIOLATIONS_TABLE = "__violations__"


def partials_table(program: ModelParallelProgram, plan: LoopPlan) -> TableSpec:
    """Specify the table in which pushes are summed: a row a block for each round under way.

    Where the width is not known yet, it has room for the largest; views have the rows in use.
    """
    width = program.width() or len(program.blocks())
    shape = (n_slots(plan) * width, program.n_partials)
    return TableSpec(PARTIALS_TABLE, shape, "float64", dims=("slot", "partial"))


def violations_table(program: ModelParallelProgram, plan: LoopPlan) -> TableSpec:
    """Specify the table in which violations are summed: a row for each block, mostly."""
    n_rows = n_looks(rounds_of(program, program.width()), plan) * len(program.blocks())
    shape = (n_rows, program.n_violations)
    return TableSpec(VIOLATIONS_TABLE, shape, "float64", dims=("block", "violation"))


def rounds_of(program: ModelParallelProgram, width: int | None) -> int:
    """Rounds in a clock; at least so many, where the width is not known yet."""
    given = program.rounds_per_clock()
    if given is not None:
        return given
    return 1 if width is None else -(-len(program.blocks()) // width)


def n_looks(per_clock: int, plan: LoopPlan) -> int:
    """Clocks whose violations need rows of their own: more than one only where clocks are short.

    They are measured once a clock, and `n_slots` says after how many rounds rows may change again.
    """
    return -(-n_slots(plan) // per_clock)


def n_slots(plan: LoopPlan) -> int:
    """Rounds whose rows are in use.

    The rows of round r may change again from round r + n on. Whoever begins that round knows that
    all others have pushed round r + n - s - 1 (s: the slack); so they have committed what is
    committed after the round before, r + n - 2 s - 2.
    """
    return 2 * plan.slack + 2
