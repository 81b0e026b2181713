"""The lasso on columns that depend on each other: fewer of them make the same fit.

Where ``X z = 0`` for some z on the support, a step along z leaves the fit as it is, and changes
``|w|_1`` linearly until a coefficient is 0. In the direction that does not raise it, that is a step
to an equally good or better point with one column less; as often as columns depend on each other
(Carathéodory's argument; Rosset, Zhu and Hastie 2004, theorem 2). What is left is independent, so
that its Gram matrix has an inverse.

References
----------
S. Rosset, J. Zhu, T. Hastie, "Boosting as a regularized path to a maximum margin classifier", JMLR
5, 2004, appendix A.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

__all__ = ["drop_dependent"]

Doubles = NDArray[np.float64]

#: Squared distance of a column from the span of others, relative to its own, that counts as 0.
DEPENDENT = 1e-12
#: Rise of the objective by a step, relative to its terms, that is put down to rounding.
ROUNDING = 1e-12


def drop_dependent(gram: Doubles, lam: float, w: Doubles, c: Doubles) -> bool:
    """Set coefficients to 0 until the columns of the others are independent.

    Parameters
    ----------
    gram
        (n_set, n_set) ``X'X``.
    lam
        Penalty of ``|w|_1``.
    w, c
        (n_set,) coefficients, and ``X'r``; in place.

    Returns
    -------
    Whether any was set to 0; then the objective has not risen.
    """
    support = np.flatnonzero(w)
    matrix = gram[np.ix_(support, support)]
    null = _null_space(matrix)
    if null.shape[1] == 0:
        return False
    values = _shorten(w[support], null)
    step = values - w[support]
    rise = -float(step @ c[support]) + 0.5 * float(step @ matrix @ step)
    saved = lam * float(np.abs(w[support]).sum() - np.abs(values).sum())
    if rise - saved > ROUNDING * lam * float(np.abs(w[support]).sum()):
        return False
    w[support] = values
    c -= gram[:, support] @ step
    return True


def _null_space(matrix: Doubles) -> Doubles:
    """Basis of what the matrix maps to 0, (n, n - rank), by a pivoted Cholesky factor."""
    scale = 1.0 / np.sqrt(np.diag(matrix))
    n = len(matrix)
    factor, order, rank, _ = lapack.dpstrf(matrix * np.outer(scale, scale), tol=DEPENDENT)
    out = np.zeros((n, n - rank))
    if rank < n:
        out[order[:rank] - 1] = -solve_triangular(factor[:rank, :rank], factor[:rank, rank:])
        out[order[rank:] - 1, np.arange(n - rank)] = 1.0
    return out * scale[:, None]


def _shorten(w: Doubles, null: Doubles) -> Doubles:
    """Step along each direction, the way that does not raise ``|w|_1``, to a coefficient's 0.

    ``null`` is used up: directions that are left do not move what has been set to 0.
    """
    w = w.copy()
    for k in range(null.shape[1]):
        direction = null[:, k]
        if float(np.sign(w) @ direction) > 0.0:
            direction = -direction
        falling = np.flatnonzero(w * direction < 0.0)
        if len(falling) == 0:
            continue
        lengths = -w[falling] / direction[falling]
        first = falling[lengths.argmin()]
        w += lengths.min() * direction
        w[first] = 0.0
        rest = null[:, k + 1 :]
        rest -= np.outer(direction, rest[first] / direction[first])
        rest[first] = 0.0
    return w
