"""How many coordinates may be updated at once: the spectral bound of Shotgun.

With columns of norm 1, parallel coordinate descent converges for P coordinates at once, chosen at
random, while ``P < n / r + 1``, r the spectral radius of ``X'X``; and up to there it is P times as
fast (Bradley, Kyrola, Bickson, Guestrin, ICML 2011, theorem 3.2). r is 1 where all columns are
orthogonal and n where all are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import eigh_tridiagonal

from .picker import FloatArray

__all__ = ["Lanczos", "spectral_radius", "spectral_width", "width_of"]

#: The iteration ends when its error bound is below this share of the radius, but not before so
#: many products: the first vector may hardly have the largest eigenvector in it.
TOLERANCE = 0.01
MIN_PRODUCTS = 12
#: A new direction of less than this share of its product is rounding.
EXHAUSTED = 1e-10
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

    Power iterations from a random vector, see `Lanczos`; the largest Ritz value plus the norm of
    its residual (an eigenvalue lies that near), so that an iteration that has not quite converged
    makes the width smaller, not larger.

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
    iteration = Lanczos(n, seed, n_iter)
    while not iteration.ended:
        iteration.take(np.asarray(matvec(iteration.vector), dtype=np.float64))
    return iteration.bound


class Lanczos:
    """Power iterations that forget nothing, and are given each product from wherever it comes.

    The largest eigenvalue on the space that the powers span, not in their last direction alone: a
    first vector that hardly has the largest eigenvector in it would else seem to have converged to
    the second. Vectors are kept orthogonal to the two before only, which blurs all eigenvalues but
    the largest (Golub, Van Loan, Matrix Computations, section 10.3).

    The mutable state is the attributes; only `take` changes it.

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
        self._before = np.zeros(n)
        self._diagonal: list[float] = []
        self._beside: list[float] = []
        self._n_iter = n_iter

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
        self._diagonal.append(float(self.vector @ product))
        rest = product - self._diagonal[-1] * self.vector
        if self._beside:
            rest -= self._beside[-1] * self._before
        norm = float(np.linalg.norm(rest))
        values, vectors = eigh_tridiagonal(
            self._diagonal, self._beside, select="i", select_range=(len(self._diagonal) - 1,) * 2
        )
        largest, residual = float(values[0]), norm * abs(float(vectors[-1, 0]))
        self.bound = largest + residual
        n_taken = len(self._diagonal)
        is_near = residual <= TOLERANCE * largest and n_taken >= min(n, MIN_PRODUCTS)
        is_whole = norm <= EXHAUSTED * float(np.linalg.norm(product))
        self.ended = is_near or is_whole or n_taken == self._n_iter
        if not self.ended:
            self._before, self.vector = self.vector, rest / norm
            self._beside.append(norm)
