"""The loop of programs whose blocks move: each visits every partition once in a pass.

The order is that of :mod:`dask_petuum.model_parallel.rotation`, made for partitions instead of
ranks: a rank plays the parts of its partitions, step by step. So a result does not depend on how
partitions are spread over ranks. A block goes to its next partition as soon as it is done with: by
hand where that is at the same rank, else by a message, ahead of the time when it is needed. Nobody
waits for a step to end; only a block that is not there yet is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.exceptions import ProtocolError
from dask_petuum.model_parallel import rotation
from dask_petuum.runtime.block_program import Batch, BlockSpec, ModelParallelProgram
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.loop import begin_states, run_arrays, state_arrays
from dask_petuum.runtime.metrics import LoopContext, LoopPlan, Metrics, RankResult, add_metrics
from dask_petuum.runtime.program import State

__all__ = [
    "RotationContext",
    "begin_block",
    "block_arrays",
    "block_seeds",
    "run_rotation",
    "visit",
]


class RotationContext(LoopContext, Protocol):
    """What the loop needs of a rank besides what all loops do."""

    def send_block(
        self, rank: int, partition: int, block: int, stamp: int, arrays: Mapping[str, Array]
    ) -> None:
        """Send a block's arrays to a partition at another rank; they must not change any more."""

    @property
    def block_bytes(self) -> int:
        """Bytes of blocks that wait to be taken here, or to be sent."""

    def take_block(self, rank: int, block: int, stamp: int, limit: int) -> dict[str, Array]:
        """Wait until at most ``limit`` blocks wait to be sent, and for one of a rank; take it."""


def run_rotation(
    ctx: RotationContext,
    program: ModelParallelProgram,
    partitions: Sequence[Partition],
    plan: LoopPlan,
) -> RankResult:
    """Run a program whose blocks move to its end in one rank.

    Raises
    ------
    ValueError
        Where there are fewer blocks than partitions.
    """
    ctx.defer_increments()
    specs = program.blocks()
    rotation.check_sizes(len(specs), len(plan.homes))
    metrics = Metrics(ctx, program, plan)
    begun = begin_states(ctx, program, partitions)
    states = {part.index: state for part, state in zip(partitions, begun, strict=True)}
    ring = _Ring(ctx, specs, plan.homes, metrics.n_done)
    if ctx.saved is None:
        ctx.barrier()
    stopped_by = "max_clocks"
    while (number := metrics.n_done) < plan.max_clocks:
        totals = dict.fromkeys(program.metrics, 0.0)
        for part, block in _cells(partitions, ring.n_blocks, len(plan.homes)):
            values = ring.take(block, part.index, number)
            batch = Batch((block,), (values,), number, block_seeds(ctx, part, block))
            add_metrics(totals, visit(ctx, program, part, states[part.index], batch))
            ring.pass_on(block, part.index, number, values)
        for part in partitions:
            add_metrics(totals, program.measure(ctx, part, states[part.index]))
        metrics.add(totals)
        metrics.end_clock()
        stop = metrics.update()
        if stop:
            stopped_by = stop
            break
        if metrics.saves_now():
            arrays = state_arrays(ctx, program, partitions, [*states.values()])
            arrays |= block_arrays(ring.at_home(metrics.n_done, keep=True))
            ctx.save(arrays | run_arrays(ctx, metrics))
    n_clocks = metrics.n_done
    ctx.barrier()
    metrics.update()
    blocks = ring.at_home(metrics.n_done)
    outputs = {part.index: program.finish(ctx, part, states[part.index]) for part in partitions}
    history = metrics.history if ctx.rank == 0 else []
    return RankResult(outputs, history, n_clocks, stopped_by, blocks, ring.peak)


def block_arrays(blocks: Mapping[int, Mapping[str, Array]]) -> dict[str, Array]:
    """Name the arrays that a checkpoint keeps of blocks."""
    return {
        f"block/{block}/{key}": values
        for block, arrays in blocks.items()
        for key, values in arrays.items()
    }


def begin_block(ctx: LoopContext, block: int, spec: BlockSpec) -> dict[str, Array]:
    """Make the arrays of a block: as it begins, or as the checkpoint has it."""
    return spec.begin() if ctx.saved is None else ctx.saved.arrays("block", block)


def block_seeds(ctx: LoopContext, partition: Partition, block: int) -> np.random.SeedSequence:
    """Root of random numbers for (run, partition, clock, block)."""
    root = ctx.seed(partition)
    return np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, block))


