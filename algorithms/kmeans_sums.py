"""What k-means adds up: exact sums in a table, their scales, and centres read from them.

The table ``sums`` (n_clusters, n_features + 1) int64 holds the fixed-point sum of the weighted
rows of each cluster and, in the last column, of their weights. One int64 per value is enough: with
``n`` rows of at most ``M`` in size the scale is the largest power of two that keeps
``n M scale < 2**62``, so a mean is off by at most ``n M / 2**62`` (2e-13 M for a million rows),
hundreds of times less than the worst case of adding up float64 numbers, and the sum of what was
rounded is exact: it does not depend on the order, the partitions or the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import State
from dask_petuum.store.spec import TableSpec

from .kmeans_rows import Rows, Summary

__all__ = ["Problem", "Sums", "partition_rows", "row_state", "with_rows"]

#: A fixed-point sum stays below 2**62, a metric (a float that must be exact) below 2**53;
#: stale centres may be worse than the first ones, hence the rest.
SUM_BITS, METRIC_BITS = 62, 49


@dataclass(frozen=True)
class Problem:
    """What is known of the data before the first pass.

    Attributes
    ----------
    n_clusters, n_features
        Sizes.
    scales
        Integers per unit of weighted feature, and per unit of weight.
    inertia_scale
        Integers per unit of inertia.
    weight
        Sum of the weights.
    mean
        (n_features,) weighted mean of the rows.
    squares
        (n_partitions,) weighted sum of each partition's squares about that mean.
    """

    n_clusters: int
    n_features: int
    scales: tuple[float, float]
    inertia_scale: float
    weight: float
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, centers: Array, parts: Sequence[Summary], unit: bool) -> Problem:
        """Choose scales for first centres and the partitions' summaries; ``unit``: weights are 1.

        The first pass's inertia is at most that of all rows about one centre, and none is larger.
        """
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        squares = [part.spread.sum() + part.weight * _square(part.mean, total) for part in parts]
        nearest = min(_square(center, total) for center in centers)
        inertia = sum(squares) + total.weight * nearest
        shares = 1.0 if unit else _power(SUM_BITS, total.weight)
        scale = _power(SUM_BITS, total.weight * total.largest)
        return cls(
            len(centers),
            len(total.mean),
            (scale, shares),
            _power(METRIC_BITS, inertia),
            total.weight,
            total.mean,
            np.array(squares),
        )


def _square(mean: Array, total: Summary) -> float:
    return float(((mean - total.mean) ** 2).sum())


def _power(bits: int, bound: float) -> float:
    """Largest power of two that keeps ``bound`` times it below 2**bits."""
    if bound <= 0:
        return 1.0
    return float(2.0 ** np.clip(np.floor(bits - 1 - np.log2(bound)), -1000, 1000))


class Sums:
    """A rank's view of the table, read as centres.

    Parameters
    ----------
    problem
        Sizes and scales.
    before
        (n_clusters, n_features + 1): weighted sums and weights from before this run.
    """

    def __init__(self, problem: Problem, before: Array) -> None:
        self.problem = problem
        self.before = before
        self._opened: tuple[Context, View] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def spec(self) -> TableSpec:
        """What the table is."""
        shape = (self.problem.n_clusters, self.problem.n_features + 1)
        return TableSpec("sums", shape, "int64", dims=("cluster", "feature"))

    def view(self, ctx: Context) -> View:
        """Open the rank's one view, shared by its partitions."""
        if self._opened is None or self._opened[0] is not ctx:
            self._opened = (ctx, ctx.table("sums").view())
        return self._opened[1]

    def centers(self, values: Array, last: Array) -> NDArray[np.float64]:
        """Turn sums into centres (n_clusters, n_features); a cluster without weight stays."""
        weights = self.weights(values)[:, np.newaxis]
        means = values[:, :-1] / self.problem.scales[0] + self.before[:, :-1]
        return np.where(weights > 0, means / np.where(weights > 0, weights, 1.0), last)

    def weights(self, values: Array) -> NDArray[np.float64]:
        """Weight of each cluster; (n_clusters,)."""
        weights: NDArray[np.float64] = values[:, -1] / self.problem.scales[1] + self.before[:, -1]
        return weights


def partition_rows(partition: Partition, state: State) -> Rows:
    """Rows of a partition, with what its state keeps of them."""
    return Rows(partition.data, state["weights"], state["norms"])


def row_state(partition: Partition) -> State:
    """Start a partition's state: weights (none where all are 1) and norms of sparse rows."""
    weights = np.empty(0)
    if partition.sample_weight is not None:
        weights = partition.sample_weight.astype(np.float64)
    return {"weights": weights, "norms": Rows(partition.data, weights).norms}


def with_rows(problem: Problem, times: float) -> Problem:
    """Make room in the scales for ``times`` as many points."""
    factor = 2.0 ** -np.ceil(np.log2(max(1.0, times)))
    scales = (problem.scales[0] * factor, problem.scales[1])
    if problem.scales[1] != 1.0:
        scales = (scales[0], problem.scales[1] * factor)
    return replace(problem, scales=scales)
