"""Solvers of the lasso on a working set: through its Gram matrix, or through the residual.

Both run cycles of coordinate descent, which find the signs, and then a Newton step on the
coefficients that are not zero, for which the signs leave a linear system: solved exactly
(Cholesky) where there is a Gram matrix, by conjugate gradients where there is none. The step's
length comes from an exact line search over the kinks of the objective, so that never rises.

References
----------
H. Lee, A. Battle, R. Raina, A. Ng, "Efficient sparse coding algorithms", NIPS 2006 (feature-sign
search, of which this is a variant).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from .kernels.lasso import cd_gram, gather_gram, move_gram, step_length
from .lasso_certificate import Norms, Penalty, certify
from .lasso_columns import Columns
from .lasso_dependent import drop_dependent

__all__ = ["GramSet", "solve_by_residual"]

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

#: Cycles of coordinate descent between looks at the gap: in a Gram matrix, through columns.
GRAM_CYCLES, RESIDUAL_CYCLES = 10, 10
#: Share of the signs that may have changed in these cycles for a Newton step to be worth its
#: n^3 / 3 (measured 2026-11: twice as slow at 0.02), and looks after which it is tried anyway.
STABLE, PATIENCE = 0.005, 6
#: Looks without progress that end the work on a set.
STALLED = 20
#: Multiply-adds of Newton steps that follow each other while each is cut short.
NEWTON_WORK = 1e8
#: Relative addition to the diagonal of a Gram matrix that has no inverse.
SHRINK = 1e-9
#: Residual of a Newton step's equations, relative to their right side, that is rounding.
SOLVED = 1e-6
#: Iterations of conjugate gradients in a Newton step at most, and their accuracy (squared).
MAX_CG, CG_TOL = 20, 1e-6


class GramSet:
    """A working set that grows, and its Gram matrix.

    The mutable state is the list of columns and the matrix; only `extend` and `keep` change it.
    """

    def __init__(self) -> None:
        self.cols: Longs = np.empty(0, dtype=np.int64)
        self._gram: Doubles = np.empty((0, 0))

    def __len__(self) -> int:
        return len(self.cols)

    @property
    def gram(self) -> Doubles:
        """(n_set, n_set), a view."""
        return self._gram[: len(self.cols), : len(self.cols)]

    def add(self, columns: Columns, new: Longs) -> None:
        """Take in columns that are not in the set yet."""
        if len(new):
            cols = np.concatenate([self.cols, new])
            self.extend(new, columns.gram(cols, len(self.cols)))

    def extend(self, new: Longs, block: Doubles) -> None:
        """Take in columns whose products with all of the set are known, (n_set + n_new, n_new)."""
        old, n = len(self.cols), len(self.cols) + len(new)
        self.cols = np.concatenate([self.cols, new])
        if n > len(self._gram):
            room = np.empty((max(n, 3 * len(self._gram) // 2),) * 2)
            room[:old, :old] = self._gram[:old, :old]
            self._gram = room
        self._gram[:n, old:n] = block
        self._gram[old:n, :old] = block[:old].T

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Drop the columns of the set that are not chosen, (n_set,)."""
        self._gram = np.ascontiguousarray(self.gram[np.ix_(chosen, chosen)])
        self.cols = self.cols[chosen]

    def solve(
        self, penalty: Penalty, state: tuple[Doubles, Doubles], b: Doubles, yy: float, tol: float
    ) -> None:
        """Minimise over the set.

        Parameters
        ----------
        penalty
            Of the problem.
        state
            ``w`` and ``c = X'r - ridge w`` of the set, (n_set,) each, updated in place.
        b, yy
            ``X'y`` of the set and ``y'y``.
        tol
            Gap of the set's own problem at which to stop.
        """
        w, c = state
        gram = self.gram
        if penalty.ridge:
            gram = gram + penalty.ridge * np.eye(len(w))
        signs, wait, watch = np.sign(w), 0, _Watch()
        while True:
            moved = cd_gram(gram, penalty.lam, penalty.positive, (GRAM_CYCLES, 0.0), w, c)
            gap = _gram_gap(penalty, w, c, b, yy)
            if moved == 0.0 or gap <= tol or watch.stalls(gap):
                return
            before, signs, wait = signs, np.sign(w), wait + 1
            if (signs != before).sum() > STABLE * np.count_nonzero(w) and wait < PATIENCE:
                continue
            wait = 0
            _newton(gram, penalty, w, c)
            signs = np.sign(w)
            if _gram_gap(penalty, w, c, b, yy) <= tol:
                return


class _Watch:
    """Notices that a gap no longer falls: rounding, or a set that depends on itself."""

    def __init__(self) -> None:
        self.best = np.inf
        self.since = 0

    def stalls(self, gap: float) -> bool:
        """Note a gap; whether it has not fallen by a hundredth in the last looks."""
        self.since += 1
        if gap < 0.99 * self.best:
            self.best, self.since = gap, 0
        return self.since >= STALLED


