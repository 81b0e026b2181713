"""Kernels of linear support vector regression: dual coordinate descent, losses.

With targets y the dual is

    max  sum_i y_i b_i - epsilon |b_i| - 1/2 |sum_i b_i x_i|^2 - 1/2 sum_i D_i b_i^2,  |b_i| <= U_i

with (U, D) = (C_i, 0) for the linear loss and (inf, 1 / (2 C_i)) for the squared one. A step makes
one coordinate exact (Ho and Lin 2012, algorithm 4): with ``G = x_i'u - y_i + D_i b_i`` and
``H = s |x_i|^2 + D_i``

    b_i <- clip(shrink(b_i - G / H, epsilon / H), -U_i, U_i);   u <- u + s (change of b_i) x_i

Rows, the bias and the factors s are those of :mod:`.svm`.

References
----------
C.-H. Ho and C.-J. Lin, "Large-scale linear support vector regression", JMLR 13, 2012.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

from .svm import add, dot, draw

__all__ = ["descend_svr", "measure_svr"]

Floats = NDArray[np.floating]


@kernel(inline=True)
def _look(b: float, up: float, down: float, box: float, limit: float) -> float:
    """Violation of the optimality conditions at b; -1 if the row may be dropped.

    ``up`` and ``down`` are the slopes of the (negative) dual to the right and to the left.
    """
    if b == 0.0:
        found = max(-up, down, 0.0)
        drop = up > limit and down < -limit
    elif b >= box:
        found = max(up, 0.0)
        drop = up < -limit
    elif b <= -box:
        found = max(-down, 0.0)
        drop = down > limit
    else:
        found = abs(up) if b > 0.0 else abs(down)
        drop = False
    return -1.0 if drop else found


@kernel(inline=True)
def _best(b: float, up: float, down: float, curvature: float, box: float) -> float:
    """Best value of one coordinate."""
    if curvature <= 0.0:  # an empty row, and no bias: its loss is the same whatever the weights
        return box if up < 0.0 else (-box if down > 0.0 else 0.0)
    if up < curvature * b:
        new = b - up / curvature
    elif down > curvature * b:
        new = b - down / curvature
    else:
        new = 0.0
    return min(max(new, -box), box)


@kernel()
def descend_svr(
    values: Any,
    indices: Any,
    indptr: Any,
    targets: Floats,
    costs: Floats,
    squares: Floats,
    kind: tuple[bool, float, float],
    charges: tuple[float, float],
    n_passes: int,
    order: NDArray[np.int32],
    limits: Floats,
    seed: NDArray[np.uint64],
    beta: Floats,
    u: Floats,
) -> int:
    """Make passes over all rows in random order, dropping rows that stay where they are.

    Parameters
    ----------
    targets, costs, squares
        (n_rows,) y, C and squared lengths of the rows, without the bias.
    kind
        (linear loss, epsilon, bias).
    charges
        Factors s of the features and of the bias.
    order
        (n_rows,) permutation of the rows, in place.
    limits
        (1 or more,) in place: largest violation of the last pass, beyond which a row that stands
        at 0 or at a bound is dropped (inf: none is).
    seed
        (1,) state of the random numbers, in place.
    beta
        (n_rows,) dual variables, in place.
    u
        (n_features + 1,) weights, in place.

    Returns
    -------
    Rows visited.
    """
    linear, epsilon, bias = kind
    s, charge = charges
    last = u.shape[0] - 1
    n_active = order.shape[0]
    visited = 0
    for _ in range(n_passes):
        worst = 0.0
        for k in range(n_active):
            other = k + draw(seed, n_active - k)
            order[k], order[other] = order[other], order[k]
        k = 0
        while k < n_active:
            i = order[k]
            visited += 1
            cost = costs[i]
            box = np.inf if cost > 0.0 and not linear else cost
            ridge = 0.5 / cost if cost > 0.0 and not linear else 0.0
            b = beta[i]
            slope = dot(values, indices, indptr, i, u) + bias * u[last] - targets[i] + ridge * b
            up, down = slope + epsilon, slope - epsilon
            found = -1.0 if cost <= 0.0 else _look(b, up, down, box, limits[0])
            if found < 0.0:
                n_active -= 1
                order[k], order[n_active] = order[n_active], order[k]
                continue
            k += 1
            worst = max(worst, found)
            if found == 0.0:
                continue
            curvature = s * squares[i] + charge * bias * bias + ridge
            new = _best(b, up, down, curvature, box)
            beta[i] = new
            add(values, indices, indptr, i, s * (new - b), u)
            u[last] += charge * (new - b) * bias
        limits[0] = worst if worst > 0.0 else np.inf
        if n_active == 0:
            break
    return visited


@kernel()
def measure_svr(
    values: Any,
    indices: Any,
    indptr: Any,
    targets: Floats,
    costs: Floats,
    kind: tuple[bool, float, float],
    beta: Floats,
    u: Floats,
    out: Floats,
) -> None:
    """Loss of all rows, and the dual objective without its square; out : (2,)."""
    linear, epsilon, bias = kind
    constant = bias * u[u.shape[0] - 1]
    loss, dual = 0.0, 0.0
    for i in range(targets.shape[0]):
        cost = costs[i]
        if cost > 0.0:
            error = targets[i] - dot(values, indices, indptr, i, u) - constant
            beyond = max(abs(error) - epsilon, 0.0)
            b = beta[i]
            dual += targets[i] * b - epsilon * abs(b)
            if linear:
                loss += cost * beyond
            else:
                loss += cost * beyond * beyond
                dual -= 0.25 * b * b / cost
    out[0], out[1] = loss, dual
