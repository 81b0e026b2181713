"""Kernels of the lasso: dense columns, the Gram matrix of a working set, the exact line search.

For ``F(w) = |y - X w|^2 / 2 + lam |w|_1 + ridge |w|^2 / 2`` with residual ``r = y - X w`` and
correlations ``c = X'r - ridge w``, coordinate descent sets
``w_j <- soft(c_j + h_j w_j, lam) / h_j``, ``h_j = |x_j|^2 + ridge``. Columns are centred without
being changed: the column that is meant is ``x_j - mean_j u`` with ``u`` the (weighted) column of
ones, and ``r`` is orthogonal to ``u``. Residuals and sums are float64 whatever X's type.

Compiled with fastmath: sums are reordered, so results are those of the machine's vector width.

References
----------
J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for generalized linear models via
coordinate descent", J. Stat. Softw. 33, 2010, sections 2.2 (naive) and 2.3 (covariance updates).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = [
    "cd_dense",
    "cd_gram",
    "combine_dense",
    "correlate_dense",
    "gather_gram",
    "move_gram",
    "stats_dense",
    "step_length",
]

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]


@kernel(fastmath=True)
def stats_dense(x: Floats, y: Doubles, ones: Doubles, low: int, high: int, out: Doubles) -> None:
    """Look at columns ``low`` to ``high``: products with y, squares, means.

    Parameters
    ----------
    x
        (n_rows, n_cols), F-contiguous.
    y, ones
        (n_rows,); an empty ``ones`` asks for no centring.
    out
        (3, n_cols), output: ``x_j'y``, ``|x_j - mean_j ones|^2`` and ``mean_j``.
    """
    n_rows = x.shape[0]
    total = 0.0
    for i in range(len(ones)):
        total += ones[i] * ones[i]
    for j in range(low, high):
        column = x[:, j]
        product = 0.0
        square = 0.0
        mean = 0.0
        if len(ones):
            for i in range(n_rows):
                product += column[i] * y[i]
                mean += column[i] * ones[i]
            mean /= total
            for i in range(n_rows):
                rest = column[i] - mean * ones[i]
                square += rest * rest
        else:
            for i in range(n_rows):
                product += column[i] * y[i]
                square += np.float64(column[i]) * column[i]
        out[0, j] = product
        out[1, j] = square
        out[2, j] = mean


@kernel(fastmath=True)
def correlate_dense(x: Floats, r: Doubles, cols: Longs, low: int, high: int, out: Doubles) -> None:
    """Set ``out[k] = x_cols[k]' r`` for ``low <= k < high``; four columns share a read of r."""
    n_rows = x.shape[0]
    k = low
    while k + 4 <= high:
        a, b, c, d = x[:, cols[k]], x[:, cols[k + 1]], x[:, cols[k + 2]], x[:, cols[k + 3]]
        p = q = s = t = 0.0
        for i in range(n_rows):
            value = r[i]
            p += a[i] * value
            q += b[i] * value
            s += c[i] * value
            t += d[i] * value
        out[k], out[k + 1], out[k + 2], out[k + 3] = p, q, s, t
        k += 4
    while k < high:
        column = x[:, cols[k]]
        p = 0.0
        for i in range(n_rows):
            p += column[i] * r[i]
        out[k] = p
        k += 1


@kernel(fastmath=True)
def combine_dense(x: Floats, cols: Longs, weights: Doubles, out: Doubles) -> None:
    """Add ``sum_k weights[k] x_cols[k]`` to ``out`` (n_rows,)."""
    n_rows = x.shape[0]
    for k in range(len(cols)):
        weight = weights[k]
        if weight != 0.0:
            column = x[:, cols[k]]
            for i in range(n_rows):
                out[i] += weight * column[i]


@kernel(inline=True)
def _shrink(value: float, lam: float, positive: bool) -> float:
    """Soft threshold; 0 for negative values where ``positive``."""
    if value > lam:
        return value - lam
    if value < -lam and not positive:
        return value + lam
    return 0.0


