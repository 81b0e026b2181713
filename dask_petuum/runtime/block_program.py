"""A model-parallel program: blocks of variables, and the four verbs schedule, push, pull and sync.

Where a data-parallel program changes all of the model a little from each part of the data, a
model-parallel one chooses which variables to update next, and which together (Lee, Kim, Zheng, Ho,
Gibson and Xing 2014, "On model parallelization and scheduling strategies for distributed machine
learning"). Its policy says which of two kinds it is:

- blocks *move* (:class:`~dask_petuum.model_parallel.Rotation`): a block is at one rank at a time,
  where ``push`` may change it in place; one clock is one pass in which every block visits every
  partition once;
- blocks are *shared* (``Priority``, ``Random``, ``RoundRobin``): all ranks have all blocks and push
  for the same few at once; the sums over all partitions come back, and every rank commits the same
  update; one clock is ``rounds_per_clock`` such rounds.

The loop, the history, callbacks, seeds, the stop rule and errors are those of data-parallel
programs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.model_parallel.machine import Interference
from dask_petuum.model_parallel.picker import Policy
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.program import Program, State
from dask_petuum.runtime.shared_width import column_products, column_squares

__all__ = ["Batch", "BlockSpec", "ModelParallelProgram"]


@dataclass(frozen=True)
class BlockSpec:
    """A block of variables, as a run begins with it.

    Parameters
    ----------
    arrays
        Its arrays by name. They are copied; ``np.broadcast_to(0, shape)`` takes no memory. Shapes
        and dtypes stay what they are for the whole run.
    cost
        What a visit is expected to cost, in any unit (nonzeros, tokens).
    """

    arrays: Mapping[str, Array]
    cost: float = 1.0

    def begin(self) -> dict[str, Array]:
        """Make the arrays."""
        return {name: np.array(values) for name, values in self.arrays.items()}


@dataclass
class Batch:
    """The blocks that are updated now.

    Attributes
    ----------
    blocks
        Their numbers.
    values
        The arrays of each, to be changed in ``pull`` or, where blocks move, also in ``push``.
    number
        Of the round, or of the pass.
    seeds
        Root of random numbers for (run, clock, partition, first block); in ``pull``, of no
        partition.
    update
        What ``pull`` returned; for ``sync``.
    """

    blocks: tuple[int, ...]
    values: tuple[dict[str, Array], ...]
    number: int
    seeds: np.random.SeedSequence
    update: Any = field(default=None)


class ModelParallelProgram(Program):
    """Base of the programs that run over blocks of variables."""

    #: Numbers that ``push`` gives for each block, where blocks are shared.
    n_partials: int = 1
    #: Numbers that ``violations`` gives for each block; 0: it is not called.
    n_violations: int = 0

    @abstractmethod
    def blocks(self) -> Sequence[BlockSpec]:
        """Say what the blocks are; where they move, at least one for each partition."""

    @abstractmethod
    def schedule(self) -> Policy:
        """Give the policy: which blocks next, and which together."""

    def width(self) -> int | None:
        """Say how many shared blocks are updated together, at most.

        By default None: as many as the spectral bound of Shotgun allows for the data, all that are
        under way with a staleness counted together. It is found at the start from `coupling` and
        `curvature` (:mod:`dask_petuum.runtime.shared_width`), in up to 50 passes over the data.
        """
        return None

    def rounds_per_clock(self) -> int | None:
        """Say how many rounds of shared blocks are one clock; None: as many as one of each block.

        That is the number of blocks by the width.
        """
        return None

    def interference(self) -> Interference | None:
        """Say which shared blocks depend on each other too much to be updated together."""
        return None

    @abstractmethod
    def push(self, ctx: Context, partition: Partition, state: State, batch: Batch) -> Any:
        """Work on the batch with one partition's data.

        Returns
        -------
        (n blocks in the batch, n_partials) array, to be summed over all partitions (where blocks
        move, over this one); or None, where blocks move and have been changed in place.
        """

    def pull(self, ctx: Context, batch: Batch, total: Any) -> Any:
        """Commit: change ``batch.values`` from the sums of what was pushed.

        Where blocks are shared every rank does so, and must come to the same.

        Returns
        -------
        (n blocks in the batch, ...) array: by how much each block moved. Its largest absolute value
        is the block's new priority.
        """
        return None

    def sync(
        self, ctx: Context, partition: Partition, state: State, batch: Batch
    ) -> Mapping[str, float]:
        """Bring a partition's state up to date with ``batch.update``; give metrics to be summed."""
        return {}

    def curvature(self, ctx: Context, partition: Partition, state: State) -> Array:
        """Give a partition's part of each block's own curvature: the diagonal for `coupling`.

        Called only where `width` gives None.

        Returns
        -------
        (n_blocks,) array >= 0, to be summed over all partitions. By default the columns' sums of
        squares, for blocks that are the columns of the data.
        """
        return column_squares(partition.data, len(self.blocks()))

    def coupling(self, ctx: Context, partition: Partition, state: State, vector: Array) -> Array:
        """Give a partition's part of the product of the blocks' couplings with a vector.

        The matrix is that of the smooth part of the objective, symmetric and positive: how much
        the slope at one block changes with another, as ``X'X`` for least squares. Scaling it has
        no effect. Called only where `width` gives None.

        Returns
        -------
        (n_blocks,) array, to be summed over all partitions. By default ``X'(X vector)``, for blocks
        that are the columns of the data.
        """
        return column_products(partition.data, vector)

    def measure(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Give a partition's part of the metrics at the end of a clock."""
        return {}

    def violations(self, ctx: Context, partition: Partition, state: State) -> Array | None:
        """Say what a partition's data have to say about every block, at the start of each clock.

        Only where blocks are shared, the policy takes priorities, and ``n_violations`` is set. The
        last change of a block grows old while others change; this looks at all of them anew.

        Returns
        -------
        (n_blocks, n_violations) array, to be summed over all partitions.
        """
        return None

    def priorities(self, totals: Array, values: Sequence[Mapping[str, Array]]) -> Array:
        """Turn the sums of ``violations`` into priorities; every rank must come to the same.

        They stand beside the changes that ``pull`` gives, so let them be in the same unit: how far
        a block would move if it were updated now.

        Parameters
        ----------
        totals : (n_blocks, n_violations)
            Not to be changed.
        values
            The arrays of each block, not to be changed. A block that was committed since the
            violations were measured keeps its last change as its priority, whatever this gives.

        Returns
        -------
        (n_blocks,) array of finite numbers; their absolute values count.
        """
        column: Array = np.abs(totals[:, 0])
        return column

    def tables(self) -> Sequence[Any]:
        """Specify small tables that all ranks share besides the blocks; by default none."""
        return ()
