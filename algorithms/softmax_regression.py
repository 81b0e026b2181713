"""Softmax (multinomial logistic) regression by minibatch steps through the store.

The objective is that of scikit-learn's ``LogisticRegression``: with scores ``z_i = W x_i + b``,

.. math:: \\min_{W, b} C \\sum_i s_i \\left(\\log \\sum_k e^{z_{ik}} - z_{i y_i}\\right)
          + \\tfrac12 \\|W\\|^2

(two classes: one vector ``w = w_1 - w_0``). The program is in ``softmax_program``. Not here: l1
penalties, and solvers that reach the optimum to many digits.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.callback import with_callbacks

from dask_petuum.base import PetuumEstimator
from dask_petuum.store.consistency import Consistency, Staleness
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import check_choice, check_number, float_dtype, open_rows
from .linear_labels import check_labelled, classes_to_come
from .linear_scores import ProbabilitiesMixin
from .softmax_fit import SoftmaxFit

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression(
    ProbabilitiesMixin,
    ClassifierMixin,  # type: ignore[misc]
    PetuumEstimator,
):
    """Multinomial logistic regression of dense or sparse rows, here or on a Dask cluster.

    Parameters
    ----------
    C
        Inverse of the strength of the l2 penalty, as in scikit-learn; ``np.inf``: none.
    fit_intercept
        Whether to learn an intercept (not penalised).
    class_weight
        None, "balanced" or a dict from label to factor.
    solver
        "sgd" or "adagrad".
    learning_rate
        First step size; "auto": see Notes.
    decay
        A lane's step size after t steps is ``learning_rate / (1 + decay t / max(T, 1000))`` with T
        its steps in a pass. "auto": 0.3 for "sgd", 0 for "adagrad".
    momentum
        0 <= momentum < 1; of the solver "sgd".
    batch_size
        Rows of a step.
    clocks_per_pass
        How often in a pass the parts' weights are averaged (and sent); "auto": after 32 steps or
        more, at most 10 times.
    max_iter
        Passes over the rows at most.
    tol
        Stop when the mean loss of the last 5 passes is not below that of the 5 before by ``tol``.
    shuffle
        Visit the rows in a new order in each pass.
    warm_start
        Let ``fit`` start from the weights of the last fit.
    random_state
        Seed of the orders.
    n_jobs
        Threads of this process (None: all cores), or of each rank on a cluster (None: all of its
        worker); negative: counted back from these, as in joblib. No effect on the result.
    verbose
        1: print each clock.
    consistency, staleness
        How current the weights are that a clock starts from: "bsp", "ssp", "essp" or "asp", and by
        how many clocks they may lag: a number, a range ``(low, high)`` in which each rank moves
        it, or "auto", the range (0, 8). On one process every read is current.
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
    n_iter_ : int, passes made (rounded up)
    n_steps_ : int, steps of a lane so far; the decay goes by it
    history_ : list of dict, one record a clock; ``loss`` is the mean of the clock's losses, each
        measured before the row's own step, plus the penalty
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    The automatic step size of "sgd" is ``(1 - momentum) / (L / 2 + m / (2 batch_size) + penalty)``
    with L the largest eigenvalue of the mean of ``x x'`` and m the mean of ``|x|^2``, both from a
    sample: 1/2 bounds the curvature of the softmax loss (Böhning 1992), the second term is what a
    random batch adds to it. With more than two lanes it is up to twice as large, because
    their average is steadier. That of "adagrad" is ``2 / sqrt(m)``.
    Scale the features (StandardScaler) for fast convergence.

    References
    ----------
    D. Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Stat. Math. 44, 1992.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from dask_petuum.algorithms.softmax_regression import SoftmaxRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> SoftmaxRegression(random_state=0).fit(X, y).score(X, y) > 0.95
    True
    """

    classes_: NDArray[Any]
    coef_: NDArray[Any]
    intercept_: NDArray[Any]
    n_iter_: int
    n_steps_: int
    n_features_in_: int
    _squares: NDArray[Any] | None
    _seen: float

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str = "adagrad",
        learning_rate: float | str = "auto",
        decay: float | str = "auto",
        momentum: float = 0.0,
        batch_size: int = 32,
        clocks_per_pass: int | str = "auto",
        max_iter: int = 100,
        tol: float = 1e-4,
        shuffle: bool = True,
        warm_start: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        consistency: str = "bsp",
        staleness: Staleness = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.learning_rate = learning_rate
        self.decay = decay
        self.momentum = momentum
        self.batch_size = batch_size
        self.clocks_per_pass = clocks_per_pass
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.consistency = consistency
        self.staleness = staleness
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
        before = self.classes_ if self.warm_start and hasattr(self, "coef_") else None
        X, y, sample_weight = check_labelled(self, X, y, sample_weight)
        with open_rows(self, X, y, sample_weight) as job:
            fit = SoftmaxFit(self, job, float_dtype(X))
            fit.learn_classes()
            if before is None or not np.array_equal(before, self.classes_):
                self._forget()
            fit.run(seen=0.0, steps_done=0, max_passes=self.max_iter, callbacks=True)
        self._seen = 0.0
        return self

    @unchanged_by_errors
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Make one pass over further rows.

        The penalty counts by the weight of all rows seen by ``partial_fit`` so far; the step
        size goes on decaying from where it was; a momentum starts anew.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``.
        classes
            All labels that will ever come; needed in the first call.
        """
        self._check_parameters()
        first = not hasattr(self, "coef_")
        classes = classes_to_come(classes, None if first else self.classes_)
        X, y, sample_weight = check_labelled(self, X, y, sample_weight, reset=first)
        if first:
            self._forget()
            self.classes_ = classes
        seen = self.__dict__.get("_seen", 0.0)
        steps = self.__dict__.get("n_steps_", 0)
        history = self.__dict__.get("history_", [])
        with open_rows(self, X, y, sample_weight) as job:
            fit = SoftmaxFit(self, job, float_dtype(X))
            total = fit.run(seen=seen, steps_done=steps, max_passes=1, callbacks=False)
        self.history_ = history + [
            {**record, "clock": record["clock"] + len(history)} for record in self.history_
        ]
        self._seen = seen + total
        return self

    def _forget(self) -> None:
        """Drop what was learnt (n_features and labels may be others now)."""
        for name in ("coef_", "intercept_", "_squares", "_seen", "n_steps_", "history_"):
            self.__dict__.pop(name, None)

    def _check_parameters(self) -> None:
        check_number("C", self.C, Real, 0, strict=True)
        check_number("momentum", self.momentum, Real, 0)
        check_number("tol", self.tol, Real, 0)
        check_number("batch_size", self.batch_size, Integral, 1)
        check_number("max_iter", self.max_iter, Integral, 1)
        check_choice("solver", self.solver, ("sgd", "adagrad"))
        if self.momentum >= 1 or (self.momentum and self.solver != "sgd"):
            raise ValueError(
                f"momentum must be below 1, and 0 unless solver='sgd', got {self.momentum!r} "
                f"with solver={self.solver!r}"
            )
        Consistency.parse(self.consistency, self.staleness)
        if self.learning_rate != "auto":
            check_number("learning_rate", self.learning_rate, Real, 0, strict=True)
        if self.decay != "auto":
            check_number("decay", self.decay, Real, 0)
        if self.clocks_per_pass != "auto":
            check_number("clocks_per_pass", self.clocks_per_pass, Integral, 1)