@kernel(fastmath=True)
def cd_dense(
    x: Floats,
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
    """Cycle over dense columns, the residual kept up to date.

    Parameters
    ----------
    x
        (n_rows, n_cols), F-contiguous.
    cols
        Columns to visit.
    squares, means
        (n_cols,) of all columns, as in `stats_dense`.
    ones
        (n_rows,), or empty for no centring.
    penalty
        (lam, ridge).
    limits
        Cycles at most; change ``|delta_j| sqrt(h_j)`` below which to stop.
    w, r
        (n_cols,) and (n_rows,), updated in place.

    Returns
    -------
    Largest change of the last cycle.
    """
    lam, ridge = penalty
    n_rows = x.shape[0]
    total = 0.0
    for i in range(len(ones)):
        total += ones[i] * ones[i]
    shift = 0.0  # the residual is r + shift * ones
    largest = 0.0
    for _ in range(limits[0]):
        largest = 0.0
        for k in range(len(cols)):
            j = cols[k]
            h = squares[j] + ridge
            if squares[j] == 0.0:
                continue
            column = x[:, j]
            c = shift * means[j] * total
            for i in range(n_rows):
                c += column[i] * r[i]
            new = _shrink(c + squares[j] * w[j], lam, positive) / h
            delta = new - w[j]
            if delta != 0.0:
                w[j] = new
                for i in range(n_rows):
                    r[i] -= delta * column[i]
                shift += delta * means[j]
                largest = max(largest, abs(delta) * np.sqrt(h))
        if largest <= limits[1]:
            break
    for i in range(len(ones)):
        r[i] += shift * ones[i]
    return largest


@kernel(fastmath=True)
def cd_gram(
    gram: Doubles,
    lam: float,
    positive: bool,
    limits: tuple[int, float],
    w: Doubles,
    c: Doubles,
) -> float:
    """Cycle over a working set of which the Gram matrix is known; no data is read.

    A coordinate that does not move costs O(1), one that moves O(n_set).

    Parameters
    ----------
    gram
        (n_set, n_set), ``X'X + ridge I`` of the set, C-contiguous.
    limits
        As in `cd_dense`.
    w, c
        (n_set,) coefficients and correlations ``X'r - ridge w``, updated in place.

    Returns
    -------
    Largest change of the last cycle.
    """
    largest = 0.0
    for _ in range(limits[0]):
        largest = 0.0
        for k in range(len(w)):
            h = gram[k, k]
            if h <= 0.0:
                continue
            new = _shrink(c[k] + h * w[k], lam, positive) / h
            delta = new - w[k]
            if delta != 0.0:
                w[k] = new
                row = gram[k]
                for i in range(len(w)):
                    c[i] -= delta * row[i]
                largest = max(largest, abs(delta) * np.sqrt(h))
        if largest <= limits[1]:
            break
    return largest


@kernel(fastmath=True)
def gather_gram(gram: Doubles, at: Longs, out: Doubles) -> None:
    """Copy the lower triangle of ``gram[at][:, at]`` to ``out``."""
    for i in range(len(at)):
        row = gram[at[i]]
        for j in range(i + 1):
            out[i, j] = row[at[j]]


@kernel(fastmath=True)
def move_gram(gram: Doubles, at: Longs, steps: Doubles, c: Doubles) -> None:
    """Update correlations (n_set,) after steps at some coefficients: ``c -= steps @ gram[at]``."""
    k = 0
    while k + 4 <= len(at):
        p, q, s, t = steps[k], steps[k + 1], steps[k + 2], steps[k + 3]
        a, b, d, e = gram[at[k]], gram[at[k + 1]], gram[at[k + 2]], gram[at[k + 3]]
        for i in range(len(c)):
            c[i] -= p * a[i] + q * b[i] + s * d[i] + t * e[i]
        k += 4
    while k < len(at):
        row = gram[at[k]]
        for i in range(len(c)):
            c[i] -= steps[k] * row[i]
        k += 1


@kernel()
def step_length(
    w: Doubles, d: Doubles, slope: float, curvature: float, lam: float, positive: bool
) -> float:
    """Minimise ``slope t + curvature t^2 / 2 + lam |w + t d|_1`` over t >= 0, exactly.

    The function is convex and piecewise quadratic, its kinks are where a coefficient changes its
    sign. Where ``positive``, the step ends at the first of them.

    Parameters
    ----------
    w, d
        (n,) coefficients and direction.
    slope, curvature
        Of the smooth part at t = 0.

    Returns
    -------
    The step; 0 where the direction does not descend.
    """
    kinks = np.empty(len(w))
    jumps = np.empty(len(w))
    n_kinks = 0
    rate = slope
    for i in range(len(w)):
        if w[i] * d[i] < 0.0:
            kinks[n_kinks] = -w[i] / d[i]
            jumps[n_kinks] = 2.0 * lam * abs(d[i])
            n_kinks += 1
            rate -= lam * abs(d[i])
        else:
            rate += lam * abs(d[i])
            if positive and w[i] == 0.0 and d[i] < 0.0:
                return 0.0
    if rate >= 0.0:
        return 0.0
    done: float = 0.0
    for place in np.argsort(kinks[:n_kinks]):
        kink = kinks[place]
        if rate + curvature * (kink - done) >= 0.0 or positive:
            break
        rate += curvature * (kink - done) + jumps[place]
        done = kink
        if rate >= 0.0:
            return done
    if curvature <= 0.0:
        return done
    step: float = done - rate / curvature
    if positive and n_kinks:
        step = min(step, float(kinks[:n_kinks].min()))
    return step
