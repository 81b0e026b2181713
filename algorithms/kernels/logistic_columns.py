"""Kernels of logistic regression on a working set of columns: Newton's method with an l1 penalty.

    min over b, c of  sum_i C_i log(1 + exp(-y_i z_i)) + l1 |b|_1 + l2/2 |b|^2,   z = X b + c

Each step minimises the quadratic model of the loss plus the penalty by coordinate descent, and is
shortened until the objective falls (prox-Newton: Lee, Sun and Saunders 2014). The columns are those
of a working set, gathered from CSR or dense rows; a pass of coordinate descent reads each stored
value twice and touches no row otherwise.

References
----------
G.-X. Yuan, C.-H. Ho, C.-J. Lin, "An improved GLMNET for l1-regularized logistic regression", JMLR
13, 2012. J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for minimizing composite
functions", SIAM J. Optim. 24, 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = [
    "add_rows",
    "balance",
    "count_columns",
    "dual_entropy",
    "gather_columns",
    "newton_on_columns",
    "slopes",
]

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
#: Shortest step, and share of the slope that a step must gain.
SHORTEST, ARMIJO = 2.0**-20, 1e-4


@kernel()
def slopes(signs: NDArray[np.int8], costs: Floats, z: Floats, residual: Floats, h: Floats) -> float:
    """Loss at scores z; minus its slope and its curvature for each row: residual, h, output."""
    loss = 0.0
    for i in range(z.shape[0]):
        y = float(signs[i])
        m = y * z[i]
        e = np.exp(-abs(m))
        loss += costs[i] * (np.log1p(e) + max(-m, 0.0))
        wrong = (1.0 if m < 0.0 else e) / (1.0 + e)
        residual[i] = costs[i] * wrong * y
        h[i] = costs[i] * e / ((1.0 + e) * (1.0 + e))
    return loss


@kernel()
def _loss(signs: NDArray[np.int8], costs: Floats, z: Floats, s: float, dz: Floats) -> float:
    """Loss at scores z + s dz."""
    loss = 0.0
    for i in range(z.shape[0]):
        m = float(signs[i]) * (z[i] + s * dz[i])
        loss += costs[i] * (np.log1p(np.exp(-abs(m))) + max(-m, 0.0))
    return loss


@kernel()
def dual_entropy(costs: Floats, residual: Floats, scale: float) -> float:
    """Dual loss: sum of C H(a / C) with a = scale |residual| and H the entropy of two outcomes."""
    total = 0.0
    for i in range(costs.shape[0]):
        if costs[i] > 0.0:
            p = min(scale * abs(residual[i]) / costs[i], 1.0)
            if p > 0.0:
                total -= costs[i] * p * np.log(p)
            if p < 1.0:
                total -= costs[i] * (1.0 - p) * np.log1p(-p)
    return total


@kernel()
def balance(
    signs: NDArray[np.int8], costs: Floats, z: Floats, residual: Floats, h: Floats
) -> float:
    """Shift z until the residuals add up to 0 (the intercept is optimal); return the shift."""
    shift = 0.0
    for _ in range(50):
        slopes(signs, costs, z, residual, h)
        total, curvature, size = 0.0, 0.0, 0.0
        for i in range(z.shape[0]):
            total += residual[i]
            size += abs(residual[i])
            curvature += h[i]
        if abs(total) <= 1e-15 * size or curvature <= 0.0:
            break
        step = min(max(total / curvature, -2.0), 2.0)
        shift += step
        for i in range(z.shape[0]):
            z[i] += step
    return shift


@kernel()
def add_rows(
    values: Any, indices: Any, indptr: Any, factors: Floats, low: int, high: int, out: Floats
) -> None:
    """Add rows low .. high - 1, each times its factor; out : (n_features,)."""
    for i in range(low, high):
        factor = factors[i]
        if values.ndim == 2:
            row = values[i]
            for f in range(row.shape[0]):
                out[f] += factor * row[f]
        else:
            for p in range(indptr[i], indptr[i + 1]):
                out[indices[p]] += factor * values[p]


@kernel()
def count_columns(indices: Ints, places: NDArray[np.int32], ptr: NDArray[np.int64]) -> None:
    """Count the values of chosen columns; places : (n_features,), -1 for others; ptr : output."""
    ptr[:] = 0
    for p in range(indices.shape[0]):
        place = places[indices[p]]
        if place >= 0:
            ptr[place + 1] += 1
    for j in range(1, ptr.shape[0]):
        ptr[j] += ptr[j - 1]


@kernel()
def gather_columns(
    values: Floats,
    indices: Ints,
    indptr: Ints,
    places: NDArray[np.int32],
    ptr: NDArray[np.int64],
    at: NDArray[np.int32],
    out: Floats,
) -> None:
    """Write chosen columns one after the other: rows in ``at``, values in ``out``."""
    ends = ptr[:-1].copy()
    for i in range(indptr.shape[0] - 1):
        for p in range(indptr[i], indptr[i + 1]):
            place = places[indices[p]]
            if place >= 0:
                at[ends[place]] = i
                out[ends[place]] = values[p]
                ends[place] += 1


@kernel()
def _pass(
    values: Floats,
    weighted: Floats,
    rows: NDArray[np.int32],
    ptr: NDArray[np.int64],
    first: Floats,
    curvature: Floats,
    sums: Floats,
    penalties: tuple[float, float],
    chosen: NDArray[np.int32],
    n_chosen: int,
    beta: Floats,
    d: Floats,
    u: Floats,
    shift: Floats,
) -> float:
    """One pass of coordinate descent on the quadratic model; sum of curvature times move^2.

    ``u`` is h X d without the intercept's part; ``shift`` is (d of the intercept, sum of u, sum of
    h, slope of the intercept; 0 for the third one: no intercept).
    """
    l1, l2 = penalties
    moved = 0.0
    for k in range(n_chosen):
        j = chosen[k]
        slope = first[j] + l2 * d[j] + shift[0] * sums[j]
        for p in range(ptr[j], ptr[j + 1]):
            slope += values[p] * u[rows[p]]
        point = beta[j] + d[j] - slope / curvature[j]
        edge = l1 / curvature[j]
        new = point - edge if point > edge else (point + edge if point < -edge else 0.0)
        move = new - beta[j] - d[j]
        if move != 0.0:
            d[j] += move
            moved += curvature[j] * move * move
            shift[1] += move * sums[j]
            for p in range(ptr[j], ptr[j + 1]):
                u[rows[p]] += move * weighted[p]
    if shift[2] > 0.0:
        move = -(shift[3] + shift[1] + shift[0] * shift[2]) / shift[2]
        shift[0] += move
        moved += shift[2] * move * move
    return moved


@kernel()
def _descend(
    columns: tuple[Floats, Floats, NDArray[np.int32], NDArray[np.int64]],
    model: tuple[Floats, Floats, Floats],
    penalties: tuple[float, float],
    accuracy: float,
    beta: Floats,
    d: Floats,
    u: Floats,
    shift: Floats,
) -> int:
    """Coordinate descent on the quadratic model: all columns, then those not at 0, and again.

    Ends when a pass over all columns moves by no more than ``accuracy`` of what the first one did.
    """
    values, weighted, rows, ptr = columns
    first, curvature, sums = model
    everything = np.arange(beta.shape[0], dtype=np.int32)
    chosen = np.empty(beta.shape[0], dtype=np.int32)
    n_passes, start = 0, 0.0
    while n_passes < 1000:
        moved = _pass(
            values, weighted, rows, ptr, first, curvature, sums, penalties, everything,
            beta.shape[0], beta, d, u, shift,
        )  # fmt: skip
        n_passes += 1
        start = max(start, moved)
        if moved <= accuracy * start or start == 0.0:
            break
        n_chosen = 0
        for j in range(beta.shape[0]):
            if beta[j] + d[j] != 0.0:
                chosen[n_chosen] = j
                n_chosen += 1
        for _ in range(50):
            moved = _pass(
                values, weighted, rows, ptr, first, curvature, sums, penalties, chosen, n_chosen,
                beta, d, u, shift,
            )  # fmt: skip
            n_passes += 1
            if moved <= 0.3 * accuracy * start:
                break
    return n_passes


@kernel()
def _quadratic(
    columns: tuple[Floats, Floats, NDArray[np.int32], NDArray[np.int64]],
    penalties: tuple[float, float],
    residual: Floats,
    h: Floats,
    beta: Floats,
    model: tuple[Floats, Floats, Floats],
) -> tuple[float, float, float]:
    """Quadratic model of the loss at beta: slopes, curvatures and sums of h x, all output.

    Returns
    -------
    The penalty; the largest slope of the loss; sum of squares of what slopes exceed l1 by.
    """
    values, weighted, rows, ptr = columns
    first, curvature, sums = model
    l1, l2 = penalties
    penalty, top, excess = 0.0, 0.0, 0.0
    for j in range(beta.shape[0]):
        slope, bend, total = 0.0, 0.0, 0.0
        for p in range(ptr[j], ptr[j + 1]):
            x = values[p]
            slope += x * residual[rows[p]]
            weighted[p] = x * h[rows[p]]
            bend += x * weighted[p]
            total += weighted[p]
        top = max(top, abs(slope))
        over = max(abs(slope) - l1, 0.0)
        excess += over * over
        penalty += l1 * abs(beta[j]) + 0.5 * l2 * beta[j] * beta[j]
        first[j] = l2 * beta[j] - slope
        curvature[j] = max(bend + l2, 1e-300)
        sums[j] = total
    return penalty, top, excess


@kernel()
def _length(
    signs: NDArray[np.int8],
    costs: Floats,
    penalties: tuple[float, float],
    primal: float,
    slope: float,
    beta: Floats,
    d: Floats,
    z: Floats,
    dz: Floats,
) -> float:
    """Halve a step until it gains its share of the slope (Armijo); 0 where none does."""
    l1, l2 = penalties
    s = 1.0
    while s > SHORTEST:
        value = _loss(signs, costs, z, s, dz)
        for j in range(beta.shape[0]):
            new = beta[j] + s * d[j]
            value += l1 * abs(new) + 0.5 * l2 * new * new
        if value <= primal + ARMIJO * s * slope + 1e-14 * primal:
            return s
        s *= 0.5
    return 0.0


@kernel()
def newton_on_columns(
    values: Floats,
    rows: NDArray[np.int32],
    ptr: NDArray[np.int64],
    signs: NDArray[np.int8],
    costs: Floats,
    penalties: tuple[float, float],
    fit_intercept: bool,
    target: float,
    max_steps: int,
    beta: Floats,
    z: Floats,
) -> tuple[float, int, int]:
    """Minimise over the columns' coefficients and the intercept.

    Parameters
    ----------
    values, rows, ptr
        Columns, one after the other.
    penalties
        (l1, l2).
    target
        Stop when the duality gap of this smaller problem is at most this.
    beta
        (n_columns,) coefficients, in place.
    z
        (n_rows,) scores, in place.

    Returns
    -------
    Change of the intercept; steps made; passes made.
    """
    l1, l2 = penalties
    n_columns, n_rows = beta.shape[0], z.shape[0]
    residual, h, u, dz = np.empty(n_rows), np.empty(n_rows), np.empty(n_rows), np.empty(n_rows)
    first, curvature, sums = np.empty(n_columns), np.empty(n_columns), np.empty(n_columns)
    d, weighted, shift = np.empty(n_columns), np.empty(values.shape[0]), np.zeros(4)
    columns, model = (values, weighted, rows, ptr), (first, curvature, sums)
    intercept, total_passes = 0.0, 0
    for step in range(max_steps):
        if fit_intercept:
            intercept += balance(signs, costs, z, residual, h)
        loss = slopes(signs, costs, z, residual, h)
        penalty, top, excess = _quadratic(columns, penalties, residual, h, beta, model)
        primal = loss + penalty
        scale = 1.0 if top <= l1 else l1 / top
        dual = dual_entropy(costs, residual, scale)
        if l2 > 0.0:
            dual = max(dual, dual_entropy(costs, residual, 1.0) - 0.5 * excess / l2)
        if primal - dual <= target:
            return intercept, step, total_passes
        d[:], u[:], shift[:] = 0.0, 0.0, 0.0
        if fit_intercept:
            shift[2] = h.sum()
        # The gap falls like the root of what a pass moves.
        accuracy = min(0.01, max((0.3 * target / (primal - dual)) ** 2, 1e-6))
        total_passes += _descend(columns, model, penalties, accuracy, beta, d, u, shift)
        dz[:] = shift[0]
        slope = 0.0
        for j in range(n_columns):
            if d[j] != 0.0:
                slope += first[j] * d[j] + l1 * (abs(beta[j] + d[j]) - abs(beta[j]))
                for p in range(ptr[j], ptr[j + 1]):
                    dz[rows[p]] += d[j] * values[p]
        s = _length(signs, costs, penalties, primal, slope, beta, d, z, dz)
        if s == 0.0:
            return intercept, step, total_passes
        intercept += s * shift[0]
        for j in range(n_columns):
            beta[j] += s * d[j]
        for i in range(n_rows):
            z[i] += s * dz[i]
    return intercept, max_steps, total_passes
