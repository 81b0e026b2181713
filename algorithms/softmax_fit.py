"""One call of ``SoftmaxRegression.fit`` or ``partial_fit``: look at the rows, set up, run, keep."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_random_state

from dask_petuum.data import Partition
from dask_petuum.runtime.job import Job, RunResult

from .linear_labels import class_counts, class_weights, learn_classes
from .softmax_program import (
    Objective,
    Schedule,
    SoftmaxProgram,
    clocks_per_pass,
    encode,
    row_weights,
)

if TYPE_CHECKING:
    from .softmax_regression import SoftmaxRegression

__all__ = ["SoftmaxFit"]

#: Rows of a partition that are looked at to choose the step size.
SAMPLE_ROWS = 2048
#: Iterations of the power method: within a few per cent is enough.
N_POWER = 20
#: AdaGrad's first step moves a typical score by about this.
ADAGRAD_MOVE = 2.0


class Curvature(NamedTuple):
    """What bounds a stable step size, from a sample of a partition's rows."""

    largest: float  # largest eigenvalue of the mean of s x x'
    square: float  # mean of s^2 |x|^2


class SoftmaxFit:
    """The run of one fit.

    Parameters
    ----------
    estimator
        Its parameters have been checked.
    job
        The data, and the place to run.
    dtype
        Type of the rows and weights.
    """

    def __init__(self, estimator: SoftmaxRegression, job: Job, dtype: Any) -> None:
        self.estimator = estimator
        self.job = job
        self.dtype = np.dtype(dtype)
        self.n_features = job.n_features

    def learn_classes(self) -> None:
        """Collect the labels where they lie."""
        self.estimator.classes_ = learn_classes(self.job, type(self.estimator).__name__)

    def run(self, *, seen: float, steps_done: int, max_passes: int, callbacks: bool) -> float:
        """Make passes over the rows from the estimator's weights; the rows' total weight.

        Parameters
        ----------
        seen
            Weight of rows of earlier calls, for the penalty's share.
        steps_done
            Steps of earlier calls, for the step size.
        max_passes
            Passes at most.
        callbacks
            Whether scikit-learn's callbacks are told.
        """
        given = self.estimator
        objective, total = self._objective(seen)
        schedule = self._schedule(objective, steps_done)
        weights, squares = self._first(objective)
        program = SoftmaxProgram(objective, schedule, weights, squares)
        given.n_features_in_ = self.n_features
        given._run(
            self.job,
            program,
            partial(self._keep, schedule),
            max_clocks=max_passes * schedule.clocks_per_pass,
            seed=given._seed(check_random_state(given.random_state)),
            callbacks=callbacks,
        )
        return total

    def _objective(self, seen: float) -> tuple[Objective, float]:
        given = self.estimator
        n_classes = len(given.classes_)
        counts = class_counts(self.job, given.classes_)
        factors = class_weights(counts, given.class_weight, given.classes_)
        total = float(counts @ factors)
        # Two classes: one vector w = w_1 - w_0 is penalised, as in LogisticRegression, and with
        # w_1 = -w_0 its square is twice that of both together.
        factor = 2.0 if n_classes == 2 else 1.0
        penalty = factor / (given.C * (total + seen)) if np.isfinite(given.C) else 0.0
        n_rows = self.job.n_rows
        objective = Objective(
            given.classes_, factors, n_rows, n_rows / total, penalty, given.fit_intercept
        )
        return objective, total

    def _schedule(self, objective: Objective, steps_done: int) -> Schedule:
        given = self.estimator
        sizes = [size.n_rows for size in self.job.sizes]
        largest = max(sizes)
        decay = given.decay
        if decay == "auto":
            decay = 0.0 if given.solver == "adagrad" else 0.3
        schedule = Schedule(
            rule=given.solver,
            rate=1.0,
            decay=float(decay),
            momentum=float(given.momentum),
            batch_size=int(given.batch_size),
            clocks_per_pass=1,
            steps_done=steps_done,
            tol=float(given.tol),
            shuffle=bool(given.shuffle),
        )
        n_clocks = given.clocks_per_pass
        if n_clocks == "auto":
            n_clocks = clocks_per_pass(largest, schedule.n_lanes(largest), schedule.batch_size)
        n_lanes = sum(schedule.n_lanes(size) for size in sizes)
        rate = given.learning_rate
        if rate == "auto":
            rate = self._rate(objective, schedule, n_lanes)
        return Schedule(
            **{**schedule.__dict__, "rate": float(rate), "clocks_per_pass": int(n_clocks)}
        )

    def _rate(self, objective: Objective, schedule: Schedule, n_lanes: int) -> float:
        """Choose a step size that is stable on batches; see the estimator's notes."""
        parts = self.job.map(partial(_curvature, objective))
        shares = np.array([size.n_rows for size in self.job.sizes]) / self.job.n_rows
        largest = float(shares @ [part.largest for part in parts]) * objective.unit
        square = float(shares @ [part.square for part in parts]) * objective.unit**2
        if schedule.rule == "adagrad":
            return ADAGRAD_MOVE / max(float(np.sqrt(square)), 1e-12)
        bound = 0.5 * (largest + square / schedule.batch_size) + objective.penalty
        room = min(2.0, np.sqrt(max(1.0, n_lanes / 2)))
        return float(room * (1.0 - schedule.momentum) / max(bound, 1e-12))

    def _first(self, objective: Objective) -> tuple[NDArray[Any], NDArray[Any]]:
        """First values of the tables: zero, or where the estimator stands."""
        given = self.estimator
        shape = (self.n_features + 1, len(given.classes_))
        weights, squares = np.zeros(shape, self.dtype), np.zeros(shape, self.dtype)
        if hasattr(given, "coef_"):
            weights[:-1], weights[-1] = given.coef_.T, given.intercept_
            if shape[1] == 2:
                weights[:, 0] *= -0.5
                weights[:, 1] *= 0.5
        if given.__dict__.get("_squares") is not None:
            squares[:] = given._squares
        return weights, squares

    def _keep(self, schedule: Schedule, result: RunResult) -> None:
        given = self.estimator
        weights = np.array(result.tables["weights"], dtype=self.dtype)
        if weights.shape[1] == 2:
            weights = weights[:, 1:] - weights[:, :1]
        given.coef_ = np.ascontiguousarray(weights[:-1].T)
        given.intercept_ = weights[-1].copy()
        given._squares = None
        if schedule.rule == "adagrad":
            given._squares = np.array(result.tables["squares"])
        given.history_ = list(result.history)
        given.n_iter_ = int(np.ceil(result.n_clocks / schedule.clocks_per_pass))
        steps = schedule.steps_per_pass(max(size.n_rows for size in self.job.sizes))
        given.n_steps_ = schedule.steps_done + int(
            result.n_clocks * steps / schedule.clocks_per_pass
        )


