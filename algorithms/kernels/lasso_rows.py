"""Kernels of the lasso over partitions of the rows: sums over rows, X read once.

Rows have weights ``s``; a centred row is ``x_i - mean``. All sums are float64. A call adds to its
outputs, so that slices of the rows can be summed one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = [
    "moments_csr",
    "moments_dense",
    "products_csr",
    "products_dense",
    "sums_csr",
    "sums_dense",
]

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Ints = NDArray[np.integer]
#: data, indices, indptr
Csr = tuple[Floats, Ints, Ints]


@kernel(fastmath=True)
def sums_dense(x: Floats, s: Doubles, low: int, high: int, out: Doubles) -> None:
    """Add ``sum_i s_i x_i`` of the rows ``low`` to ``high`` to ``out`` (n_cols,)."""
    for i in range(low, high):
        row = x[i]
        weight = s[i]
        for j in range(len(out)):
            out[j] += weight * row[j]


@kernel()
def sums_csr(csr: Csr, s: Doubles, low: int, high: int, out: Doubles) -> None:
    """Add ``sum_i s_i x_i`` of the rows ``low`` to ``high`` to ``out`` (n_cols,)."""
    data, indices, indptr = csr
    for i in range(low, high):
        for p in range(indptr[i], indptr[i + 1]):
            out[indices[p]] += s[i] * data[p]


@kernel(fastmath=True)
def moments_dense(x: Floats, s: Doubles, means: Doubles, low: int, high: int, out: Doubles) -> None:
    """Add to ``out`` (2, n_cols): ``sum s_i (x_ij - mean_j)^2``, and the weight ``sum s_i``."""
    squares = out[0]
    for i in range(low, high):
        row = x[i]
        weight = s[i]
        for j in range(len(means)):
            rest = row[j] - means[j]
            squares[j] += weight * rest * rest
        out[1] += weight


@kernel()
def moments_csr(csr: Csr, s: Doubles, means: Doubles, low: int, high: int, out: Doubles) -> None:
    """Add to ``out`` as `moments_dense`, but of the stored values only."""
    data, indices, indptr = csr
    for i in range(low, high):
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            rest = data[p] - means[j]
            out[0, j] += s[i] * rest * rest
            out[1, j] += s[i]


@kernel(fastmath=True)
def products_dense(
    x: Floats,
    y: Doubles,
    s: Doubles,
    w: Doubles,
    shift: float,
    low: int,
    high: int,
    out: Doubles,
) -> None:
    """Products of rows with the residuals ``r_i = y_i - x_i'w - shift``; X is read once.

    Parameters
    ----------
    x
        (n_rows, n_cols), C-contiguous.
    y, s
        (n_rows,) centred targets, weights.
    w
        (n_cols,) coefficients; (0,) where all are 0.
    shift
        ``-mean'w``.
    out
        (n_cols + 3,), added to: ``sum s_i r_i x_i``, ``sum s_i r_i``, ``sum s_i r_i^2`` and
        ``sum s_i r_i y_i``.
    """
    n_cols = x.shape[1]
    for i in range(low, high):
        row = x[i]
        r = y[i] - shift
        for j in range(len(w)):
            r -= row[j] * w[j]
        force = s[i] * r
        for j in range(n_cols):
            out[j] += force * row[j]
        out[n_cols] += force
        out[n_cols + 1] += force * r
        out[n_cols + 2] += force * y[i]


@kernel(fastmath=True)
def products_csr(
    csr: Csr,
    y: Doubles,
    s: Doubles,
    w: Doubles,
    shift: float,
    low: int,
    high: int,
    out: Doubles,
) -> None:
    """Products of sparse rows with their residuals; as `products_dense`."""
    data, indices, indptr = csr
    n_cols = len(out) - 3
    for i in range(low, high):
        r = y[i] - shift
        if len(w):
            for p in range(indptr[i], indptr[i + 1]):
                r -= data[p] * w[indices[p]]
        force = s[i] * r
        for p in range(indptr[i], indptr[i + 1]):
            out[indices[p]] += force * data[p]
        out[n_cols] += force
        out[n_cols + 1] += force * r
        out[n_cols + 2] += force * y[i]
