"""Kernels of linear support vector machines: dual coordinate descent, margins, losses.

One binary problem over rows ``x_i`` with signs ``y_i`` (SVR: targets, see below); its dual is

    max  sum_i a_i - 1/2 |sum_i a_i y_i x_i|^2 - 1/2 sum_i D_i a_i^2,   0 <= a_i <= U_i

with (U, D) = (C_i, 0) for the hinge and (inf, 1 / (2 C_i)) for the squared hinge. A step makes one
coordinate exact (Hsieh et al. 2008, algorithm 3):

    G = y_i x_i'u - 1 + D_i a_i;   a_i <- clip(a_i - G / (s |x_i|^2 + D_i), 0, U_i);
    u <- u + s (change of a_i) y_i x_i

``s`` is 1 for one partition; CoCoA+ (Ma et al. 2015, equation 11) takes the number of partitions,
so that the partitions' changes may be added up. The intercept's feature has a factor of its own.

Rows are dense, ``values`` (n_rows, n_features) with empty ``indices`` and ``indptr``, or CSR. A
last feature of value ``bias`` in every row (0: none) has its weight at the end of ``u``.

References
----------
C.-J. Hsieh, K.-W. Chang, C.-J. Lin, S. S. Keerthi, S. Sundararajan, "A dual coordinate descent
method for large-scale linear SVM", ICML 2008. C.-H. Ho and C.-J. Lin, "Large-scale linear support
vector regression", JMLR 13, 2012. C. Ma et al., "Adding vs. averaging in distributed primal-dual
optimization", ICML 2015.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = ["add", "descend", "dot", "draw", "measure", "square_norms"]

Floats = NDArray[np.floating]


@kernel(fastmath=True, inline=True)
def dot(values: Any, indices: Any, indptr: Any, i: int, u: Floats) -> float:
    """Product of row i with the features' weights."""
    total = 0.0
    if values.ndim == 2:
        row = values[i]
        for f in range(row.shape[0]):
            total += row[f] * u[f]
    else:
        for p in range(indptr[i], indptr[i + 1]):
            total += values[p] * u[indices[p]]
    return total


@kernel(inline=True)
def add(values: Any, indices: Any, indptr: Any, i: int, factor: float, u: Floats) -> None:
    """Add a multiple of row i."""
    if values.ndim == 2:
        row = values[i]
        for f in range(row.shape[0]):
            u[f] += factor * row[f]
    else:
        for p in range(indptr[i], indptr[i + 1]):
            u[indices[p]] += factor * values[p]


@kernel(inline=True)
def draw(seed: NDArray[np.uint64], below: int) -> int:
    """Next random number in 0 .. below - 1 (splitmix64, Steele et al. 2014)."""
    seed[0] += np.uint64(0x9E3779B97F4A7C15)
    z = seed[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return int(((z >> np.uint64(32)) * np.uint64(below)) >> np.uint64(32))


@kernel(inline=True)
def _square(values: Any, indices: Any, indptr: Any, i: int) -> float:
    total = 0.0
    if values.ndim == 2:
        row = values[i]
        for f in range(row.shape[0]):
            total += float(row[f]) * float(row[f])
    else:
        for p in range(indptr[i], indptr[i + 1]):
            total += float(values[p]) * float(values[p])
    return total


@kernel()
def square_norms(values: Any, indices: Any, indptr: Any, out: Floats) -> None:
    """Squared length of each row; out : (n_rows,)."""
    for i in range(out.shape[0]):
        out[i] = _square(values, indices, indptr, i)


@kernel()
def descend(
    values: Any,
    indices: Any,
    indptr: Any,
    signs: NDArray[np.int8],
    costs: Floats,
    squares: Floats,
    hinge: bool,
    scales: tuple[float, float, float],
    n_passes: int,
    order: NDArray[np.int32],
    limits: Floats,
    seed: NDArray[np.uint64],
    alpha: Floats,
    u: Floats,
) -> int:
    """Make passes over all rows in random order, dropping rows that stay at a bound.

    Parameters
    ----------
    signs, costs
        (n_rows,) y and C.
    squares
        (n_rows,) squared lengths of the rows, without the bias.
    hinge
        Hinge; else the squared hinge.
    scales
        (bias, s, factor of the bias).
    order
        (n_rows,) permutation of the rows, in place.
    limits
        (2,) in place: largest and smallest projected gradient of the last pass, beyond which a row
        at a bound is dropped (inf, -inf: none is).
    seed
        (1,) state of the random numbers, in place.
    alpha
        (n_rows,) dual variables, in place.
    u
        (n_features + 1,) weights, in place.

    Returns
    -------
    Rows visited.
    """
    bias, s, charge = scales
    last = u.shape[0] - 1
    n_active = order.shape[0]
    visited = 0
    for _ in range(n_passes):
        top, bottom = -np.inf, np.inf
        high, low = limits[0], limits[1]
        for k in range(n_active):
            other = k + draw(seed, n_active - k)
            order[k], order[other] = order[other], order[k]
        k = 0
        while k < n_active:
            i = order[k]
            visited += 1
            y = float(signs[i])
            cost = costs[i]
            box = np.inf if cost > 0.0 and not hinge else cost
            ridge = 0.5 / cost if cost > 0.0 and not hinge else 0.0
            a = alpha[i]
            gradient = y * (dot(values, indices, indptr, i, u) + bias * u[last]) - 1.0 + ridge * a
            if cost <= 0.0 or (a == 0.0 and gradient > high) or (a >= box and gradient < low):
                n_active -= 1
                order[k], order[n_active] = order[n_active], order[k]
                continue
            k += 1
            if (a == 0.0 and gradient >= 0.0) or (a >= box and gradient <= 0.0):
                top, bottom = max(top, 0.0), min(bottom, 0.0)
                continue
            top, bottom = max(top, gradient), min(bottom, gradient)
            curvature = s * squares[i] + charge * bias * bias + ridge
            # An empty row's loss is 1 whatever the weights.
            new = min(max(a - gradient / curvature, 0.0), box) if curvature > 0.0 else box
            alpha[i] = new
            step = (new - a) * y
            add(values, indices, indptr, i, s * step, u)
            u[last] += charge * step * bias
        limits[0] = top if top > 0.0 else np.inf
        limits[1] = bottom if bottom < 0.0 else -np.inf
        if n_active == 0:
            break
    return visited


@kernel()
def measure(
    values: Any,
    indices: Any,
    indptr: Any,
    signs: NDArray[np.int8],
    costs: Floats,
    hinge: bool,
    bias: float,
    alpha: Floats,
    u: Floats,
    out: Floats,
) -> None:
    """Loss of all rows, and the dual objective without its square; out : (2,)."""
    constant = bias * u[u.shape[0] - 1]
    loss, dual = 0.0, 0.0
    for i in range(signs.shape[0]):
        cost = costs[i]
        if cost > 0.0:
            score = dot(values, indices, indptr, i, u) + constant
            short = max(1.0 - float(signs[i]) * score, 0.0)
            a = alpha[i]
            if hinge:
                loss += cost * short
                dual += a
            else:
                loss += cost * short * short
                dual += a - 0.25 * a * a / cost
    out[0], out[1] = loss, dual
