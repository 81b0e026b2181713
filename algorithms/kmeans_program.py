"""Lloyd's algorithm as a program: one clock is one pass, the sums are a table.

Each partition adds what *changed* since its last pass. So the table always is the sum over
partitions of each one's latest assignment, also where reads are stale.

References
----------
S. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28, 1982.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .kmeans_rows import Packed, Rows, pack_centers
from .kmeans_sums import Problem, Sums, partition_rows, row_state

__all__ = ["LloydProgram", "results", "run_pass"]

#: Share of rows computed in the last pass below which (or clusters from which on) it pays to
#: measure a row's own centre before all of them.
TIGHTEN_SHARE, TIGHTEN_CLUSTERS = 0.8, 256


def _drift(old: Array, new: Array) -> NDArray[np.float64]:
    """How far each centre moved, and the largest move among the others; (2, n_clusters)."""
    moved = np.sqrt(((new - old) ** 2).sum(axis=1)) * (1 + 1e-12)
    others = np.full(len(moved), moved.max())
    place = int(moved.argmax())
    others[place] = np.delete(moved, place).max(initial=0.0)
    return np.vstack([moved, others])


class LloydProgram(DataParallelProgram):
    """Lloyd's algorithm; one clock is one pass over all rows.

    Parameters
    ----------
    problem
        Sizes and scales.
    init
        (n_clusters, n_features) first centres.
    tol
        Ends when the sum of the centres' squared moves is no more than this (sklearn's rule,
        scaled by the caller).
    patience
        Clocks in a row that must agree on the end: 1 + staleness.
    """

    metrics: tuple[str, ...] = ("inertia", "computed", "moved", "shift", "empty")

    def __init__(self, problem: Problem, init: Array, tol: float = 0.0, patience: int = 1) -> None:
        self.problem = problem
        self.init = np.asarray(init, dtype=np.float64)
        self.tol = tol
        self.patience = patience
        self.sums = Sums(problem, np.zeros((problem.n_clusters, problem.n_features + 1)))

    def tables(self) -> Sequence[TableSpec]:
        """Specify the table of sums."""
        return [self.sums.spec()]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Nobody has a cluster yet."""
        state = row_state(partition)
        rows = partition_rows(partition, state)
        state["labels"] = np.full(rows.n_rows, -1, dtype=np.int32)
        state["bounds"] = np.zeros((rows.n_rows, 2), dtype=rows.distance_dtype)
        state["centers"] = self._round(self.init, partition)
        shape = (self.problem.n_clusters, self.problem.n_features + 1)
        state["sums"] = np.zeros(shape, dtype=np.int64)
        state["computed"] = np.array([rows.n_rows])
        self.sums.view(ctx)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Assign the partition's rows anew and add what changed."""
        values = self.sums.view(ctx).values
        shift, computed, delta = self._pass(ctx, partition, state, values)
        moved = bool(delta.any())
        if moved:
            state["sums"] += delta
            self.sums.view(ctx).inc(delta)
        first = partition.index == 0
        empty = int((values[:, -1] == 0).sum()) if values[:, -1].any() else 0
        return {
            "inertia": self._inertia(partition, state),
            "computed": float(computed),
            "moved": float(moved),
            "shift": shift if first else 0.0,
            "empty": float(empty) if first else 0.0,
        }

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the inertia of the pass; rows computed; how far the centres moved before it."""
        shown = dict(totals)
        shown["inertia"] = totals["inertia"] / self.problem.inertia_scale
        return shown

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when nothing moves, the centres hardly do, or a cluster needs a new centre."""
        if history[-1]["empty"] > 0:
            return True
        last = history[-self.patience :]
        still = [
            record["moved"] == 0 or (record["clock"] > 1 and record["shift"] <= self.tol)
            for record in last
        ]
        return len(last) == self.patience and all(still)

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Label the rows by the final centres; give also the rows farthest from theirs."""
        values = self.sums.view(ctx).values
        self._pass(ctx, partition, state, values)
        return results(ctx, partition, state, int((values[:, -1] == 0).sum()))

    def _pass(
        self, ctx: Context, partition: Partition, state: State, values: Array
    ) -> tuple[float, int, NDArray[np.int64]]:
        """One pass: the centres' move, rows computed, change of the sums."""
        rows = partition_rows(partition, state)
        centers = self._round(self.sums.centers(values, state["centers"]), partition)
        drift = _drift(state["centers"], centers)
        state["centers"] = centers
        packed = pack_centers(centers, partition.data.dtype, rows.sparse)
        # Measuring the own centre first costs a third of measuring 50 centres at once.
        tighten = bool(state["computed"][0] < TIGHTEN_SHARE * rows.n_rows)
        tighten |= self.problem.n_clusters >= TIGHTEN_CLUSTERS
        pair = (state["labels"], state["bounds"])
        computed, delta = run_pass(ctx, rows, packed, drift, self.problem, pair, tighten)
        state["computed"] = np.array([computed])
        return float((drift[0] ** 2).sum()), computed, delta

    def _inertia(self, partition: Partition, state: State) -> float:
        """Inertia of the partition's rows in this pass, from its own sums, in whole units.

        Whole numbers: added up exactly, so that the history does not depend on the ranks.
        """
        problem = self.problem
        weights = state["sums"][:, -1] / problem.scales[1]
        sums = state["sums"][:, :-1] / problem.scales[0] - weights[:, None] * problem.mean
        centers = state["centers"] - problem.mean
        total = float(problem.squares[partition.index])
        total += float(weights @ (centers**2).sum(axis=1) - 2.0 * (centers * sums).sum())
        return float(np.rint(max(total, 0.0) * problem.inertia_scale))

    def _round(self, centers: Array, partition: Partition) -> NDArray[np.float64]:
        """Round centres to the rows' type: the bounds hold for what the kernels see."""
        return centers.astype(partition.data.dtype).astype(np.float64)


