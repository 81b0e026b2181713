"""Logistic regression with l1, l2 or both penalties, with a certificate: the duality gap.

scikit-learn's objective: with scores ``z_i = W x_i + b``

.. math:: \\min_{W, b} C \\sum_i s_i \\Big(\\log \\sum_k e^{z_{ik}} - z_{i y_i}\\Big)
          + \\rho \\|W\\|_1 + \\frac{1 - \\rho}{2} \\|W\\|_2^2

with ``rho = l1_ratio`` (two classes: one vector ``w = w_1 - w_0``). The programs are in
``logistic_program`` (sums over all rows) and ``logistic_columns_program`` (working sets of columns
on one partition). Not here: one-against-rest (use scikit-learn's OneVsRestClassifier), solvers for
approximate answers on streams (``SoftmaxRegression``).
"""

from __future__ import annotations

import warnings
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning

from dask_petuum.base import PetuumEstimator
from dask_petuum.data.kinds import dask_backed
from dask_petuum.runtime.job import Job, RunResult
from dask_petuum.runtime.program import DataParallelProgram
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import check_number, check_values, float_dtype
from .linear_labels import check_labelled, class_counts, class_weights, learn_classes
from .linear_scores import ProbabilitiesMixin
from .logistic_columns_program import LogisticColumnsProgram
from .logistic_objective import LogisticObjective
from .logistic_program import LogisticProgram

__all__ = ["LogisticRegression"]

#: Unknowns up to which solver="auto" sums the Hessian.
FEW_UNKNOWNS = 300


