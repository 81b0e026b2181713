"""Kernels of the lasso on sparse columns (CSC); formulas and conventions as in ``lasso``.

A column's centring is never carried out: the residual is kept as ``r + shift * ones`` while
coordinates are visited, so a visit costs the column's stored values, not the rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

from .lasso import Doubles, Floats, Longs, _shrink

__all__ = ["cd_csc", "combine_csc", "correlate_csc", "pair_csc", "stats_csc"]

Ints = NDArray[np.integer]
#: data, indices, indptr
Csc = tuple[Floats, Ints, Ints]


@kernel(fastmath=True)
def stats_csc(csc: Csc, y: Doubles, ones: Doubles, low: int, high: int, out: Doubles) -> None:
    """Look at columns ``low`` to ``high``; parameters as in `lasso.stats_dense`."""
    data, indices, indptr = csc
    total = 0.0
    for i in range(len(ones)):
        total += ones[i] * ones[i]
    for j in range(low, high):
        product = 0.0
        square = 0.0
        mean = 0.0
        if len(ones):
            inside = 0.0
            for p in range(indptr[j], indptr[j + 1]):
                one = ones[indices[p]]
                product += data[p] * y[indices[p]]
                mean += data[p] * one
                inside += one * one
            mean /= total
            for p in range(indptr[j], indptr[j + 1]):
                rest = data[p] - mean * ones[indices[p]]
                square += rest * rest
            if indptr[j + 1] - indptr[j] < len(ones):
                square += mean * mean * max(total - inside, 0.0)
        else:
            for p in range(indptr[j], indptr[j + 1]):
                product += data[p] * y[indices[p]]
                square += np.float64(data[p]) * data[p]
        out[0, j] = product
        out[1, j] = square
        out[2, j] = mean


@kernel(fastmath=True)
def correlate_csc(csc: Csc, r: Doubles, cols: Longs, low: int, high: int, out: Doubles) -> None:
    """Set ``out[k] = x_cols[k]' r`` for ``low <= k < high``."""
    data, indices, indptr = csc
    for k in range(low, high):
        j = cols[k]
        c = 0.0
        for p in range(indptr[j], indptr[j + 1]):
            c += data[p] * r[indices[p]]
        out[k] = c


@kernel()
def combine_csc(csc: Csc, cols: Longs, weights: Doubles, out: Doubles) -> None:
    """Add ``sum_k weights[k] x_cols[k]`` to ``out`` (n_rows,)."""
    data, indices, indptr = csc
    for k in range(len(cols)):
        weight = weights[k]
        if weight != 0.0:
            j = cols[k]
            for p in range(indptr[j], indptr[j + 1]):
                out[indices[p]] += weight * data[p]


@kernel()
def pair_csc(
    csc: Csc, cols: Longs, first: int, low: int, high: int, work: Doubles, out: Doubles
) -> None:
    """Products of columns ``first + low .. first + high`` of a list with all of the list.

    Parameters
    ----------
    cols
        The list.
    work
        (n_rows,) zeros; zeros again afterwards.
    out
        (len(cols), len(cols) - first), output in columns ``low`` to ``high``.
    """
    data, indices, indptr = csc
    for new in range(low, high):
        j = cols[first + new]
        for p in range(indptr[j], indptr[j + 1]):
            work[indices[p]] = data[p]
        for k in range(len(cols)):
            total = 0.0
            for p in range(indptr[cols[k]], indptr[cols[k] + 1]):
                total += data[p] * work[indices[p]]
            out[k, new] = total
        for p in range(indptr[j], indptr[j + 1]):
            work[indices[p]] = 0.0


@kernel(fastmath=True)
def cd_csc(
    csc: Csc,
    cols: Longs,
    squares: Doubles,
    means: Doubles,
    ones: Doubles,
    penalty: tuple[float, float],
    positive: bool,
    limits: tuple[int, float],
    w: Doubles,
    r: Doubles,
) -> float:
    """Cycle over sparse columns, the residual kept up to date; as `lasso.cd_dense`."""
    data, indices, indptr = csc
    lam, ridge = penalty
    total = 0.0
    for i in range(len(ones)):
        total += ones[i] * ones[i]
    shift = 0.0  # the residual is r + shift * ones
    largest = 0.0
    for _ in range(limits[0]):
        largest = 0.0
        for k in range(len(cols)):
            j = cols[k]
            if squares[j] == 0.0:
                continue
            h = squares[j] + ridge
            c = shift * means[j] * total
            for p in range(indptr[j], indptr[j + 1]):
                c += data[p] * r[indices[p]]
            new = _shrink(c + squares[j] * w[j], lam, positive) / h
            delta = new - w[j]
            if delta != 0.0:
                w[j] = new
                for p in range(indptr[j], indptr[j + 1]):
                    r[indices[p]] -= delta * data[p]
                shift += delta * means[j]
                largest = max(largest, abs(delta) * np.sqrt(h))
        if largest <= limits[1]:
            break
    for i in range(len(ones)):
        r[i] += shift * ones[i]
    return largest
