"""Kernels of k-means on dense rows: nearest centre, bounded Lloyd pass, exact sums, seeding.

Rows are copied, transposed, into a tile of `TILE` rows so that SIMD runs over rows: every row goes
through the same instructions whatever its place in the tile, and no kernel is compiled with
fastmath, so a label depends on the row and the centres alone: not on the chunk, the thread or the
partition, and not on the vector width of the machine.

Distances are sums of squared differences, ``D(x, c) = sum_f (x_f - c_f)^2``, whose relative
rounding error is at most ``(n_features + 3) eps``; the form ``|x|^2 - 2 x'c + |c|^2`` saves a
quarter of the time and loses all digits far from the origin.

A Lloyd pass skips rows with Hamerly's test: ``upper`` bounds the distance to a row's own centre
from above and ``lower`` that to every other centre from below; where ``upper < lower`` the label
cannot change. The bounds are widened by the rounding error, so that labels are those of a pass
without bounds. The rows of CSR matrices are in `kmeans_sparse`.

Sums are exact: a row's contribution is ``rint(scale * w * x)`` in int64 with one scale for the
whole run, so that adding is associative: order, threads and ranks do not matter, and a row that
changes its cluster is subtracted from the old sum and added to the new one without drift.

References
----------
G. Hamerly, "Making k-means even faster", SDM 2010, algorithm 1.
S. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28, 1982.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

from .kmeans_simd import BLOCK, TILE, tile_distances, tile_nearest

__all__ = ["lloyd_dense", "nearest_dense", "own_distances_dense", "potentials_dense"]

Floats = NDArray[np.floating]


@kernel(inline=True)
def _load(rows: Floats, i: int, tile: Floats, slot: int) -> None:
    """Copy row i into one column of a tile."""
    for f in range(rows.shape[1]):
        tile[f, slot] = rows[i, f]


@kernel()
def nearest_dense(
    rows: Floats,
    centers: Floats,
    labels: NDArray[np.int32],
    distances: Floats,
) -> None:
    """Find every row's nearest centre, without bounds.

    Parameters
    ----------
    rows : (n_rows, n_features), C-contiguous
    centers : (n_centers padded to 4 with infinities, n_features), the rows' dtype
    labels : (n_rows,), output
    distances : (n_rows,), output, squared distance to that centre, the rows' dtype
    """
    n_rows = rows.shape[0]
    tile = np.zeros((rows.shape[1], TILE), rows.dtype)
    best = np.empty(TILE, rows.dtype)
    second = np.empty(TILE, rows.dtype)
    label = np.empty(TILE, np.int32)
    for low in range(0, n_rows, TILE):
        used = min(TILE, n_rows - low)
        for r in range(used):
            _load(rows, low + r, tile, r)
        tile_nearest(tile, centers, best, second, label)
        for r in range(used):
            labels[low + r] = label[r]
            distances[low + r] = best[r]


@kernel(inline=True)
def _own_distance(rows: Floats, i: int, centers: Floats, j: int) -> Any:
    """Squared distance of row i to centre j, in four interleaved sums."""
    n_features = rows.shape[1]
    s0 = rows.dtype.type(0)
    s1 = s0
    s2 = s0
    s3 = s0
    whole = n_features - n_features % 4
    for f in range(0, whole, 4):
        e0 = rows[i, f] - centers[j, f]
        e1 = rows[i, f + 1] - centers[j, f + 1]
        e2 = rows[i, f + 2] - centers[j, f + 2]
        e3 = rows[i, f + 3] - centers[j, f + 3]
        s0 += e0 * e0
        s1 += e1 * e1
        s2 += e2 * e2
        s3 += e3 * e3
    for f in range(whole, n_features):
        e0 = rows[i, f] - centers[j, f]
        s0 += e0 * e0
    return (s0 + s1) + (s2 + s3)


@kernel(inline=True)
def _move(
    rows: Floats,
    i: int,
    weight: float,
    scales: NDArray[np.float64],
    old: int,
    new: int,
    sums: NDArray[np.int64],
) -> None:
    """Move row i's contribution from cluster old (-1: none) to cluster new, exactly."""
    n_features = rows.shape[1]
    factor = weight * scales[0]
    share = np.int64(np.rint(weight * scales[1]))
    sums[new, n_features] += share
    for f in range(n_features):
        sums[new, f] += np.int64(np.rint(factor * rows[i, f]))
    if old >= 0:
        sums[old, n_features] -= share
        for f in range(n_features):
            sums[old, f] -= np.int64(np.rint(factor * rows[i, f]))


