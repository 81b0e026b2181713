"""The training of a PyTorch module as a program: one replica a rank, driven clock by clock.

The engine is ``dask_petuum.nn``; here it meets the runtime. A rank has one replica for all its
partitions, so the step of its last partition does the work of all. Where ranks may be stale, the
parameters are the table ``weights``: a rank adds the change of its clock, by its share of the
rows. Else the replicas are the same in all ranks, and blocks from rank to rank keep them so
(docs/decisions/0018-nn.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.nn.plan import Plan
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

__all__ = ["NeuralNetProgram"]

METRICS = ("loss", "weight", "valid_loss", "valid_weight", "gradient_bytes", "full_bytes")
#: Columns of the table of the weights: rows of 4 KB are spread evenly over ranks.
N_COLS = 1024
#: More blocks than ever wait to be sent: gradients are not held back.
ANY_NUMBER = 2**31


class NeuralNetProgram(DataParallelProgram):
    """Steps of an optimiser over batches of all partitions.

    Parameters
    ----------
    recipe, plan, settings
        What is trained, by which rows, and how ranks communicate.
    weights
        First parameters and buffers by name; None: the recipe's.
    layers
        Names of the weights that may be sent as factors.
    classes
        (n_classes,) labels in order; None: y is numbers.
    first
        First values of the table, (n,) float32, where there is one.
    patience, tol
        Passes without progress of the loss on held-out rows after which to stop; None: go on.
    """

    def __init__(
        self,
        recipe: Any,
        plan: Plan,
        settings: Any,
        *,
        weights: Mapping[str, Array] | None = None,
        layers: Sequence[str] = (),
        classes: Array | None = None,
        first: Array | None = None,
        patience: int | None = None,
        tol: float = 0.0,
    ) -> None:
        self.recipe = recipe
        self.plan = plan
        self.settings = settings
        self.weights = weights
        self.metrics = (*METRICS, *(f"saved.{name}" for name in layers))
        self.classes = classes
        self.first = first
        self.patience = patience
        self.tol = tol
        self._opened: tuple[Context, Any] | None = None
        self._best: int | None = None  # clock of the least loss on held-out rows, from 0
        self._n_judged = 0  # clocks whose loss is known

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_best": None, "_n_judged": 0}

    def tables(self) -> Sequence[TableSpec]:
        """Specify the weights, where ranks may be stale."""
        if self.first is None:
            return []
        n_rows = -(-len(self.first) // N_COLS)
        values = np.zeros((n_rows, N_COLS), np.float32)
        values.reshape(-1)[: len(self.first)] = self.first
        return [TableSpec("weights", values.shape, "float32", values)]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Take a partition in."""
        self._take_in(ctx, partition)
        return {}

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Make the clock's steps on all partitions of the rank, with the last of them."""
        trainer = self._trainer(ctx)
        if partition is not trainer.partitions[-1][0]:
            return dict.fromkeys(self.metrics, 0.0)
        clock = ctx.clock_index - 1
        trainer.keep_best(self._best, self._n_judged)
        out: dict[str, float] = dict.fromkeys(self.metrics, 0.0)
        if self.first is None:
            return out | dict(trainer.train(clock))
        view = ctx.table("weights").view()
        start = view.values.reshape(-1)[: len(self.first)].copy()
        out |= trainer.train(clock, start)
        change = np.zeros(view.values.shape, np.float32)
        change.reshape(-1)[: len(start)] = trainer.change_since(start).numpy() * trainer.share
        view.inc(change)
        return out

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the mean losses of the clock, and the bytes of gradients beside whole ones."""
        record = {"loss": totals["loss"] / totals["weight"] if totals["weight"] else 0.0}
        if totals["valid_weight"]:
            record["valid_loss"] = totals["valid_loss"] / totals["valid_weight"]
        record["gradient_bytes"] = totals["gradient_bytes"]
        record["bytes_saved"] = totals["full_bytes"] - totals["gradient_bytes"]
        if totals["full_bytes"]:
            record.update({n: v for n, v in totals.items() if n.startswith("saved.")})
        return record

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when the loss on held-out rows is no better than some passes ago."""
        self._n_judged = len(history)
        if self.patience is None or "valid_loss" not in history[-1]:
            return False
        ends = [clock for clock in range(len(history)) if self.plan.ends_pass(clock)]
        losses = [history[clock]["valid_loss"] for clock in ends]
        if losses:
            self._best = ends[int(np.argmin(losses))]
        # a clock may hold several passes
        until = self.plan.passes(len(history) - 1) - self.patience
        n_before = sum(self.plan.passes(clock) <= until for clock in ends)
        if not n_before:
            return False
        return min(losses[n_before:]) > min(losses[:n_before]) - self.tol

    def save(self, ctx: Context, partition: Partition, state: State) -> State:
        """Keep the rank's replica, with its first partition; partition 0 is some rank's first."""
        trainer = self._trainer(ctx)
        if partition is not trainer.partitions[0][0]:
            return {"kept": np.zeros(1)}
        trainer.keep_best(self._best, self._n_judged)
        arrays: State = trainer.arrays()
        return arrays

    def resume(self, ctx: Context, partition: Partition, saved: State) -> State:
        """Take a partition in, and the replica that was saved: this rank's or else rank 0's."""
        trainer = self._take_in(ctx, partition)
        if len(trainer.partitions) == 1:
            if "outer" not in saved:  # partition 0's, but not what was lost on its rank's wire
                context: Any = ctx
                saved = context.saved.arrays("state", 0)
                saved = {name: v for name, v in saved.items() if not name.startswith("w.")}
            trainer.load(saved, ctx.clock_index - 1)
        return {}

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the trained weights, once."""
        if partition.index:
            return {}
        trainer = self._trainer(ctx)
        if self.first is not None:
            trainer.place(ctx.table("weights").view().values.reshape(-1)[: len(self.first)])
        if self.patience is not None:
            trainer.place_best(self._best)
        arrays: State = trainer.weights()
        return arrays

    def _trainer(self, ctx: Context) -> Any:
        """The rank's trainer; torch is imported where it trains."""
        if self._opened is None or self._opened[0] is not ctx:
            from dask_petuum.nn.trainer import Trainer

            trainer = Trainer(
                self.recipe,
                self.plan,
                self.settings,
                self.weights,
                _Blocks(ctx),
                ctx.n_threads,
            )
            self._opened = ctx, trainer
        return self._opened[1]

    def _take_in(self, ctx: Context, partition: Partition) -> Any:
        trainer = self._trainer(ctx)
        trainer.partitions.append((partition, self._target(partition)))
        return trainer

    def _target(self, partition: Partition) -> Array:
        """Numbers of the classes, int64, or targets, float32."""
        from .softmax_program import encode

        if self.classes is not None:
            return encode(partition.y, self.classes).astype(np.int64)
        return np.asarray(partition.y, np.float32)


class _Blocks:
    """The ranks of a run, as the engine's :class:`~dask_petuum.nn.mesh.Mesh`."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._near = ctx.near
        self.rank = ctx.rank
        self.n_ranks = ctx.n_ranks
        near = range(ctx.rank) if self._near is None else self._near.ranks
        self.position = sum(rank < ctx.rank for rank in near)
        self.is_near = self._near is not None and self._near.is_whole

    def send(
        self, ranks: Sequence[int], block: int, stamp: int, arrays: Mapping[str, Array]
    ) -> None:
        """Send arrays: past the event loops on this host; else each block is a queue."""
        near = [rank for rank in ranks if self._reaches(rank)]
        if near:
            self._near.send(near, block, stamp, arrays)
        for rank in ranks:
            if rank not in near:
                self._ctx.send_block(rank, block, block, stamp, arrays)

    def take(self, rank: int, block: int, stamp: int) -> dict[str, Array]:
        """Wait for a block."""
        arrays: dict[str, Array] = (
            self._near.take(rank, block, stamp)
            if self._reaches(rank)
            else self._ctx.take_block(rank, block, stamp, ANY_NUMBER)
        )
        return arrays

    def _reaches(self, rank: int) -> bool:
        return self._near is not None and rank in self._near.ranks