def solve_by_residual(
    columns: Columns,
    cols: Longs,
    penalty: Penalty,
    state: tuple[Doubles, Doubles],
    target: tuple[Doubles, float],
    tol: float,
) -> None:
    """Minimise over a working set without its Gram matrix.

    Parameters
    ----------
    columns, cols
        The data, and the set.
    penalty
        Of the problem.
    state
        ``w`` (n_cols,) and ``r`` (n_rows,), updated in place; ``w`` is 0 outside the set.
    target
        ``y`` and ``y'y``.
    tol
        Gap of the set's own problem at which to stop.
    """
    w, r = state
    y, yy = target
    pair = (penalty.lam, penalty.ridge)
    signs, wait, watch = np.sign(w[cols]), 0, _Watch()
    while True:
        moved = columns.descend(cols, pair, penalty.positive, (RESIDUAL_CYCLES, 0.0), state)
        inside = w[cols]
        c = columns.correlate(r, cols) - penalty.ridge * inside
        gap = certify(penalty, Norms.of(r, y, yy, inside), c, inside).gap
        if gap <= tol or moved == 0.0 or watch.stalls(gap):
            return
        before, signs, wait = signs, np.sign(inside), wait + 1
        if (signs != before).sum() > STABLE * np.count_nonzero(inside) and wait < PATIENCE:
            continue
        wait = 0
        if not penalty.ridge and np.count_nonzero(inside) > columns.n_rows:
            _drop_dependent_columns(columns, cols, penalty.lam, state, c)
            inside = w[cols]
        support = np.flatnonzero(inside)
        force = c[support] - penalty.lam * np.sign(inside[support])
        direction = _conjugate_gradients(columns, cols[support], penalty.ridge, force)
        change = columns.combine(cols[support], direction)
        curvature = float(change @ change) + penalty.ridge * float(direction @ direction)
        length = _cut(penalty, inside[support], c[support], direction, curvature)
        w[cols[support]] = _stepped(inside[support], length * direction)
        r -= length * change
        signs = np.sign(w[cols])


def _drop_dependent_columns(
    columns: Columns, cols: Longs, lam: float, state: tuple[Doubles, Doubles], c: Doubles
) -> None:
    """Set coefficients of a set to 0 until the others' columns are independent; all in place."""
    w, r = state
    support = np.flatnonzero(w[cols])
    chosen = cols[support]
    values, correlations = w[chosen], c[support]
    if drop_dependent(columns.gram(chosen, 0), lam, values, correlations):
        r -= columns.combine(chosen, values - w[chosen])
        w[chosen] = values
        c[:] = columns.correlate(r, cols)


def _gram_gap(penalty: Penalty, w: Doubles, c: Doubles, b: Doubles, yy: float) -> float:
    ww, wb = float(w @ w), float(w @ b)
    rr = yy - wb - float(w @ c) - penalty.ridge * ww
    norms = Norms(rr, yy - wb, yy, float(np.abs(w).sum()), ww)
    return certify(penalty, norms, c, w).gap


def _newton(gram: Doubles, penalty: Penalty, w: Doubles, c: Doubles) -> None:
    """Step to the minimum for these signs; again where the step ended at a coefficient's zero."""
    work = 0.0
    while work < NEWTON_WORK:
        support = np.flatnonzero(w)
        work += 1e5 + len(support) ** 3 / 3
        found = _newton_direction(gram, support, penalty, w, c, 0.0)
        if found is None:
            if not penalty.ridge and drop_dependent(gram, penalty.lam, w, c):
                continue
            found = _newton_direction(gram, support, penalty, w, c, SHRINK)
            if found is None:
                return
        direction, product = found
        length = _cut(penalty, w[support], c[support], direction, None)
        w[support] = _stepped(w[support], length * direction)
        c -= length * product
        if length == 0.0 or np.count_nonzero(w) == len(support):
            return


def _newton_direction(
    gram: Doubles, support: Longs, penalty: Penalty, w: Doubles, c: Doubles, shrink: float
) -> tuple[Doubles, Doubles] | None:
    """Way to the minimum for these signs, and its product with the Gram matrix, (n_set,).

    ``shrink`` is added to the diagonal, relatively. None where the columns depend on each other: a
    factor that rounding alone makes possible gives itself away by what it solves.
    """
    if len(support) == 0:
        return None
    force = c[support] - penalty.lam * np.sign(w[support])
    matrix = np.empty((len(support), len(support)))
    gather_gram(gram, support, matrix)
    matrix[np.diag_indices(len(matrix))] *= 1.0 + shrink
    _, solved, failed = lapack.dposv(matrix.T, force, overwrite_a=True)
    if failed or not np.isfinite(solved).all():
        return None
    direction = np.ascontiguousarray(solved)
    product = np.zeros(len(c))
    move_gram(gram, support, -direction, product)
    rest = np.abs(force - product[support]).max()
    if not shrink and rest > SOLVED * np.abs(force).max():
        return None
    return direction, product


def _cut(
    penalty: Penalty, w: Doubles, c: Doubles, direction: Doubles, curvature: float | None
) -> float:
    """Length of the best step; the curvature of an exact Newton direction is known."""
    if curvature is None:
        curvature = float(direction @ (c - penalty.lam * np.sign(w)))
    slope = -float(direction @ c)
    return float(step_length(w, direction, slope, curvature, penalty.lam, penalty.positive))


def _stepped(w: Doubles, step: Doubles) -> Doubles:
    """Step; a coefficient that should end at 0 does so in spite of rounding."""
    out: Doubles = w + step
    out[np.abs(out) <= 1e-15 * np.abs(step)] = 0.0
    return out


def _conjugate_gradients(columns: Columns, cols: Longs, ridge: float, force: Doubles) -> Doubles:
    """Solve ``(X'X + ridge I) d = force`` for some columns, scaled by their norms."""
    scale = 1.0 / (columns.squares[cols] + ridge)
    direction = np.zeros(len(cols))
    rest = force.copy()
    ahead = scale * rest
    along = ahead.copy()
    first = size = float(rest @ ahead)
    for _ in range(MAX_CG):
        if size <= CG_TOL * first:
            break
        product = columns.correlate(columns.combine(cols, along), cols) + ridge * along
        curvature = float(along @ product)
        if not curvature > 0.0:  # columns that depend on each other
            break
        length = size / curvature
        direction += length * along
        rest -= length * product
        ahead = scale * rest
        size, before = float(rest @ ahead), size
        along = ahead + (size / before) * along
    return direction
