"""How many coordinates may be updated at once: the spectral bound of Shotgun.

With columns of norm 1, parallel coordinate descent converges for P coordinates at once, chosen at
random, while ``P < n / r + 1``, r the spectral radius of ``X'X``; and up to there it is P times as
fast (Bradley, Kyrola, Bickson, Guestrin, ICML 2011, theorem 3.2). r is 1 where all columns are
orthogonal and n where all are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .picker import FloatArray

__all__ = ["spectral_radius", "spectral_width"]

#: The iteration ends when its error bound is below this share of the radius.
TOLERANCE = 0.01


def spectral_width(
    matvec: Callable[[FloatArray], FloatArray],
    n: int,
    seed: int | Sequence[int] = 0,
    n_iter: int = 50,
) -> int:
    """Return the largest number of coordinates that may be updated at once: ``ceil(n / r)``.

    Parameters
    ----------
    matvec
        ``v -> X'(X v)`` for X with columns of norm 1 (empty columns stay 0); symmetric.
    n
        How many columns there are.
    seed, n_iter
        As of `spectral_radius`.

    Returns
    -------
    1 .. n.

    Raises
    ------
    ValueError
        As of `spectral_radius`.

    Examples
    --------
    >>> spectral_width(lambda v: v, 10)  # orthogonal
    10
    >>> spectral_width(lambda v: np.full(10, v.sum()), 10)  # all columns the same
    1
    """
    radius = spectral_radius(matvec, n, seed, n_iter)
    return n if radius <= 1 else max(1, min(n, int(np.ceil(n / radius))))


def spectral_radius(
    matvec: Callable[[FloatArray], FloatArray],
    n: int,
    seed: int | Sequence[int] = 0,
    n_iter: int = 50,
) -> float:
    """Return the largest eigenvalue of a symmetric positive matrix, rather too large than small.

    Power iterations from a random vector; the last Rayleigh quotient plus the norm of its residual
    (an eigenvalue lies that near), so that an iteration that has not quite converged makes the
    width smaller, not larger. The first products promise nothing: do not save on `n_iter`.

    Parameters
    ----------
    matvec
        ``v -> A v`` for (n,) float64.
    n
        Order of the matrix, >= 1.
    seed
        Of the vector to start from.
    n_iter
        At most so many products, >= 1.

    Raises
    ------
    ValueError
        n or n_iter is less than 1, or a product has another shape or is not finite.
    """
    if n < 1 or n_iter < 1:
        raise ValueError(f"n and n_iter must be >= 1, got {n} and {n_iter}")
    vector = np.random.Generator(np.random.PCG64(seed)).standard_normal(n)
    vector /= np.linalg.norm(vector)
    bound = 0.0
    for _ in range(n_iter):
        product = np.asarray(matvec(vector), dtype=np.float64)
        if product.shape != (n,) or not np.isfinite(product).all():
            raise ValueError(f"matvec must return {n} finite numbers, got shape {product.shape}")
        quotient = float(vector @ product)
        residual = float(np.linalg.norm(product - quotient * vector))
        bound = quotient + residual
        norm = float(np.linalg.norm(product))
        if norm == 0 or residual <= TOLERANCE * quotient:
            break
        vector = product / norm
    return bound
