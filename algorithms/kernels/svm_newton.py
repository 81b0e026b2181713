"""Kernels of Newton's method on smoothed hinge losses.

For a row with margin ``m = y x'w``, a reference ``r`` and a softness ``t`` the loss is

    phi(m) = max over 0 <= a <= U of  a (1 - m) - t/2 (a - r)^2
    a(m) = clip(r + (1 - m) / t, 0, U)

with slope ``-a(m)`` and curvature 1/t inside the bounds, 0 outside. With r = 0, t = 1 / (2 C) and
U = inf it is the squared hinge; with U = C it is the hinge's proximal (augmented Lagrangian) form
(Rockafellar 1976; for support vector machines Yan and Li 2020), exact where r is optimal.

Rows are given as in :mod:`.svm`. In numba, ``ndim`` of an argument is a constant: each of the two
kinds of rows compiles its own branch only.

References
----------
R. T. Rockafellar, "Augmented Lagrangians and applications of the proximal point algorithm in convex
programming", Math. Oper. Res. 1, 1976. Y. Yan and Q. Li, "An efficient augmented Lagrangian method
for support vector machine", Optim. Methods Softw. 35, 2020.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = ["change_hessian", "look_at_rows"]

Floats = NDArray[np.floating]


@kernel(fastmath=True)
def look_at_rows(
    values: Any,
    indices: Any,
    indptr: Any,
    signs: NDArray[np.int8],
    reference: Floats,
    weights: Floats,
    soft: float,
    box: Floats,
    hinge: bool,
    w: Floats,
    bias: float,
    span: tuple[int, int],
    alpha: Floats,
    gradient: Floats,
    sums: Floats,
) -> None:
    """Losses, slopes and dual values of rows span[0] .. span[1] - 1 at weights w.

    Parameters
    ----------
    signs, reference, weights, box
        (n_rows,) y, r, soft / t and U.
    soft
        Softness t of rows of weight 1.
    hinge
        Whether the true loss is U max(0, 1 - m); else it is phi.
    w
        (n_features + 1,), the last one that of the bias.
    alpha
        (n_rows,), output: a(m).
    gradient
        (n_features + 1,), added to: sum of a y x.
    sums
        (3,), added to: phi, the true loss, the dual objective without its quadratic term.
    """
    last = w.shape[0] - 1
    for i in range(span[0], span[1]):
        y = float(signs[i])
        score = bias * w[last]
        if values.ndim == 2:
            row = values[i]
            for f in range(last):
                score += row[f] * w[f]
        else:
            for p in range(indptr[i], indptr[i + 1]):
                score += values[p] * w[indices[p]]
        short = 1.0 - y * score
        if weights[i] <= 0.0:
            alpha[i] = 0.0
            continue
        t = soft / weights[i]
        a = min(max(reference[i] + short / t, 0.0), box[i])
        alpha[i] = a
        away = a - reference[i]
        phi = a * short - 0.5 * t * away * away
        sums[0] += phi
        if hinge:
            sums[1] += box[i] * max(short, 0.0)
            sums[2] += a
        else:
            sums[1] += phi
            sums[2] += a - 0.5 * t * a * a
        if a != 0.0:
            step = a * y
            gradient[last] += step * bias
            if values.ndim == 2:
                row = values[i]
                for f in range(last):
                    gradient[f] += step * row[f]
            else:
                for p in range(indptr[i], indptr[i + 1]):
                    gradient[indices[p]] += step * values[p]


@kernel()
def change_hessian(
    values: Any,
    indices: Any,
    indptr: Any,
    alpha: Floats,
    box: Floats,
    weights: Floats,
    bias: float,
    span: tuple[int, int],
    inside: NDArray[np.uint8],
    hessian: Floats,
) -> None:
    """Add weight x x' of CSR rows that came inside their bounds, subtract that of those that left.

    Few rows do from one step to the next, so that this costs much less than a new Hessian.

    Parameters
    ----------
    alpha, box, weights
        (n_rows,) dual variables, upper bounds, weights of the rows in the Hessian.
    inside
        (n_rows,) whether a row is in the Hessian, in place.
    hessian
        (d, d), d = n_features + 1, in place; the lower triangle only. Column indices ascend within
        a row.
    """
    last = hessian.shape[0] - 1
    for i in range(span[0], span[1]):
        now = np.uint8(alpha[i] > 0.0 and alpha[i] < box[i])
        if now != inside[i]:
            inside[i] = now
            weight = weights[i] if now else -weights[i]
            for p in range(indptr[i], indptr[i + 1]):
                factor = weight * values[p]
                line = hessian[indices[p]]
                for q in range(indptr[i], p + 1):
                    line[indices[q]] += factor * values[q]
                hessian[last, indices[p]] += factor * bias
            hessian[last, last] += weight * bias * bias
