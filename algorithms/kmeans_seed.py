"""First centres of k-means, drawn where the rows lie; and what must be known of the rows.

*k-means++* (Arthur and Vassilvitskii 2007) draws a row with probability proportional to its
squared distance to the centres so far; of several draws (2 + log n_clusters) the one that
lowers the potential most is taken, as in scikit-learn. *k-means||* (Bahmani et al. 2012) draws
many rows at once in a few rounds; the caller clusters these. *random* draws rows without
replacement, by exponential keys (Efraimidis and Spirakis 2006).

A round is two clocks: the partitions learn each other's potential, split the number of draws by a
multinomial that all of them draw from the same stream, and draw their own shares; then
they measure the drawn rows. The tables hold the bit patterns of float64 numbers as int64, so that a
cell can be replaced by adding a difference, exactly.

References
----------
D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
B. Bahmani et al., "Scalable k-means++", PVLDB 5(7), 2012, algorithm 2.
P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", IPL 97, 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Context, View
from dask_petuum.runtime.program import DataParallelProgram, State
from dask_petuum.store.spec import TableSpec

from .kmeans_rows import Summary, pack_centers
from .kmeans_sums import partition_rows, row_state

__all__ = ["SeedProgram", "read_summaries"]

#: Rounds of k-means|| after its first draw; five are enough in the paper's section 5.
N_ROUNDS = 5
#: Rows drawn in a round of k-means||, per cluster.
OVERSAMPLING = 2


class SeedProgram(DataParallelProgram):
    """Draw first centres.

    Parameters
    ----------
    method
        "k-means++", "k-means||", "random", or "" to summarise the rows only.
    n_clusters, n_features, n_partitions
        Sizes.
    seed
        Root of the stream that the partitions share.
    """

    metrics = ("potential",)

    def __init__(
        self, method: str, n_clusters: int, n_features: int, n_partitions: int, seed: int
    ) -> None:
        self.method = method
        self.n_clusters = n_clusters
        self.n_features = n_features
        self.n_partitions = n_partitions
        self.seed = seed
        self.n_draws = 1
        if method == "k-means++":
            self.n_draws = 2 + int(np.log(n_clusters))
        elif method == "k-means||":
            self.n_draws = OVERSAMPLING * n_clusters
        self._opened: tuple[Context, View, View] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def n_clocks(self) -> int:
        """Clocks that the method takes."""
        rounds = {"k-means++": self.n_clusters, "k-means||": 1 + N_ROUNDS}
        return 2 * rounds.get(self.method, 0)

    def tables(self) -> Sequence[TableSpec]:
        """Specify the drawn rows and each partition's potential with each of them, as bits."""
        drawn = TableSpec(
            "drawn", (self.n_draws, self.n_features), "int64", dims=("draw", "feature")
        )
        shape = (self.n_partitions, self.n_draws)
        return [drawn, TableSpec("potentials", shape, "int64", dims=("partition", "draw"))]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Summarise the partition; its first potential is its weight."""
        state = row_state(partition)
        rows = partition_rows(partition, state)
        summary = rows.summary(ctx)
        state["summary"] = np.concatenate(
            [[summary.weight, summary.largest], summary.mean, summary.spread]
        )
        state["nearest"] = np.full(rows.n_rows, np.inf, dtype=rows.distance_dtype)
        state["source"] = np.zeros(rows.n_rows, dtype=np.int64)
        state["chosen"] = np.empty((0, self.n_features))
        _, potentials = self._views(ctx)
        first = np.zeros((1, self.n_draws))
        first[0, 0] = summary.weight
        potentials.inc(first.view(np.int64), at=[partition.index])
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Draw (in even clocks) or measure what was drawn (in odd ones)."""
        if (ctx.clock_index - 1) % 2:
            self._measure(ctx, partition, state)
            return {"potential": 0.0}
        return {"potential": self._draw(ctx, partition, state)}

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the summary, and the chosen rows (the same from all) or the partition's own."""
        out = {"summary": state["summary"]}
        if self.method == "random":
            out.update(self._keys(ctx, partition, state))
        elif self.method == "k-means++":
            self._choose(ctx, partition, state)
            out["chosen"] = state["chosen"]
        elif self.method == "k-means||":
            weights = partition_rows(partition, state).all_weights()
            chosen = state["chosen"]
            out["chosen"] = chosen
            out["weights"] = np.bincount(state["source"], weights, minlength=len(chosen))
        return out

    def _views(self, ctx: Context) -> tuple[View, View]:
        if self._opened is None or self._opened[0] is not ctx:
            self._opened = (ctx, ctx.table("drawn").view(), ctx.table("potentials").view())
        return self._opened[1], self._opened[2]

    def _n_drawn(self, clock: int) -> int:
        """Rows drawn in the round of a clock: one in the first, to start from."""
        return 1 if clock < 2 else self.n_draws

    def _draw(self, ctx: Context, partition: Partition, state: State) -> float:
        clock = ctx.clock_index - 1
        drawn, potentials = self._views(ctx)
        column = 0
        if clock and self.method == "k-means++":
            column = self._choose(ctx, partition, state)
        shares = potentials.values[:, column].copy().view(np.float64)
        rows = partition_rows(partition, state)
        odds = rows.all_weights()
        if clock == 0:
            state["weight_shares"] = shares
        elif shares.sum() > 0:
            odds = odds * state["nearest"]
        else:  # every row is a centre already: fewer distinct rows than clusters
            shares = state["weight_shares"]
        stream = np.random.default_rng([self.seed, clock])
        counts = stream.multinomial(self._n_drawn(clock), shares / shares.sum())
        mine = int(counts[partition.index])
        if mine:
            low = int(counts[: partition.index].sum())
            slots = np.arange(low, low + mine)
            picked = rows.dense(_pick(odds, np.random.default_rng(ctx.seed(partition)), mine))
            drawn.inc(picked.view(np.int64) - drawn.values[slots], at=slots)
        return float(shares.sum()) if partition.index == 0 else 0.0

    def _measure(self, ctx: Context, partition: Partition, state: State) -> None:
        drawn, potentials = self._views(ctx)
        n_drawn = self._n_drawn(ctx.clock_index - 1)
        candidates = drawn.values[:n_drawn].view(np.float64)
        new = np.zeros((1, self.n_draws))
        if self.method == "k-means||":
            self._add(ctx, partition, state, candidates)
            nearest = state["nearest"].astype(np.float64)
            new[0, 0] = partition_rows(partition, state).all_weights() @ nearest
        else:
            rows = partition_rows(partition, state)
            packed = pack_centers(candidates, partition.data.dtype, rows.sparse)
            parts = ctx.map(
                lambda part: rows.potentials(packed, part, state["nearest"]), rows.chunks(n_drawn)
            )
            new[0, :n_drawn] = np.sum(parts, axis=0)
        old = potentials.values[partition.index]
        potentials.inc(new.view(np.int64) - old, at=[partition.index])

    def _choose(self, ctx: Context, partition: Partition, state: State) -> int:
        """Take the draw with the lowest potential as a centre; its number."""
        drawn, potentials = self._views(ctx)
        n_drawn = 1 if len(state["chosen"]) == 0 else self.n_draws
        totals = potentials.values[:, :n_drawn].copy().view(np.float64).sum(axis=0)
        best = int(totals.argmin())
        self._add(ctx, partition, state, drawn.values[best : best + 1].view(np.float64))
        return best

    def _add(self, ctx: Context, partition: Partition, state: State, centers: Any) -> None:
        """Let the rows know of further centres."""
        rows = partition_rows(partition, state)
        packed = pack_centers(centers, partition.data.dtype, rows.sparse)
        base = len(state["chosen"])
        state["chosen"] = np.vstack([state["chosen"], centers])
        labels = np.empty(rows.n_rows, dtype=np.int32)
        distances = np.empty(rows.n_rows, dtype=rows.distance_dtype)

        def work(part: slice) -> None:
            rows.nearest(packed, part, labels, distances)
            nearer = distances[part] < state["nearest"][part]
            state["nearest"][part][nearer] = distances[part][nearer]
            state["source"][part][nearer] = labels[part][nearer] + base

        ctx.map(work, rows.chunks(len(centers)))

    def _keys(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the partition's rows with the smallest keys Exp(1) / weight."""
        rows = partition_rows(partition, state)
        draws = np.random.default_rng(ctx.seed(partition)).exponential(size=rows.n_rows)
        with np.errstate(divide="ignore"):
            keys = draws / rows.all_weights()
        first = np.argsort(keys, kind="stable")[: self.n_clusters]
        return {"keys": keys[first], "rows": rows.dense(first)}


def _pick(odds: NDArray[Any], rng: np.random.Generator, n_picks: int) -> NDArray[np.int64]:
    """Draw row numbers with probability proportional to ``odds``, with replacement."""
    steps = np.cumsum(odds, dtype=np.float64)
    places = np.searchsorted(steps, rng.random(n_picks) * steps[-1], side="right")
    picks: NDArray[np.int64] = np.minimum(places, np.flatnonzero(odds)[-1])
    return picks


def read_summaries(outputs: Sequence[State]) -> list[Summary]:
    """Read the partitions' summaries from what `SeedProgram.finish` gave."""
    parts = []
    for output in outputs:
        weight, largest = output["summary"][:2]
        mean, spread = np.split(output["summary"][2:], 2)
        parts.append(Summary(float(weight), mean, spread, float(largest)))
    return parts
