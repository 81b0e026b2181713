"""The lasso's solver in one process: working sets, gap-safe screening, a certificate.

A round chooses a working set (what is not zero, and the columns that violate the optimality
conditions most), solves the problem on it (``lasso_sets``), and reads X once to see which columns
outside it violate the conditions now. Every pass ends with a certificate; columns that it excludes
are not read again.

References
----------
M. Massias, A. Gramfort, J. Salmon, "Celer: a fast solver for the lasso with dual extrapolation",
ICML 2018. E. Ndiaye et al., "Gap safe screening rules", JMLR 18, 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dask_petuum.runtime.blas import one_blas_thread

from .lasso_certificate import Penalty
from .lasso_columns import Columns
from .lasso_search import Outcome, Search
from .lasso_sets import solve_by_residual

__all__ = ["LassoSolver", "Tell"]

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]
#: Told of each round (name to value); True asks to end.
Tell = Callable[[dict[str, float]], bool]

#: Columns that a working set grows by at least, and by what share of the nonzero ones, through a
#: Gram matrix (whose cost grows with the square) and through columns.
FIRST, GRAM_GROWTH, RESIDUAL_GROWTH = 100, 0.5, 2.0
#: The first set may cost about as much as a pass over X: a Gram matrix of k columns takes n k^2
#: operations at BLAS's rate, a pass reads n p numbers at the memory's; ten cycles through k columns
#: take some 40 times as long as reading them once.
SQUARE_PER_COLUMN, COLUMNS_PER_FIRST = 10.0, 40
#: Numbers of a Gram matrix that are always allowed (256 MB), besides as many as X has.
GRAM_NUMBERS = 2**25


class LassoSolver:
    """One data set, and the coefficients, which are kept from one penalty to the next.

    The mutable state is the search and the residual ``r``; only `solve` changes it.

    Parameters
    ----------
    columns
        Their ``look`` is called here.
    y
        (n_rows,) target, centred if the columns are.
    w
        (n_cols,) first coefficients; None: 0.
    """

    def __init__(self, columns: Columns, y: Doubles, w: Doubles | None = None) -> None:
        self.columns = columns
        self.y = y
        self.r = y.copy()
        products = columns.look(y)
        self.search = Search(products, columns.squares, float(y @ y))
        if w is not None and w.any():
            self.search.w[self.search.used] = w[self.search.used]
            self._read(self.search.used)

    @property
    def w(self) -> Doubles:
        """Coefficients, (n_cols,)."""
        return self.search.w

    def solve(
        self, penalty: Penalty, tol: float, max_rounds: int, tell: Tell, strong: float = np.inf
    ) -> Outcome:
        """Minimise from where the coefficients are.

        Parameters
        ----------
        penalty
            Of the problem.
        tol
            Gap at which to stop, as a share of ``y'y``.
        max_rounds
            Rounds at most; a round reads the columns that are not excluded, once.
        tell
            Told of each round.
        strong
            Violation from which columns are in the first working set; for a path, the
            sequential strong rule's ``2 lam - lam_before``.
        """
        search = self.search
        with one_blas_thread():
            rest = np.setdiff1d(search.used, search.alive, assume_unique=True)
            if len(rest):
                self._correlate(rest)
            search.begin(penalty, tol)
            for n_rounds in range(max_rounds + 1):
                stop = tell(search.certify())
                if stop or search.finished or n_rounds == max_rounds:
                    break
                self._improve(strong if n_rounds == 0 else np.inf)
        return Outcome(float(search.gap), n_rounds, search.converged, stop)

    def _improve(self, strong: float) -> None:
        """Choose a working set, solve on it, read the columns."""
        search = self.search
        old = int(search.in_set.sum())
        new = search.choose(self._room(old), strong)
        if self._gram_pays(old, len(new)):
            search.set.add(self.columns, new)
            search.solve()
        else:
            cols = np.flatnonzero(search.in_set)
            target = (self.y, search.yy)
            state = (search.w, self.r)
            solve_by_residual(self.columns, cols, search.penalty, state, target, search.accuracy)
        self._read(search.alive)

    def _room(self, n_set: int) -> int:
        """Columns that a set of so many may grow by."""
        n_cols, search = self.columns.n_cols, self.search
        if search.penalty.lam == 0.0:
            return len(search.alive)
        first = max(FIRST, int(np.sqrt(SQUARE_PER_COLUMN * n_cols)) if n_set == 0 else 0)
        growth = GRAM_GROWTH
        if not self._gram_pays(n_set, first):
            first, growth = max(FIRST, n_cols // COLUMNS_PER_FIRST), RESIDUAL_GROWTH
        return max(first, int(growth * np.count_nonzero(search.w)))

    def _gram_pays(self, n_set: int, n_new: int) -> bool:
        """Whether the set with so many more columns is better solved by its Gram matrix.

        Once it was not, it stays so until the set has been cut back.
        """
        columns = self.columns
        if len(self.search.set) < n_set or not columns.gram_is_exact:
            return False
        size = n_set + n_new
        room = max(GRAM_NUMBERS, columns.n_cols * columns.values_per_column)
        return size <= columns.gram_limit and size**2 <= room

    def _read(self, cols: Longs) -> None:
        """Bring the residual and the correlations of some columns up to date."""
        search = self.search
        support = np.flatnonzero(search.w)
        self.r = self.y - self.columns.combine(support, search.w[support])
        search.rr, search.ry = float(self.r @ self.r), float(self.r @ self.y)
        self._correlate(cols)

    def _correlate(self, cols: Longs) -> None:
        search = self.search
        products = self.columns.correlate(self.r, cols)
        search.c[cols] = products - search.penalty.ridge * search.w[cols]
