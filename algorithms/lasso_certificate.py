"""The lasso's certificate: a bound on how far the objective is above its minimum.

In the scale of ``F(w) = |y - X w|^2 / 2 + lam |w|_1 + ridge |w|^2 / 2``, which is n_rows times
scikit-learn's objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Certificate", "Norms", "Penalty", "certify"]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Penalty:
    """``lam |w|_1 + ridge |w|^2 / 2``, and whether ``w >= 0``."""

    lam: float
    ridge: float
    positive: bool = False

    def violation(self, c: Doubles) -> Doubles:
        """How large correlations are as far as they count: |c|, or c where ``positive``."""
        return c if self.positive else np.abs(c)


@dataclass(frozen=True)
class Norms:
    """Sums over rows and coefficients: ``r'r``, ``r'y``, ``y'y``, ``|w|_1``, ``w'w``."""

    rr: float
    ry: float
    yy: float
    l1: float
    ww: float

    @classmethod
    def of(cls, r: Doubles, y: Doubles, yy: float, w: Doubles) -> Norms:
        """Sum up."""
        return cls(float(r @ r), float(r @ y), yy, float(np.abs(w).sum()), float(w @ w))


@dataclass(frozen=True)
class Certificate:
    """What is known of a ``w``.

    Attributes
    ----------
    primal, dual
        The objective, and a lower bound on its minimum.
    scale
        The dual point is ``scale (r, -sqrt(ridge) w)``: products with it are ``scale c``. None
        where the better bound is the one of ``r`` itself (see `certify`).
    """

    primal: float
    dual: float
    scale: float | None

    @property
    def gap(self) -> float:
        """Upper bound on ``F(w) - min F``."""
        return max(self.primal - self.dual, 0.0)

    def excluded(
        self, penalty: Penalty, c: Doubles, w: Doubles, squares: Doubles
    ) -> NDArray[np.bool_]:
        """Which of some columns are certain not to be in the solution (gap-safe sphere).

        The optimal dual point is within ``sqrt(2 gap)`` of ours (Ndiaye et al. 2017, theorem 6), so
        a column whose product with ours is further than that from ``lam`` has a coefficient of 0.
        """
        if self.scale is None:
            reach = penalty.violation(c + penalty.ridge * w)
            norms = np.sqrt(squares)
        else:
            reach = self.scale * penalty.violation(c)
            norms = np.sqrt(squares + penalty.ridge)
        out: NDArray[np.bool_] = reach + norms * np.sqrt(2.0 * self.gap) < penalty.lam * (1 - 1e-12)
        return out


def certify(penalty: Penalty, norms: Norms, c: Doubles, w: Doubles) -> Certificate:
    """Bound the minimum from below by the better of two dual points.

    The residual with ``-sqrt(ridge) w`` appended, scaled by the best factor that leaves it feasible
    (the elastic net as a lasso with rows ``sqrt(ridge) I``); and, where there is a ridge, the
    residual itself, which is feasible in the elastic net's own dual,
    ``y'y/2 - |y - t|^2/2 - sum_j max(|x_j't| - lam, 0)^2 / (2 ridge)``.

    Parameters
    ----------
    penalty, norms
        The problem, and sums at ``w``.
    c, w
        (n,) correlations ``X'r - ridge w`` and coefficients of all columns that may be in the
        solution; (0,) for none.

    References
    ----------
    E. Ndiaye, O. Fercoq, A. Gramfort, J. Salmon, "Gap safe screening rules for sparsity enforcing
    penalties", JMLR 18, 2017, eqs. 10-12.
    """
    length = norms.rr + penalty.ridge * norms.ww
    primal = 0.5 * length + penalty.lam * norms.l1
    scale = norms.ry / length if length > 0.0 else 1.0
    largest = float(penalty.violation(c).max(initial=0.0))
    if largest > 0.0:
        scale = min(scale, penalty.lam / largest)
        scale = max(scale, 0.0 if penalty.positive else -penalty.lam / largest)
    dual = scale * norms.ry - 0.5 * scale * scale * length
    if penalty.ridge > 0.0:
        excess = np.maximum(penalty.violation(c + penalty.ridge * w) - penalty.lam, 0.0)
        other = norms.ry - 0.5 * norms.rr - 0.5 * float(excess @ excess) / penalty.ridge
        if other > dual:
            return Certificate(primal, other, None)
    return Certificate(primal, dual, abs(scale))
