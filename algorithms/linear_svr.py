"""Linear support vector regression, with a certificate: the duality gap.

.. math:: \\min_{w, v} \\tfrac12 (\\|w\\|^2 + v^2) + C \\sum_i s_i \\,
          \\ell\\big(|y_i - w \\cdot x_i - s v| - \\varepsilon\\big)

with ``l(e) = max(0, e)`` or its square; ``s`` is ``intercept_scaling``, and ``s v`` the intercept.
The program is that of ``LinearSVC(dual=True)``, in ``svm_dual_program``. Not here: Newton's method
in the primal for few features.
"""

from __future__ import annotations

import warnings
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning

from dask_petuum.base import PetuumEstimator
from dask_petuum.runtime.job import RunResult
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import check_choice, check_number, float_dtype, open_rows
from .linear_targets import LinearPredictionMixin, check_targets, check_values_and_targets
from .svm_dual_program import SvmDualProgram
from .svm_rows import relative_gap
from .svr_objective import SvrObjective

__all__ = ["LinearSVR"]

LOSSES = ("epsilon_insensitive", "squared_epsilon_insensitive")


class LinearSVR(
    LinearPredictionMixin,
    RegressorMixin,  # type: ignore[misc]
    PetuumEstimator,
):
    """Linear support vector regression of dense or sparse rows, here or on a Dask cluster.

    Parameters
    ----------
    epsilon
        Errors up to this cost nothing; in the unit of y.
    tol
        Stop when the duality gap is at most this share of the objective.
    C
        Weight of the losses against the penalty.
    loss
        "epsilon_insensitive" or "squared_epsilon_insensitive".
    fit_intercept
        Whether to learn an intercept.
    intercept_scaling
        The intercept is the weight of a constant feature of this value, and is penalised as
        such, as in scikit-learn's ``LinearSVR``: larger values, less penalty.
    max_iter
        Clocks at most, of 2 to 25 passes over the rows each.
    random_state
        Seed of the order of the rows.
    n_jobs
        Threads of this process in a local run (None: all cores); no effect on the result.
    verbose
        1: print each clock.
    scheduler
        None: the active Dask client, else this process; "local"; or a scheduler's address.
    checkpoint
        URL of a folder (anything that fsspec opens) in which checkpoints of a fit are files; None:
        a fit on a cluster keeps them in the memory of its workers. See :doc:`/recovery`.

    Attributes
    ----------
    coef_ : ndarray (n_features,), of X's dtype
    intercept_ : float of X's dtype; 0.0 without an intercept
    objective_ : float
    dual_gap_ : float, upper bound of how far the objective is above its minimum (of the weights in
        float64)
    n_iter_ : int, clocks made
    history_ : list of dict, one record a clock
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    C.-H. Ho and C.-J. Lin, "Large-scale linear support vector regression", JMLR 13, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_petuum.algorithms.linear_svr import LinearSVR
    >>> X = np.array([[-1.0], [0.0], [1.0], [2.0]])
    >>> model = LinearSVR(epsilon=0.1, C=100.0, random_state=0).fit(X, 3 * X[:, 0])
    >>> bool(abs(model.predict(X) - 3 * X[:, 0]).max() < 0.2)
    True
    """

    coef_: NDArray[Any]
    intercept_: Any
    objective_: float
    dual_gap_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        *,
        epsilon: float = 0.0,
        tol: float = 1e-3,
        C: float = 1.0,
        loss: str = "epsilon_insensitive",
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        max_iter: int = 1000,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.tol = tol
        self.C = C
        self.loss = loss
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.max_iter = max_iter
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.scheduler = scheduler
        self.checkpoint = checkpoint

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, resume: str | None = None) -> Self:
        """Learn the weights.

        Parameters
        ----------
        X
            (n_rows, n_features): ndarray, CSR, DataFrame, xarray or a Dask collection.
        y
            (n_rows,) targets.
        sample_weight
            (n_rows,) weights >= 0; None: 1 each.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        self._check_parameters()
        X, y, sample_weight = check_targets(self, X, y, sample_weight)
        dtype = float_dtype(X)
        objective = SvrObjective(
            hinge=self.loss == LOSSES[0],
            epsilon=float(self.epsilon),
            C=float(self.C),
            bias=float(self.intercept_scaling) if self.fit_intercept else 0.0,
        )
        with open_rows(self, X, y, sample_weight, check_values_and_targets) as job:
            program = SvmDualProgram(objective, job.n_features, len(job.sizes), float(self.tol))
            keep = partial(self._keep, objective.bias, dtype)
            seed = self._seed(self.random_state)
            self._run(job, program, keep, max_clocks=self.max_iter, seed=seed)
        return self

    def _keep(self, bias: float, dtype: Any, result: RunResult) -> None:
        weights = result.outputs[0]["weights"][0]
        primal, dual = np.sum([output["parts"] for output in result.outputs], axis=0).T
        self.coef_ = weights[:-1].astype(dtype)
        self.intercept_ = self.coef_.dtype.type(bias * weights[-1]) if bias else 0.0
        self.objective_ = float(primal[0])
        self.dual_gap_ = max(float(primal[0] - dual[0]), 0.0)
        self.history_ = list(result.history)
        self.n_iter_ = result.n_clocks
        gap = float(relative_gap(primal, dual)[0])
        if gap > self.tol and result.stopped_by == "max_clocks":
            warnings.warn(
                f"LinearSVR did not converge in max_iter={self.max_iter} clocks: the relative "
                f"duality gap is {gap:.2e}, tol is {self.tol}. Raise max_iter or tol, scale the "
                "features, or lower C.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _check_parameters(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_number("epsilon", self.epsilon, Real, 0)
        check_number("tol", self.tol, Real, 0)
        check_number("C", self.C, Real, 0, strict=True)
        check_number("intercept_scaling", self.intercept_scaling, Real, 0, strict=True)
        check_number("max_iter", self.max_iter, Integral, 1)
