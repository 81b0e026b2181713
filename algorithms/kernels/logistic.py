"""Kernels of multinomial logistic regression: loss and gradient of rows; a quadratic with l1.

For a row ``x`` of class ``y`` and cost ``C``: scores ``z_k = w_k'x + b_k``, ``p = softmax(z)``,
loss ``-C log p_y``, gradient ``C (p_k - [k = y]) x``. With one column of weights there are two
classes, and the first one's score is 0. Rows are given as in :mod:`.svm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = ["descend_quadratic", "look_at_rows"]

Floats = NDArray[np.floating]


@kernel()
def _turn(z: Floats, code: int, cost: float, sums: Floats) -> None:
    """Turn one row's scores into errors C (p - [k = y]), in place; add loss and C sum p log p."""
    n = z.shape[0]
    if n == 1:
        y = 1.0 if code == 1 else -1.0
        m = y * z[0]
        e = np.exp(-abs(m))
        log_sum = np.log1p(e)
        wrong = (1.0 if m < 0.0 else e) / (1.0 + e)
        log_wrong, log_right = min(-m, 0.0) - log_sum, min(m, 0.0) - log_sum
        sums[0] -= cost * log_right
        sums[1] += cost * (wrong * log_wrong + (1.0 - wrong) * log_right)
        z[0] = -cost * wrong * y
        return
    top = z[0]
    for k in range(1, n):
        top = max(top, z[k])
    own, total, mean = z[code] - top, 0.0, 0.0
    for k in range(n):
        shifted = z[k] - top
        e = np.exp(shifted)
        total += e
        mean += e * shifted
        z[k] = e
    log_total = np.log(total)
    sums[0] += cost * (log_total - own)
    sums[1] += cost * (mean / total - log_total)
    for k in range(n):
        z[k] *= cost / total
    z[code] -= cost


@kernel(fastmath=True)
def _score(values: Any, indices: Any, indptr: Any, i: int, w: Floats, z: Floats) -> None:
    """Scores of row i; z : (n_columns,), output."""
    n, last = w.shape[1], w.shape[0] - 1
    for k in range(n):
        z[k] = w[last, k]
    if values.ndim == 2:
        row = values[i]
        if n == 1:
            total = 0.0
            for f in range(last):
                total += row[f] * w[f, 0]
            z[0] += total
        else:
            for f in range(last):
                v = row[f]
                for k in range(n):
                    z[k] += v * w[f, k]
    else:
        for p in range(indptr[i], indptr[i + 1]):
            v, g = values[p], indices[p]
            for k in range(n):
                z[k] += v * w[g, k]


@kernel(fastmath=True)
def _spread(values: Any, indices: Any, indptr: Any, i: int, z: Floats, gradient: Floats) -> None:
    """Add row i times its errors z."""
    n = z.shape[0]
    if values.ndim == 2:
        row = values[i]
        for f in range(row.shape[0]):
            v = row[f]
            for k in range(n):
                gradient[f, k] += v * z[k]
    else:
        for p in range(indptr[i], indptr[i + 1]):
            v, g = values[p], indices[p]
            for k in range(n):
                gradient[g, k] += v * z[k]


@kernel()
def look_at_rows(
    values: Any,
    indices: Any,
    indptr: Any,
    codes: NDArray[np.int32],
    costs: Floats,
    fit_intercept: bool,
    w: Floats,
    span: tuple[int, int],
    errors: Floats,
    gradient: Floats,
    sums: Floats,
) -> None:
    """Errors, gradient and sums of rows span[0] .. span[1] - 1.

    Parameters
    ----------
    codes, costs
        (n_rows,) class and C of each row.
    w
        (n_features + 1, n_columns), the intercepts last.
    errors
        (n_rows, n_columns), output: C (p - [k = y]).
    gradient
        (n_features + 1, n_columns), added to.
    sums
        (2,), added to: loss, C sum p log p.
    """
    n, last = w.shape[1], w.shape[0] - 1
    for i in range(span[0], span[1]):
        z = errors[i]
        _score(values, indices, indptr, i, w, z)
        _turn(z, codes[i], costs[i], sums)
        _spread(values, indices, indptr, i, z, gradient)
        if fit_intercept:
            for k in range(n):
                gradient[last, k] += z[k]


@kernel()
def descend_quadratic(
    matrix: Floats, slope: Floats, l1: Floats, x: Floats, accuracy: float, d: Floats
) -> int:
    """Minimise slope'd + d'matrix d / 2 + sum_j l1_j |x_j + d_j| over d by coordinate descent.

    Parameters
    ----------
    matrix
        (n, n), symmetric, positive on its diagonal.
    accuracy
        Stop when a pass moves by no more than this share of the first pass (squares, by curvature).
    d
        (n,), output.

    Returns
    -------
    Passes made.
    """
    n = x.shape[0]
    d[:] = 0.0
    g = slope.copy()
    start = 0.0
    for n_passes in range(2000):
        moved = 0.0
        for j in range(n):
            bend = matrix[j, j]
            point = x[j] + d[j] - g[j] / bend
            edge = l1[j] / bend
            new = point - edge if point > edge else (point + edge if point < -edge else 0.0)
            move = new - x[j] - d[j]
            if move != 0.0:
                d[j] += move
                moved += bend * move * move
                row = matrix[j]
                for k in range(n):
                    g[k] += move * row[k]
        start = max(start, moved)
        if moved <= accuracy * start:
            return n_passes + 1
    return 2000