@kernel()
def lloyd_dense(
    rows: Floats,
    weights: NDArray[np.float64],
    centers: Floats,
    drift: NDArray[np.float64],
    scales: NDArray[np.float64],
    labels: NDArray[np.int32],
    bounds: Floats,
    tighten: bool,
    sums: NDArray[np.int64],
) -> int:
    """Assign every row to its nearest centre and move its contribution: one Lloyd pass.

    Parameters
    ----------
    rows : (n_rows, n_features), C-contiguous
    weights : (n_rows,), or (0,) where every row weighs 1
    centers : (n_centers padded to 4 with infinities, n_features), the rows' dtype
    drift : (2, n_centers): how far each centre moved since the bounds were made, and the largest
        move of the other centres, both rounded up
    scales : (2,): integers per unit of weighted feature and per unit of weight
    labels : (n_rows,), in place; -1 where a row has no cluster yet
    bounds : (n_rows, 2), the rows' dtype, in place: upper bounds of the distance to the own
        centre, lower bounds of that to the others (not squared)
    tighten : measure the distance to a row's own centre before those to all; pays where many rows
        then pass the test, and has no effect on the labels
    sums : (n_centers, n_features + 1), in place: changes of the sums, weights in the last column

    Returns
    -------
    The number of rows whose distances to all centres were computed.
    """
    tile = np.zeros((rows.shape[1], TILE), rows.dtype)
    index = np.empty(TILE, np.int64)
    slack = (rows.shape[1] + 8) * np.finfo(rows.dtype).eps
    computed = 0
    used = 0
    for i in range(rows.shape[0]):
        own = labels[i]
        if own >= 0:
            lower = (bounds[i, 1] - drift[1, own]) * (1 - slack)
            upper = (bounds[i, 0] + drift[0, own]) * (1 + slack)
            if tighten and upper >= lower:
                upper = np.sqrt(_own_distance(rows, i, centers, own)) * (1 + slack)
            bounds[i, 0] = upper
            bounds[i, 1] = lower
            if upper < lower:
                continue
        index[used] = i
        _load(rows, i, tile, used)
        used += 1
        computed += 1
        if used == TILE:
            _settle(rows, weights, centers, scales, tile, index, used, labels, bounds, sums)
            used = 0
    _settle(rows, weights, centers, scales, tile, index, used, labels, bounds, sums)
    return computed


@kernel()
def _settle(
    rows: Floats,
    weights: NDArray[np.float64],
    centers: Floats,
    scales: NDArray[np.float64],
    tile: Floats,
    index: NDArray[np.int64],
    used: int,
    labels: NDArray[np.int32],
    bounds: Floats,
    sums: NDArray[np.int64],
) -> None:
    """Label the rows of a tile (row numbers in index[:used]); new bounds, moved sums."""
    best = np.empty(TILE, rows.dtype)
    second = np.empty(TILE, rows.dtype)
    label = np.empty(TILE, np.int32)
    slack = (rows.shape[1] + 8) * np.finfo(rows.dtype).eps
    tile_nearest(tile, centers, best, second, label)
    for r in range(used):
        i = index[r]
        bounds[i, 0] = np.sqrt(best[r]) * (1 + slack)
        bounds[i, 1] = np.sqrt(second[r]) * (1 - slack)
        if label[r] != labels[i]:
            weight = weights[i] if weights.shape[0] else 1.0
            _move(rows, i, weight, scales, labels[i], label[r], sums)
            labels[i] = label[r]


@kernel()
def potentials_dense(
    rows: Floats,
    weights: NDArray[np.float64],
    centers: Floats,
    n_centers: int,
    nearest: Floats,
    potentials: NDArray[np.float64],
) -> None:
    """Add up what the potential would be with each of several candidates as a further centre.

    Parameters
    ----------
    rows, weights, centers
        As in `lloyd_dense`; the centres are the candidates.
    n_centers : the number of true candidates
    nearest : (n_rows,), squared distance to the nearest centre so far, the rows' dtype
    potentials : (n_centers,), in place: ``sum_i w_i min(nearest_i, D(x_i, candidate))``
    """
    tile = np.zeros((rows.shape[1], TILE), rows.dtype)
    scratch = np.empty((BLOCK, TILE), rows.dtype)
    for low in range(0, rows.shape[0], TILE):
        used = min(TILE, rows.shape[0] - low)
        for r in range(used):
            _load(rows, low + r, tile, r)
        for j in range(0, centers.shape[0], BLOCK):
            tile_distances(tile, centers, j, scratch)
            for t in range(min(BLOCK, n_centers - j)):
                total = 0.0
                for r in range(used):
                    weight = weights[low + r] if weights.shape[0] else 1.0
                    total += weight * min(nearest[low + r], scratch[t, r])
                potentials[j + t] += total


@kernel()
def own_distances_dense(
    rows: Floats, centers: Floats, labels: NDArray[np.int32], distances: NDArray[np.float64]
) -> None:
    """Measure each row's squared distance to the centre of its label, in float64.

    Parameters
    ----------
    rows : (n_rows, n_features), C-contiguous
    centers : (at least n_centers, at least n_features), the rows' dtype
    labels : (n_rows,)
    distances : (n_rows,), output
    """
    for i in range(rows.shape[0]):
        total = 0.0
        for f in range(rows.shape[1]):
            error = float(rows[i, f]) - float(centers[labels[i], f])
            total += error * error
        distances[i] = total
