"""What the lasso's solvers share, wherever the rows lie: which columns next, and when to stop.

A search knows the coefficients, the correlations of columns with the residual and the Gram matrix
of a working set, never the rows. Its owner brings correlations up to date.

References
----------
M. Massias, A. Gramfort, J. Salmon, "Celer: a fast solver for the lasso with dual extrapolation",
ICML 2018. R. Tibshirani et al., "Strong rules for discarding predictors in lasso-type problems",
JRSS-B 74, 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lasso_certificate import Certificate, Norms, Penalty, certify
from .lasso_sets import GramSet

__all__ = ["Outcome", "Search"]

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

#: Gap, relative to y'y, that rounding leaves.
FLOOR = 64 * float(np.finfo(np.float64).eps)
#: A working set is solved to this share of the gap.
INNER = 0.1
#: Rounds without progress that end a search.
STALLED = 5
#: Size by which a Gram matrix may exceed what is not 0 before it is cut back.
SPARE = 1000


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    Attributes
    ----------
    gap
        In the scale of the sum of squares.
    n_rounds
        Rounds made.
    converged
        Whether the gap is small enough.
    stopped
        Whether a callback or Ctrl-C ended it.
    """

    gap: float
    n_rounds: int
    converged: bool
    stopped: bool = False


class Search:
    """Coefficients, and what decides about columns.

    The mutable state is all attributes but ``b``, ``yy``, ``squares`` and ``used``; `begin` to
    `solve` and `go_on` change it, and the owner sets ``c``, ``rr`` and ``ry`` where the residual
    changed.

    Parameters
    ----------
    b, yy
        (n_cols,) ``X'y``, and ``y'y``.
    squares
        (n_cols,) squared norms; columns with 0 are never used.

    Attributes
    ----------
    w, c
        (n_cols,) coefficients, and ``X'r - ridge w``, valid for the columns ``alive``.
    rr, ry
        ``r'r`` and ``r'y``.
    alive
        Columns that are not excluded.
    in_set
        (n_cols,) whether a column is in the working set; ``set`` has the Gram matrix, if any.
    gap
        Smallest upper bound so far, for this penalty.
    """

    def __init__(self, b: Doubles, squares: Doubles, yy: float) -> None:
        self.b = b
        self.yy = yy
        self.squares = squares
        self.used = np.flatnonzero(squares > 0.0)
        self.alive = self.used
        self.w = np.zeros(len(b))
        self.c = b.copy()
        self.rr = self.ry = yy
        self.set = GramSet()
        self.in_set = np.zeros(len(b), dtype=bool)
        self.penalty = Penalty(0.0, 0.0)
        self.gap = self.goal = np.inf
        self._dual = -np.inf
        self._stalled = 0
        self._size = -1

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes, as arrays, but the Gram matrix."""
        penalty, places = self.penalty, [self._stalled, self._size]
        numbers = [self.yy, self.rr, self.ry, self.gap, self.goal, self._dual]
        return {
            "b": self.b,
            "squares": self.squares,
            "w": self.w,
            "c": self.c,
            "alive": self.alive,
            "cols": self.set.cols,
            "in_set": self.in_set.astype(np.uint8),
            "numbers": np.array([*numbers, penalty.lam, penalty.ridge]),
            "places": np.array(places, dtype=np.int64),
        }

    def go_on(self, saved: Mapping[str, NDArray[Any]], positive: bool) -> None:
        """Go on from `state`; the set has its columns already."""
        self.b, self.squares = saved["b"], saved["squares"]
        self.used = np.flatnonzero(self.squares > 0.0)
        self.w, self.c, self.alive = saved["w"], saved["c"], saved["alive"]
        self.in_set = saved["in_set"].astype(bool)
        self.yy, self.rr, self.ry, self.gap, self.goal, self._dual, lam, ridge = saved[
            "numbers"
        ].tolist()
        self.penalty = Penalty(lam, ridge, positive)
        self._stalled, self._size = saved["places"].tolist()

    def largest_lam(self, positive: bool) -> float:
        """Return the smallest ``lam`` whose solution is 0."""
        return float(Penalty(0.0, 0.0, positive).violation(self.b).max(initial=0.0))

    def begin(self, penalty: Penalty, tol: float) -> None:
        """Turn to a penalty; ``c`` must be valid for all columns that are used."""
        self.c -= (penalty.ridge - self.penalty.ridge) * self.w
        self.penalty = penalty
        self.alive = self.used
        self.goal = max(tol, FLOOR) * self.yy
        self.gap, self._dual, self._stalled, self._size = np.inf, -np.inf, 0, -1
        cols = self.set.cols
        if len(cols) > 4 * np.count_nonzero(self.w) + SPARE:
            violation = penalty.violation(self.c[cols])
            chosen = (self.w[cols] != 0.0) | (violation > 0.5 * penalty.lam)
            self.in_set[cols[~chosen]] = False
            self.set.keep(chosen)

    def certify(self) -> dict[str, float]:
        """Bound the gap, exclude columns; what there is to tell of this round."""
        alive = self.alive
        c, w = self.c[alive], self.w[alive]
        l1, ww = float(np.abs(self.w).sum()), float(self.w @ self.w)
        found = certify(self.penalty, Norms(self.rr, self.ry, self.yy, l1, ww), c, w)
        before, size = self.gap, int(self.in_set.sum())
        self._dual = max(self._dual, found.dual)
        self.gap = min(before, max(found.primal - self._dual, 0.0))
        progress = size > self._size or self.gap < 0.99 * before
        self._size, self._stalled = size, 0 if progress else self._stalled + 1
        self._exclude(found)
        return {
            "objective": found.primal,
            "dual_gap": self.gap,
            "n_nonzero": float(np.count_nonzero(self.w)),
            "n_set": float(size),
            "n_alive": float(len(self.alive)),
        }

    @property
    def converged(self) -> bool:
        """Whether the gap is small enough."""
        return bool(self.gap <= self.goal)

    @property
    def finished(self) -> bool:
        """Whether there is nothing to gain by another round."""
        return self.converged or self._stalled >= STALLED

    @property
    def accuracy(self) -> float:
        """Gap to which a working set is to be solved."""
        return max(0.3 * self.goal, INNER * self.gap)

    def choose(self, room: int, strong: float = np.inf) -> Longs:
        """Take columns into the set: those that violate most, ``room`` at most; return them.

        Nonzero coefficients (of a warm start) and violations above ``strong`` come in anyway.
        """
        alive, penalty = self.alive, self.penalty
        violation = penalty.violation(self.c[alive])
        outside = ~self.in_set[alive]
        certain = outside & ((self.w[alive] != 0.0) | (violation > strong))
        others = outside & ~certain & (violation > penalty.lam)
        candidates = alive[others]
        if len(candidates) > room:
            order = np.argpartition(-violation[others], room)
            candidates = candidates[order[:room]]
        new = np.sort(np.concatenate([alive[certain], candidates]))
        self.in_set[new] = True
        return new

    def solve(self) -> None:
        """Minimise over the working set by its Gram matrix; ``c`` of other columns is left."""
        cols = self.set.cols
        state = (self.w[cols], self.c[cols])
        self.set.solve(self.penalty, state, self.b[cols], self.yy, self.accuracy)
        self.w[cols], self.c[cols] = state

    def _exclude(self, found: Certificate) -> None:
        alive = self.alive
        w = self.w[alive]
        gone = found.excluded(self.penalty, self.c[alive], w, self.squares[alive])
        gone &= (w == 0.0) & ~self.in_set[alive]
        if gone.any():
            self.alive = alive[~gone]