class LogisticRegression(
    ProbabilitiesMixin,
    ClassifierMixin,  # type: ignore[misc]
    PetuumEstimator,
):
    """Logistic regression of dense or sparse rows, here or on a Dask cluster.

    Two classes, or the multinomial model for more. Parameters are named as in scikit-learn 1.9:
    ``C`` and ``l1_ratio`` say what the penalty is.

    Parameters
    ----------
    C
        Inverse of the penalty's strength; ``np.inf``: no penalty.
    l1_ratio
        0: l2 penalty; 1: l1 penalty; between: elastic net.
    tol
        Stop when the duality gap is at most this share of the objective. Without a penalty (no
        finite gap): when no slope of the mean loss is above it.
    fit_intercept
        Whether to learn intercepts (not penalised).
    class_weight
        None, "balanced" or a dict from label to factor.
    solver
        "newton": the Hessian of all unknowns is summed over the rows. "lbfgs": only gradients are
        (OWL-QN with an l1 penalty). "working-set": Newton's method on growing sets of columns, for
        two classes, an l1 part in the penalty, and rows in one partition. "auto": the last one
        where it can be, else the first for up to 300 unknowns.
    max_iter
        Clocks at most: trial points, or working sets.
    warm_start
        Let ``fit`` start from the weights of the last fit.
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
    classes_ : ndarray (n_classes,)
    coef_ : ndarray (n_classes, n_features), or (1, n_features) for two classes; of X's dtype
    intercept_ : ndarray (n_classes,) or (1,)
    objective_ : float, the objective
    dual_gap_ : float, upper bound of how far it is above the optimum (of the weights in float64);
        without a penalty nan
    n_iter_ : int, clocks made
    history_ : list of dict, one record a clock
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for minimizing composite
    functions", SIAM J. Optim. 24, 2014. M. Massias, A. Gramfort, J. Salmon, "Celer: a fast solver
    for the lasso with dual extrapolation", ICML 2018 (working sets). G. Andrew, J. Gao, "Scalable
    training of L1-regularized log-linear models", ICML 2007.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from dask_petuum.algorithms.logistic_regression import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(l1_ratio=0.5).fit(X, y)
    >>> model.score(X, y) > 0.95, model.dual_gap_ <= 1e-4 * model.objective_
    (True, True)
    """

    objective_: float
    dual_gap_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str = "auto",
        max_iter: int = 1000,
        warm_start: bool = False,
        n_jobs: int | None = None,
        verbose: int = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.max_iter = max_iter
        self.warm_start = warm_start
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
            (n_rows,) labels of any kind that can be ordered.
        sample_weight
            (n_rows,) weights >= 0; None: 1 each.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        self._check_parameters()
        X, y, sample_weight = check_labelled(self, X, y, sample_weight)
        check = None if dask_backed(X) is None else check_values
        classes = self.classes_ if self.warm_start and hasattr(self, "coef_") else None
        with self._open_job(X, y, sample_weight, check=check, dtype=float_dtype(X)) as job:
            self.classes_ = learn_classes(job, type(self).__name__)
            self.n_features_in_ = job.n_features
            counts = class_counts(job, self.classes_)
            penalised = bool(np.isfinite(self.C))
            objective = LogisticObjective(
                C=float(self.C) if penalised else 1.0,
                l1=float(self.l1_ratio) if penalised else 0.0,
                l2=1.0 - float(self.l1_ratio) if penalised else 0.0,
                fit_intercept=bool(self.fit_intercept),
                classes=self.classes_,
                class_weights=class_weights(counts, self.class_weight, self.classes_),
            )
            init = np.zeros((job.n_features + 1, objective.n_columns))
            known = classes is not None and np.array_equal(classes, self.classes_)
            if known and self.coef_.T.shape == init[:-1].shape:
                init[:-1] = self.coef_.T
                init[-1] = self.intercept_ * objective.fit_intercept
            self._check_classes(counts)
            program = self._program(job, objective, init)
            keep = partial(self._keep, float_dtype(X))
            self._run(job, program, keep, max_clocks=self.max_iter)
        return self

    def _program(
        self, job: Job, objective: LogisticObjective, init: NDArray[np.float64]
    ) -> DataParallelProgram:
        can = objective.n_columns == 1 and objective.l1 > 0 and len(job.sizes) == 1
        solver = self.solver
        if solver == "auto":
            few = init.size <= FEW_UNKNOWNS
            solver = "working-set" if can else ("newton" if few else "lbfgs")
        if solver == "working-set":
            if not can:
                raise ValueError(
                    "solver='working-set' needs two classes, l1_ratio > 0 with a finite C, and "
                    f"rows in one partition; got {len(objective.classes)} classes, l1_ratio="
                    f"{self.l1_ratio}, C={self.C}, {len(job.sizes)} partitions; use solver='auto'"
                )
            return LogisticColumnsProgram(objective, job.n_features, float(self.tol), init)
        newton = solver == "newton"
        return LogisticProgram(objective, job.n_features, newton, float(self.tol), init)

    def _check_classes(self, counts: NDArray[np.float64]) -> None:
        """Refuse rows of one class (all others of weight 0): the intercept would be endless."""
        if (counts > 0).sum() < 2:
            raise ValueError(
                "LogisticRegression needs samples of at least 2 classes with weights above 0, "
                f"got weights {counts.tolist()} for the classes {list(self.classes_)}"
            )

    def _keep(self, dtype: Any, result: RunResult) -> None:
        weights = result.outputs[0]["weights"]
        primal, dual, finished = result.outputs[0]["certificate"].tolist()
        self.coef_ = np.ascontiguousarray(weights[:-1].T).astype(dtype)
        # Intercepts of more than two classes only matter by their differences.
        shared = weights[-1].mean() if weights.shape[1] > 1 else 0.0
        self.intercept_ = (weights[-1] - shared).astype(dtype)
        self.objective_ = primal
        self.dual_gap_ = max(primal - dual, 0.0) if np.isfinite(self.C) else np.nan
        self.history_ = list(result.history)
        self.n_iter_ = result.n_clocks
        if not finished and result.stopped_by == "max_clocks":
            warnings.warn(
                f"LogisticRegression did not converge in max_iter={self.max_iter} clocks: the "
                f"duality gap is {self.dual_gap_:.2e} of an objective of {primal:.6g}, tol is "
                f"{self.tol}. Raise max_iter or tol, or scale the features.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _check_parameters(self) -> None:
        check_number("C", self.C, Real, 0, strict=True)
        check_number("l1_ratio", self.l1_ratio, Real, 0)
        if self.l1_ratio > 1:
            raise ValueError(f"l1_ratio must be between 0 and 1, got {self.l1_ratio!r}")
        check_number("tol", self.tol, Real, 0)
        check_number("max_iter", self.max_iter, Integral, 1)
        if self.solver not in ("auto", "newton", "lbfgs", "working-set"):
            raise ValueError(
                f"solver must be 'auto', 'newton', 'lbfgs' or 'working-set', got {self.solver!r}"
            )
