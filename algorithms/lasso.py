"""Lasso and elastic net: linear regression with an l1 penalty, to a certified accuracy.

.. math:: \\min_{w, b} \\frac{1}{2 n} \\sum_i s_i (y_i - x_i^\\top w - b)^2
          + \\alpha \\rho \\|w\\|_1 + \\frac{\\alpha (1 - \\rho)}{2} \\|w\\|^2

(``rho`` is ``l1_ratio``; the weights ``s`` are scaled to sum to n): scikit-learn's objective. The
solver of one process is in ``lasso_solver``, that over ranks in ``lasso_program``. Not here:
several targets at once, cross-validation of alpha (``GridSearchCV`` does it), a penalty for each
feature.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.callback import with_callbacks

from dask_petuum.base import PetuumEstimator
from dask_petuum.data.kinds import dask_backed
from dask_petuum.runtime.where import find_client
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import check_number
from .lasso_fit import fit_here, path_here
from .lasso_ranks import fit_ranks
from .linear_targets import LinearPredictionMixin

__all__ = ["ElasticNet", "Lasso", "Path"]


class Path(NamedTuple):
    """Solutions along a grid of penalties.

    Attributes
    ----------
    alphas : ndarray (n_alphas,), falling
    coefs : ndarray (n_features, n_alphas)
    intercepts : ndarray (n_alphas,)
    dual_gaps : ndarray (n_alphas,), bounds on how far each objective is above its minimum
    n_iters : ndarray (n_alphas,) int, rounds of each
    """

    alphas: NDArray[np.float64]
    coefs: NDArray[Any]
    intercepts: NDArray[Any]
    dual_gaps: NDArray[np.float64]
    n_iters: NDArray[np.int64]


class ElasticNet(
    LinearPredictionMixin,
    RegressorMixin,  # type: ignore[misc]
    PetuumEstimator,
):
    """Linear regression with an l1 and an l2 penalty, in this process or on a Dask cluster.

    Parameters
    ----------
    alpha
        Strength of the penalties. 0 gives least squares (of several solutions that of least l1
        norm), approached to within a billionth of the smallest alpha whose solution is 0.
    l1_ratio
        Share of the l1 penalty, 0 to 1.
    fit_intercept
        Whether to learn an intercept (not penalised).
    max_iter
        Rounds at most; a round solves the problem on a working set and reads X once (over
        ranks: twice).
    tol
        Stop when the dual gap is at most ``tol * y'y / n_rows``, y being centred if there
        is an intercept (scikit-learn's and celer's rule).
    positive
        Whether the coefficients must be >= 0.
    warm_start
        Let ``fit`` start from the coefficients of the last fit.
    n_jobs
        Threads of this process in a local run (None: all cores); no effect on the result but for
        rounding. BLAS is given one thread meanwhile.
    verbose
        1: print each round.
    scheduler
        None: the active Dask client, else this process; "local"; or a scheduler's address.

    Attributes
    ----------
    coef_ : ndarray (n_features,), of X's dtype
    sparse_coef_ : csr_array (1, n_features)
    intercept_ : float
    dual_gap_ : float, upper bound on how far the objective is above its minimum
    n_iter_ : int, rounds made
    history_ : list of dict, one record a round: objective, dual_gap, n_nonzero, n_set (columns in
        the working set) and n_alive (columns not yet excluded by the gap-safe rule)
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    X in memory is used as it is where it is an F-ordered array or CSC, and converted if not. With
    ``sample_weight`` a scaled copy is made.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_petuum.algorithms.lasso import ElasticNet
    >>> X = np.array([[0.0, 1], [1, 0], [2, 1], [3, 0]])
    >>> model = ElasticNet(alpha=0.1, tol=1e-10).fit(X, 3 * X[:, 0] + 1)
    >>> model.coef_.round(3).tolist(), round(float(model.intercept_), 3)
    ([2.846, 0.0], 1.231)
    """

    coef_: NDArray[Any]
    intercept_: float
    dual_gap_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        l1_ratio: float = 0.5,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-4,
        positive: bool = False,
        warm_start: bool = False,
        n_jobs: int | None = None,
        verbose: int = 0,
        scheduler: str | None = None,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.positive = positive
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.scheduler = scheduler

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the coefficients.

        Parameters
        ----------
        X
            (n_rows, n_features): ndarray, scipy.sparse, DataFrame, xarray or a Dask collection.
        y
            (n_rows,) targets.
        sample_weight
            (n_rows,) weights >= 0; None: 1 each.

        Raises
        ------
        ValueError
            For input that cannot be, in scikit-learn's words.
        """
        self._check_parameters()
        run = fit_here if self._is_here(X) else fit_ranks
        run(self, X, y, sample_weight)
        return self

    def path(
        self,
        X: Any,
        y: Any,
        *,
        eps: float = 1e-3,
        n_alphas: int = 100,
        alphas: Any = None,
        sample_weight: Any = None,
    ) -> Path:
        """Solve for a grid of penalties, each from the last one's solution.

        Every point is solved to ``tol``, as ``fit`` would. The estimator itself learns nothing.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``; X in memory.
        eps
            Smallest alpha, as a share of the smallest one whose solution is 0.
        n_alphas
            Points of the grid, in equal ratios.
        alphas
            The grid itself, > 0.

        Returns
        -------
        Path

        Raises
        ------
        ValueError
            For X of Dask, a grid that is empty or not positive, or ``l1_ratio=0`` without a grid.
        """
        self._check_parameters()
        check_number("n_alphas", n_alphas, Integral, 1)
        check_number("eps", eps, Real, 0, strict=True)
        if dask_backed(X) is not None:
            raise ValueError("X must be in memory for path(); fit each alpha where X is of Dask")
        if alphas is not None:
            alphas = np.sort(np.asarray(alphas, dtype=np.float64).ravel())[::-1]
            if not len(alphas) or not np.isfinite(alphas).all() or alphas[-1] <= 0:
                raise ValueError("alphas must be finite numbers > 0, one at least")
        elif self.l1_ratio == 0:
            raise ValueError("alphas must be given where l1_ratio is 0: no alpha gives only zeros")
        return Path(*path_here(self, X, y, sample_weight, alphas, (float(eps), int(n_alphas))))

    @property
    def sparse_coef_(self) -> Any:
        """The coefficients as a sparse array (1, n_features)."""
        return sp.csr_array(self.coef_[None, :])

    def _is_here(self, X: Any) -> bool:
        return dask_backed(X) is None and find_client(self.scheduler, self.client) is None

    def _check_parameters(self) -> None:
        check_number("alpha", self.alpha, Real, 0)
        check_number("l1_ratio", self.l1_ratio, Real, 0)
        check_number("tol", self.tol, Real, 0)
        check_number("max_iter", self.max_iter, Integral, 1)
        if not np.isfinite(self.alpha):
            raise ValueError(f"alpha must be finite, got {self.alpha!r}")
        if self.l1_ratio > 1:
            raise ValueError(f"l1_ratio must be at most 1, got {self.l1_ratio!r}")


class Lasso(ElasticNet):
    """Linear regression with an l1 penalty: `ElasticNet` with ``l1_ratio=1``.

    Parameters, attributes and methods are those of `ElasticNet`.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_petuum.algorithms.lasso import Lasso
    >>> X = np.array([[0.0, 1], [1, 0], [2, 1], [3, 0]])
    >>> model = Lasso(alpha=0.1, tol=1e-10).fit(X, 3 * X[:, 0] + 1)
    >>> model.coef_.round(3).tolist(), round(float(model.intercept_), 3)
    ([2.92, 0.0], 1.12)
    """

    l1_ratio: float = 1.0

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-4,
        positive: bool = False,
        warm_start: bool = False,
        n_jobs: int | None = None,
        verbose: int = 0,
        scheduler: str | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.positive = positive
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.scheduler = scheduler
