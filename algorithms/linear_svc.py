"""Linear support vector classification, with a certificate: the duality gap.

For each binary task (a class against all others; two classes make one task)

.. math:: \\min_{w, v} \\tfrac12 (\\|w\\|^2 + v^2) + C \\sum_i s_i \\,
          \\ell\\big(y_i (w \\cdot x_i + s v)\\big)

with the hinge ``l(m) = max(0, 1 - m)`` or its square; ``s`` is ``intercept_scaling``, and ``s v``
the intercept. The programs are in ``svm_dual_program`` (many features) and ``svm_newton_program``
(few). Not here: l1 penalties and the multi-class loss of Crammer and Singer.
"""

from __future__ import annotations

import warnings
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
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
from .linear_scores import LinearScoresMixin
from .svm_dual_program import SvmDualProgram
from .svm_newton_program import SvmNewtonProgram
from .svm_rows import Objective, relative_gap

__all__ = ["LinearSVC"]

#: Features up to which ``dual="auto"`` takes Newton's method, for dense and for sparse rows: its
#: Hessian costs (values in a row)^2 / 2 a row. And cells of all tasks' Hessians at most.
NEWTON_DENSE, NEWTON_SPARSE, NEWTON_CELLS = 256, 512, 2_000_000


class LinearSVC(LinearScoresMixin, ClassifierMixin, PetuumEstimator):  # type: ignore[misc]
    """Linear support vector machine of dense or sparse rows, here or on a Dask cluster.

    Parameters
    ----------
    loss
        "squared_hinge" or "hinge".
    dual
        True: dual coordinate descent (shared by ADMM where rows are in several partitions). False:
        Newton's method in the primal on sums over the rows; memory and table of
        ``n_tasks n_features^2``. "auto": False for few features. Both losses know both.
    tol
        Stop when each task's duality gap is at most this share of its objective.
    C
        Weight of the losses against the penalty.
    fit_intercept
        Whether to learn an intercept.
    intercept_scaling
        The intercept is the weight of a constant feature of this value, and is penalised as
        such, as in scikit-learn's ``LinearSVC``: larger values, less penalty.
    class_weight
        None, "balanced" or a dict from label to factor of C. With more than two classes the
        factor of a class holds for its own rows in its own task, as in scikit-learn.
    max_iter
        Clocks at most: trial points of Newton's method, or rounds of 2 to 25 passes over the rows.
    random_state
        Seed of the order of the rows (``dual=True``).
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
    objective_ : ndarray (n_tasks,) float64, each task's objective
    dual_gap_ : ndarray (n_tasks,) float64, upper bounds of how far it is above the optimum
        (of the weights in float64)
    n_iter_ : int, clocks made
    history_ : list of dict, one record a clock: objectives and gap of all tasks together
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    C.-J. Hsieh et al., "A dual coordinate descent method for large-scale linear SVM", ICML 2008.
    S. Boyd et al., "Distributed optimization and statistical learning via the alternating direction
    method of multipliers", Found. Trends Mach. Learn. 3, 2011.
    Y. Yan and Q. Li, "An efficient augmented Lagrangian method for support vector machine", 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from dask_petuum.algorithms.linear_svc import LinearSVC
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LinearSVC().fit(X, y)
    >>> model.score(X, y) > 0.95, bool((model.dual_gap_ <= 1e-3 * model.objective_).all())
    (True, True)
    """

    objective_: NDArray[np.float64]
    dual_gap_: NDArray[np.float64]
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        loss: str = "squared_hinge",
        *,
        dual: bool | str = "auto",
        tol: float = 1e-3,
        C: float = 1.0,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: Any = None,
        max_iter: int = 1000,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.loss = loss
        self.dual = dual
        self.tol = tol
        self.C = C
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
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
        with self._open_job(X, y, sample_weight, check=check, dtype=float_dtype(X)) as job:
            self.classes_ = learn_classes(job, type(self).__name__)
            self.n_features_in_ = job.n_features
            counts = class_counts(job, self.classes_)
            objective = Objective(
                hinge=self.loss == "hinge",
                C=float(self.C),
                bias=float(self.intercept_scaling) if self.fit_intercept else 0.0,
                classes=self.classes_,
                class_weights=class_weights(counts, self.class_weight, self.classes_),
            )
            program = self._program(job, objective)
            keep = partial(self._keep, objective.bias, float_dtype(X))
            seed = self._seed(self.random_state)
            self._run(job, program, keep, max_clocks=self.max_iter, seed=seed)
        return self

    def _program(self, job: Job, objective: Objective) -> DataParallelProgram:
        n_features, tol = job.n_features, float(self.tol)
        dual = self.dual
        if dual == "auto":
            sparse = any(job.map(_is_sparse))
            cells = objective.n_tasks * (n_features + 1) ** 2
            few = n_features <= (NEWTON_SPARSE if sparse else NEWTON_DENSE)
            dual = not few or cells > NEWTON_CELLS
        if dual:
            return SvmDualProgram(objective, n_features, len(job.sizes), tol)
        init = np.zeros((objective.n_tasks, n_features + 1))
        return SvmNewtonProgram(objective, n_features, tol, init)

    def _keep(self, bias: float, dtype: Any, result: RunResult) -> None:
        weights = result.outputs[0]["weights"]
        if "duals" in result.outputs[0]:
            primal, dual = result.outputs[0]["duals"].T
        else:
            primal, dual = np.sum([output["parts"] for output in result.outputs], axis=0).T
        self.coef_ = weights[:, :-1].astype(dtype)
        self.intercept_ = (bias * weights[:, -1]).astype(dtype)
        self.objective_ = primal.copy()
        self.dual_gap_ = np.maximum(primal - dual, 0.0)
        self.history_ = list(result.history)
        self.n_iter_ = result.n_clocks
        worst = float(relative_gap(primal, dual).max())
        if worst > self.tol and result.stopped_by == "max_clocks":
            warnings.warn(
                f"LinearSVC did not converge in max_iter={self.max_iter} clocks: the relative "
                f"duality gap is {worst:.2e}, tol is {self.tol}. Raise max_iter or tol, scale the "
                "features, or lower C.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _check_parameters(self) -> None:
        if self.loss not in ("hinge", "squared_hinge"):
            raise ValueError(f"loss must be 'hinge' or 'squared_hinge', got {self.loss!r}")
        if not isinstance(self.dual, bool | np.bool_) and self.dual != "auto":
            raise ValueError(f"dual must be True, False or 'auto', got {self.dual!r}")
        check_number("tol", self.tol, Real, 0)
        check_number("C", self.C, Real, 0, strict=True)
        check_number("intercept_scaling", self.intercept_scaling, Real, 0, strict=True)
        check_number("max_iter", self.max_iter, Integral, 1)


def _is_sparse(partition: Any) -> bool:
    return bool(issparse(partition.data))
