"""What k-means does with rows, dense or CSR alike: chunks, packed centres, the right kernel.

A chunk is a number of rows that keeps a kernel busy for some milliseconds; it depends on the data
alone, so that float sums over chunks (potentials, inertia) have one order whatever the threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from dask_petuum.data.blocks import read_only
from dask_petuum.runtime.context import Context

from .kernels.kmeans import lloyd_dense, nearest_dense, own_distances_dense, potentials_dense
from .kernels.kmeans_simd import BLOCK
from .kernels.kmeans_sparse import (
    CsrRows,
    lloyd_csr,
    nearest_csr,
    own_distances_csr,
    potentials_csr,
    square_norms,
)

__all__ = ["Rows", "Summary", "pack_centers"]

Array = NDArray[Any]
#: Multiplications of a chunk: about 5 ms of one core.
CHUNK_WORK = 2**26


class Packed(NamedTuple):
    """Centres as the kernels want them."""

    values: Array  # dense: (n_centers to BLOCK, n_features); sparse: (n_features, n_centers)
    norms: NDArray[np.float64]  # (n_centers,)
    n_centers: int


class Summary(NamedTuple):
    """Weighted count, mean and spread of some rows (mergeable: Chan et al. 1979)."""

    weight: float
    mean: NDArray[np.float64]  # (n_features,)
    spread: NDArray[np.float64]  # (n_features,): sum of weighted squares about the mean
    largest: float  # max |x|

    def merge(self, other: Summary) -> Summary:
        """Summary of both sets of rows."""
        weight = self.weight + other.weight
        if weight == 0:
            return self
        step = other.mean - self.mean
        return Summary(
            weight,
            self.mean + step * (other.weight / weight),
            self.spread + other.spread + step**2 * (self.weight * other.weight / weight),
            max(self.largest, other.largest),
        )


def pack_centers(centers: Array, dtype: Any, sparse: bool) -> Packed:
    """Lay out centres (n_centers, n_features) for the kernels of dense or of sparse rows."""
    rounded = centers.astype(dtype)
    norms = (rounded.astype(np.float64) ** 2).sum(axis=1)
    if sparse:
        return Packed(np.ascontiguousarray(rounded.T, dtype=np.float64), norms, len(centers))
    n_centers, n_features = centers.shape
    padded = np.full((-(-n_centers // BLOCK) * BLOCK, n_features), np.inf, dtype=dtype)
    padded[:n_centers] = rounded
    return Packed(padded, norms, n_centers)


class Rows:
    """The rows of one partition (or of a batch), with their weights.

    Parameters
    ----------
    data
        (n_rows, n_features) ndarray in C order or csr_array, float32 or float64.
    weights
        (n_rows,) float64; (0,) where every row weighs 1.
    norms
        (n_rows,) squared norms of sparse rows, if known.
    """

    def __init__(self, data: Any, weights: Array, norms: Array | None = None) -> None:
        self.data: Any = read_only(data)  # one array type for the kernels, whoever calls
        self.weights: Array = np.asarray(read_only(weights))
        self.sparse = bool(issparse(data))
        self.n_rows, self.n_features = (int(n) for n in data.shape)
        self.norms = np.empty(0) if norms is None else norms
        if self.sparse and norms is None:
            self.norms = np.empty(self.n_rows)
            square_norms(data.data, data.indptr, self.norms)

    @property
    def distance_dtype(self) -> Any:
        """Type of distances and bounds."""
        return np.dtype(np.float64) if self.sparse else self.data.dtype

    def chunks(self, n_centers: int) -> list[slice]:
        """Cut the rows so that a chunk against ``n_centers`` centres is a kernel call's work."""
        features = self.n_features
        if self.sparse:
            features = max(1, int(self.data.indptr[-1]) // max(1, self.n_rows))
        size = int(np.clip(CHUNK_WORK // (n_centers * features), 256, 65536)) // 64 * 64
        return [slice(low, min(low + size, self.n_rows)) for low in range(0, self.n_rows, size)]

    def take(self, index: Array) -> Rows:
        """Copy some rows."""
        weights = self.weights[index] if len(self.weights) else self.weights
        return Rows(self.data[index], weights, self.norms[index] if self.sparse else None)

    def dense(self, index: Array) -> NDArray[np.float64]:
        """Copy some rows as a dense float64 array."""
        rows = self.data[index]
        return np.asarray(rows.toarray() if self.sparse else rows, dtype=np.float64)

    def all_weights(self) -> NDArray[np.float64]:
        """One weight for each row."""
        return self.weights if len(self.weights) else np.ones(self.n_rows)

    def nearest(self, packed: Packed, part: slice, labels: Array, distances: Array) -> None:
        """Label the rows of a chunk; outputs are for all rows."""
        rows, _ = self._part(part)
        if self.sparse:
            nearest_csr(rows, packed.values, packed.norms, labels[part], distances[part])
        else:
            nearest_dense(rows, packed.values, labels[part], distances[part])

    def lloyd(
        self,
        packed: Packed,
        part: slice,
        moves: tuple[Array, Array],
        state: tuple[Array, Array],
        sums: Array,
        tighten: bool,
    ) -> int:
        """Do a Lloyd pass over a chunk.

        ``moves`` is (drift, scales), ``state`` (labels, bounds) of all rows; see `lloyd_dense`.
        """
        rows, weights = self._part(part)
        labels, bounds = state[0][part], state[1][part]
        rest = (*moves, labels, bounds, tighten, sums)
        if self.sparse:
            return int(lloyd_csr(rows, weights, packed.values, packed.norms, *rest))
        return int(lloyd_dense(rows, weights, packed.values, *rest))

    def potentials(self, packed: Packed, part: slice, nearest: Array) -> NDArray[np.float64]:
        """Add up a chunk's potential with each candidate; (n_centers,)."""
        rows, weights = self._part(part)
        out = np.zeros(packed.n_centers)
        if self.sparse:
            potentials_csr(rows, weights, packed.values, packed.norms, nearest[part], out)
        else:
            potentials_dense(rows, weights, packed.values, packed.n_centers, nearest[part], out)
        return out

    def own_distances(self, packed: Packed, part: slice, labels: Array, out: Array) -> None:
        """Measure each row's squared distance to the centre of its label; out : (n_rows,) f8."""
        rows, _ = self._part(part)
        if self.sparse:
            own_distances_csr(rows, packed.values, packed.norms, labels[part], out[part])
        else:
            own_distances_dense(rows, packed.values, labels[part], out[part])

    def summary(self, ctx: Context) -> Summary:
        """Count, mean and spread of the rows."""
        chunks = self.chunks(8)
        total = Summary(0.0, np.zeros(self.n_features), np.zeros(self.n_features), 0.0)
        for part in ctx.map(self._summary, chunks):
            total = total.merge(part)
        return total

    def _summary(self, part: slice) -> Summary:
        rows = self.data[part]
        weights = self.weights[part] if len(self.weights) else np.ones(rows.shape[0])
        weight = float(weights.sum())
        values = rows.data if self.sparse else rows
        largest = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
        if weight == 0:
            return Summary(0.0, np.zeros(self.n_features), np.zeros(self.n_features), largest)
        if self.sparse:
            mean = (rows.T @ weights) / weight
            spread = (rows.multiply(rows).T @ weights) - weight * mean**2
            return Summary(weight, mean, np.maximum(spread, 0.0), largest)
        wide = rows.astype(np.float64)
        mean = (weights @ wide) / weight
        wide -= mean
        return Summary(weight, mean, np.einsum("i,ij,ij->j", weights, wide, wide), largest)

    def _part(self, part: slice) -> tuple[Any, Array]:
        weights = self.weights[part] if len(self.weights) else self.weights
        if not self.sparse:
            return self.data[part], weights
        data = self.data
        indptr = data.indptr[part.start : part.stop + 1]
        return CsrRows(data.data, data.indices, indptr, self.norms[part]), weights
