"""Kernels of k-means on CSR rows: the same passes as in `kmeans`, with other distances.

A distance costs as many operations as the row has nonzeros: ``D = |x|^2 - 2 x'c + |c|^2`` in
float64, SIMD over the centres (which are stored feature by feature). Its absolute error is at
most ``(n_features + 8) eps (|x|^2 + max |c|^2)``; the bounds of a Lloyd pass are widened by twice
that. Nothing is compiled with fastmath, and a row's result depends on that row and the centres
alone.

References
----------
G. Hamerly, "Making k-means even faster", SDM 2010, algorithm 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = [
    "CsrRows",
    "lloyd_csr",
    "nearest_csr",
    "own_distances_csr",
    "potentials_csr",
    "square_norms",
]

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


class CsrRows(NamedTuple):
    """The arrays of a CSR matrix, and each row's squared norm."""

    data: Floats  # (nnz,)
    indices: Ints  # (nnz,)
    indptr: Ints  # (n_rows + 1,)
    norms: NDArray[np.float64]  # (n_rows,)


@kernel(inline=True)
def _row_distances(
    rows: CsrRows,
    i: int,
    centers: NDArray[np.float64],
    norms: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Squared distances of row i to all centres; out : (n_centers,)."""
    n_centers = centers.shape[1]
    for j in range(n_centers):
        out[j] = 0.0
    for p in range(rows.indptr[i], rows.indptr[i + 1]):
        value = float(rows.data[p])
        feature = rows.indices[p]
        for j in range(n_centers):
            out[j] += value * centers[feature, j]
    square = rows.norms[i]
    for j in range(n_centers):
        out[j] = max(square - 2.0 * out[j] + norms[j], 0.0)


@kernel(inline=True)
def _two_smallest(values: NDArray[np.float64]) -> tuple[int, float, float]:
    """Place of the smallest value (the first among equals), it, and the second smallest."""
    place = 0
    best = np.inf
    second = np.inf
    for j in range(values.shape[0]):
        value = values[j]
        if value < best:
            second = best
            best = value
            place = j
        elif value < second:
            second = value
    return place, best, second


@kernel()
def nearest_csr(
    rows: CsrRows,
    centers: NDArray[np.float64],
    norms: NDArray[np.float64],
    labels: NDArray[np.int32],
    distances: NDArray[np.float64],
) -> None:
    """Find every row's nearest centre, without bounds.

    Parameters
    ----------
    rows : the rows
    centers : (n_features, n_centers), C-contiguous
    norms : (n_centers,), the centres' squared norms
    labels : (n_rows,), output
    distances : (n_rows,), output, squared distance to that centre
    """
    values = np.empty(centers.shape[1])
    for i in range(rows.indptr.shape[0] - 1):
        _row_distances(rows, i, centers, norms, values)
        place, best, _ = _two_smallest(values)
        labels[i] = place
        distances[i] = best


@kernel(inline=True)
def _own_distance(
    rows: CsrRows, i: int, centers: NDArray[np.float64], norms: NDArray[np.float64], j: int
) -> Any:
    """Squared distance of row i to centre j."""
    product = 0.0
    for p in range(rows.indptr[i], rows.indptr[i + 1]):
        product += float(rows.data[p]) * centers[rows.indices[p], j]
    return max(rows.norms[i] - 2.0 * product + norms[j], 0.0)


@kernel(inline=True)
def _move(
    rows: CsrRows,
    i: int,
    weight: float,
    scales: NDArray[np.float64],
    old: int,
    new: int,
    sums: NDArray[np.int64],
) -> None:
    """Move row i's contribution from cluster old (-1: none) to cluster new, exactly."""
    last = sums.shape[1] - 1
    share = np.int64(np.rint(weight * scales[1]))
    factor = weight * scales[0]
    sums[new, last] += share
    if old >= 0:
        sums[old, last] -= share
    for p in range(rows.indptr[i], rows.indptr[i + 1]):
        amount = np.int64(np.rint(factor * rows.data[p]))
        sums[new, rows.indices[p]] += amount
        if old >= 0:
            sums[old, rows.indices[p]] -= amount


@kernel()
def lloyd_csr(
    rows: CsrRows,
    weights: NDArray[np.float64],
    centers: NDArray[np.float64],
    norms: NDArray[np.float64],
    drift: NDArray[np.float64],
    scales: NDArray[np.float64],
    labels: NDArray[np.int32],
    bounds: NDArray[np.float64],
    tighten: bool,
    sums: NDArray[np.int64],
) -> int:
    """Assign every row to its nearest centre and move its contribution: one Lloyd pass.

    Parameters
    ----------
    rows, centers, norms
        As in `nearest_csr`.
    weights : (n_rows,), or (0,) where every row weighs 1
    drift, scales, labels, tighten, sums
        As in `kmeans.lloyd_dense`.
    bounds : (n_rows, 2) float64, in place: upper and lower bounds (not squared)

    Returns
    -------
    The number of rows whose distances to all centres were computed.
    """
    n_features, n_centers = centers.shape
    values = np.empty(n_centers)
    unit = 2 * (n_features + 8) * np.finfo(np.float64).eps
    slack = 8 * np.finfo(np.float64).eps
    largest = norms.max()
    computed = 0
    for i in range(labels.shape[0]):
        own = labels[i]
        margin = unit * (rows.norms[i] + largest)
        if own >= 0:
            lower = (bounds[i, 1] - drift[1, own]) * (1 - slack)
            upper = (bounds[i, 0] + drift[0, own]) * (1 + slack)
            if tighten and upper >= lower:
                upper = np.sqrt(_own_distance(rows, i, centers, norms, own) + margin) * (1 + slack)
            bounds[i, 0] = upper
            bounds[i, 1] = lower
            if upper < lower:
                continue
        _row_distances(rows, i, centers, norms, values)
        place, best, second = _two_smallest(values)
        bounds[i, 0] = np.sqrt(best + margin) * (1 + slack)
        bounds[i, 1] = np.sqrt(max(second - margin, 0.0)) * (1 - slack)
        computed += 1
        if place != own:
            weight = weights[i] if weights.shape[0] else 1.0
            _move(rows, i, weight, scales, own, place, sums)
            labels[i] = place
    return computed


@kernel()
def potentials_csr(
    rows: CsrRows,
    weights: NDArray[np.float64],
    centers: NDArray[np.float64],
    norms: NDArray[np.float64],
    nearest: NDArray[np.float64],
    potentials: NDArray[np.float64],
) -> None:
    """Add up what the potential would be with each of several candidates as a further centre.

    Parameters
    ----------
    rows, weights, centers, norms
        As in `lloyd_csr`; the centres are the candidates.
    nearest : (n_rows,), squared distance to the nearest centre so far
    potentials : (n_centers,), in place: ``sum_i w_i min(nearest_i, D(x_i, candidate))``
    """
    values = np.empty(centers.shape[1])
    for i in range(nearest.shape[0]):
        _row_distances(rows, i, centers, norms, values)
        weight = weights[i] if weights.shape[0] else 1.0
        for j in range(values.shape[0]):
            potentials[j] += weight * min(nearest[i], values[j])


@kernel()
def own_distances_csr(
    rows: CsrRows,
    centers: NDArray[np.float64],
    norms: NDArray[np.float64],
    labels: NDArray[np.int32],
    distances: NDArray[np.float64],
) -> None:
    """Measure each row's squared distance to the centre of its label.

    ``|x - c|^2 = |c|^2 + sum over x's nonzeros of ((x_f - c_f)^2 - c_f^2)``.
    """
    for i in range(labels.shape[0]):
        own = labels[i]
        total = norms[own]
        for p in range(rows.indptr[i], rows.indptr[i + 1]):
            center = centers[rows.indices[p], own]
            error = float(rows.data[p]) - center
            total += error * error - center * center
        distances[i] = max(total, 0.0)


@kernel()
def square_norms(data: Floats, indptr: Ints, norms: NDArray[np.float64]) -> None:
    """Sum the squares of each row of a CSR matrix; norms : (n_rows,), output."""
    for i in range(norms.shape[0]):
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            total += float(data[p]) * float(data[p])
        norms[i] = total