def run_pass(
    ctx: Context,
    rows: Rows,
    packed: Packed,
    drift: Array,
    problem: Problem,
    state: tuple[Array, Array],
    tighten: bool = False,
) -> tuple[int, NDArray[np.int64]]:
    """Run one Lloyd pass over all chunks; rows computed, and the change of the sums.

    ``state`` is (labels, bounds) of all rows.
    """
    free: list[NDArray[np.int64]] = []
    scales = np.array(problem.scales)

    def work(part: slice) -> int:
        # A sum per thread at work, not per chunk: list.pop and append are atomic.
        try:
            sums = free.pop()
        except IndexError:
            sums = np.zeros((problem.n_clusters, problem.n_features + 1), dtype=np.int64)
        computed = rows.lloyd(packed, part, (drift, scales), state, sums, tighten)
        free.append(sums)
        return computed

    computed = sum(ctx.map(work, rows.chunks(problem.n_clusters)))
    delta = np.zeros((problem.n_clusters, problem.n_features + 1), dtype=np.int64)
    for other in free:
        delta += other
    return computed, delta


def results(ctx: Context, partition: Partition, state: State, n_far: int) -> State:
    """What a partition gives back; with it its ``n_far`` rows farthest from their centres."""
    rows = partition_rows(partition, state)
    packed = pack_centers(state["centers"], partition.data.dtype, rows.sparse)
    distances = np.empty(rows.n_rows)
    chunks = rows.chunks(1)
    ctx.map(lambda part: rows.own_distances(packed, part, state["labels"], distances), chunks)
    weights = rows.all_weights()
    far = np.empty(0, dtype=np.int64)
    if n_far:
        order = np.argsort(np.where(weights > 0, -distances, 0.0), kind="stable")
        far = order[:n_far]
    return {
        "labels": state["labels"],
        "centers": state["centers"][: None if partition.index == 0 else 0],
        "inertia": np.array([weights @ distances]),
        "far_distances": np.where(weights > 0, distances, 0.0)[far],
        "far_rows": rows.dense(far),
    }
