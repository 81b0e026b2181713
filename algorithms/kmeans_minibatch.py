"""Mini-batch k-means as a program: one clock is one batch.

Each clock adds the batch's sums to the table; a centre is the mean of all points ever assigned to
it, which is the rate 1 / count of Sculley 2010 (algorithm 1) with one step a batch.

References
----------
D. Sculley, "Web-scale k-means clustering", WWW 2010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.program import Record, State

from .kmeans_program import LloydProgram, results, run_pass
from .kmeans_rows import pack_centers
from .kmeans_sums import Problem, Sums, partition_rows, row_state

__all__ = ["MiniBatchProgram"]


class MiniBatchProgram(LloydProgram):
    """Mini-batch k-means; one clock is one batch, drawn anew from each partition.

    Parameters
    ----------
    problem, init, tol
        As in `LloydProgram`; the scales must allow for the points of all batches.
    batch_rows
        Rows of a batch in each partition.
    counts
        (n_clusters,) weight of the rows that the first centres are means of.
    window
        Clocks of a pass. Ends when the mean inertia of the last window is not below (1 - tol)
        times that of the window before.
    """

    metrics: tuple[str, ...] = ("inertia", "weight")

    def __init__(
        self,
        problem: Problem,
        init: Array,
        tol: float,
        batch_rows: Sequence[int],
        counts: Array,
        window: int,
    ) -> None:
        super().__init__(problem, init, tol)
        weights = counts[:, np.newaxis]
        self.sums = Sums(problem, np.hstack([weights * self.init, weights]))
        self.batch_rows = list(batch_rows)
        self.window = window

    def start(self, ctx: Context, partition: Partition) -> State:
        """Keep the centres that clusters without points have."""
        state = row_state(partition)
        state["centers"] = self._round(self.init, partition)
        self.sums.view(ctx)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Assign a batch to the centres as they are and add its sums."""
        values = self.sums.view(ctx).values
        n_batch = self.batch_rows[partition.index]
        batch = partition_rows(partition, state)
        if n_batch < partition.n_rows:
            rng = np.random.default_rng(ctx.seed(partition))
            batch = batch.take(np.sort(rng.choice(partition.n_rows, n_batch, replace=False)))
        inner: State = {
            "labels": np.full(batch.n_rows, -1, dtype=np.int32),
            "bounds": np.zeros((batch.n_rows, 2), dtype=batch.distance_dtype),
        }
        centers = self._round(self.sums.centers(values, state["centers"]), partition)
        state["centers"] = centers
        packed = pack_centers(centers, partition.data.dtype, batch.sparse)
        drift = np.zeros((2, len(centers)))
        pair = (inner["labels"], inner["bounds"])
        _, delta = run_pass(ctx, batch, packed, drift, self.problem, pair)
        self.sums.view(ctx).inc(delta)
        distances = inner["bounds"][:, 0].astype(np.float64)  # just measured: bounds are tight
        inertia = float(batch.all_weights() @ distances**2)
        return {
            "inertia": float(np.rint(inertia * self.problem.inertia_scale)),
            "weight": float(delta[:, -1].sum() / self.problem.scales[1]),
        }

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the batch's inertia, scaled up to all rows."""
        inertia = totals["inertia"] / self.problem.inertia_scale
        share = totals["weight"] / self.problem.weight
        return {"inertia": inertia / share if share else 0.0}

    def converged(self, history: Sequence[Record]) -> bool:
        """Compare the last window's mean inertia with that of the one before."""
        window = self.window
        if len(history) < 2 * window or len(history) % window:
            return False
        last = np.mean([record["inertia"] for record in history[-window:]])
        before = np.mean([record["inertia"] for record in history[-2 * window : -window]])
        return bool(last >= (1 - self.tol) * before)

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Label all rows by the final centres."""
        rows = partition_rows(partition, state)
        state["labels"] = np.full(rows.n_rows, -1, dtype=np.int32)
        state["bounds"] = np.zeros((rows.n_rows, 2), dtype=rows.distance_dtype)
        state["computed"] = np.array([rows.n_rows])
        values = self.sums.view(ctx).values
        self._pass(ctx, partition, state, values)
        return results(ctx, partition, state, 0)