def _cells(
    partitions: Sequence[Partition], n_blocks: int, n_partitions: int
) -> Iterator[tuple[Partition, int]]:
    """Go through one pass's visits at this rank, step by step."""
    for step in range(n_blocks):
        for part in partitions:
            yield part, rotation.block_at(part.index, step, n_blocks, n_partitions)


def visit(
    ctx: LoopContext, program: ModelParallelProgram, part: Partition, state: State, batch: Batch
) -> Mapping[str, float]:
    """Push, pull and sync one batch at one partition; give its metrics."""
    total = program.push(ctx, part, state, batch)
    batch.update = program.pull(ctx, batch, total)
    return program.sync(ctx, part, state, batch)


class _Ring:
    """Where this rank's blocks are: here for one of its partitions, or sent on.

    The mutable state is `_here`: arrays by (block, stamp), and `_n_bytes`. A stamp names a visit of
    a block: how many there were before it, so that it rises from visit to visit.
    """

    def __init__(
        self, ctx: RotationContext, specs: Sequence[BlockSpec], homes: Sequence[int], number: int
    ) -> None:
        self._ctx = ctx
        self._homes = homes
        self.n_blocks = len(specs)
        self._specs = specs
        # Blocks that this rank may hold besides the one that it takes. Together all ranks may hold
        # more than there are, so that there is always one that need not wait.
        n_own = sum(rank == ctx.rank for rank in homes)
        self._share = -(-len(specs) * n_own // len(homes))
        self._here: dict[tuple[int, int], dict[str, Array]] = {}
        self._n_bytes = 0  # of those that are here: a sum over all, in each visit, takes longer
        #: The most bytes of blocks that were at this rank at a time.
        self.peak = 0
        for block, spec in enumerate(specs):
            first = rotation.home(block, self.n_blocks, len(homes))
            if homes[first] == ctx.rank:
                key = block, self._stamp(block, first, number)
                self._put(key, begin_block(ctx, block, spec))

    def take(self, block: int, partition: int, number: int) -> dict[str, Array]:
        """Take the block for a partition's visit in a pass."""
        key = block, self._stamp(block, partition, number)
        values = self._here.pop(key, None)
        if values is None:
            before = rotation.previous_holder(partition, len(self._homes))
            values = self._received(self._homes[before], *key)
        else:
            self._n_bytes -= _nbytes(values)
        held = _nbytes(values) + self._n_bytes
        self.peak = max(self.peak, held + self._ctx.block_bytes)
        return values

    def _put(self, key: tuple[int, int], values: dict[str, Array]) -> None:
        self._here[key] = values
        self._n_bytes += _nbytes(values)

    def _stamp(self, block: int, partition: int, number: int) -> int:
        n = len(self._homes)
        return number * n + (rotation.home(block, self.n_blocks, n) - partition) % n

    def _received(self, rank: int, block: int, stamp: int) -> dict[str, Array]:
        room = self._share - len(self._here)
        values = self._ctx.take_block(rank, block, stamp, max(room, 0))
        expected = {name: (v.shape, v.dtype) for name, v in self._specs[block].arrays.items()}
        if {name: (v.shape, v.dtype) for name, v in values.items()} != expected:
            raise ProtocolError(f"block {block} came with other arrays than {expected}")
        return values

    def pass_on(self, block: int, partition: int, number: int, values: dict[str, Array]) -> None:
        """Give the block to the partition that is next, in this pass or in the one after."""
        following = rotation.next_holder(partition, len(self._homes))
        stamp = self._stamp(block, partition, number) + 1
        if self._homes[following] == self._ctx.rank:
            self._put((block, stamp), values)
        else:
            self._ctx.send_block(self._homes[following], following, block, stamp, values)

    def at_home(self, number: int, keep: bool = False) -> dict[int, dict[str, Array]]:
        """Take the blocks that begin the next pass here; or look at them, as soon as they come."""
        n = len(self._homes)
        out = {}
        for block in range(self.n_blocks):
            first = rotation.home(block, self.n_blocks, n)
            if self._homes[first] == self._ctx.rank:
                out[block] = self.take(block, first, number)
                if keep:
                    self._put((block, self._stamp(block, first, number)), out[block])
        return out


def _nbytes(arrays: Mapping[str, Array]) -> int:
    return sum(values.nbytes for values in arrays.values())
