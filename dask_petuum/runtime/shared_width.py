"""The width of a batch where the program gives none: the spectral bound, from data over all ranks.

The matrix is the couplings of the blocks, scaled to a diagonal of 1 by the blocks' curvatures
(:mod:`dask_petuum.model_parallel.width` has the bound). Each product of its Lanczos steps is a sum
over all partitions, through a table of the store with two halves: who is one product ahead of
others writes into the half that they do not read. Rank 0 says when to end, and how wide a batch
is, in the last row of the table; so ranks whose processors round differently cannot disagree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.model_parallel.width import Lanczos, width_of
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.metrics import LoopContext
from dask_petuum.runtime.program import State
from dask_petuum.store.spec import TableSpec

if TYPE_CHECKING:
    from dask_petuum.runtime.block_program import ModelParallelProgram

__all__ = ["column_products", "column_squares", "coupling_table", "spectral_width_over_ranks"]

COUPLING_TABLE = "__coupling__"

logger = logging.getLogger(__name__)


def coupling_table(program: ModelParallelProgram) -> TableSpec:
    """Specify the table in which products are summed: a row for each block and one more, twice."""
    shape = (2 * (len(program.blocks()) + 1), 1)
    return TableSpec(COUPLING_TABLE, shape, "float64", dims=("block", "coupling"))


def spectral_width_over_ranks(
    ctx: LoopContext,
    program: ModelParallelProgram,
    parts: Sequence[tuple[Partition, State]],
    n_in_flight: int,
) -> int:
    """Find how many blocks a batch may have while `n_in_flight` batches are under way.

    Every rank calls it in the same clock; it takes up to 53 clocks.

    Returns
    -------
    1 .. n_blocks, the same in every rank.

    Raises
    ------
    ValueError
        The program's curvatures or couplings have another shape, are not finite or negative.
    """
    n_blocks = len(program.blocks())
    sums = _Sums(ctx, program, parts, n_blocks)
    squares, _ = sums.of("curvature", lambda part, state: program.curvature(ctx, part, state))
    if (squares < 0).any():
        name = type(program).__name__
        raise ValueError(f"{name}.curvature must not be negative, got {squares.min()} in all")
    scales = np.where(squares > 0, 1.0 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)
    iteration = Lanczos(n_blocks, ctx.seed_of_run)
    width = 0
    while True:
        multiply = partial(_coupling, program, ctx, scales * iteration.vector)
        total, told = sums.of("coupling", multiply, width)
        if told:
            break
        iteration.take(scales * total)
        if iteration.ended and ctx.rank == 0:
            width = max(1, width_of(iteration.bound, n_blocks) // n_in_flight)
    logger.info(
        "batches of %d of %d blocks: the spectral radius of the couplings is %.4g",
        told,
        n_blocks,
        iteration.bound,
    )
    return told


def _coupling(
    program: ModelParallelProgram, ctx: LoopContext, vector: Array, part: Partition, state: State
) -> Array:
    return program.coupling(ctx, part, state, vector)


class _Sums:
    """Sums over all partitions of all ranks, one after the other.

    The mutable state is what this rank has in each half of the table, and how many sums there were.
    """

    def __init__(
        self,
        ctx: LoopContext,
        program: ModelParallelProgram,
        parts: Sequence[tuple[Partition, State]],
        n_blocks: int,
    ) -> None:
        self._ctx = ctx
        self._name = type(program).__name__
        self._parts = parts
        self._n_blocks = n_blocks
        self._view = ctx.table(COUPLING_TABLE).view()
        self._own = np.zeros((2, n_blocks + 1))
        self._n = 0

    def of(
        self, what: str, function: Callable[[Partition, State], Any], message: int = 0
    ) -> tuple[Array, int]:
        """Return the sum of (n_blocks,) over all partitions, and the sum of all messages."""
        values = np.zeros(self._n_blocks + 1)
        for part, state in self._parts:
            values[:-1] += self._checked(what, function(part, state))
        values[-1] = message
        half = self._n % 2
        self._n += 1
        rows = np.arange(half * values.size, (half + 1) * values.size)
        self._view.inc((values - self._own[half])[:, np.newaxis], at=rows)
        self._own[half] = values
        self._ctx.barrier()
        total: Array = self._view.values[rows, 0]  # a copy
        return total[:-1], round(float(total[-1]))

    def _checked(self, what: str, given: Any) -> Array:
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (self._n_blocks,) or not np.isfinite(values).all():
            raise ValueError(
                f"{self._name}.{what} must return {self._n_blocks} finite numbers, got shape "
                f"{values.shape}; or let {self._name}.width give a number"
            )
        return values


def column_squares(data: Any, n_blocks: int) -> Array:
    """Sum the squares of the columns of dense or sparse data.

    Raises
    ------
    ValueError
        There is not one column for each block.
    """
    if data.shape[1] != n_blocks:
        raise ValueError(
            f"the width of a batch is not known: the {n_blocks} blocks are not the "
            f"{data.shape[1]} columns of the data; let the program's width give a number, or write "
            "its curvature and coupling"
        )
    if isinstance(data, np.ndarray):
        return np.asarray(np.einsum("ij,ij->j", data, data, dtype=np.float64))
    squares = np.bincount(data.indices, np.square(data.data, dtype=np.float64), n_blocks)
    return np.asarray(squares, dtype=np.float64)


def column_products(data: Any, vector: Array) -> Array:
    """Return ``X'(X vector)`` of dense or sparse data."""
    return np.asarray(data.T @ (data @ vector), dtype=np.float64)
