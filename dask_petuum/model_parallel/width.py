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

__all__ = ["PowerIteration", "spectral_radius", "spectral_width", "width_of"]

#: The iteration ends when its error bound is below this share of the radius.
TOLERANCE = 0.01
#: What rounding may take from a radius that is a fraction of n: the width is the same then.
ROUNDING = 1e-9


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
    return width_of(spectral_radius(matvec, n, seed, n_iter), n)


def width_of(radius: float, n: int) -> int:
    """Return ``ceil(n / radius)`` within 1 .. n, for a radius that rounding may have made smaller.

    Examples
    --------
    >>> width_of(2.5, 10), width_of(2.5 * (1 - 1e-15), 10), width_of(0.0, 10)
    (4, 4, 10)
    """
    if radius <= 1:
        return n
    return max(1, min(n, int(np.ceil(n / radius * (1 - ROUNDING)))))


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
    iteration = PowerIteration(n, seed, n_iter)
    while not iteration.ended:
        iteration.take(np.asarray(matvec(iteration.vector), dtype=np.float64))
    return iteration.bound


class PowerIteration:
    """Power iterations that are given each product, from wherever it comes.

    The mutable state is the four attributes; only `take` changes it.

    Parameters
    ----------
    n, seed, n_iter
        As of `spectral_radius`.
    """

    def __init__(self, n: int, seed: int | Sequence[int] = 0, n_iter: int = 50) -> None:
        if n < 1 or n_iter < 1:
            raise ValueError(f"n and n_iter must be >= 1, got {n} and {n_iter}")
        #: (n,) of norm 1: what is to be multiplied next.
        self.vector = np.random.Generator(np.random.PCG64(seed)).standard_normal(n)
        self.vector /= np.linalg.norm(self.vector)
        #: The largest eigenvalue is hardly larger.
        self.bound = 0.0
        self.ended = False
        self._n_left = n_iter

    def take(self, product: FloatArray) -> None:
        """Take the matrix times `vector`.

        Raises
        ------
        ValueError
            It has another shape or is not finite.
        """
        n = self.vector.size
        if product.shape != (n,) or not np.isfinite(product).all():
            raise ValueError(f"matvec must return {n} finite numbers, got shape {product.shape}")
        quotient = float(self.vector @ product)
        residual = float(np.linalg.norm(product - quotient * self.vector))
        self.bound = quotient + residual
        self._n_left -= 1
        norm = float(np.linalg.norm(product))
        self.ended = norm == 0 or residual <= TOLERANCE * quotient or self._n_left == 0
        if not self.ended:
            self.vector = product / norm