def _curvature(objective: Objective, partition: Partition) -> Curvature:
    """Look at evenly spaced rows: largest eigenvalue (power method), mean square."""
    if not partition.n_rows:
        return Curvature(0.0, 0.0)
    chosen = np.unique(np.linspace(0, partition.n_rows - 1, SAMPLE_ROWS).astype(np.int64))
    codes = encode(partition.y, objective.classes)
    weights = row_weights(partition, codes, objective.class_weights)
    weights = weights[chosen] if len(weights) else np.ones(len(chosen))
    rows: Any = partition.data[chosen]
    sparse: bool = bool(issparse(rows))
    norms = np.asarray((rows.multiply(rows) if sparse else rows**2).sum(axis=1))
    norms = norms.ravel().astype(np.float64) + objective.fit_intercept
    vector = np.random.default_rng(0).standard_normal(rows.shape[1]).astype(rows.dtype)
    bias, value = float(objective.fit_intercept), 0.0
    for _ in range(N_POWER):
        length = np.sqrt(float(vector @ vector) + bias**2)
        if length == 0:
            break
        vector, bias = vector / length, bias / length
        scores = weights * (rows @ vector + bias)
        value = float(scores @ (rows @ vector + bias)) / len(chosen)
        vector = (rows.T @ scores / len(chosen)).astype(rows.dtype)
        bias = float(objective.fit_intercept) * float(scores.mean())
    return Curvature(value, float((weights**2) @ norms) / len(chosen))
