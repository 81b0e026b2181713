"""Small programs and an estimator for the tests of the runtime; workers import them as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.callback import with_callbacks

from dask_petuum.base import PetuumEstimator
from dask_petuum.runtime.program import DataParallelProgram
from dask_petuum.store.spec import TableSpec


def residuals(X, y, w):
    """Not a BLAS call, whose last bit depends on the number of threads."""
    return (X * w).sum(axis=1) - y


def downhill(X, residual, n_rows):
    """A part of the step of gradient descent."""
    return -0.5 / n_rows * (X * residual[:, np.newaxis]).sum(axis=0)


@dataclass
class LeastSquares(DataParallelProgram):
    """Gradient descent for least squares, and counts of rows that were seen."""

    n_features: int
    n_rows: int
    tol: float = -1.0
    metrics = ("sse", "n")

    def tables(self) -> Sequence[TableSpec]:
        return [
            TableSpec("w", (self.n_features, 1), "float64"),
            TableSpec("seen", (self.n_features, 1), "int64"),
        ]

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        ctx.table("seen").view().inc(np.full((self.n_features, 1), partition.n_rows))
        return {"draws": np.zeros(0)}

    def step(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        view = ctx.table("w").view()
        residual = residuals(partition.data, partition.y, view.values[:, 0])
        view.inc(downhill(partition.data, residual, self.n_rows)[:, np.newaxis])
        ctx.table("seen").view().inc(np.full((self.n_features, 1), partition.n_rows))
        draw = np.random.default_rng(ctx.seed(partition)).random()
        state["draws"] = np.append(state["draws"], draw)
        return {"sse": float(residual @ residual), "n": float(partition.n_rows)}

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        return {"mse": totals["sse"] / totals["n"], "n": totals["n"]}

    def converged(self, history: Sequence[Mapping[str, float]]) -> bool:
        return history[-1]["mse"] < self.tol

    def finish(self, ctx: Any, partition: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {
            "draws": state["draws"],
            "where": np.array([partition.index, partition.row_start, partition.n_rows]),
            "clocks": np.array([len(state["draws"])]),
        }


class LeastSquaresRegressor(PetuumEstimator):
    """An estimator around it."""

    def __init__(
        self,
        max_iter=50,
        scheduler=None,
        n_jobs=None,
        verbose=0,
        consistency="bsp",
        staleness=0,
    ):
        self.max_iter = max_iter
        self.scheduler = scheduler
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.consistency = consistency
        self.staleness = staleness

    @with_callbacks
    def fit(self, X, y):
        with self._open_job(X, y, dtype="float64") as job:
            program = LeastSquares(job.n_features, job.n_rows)
            self._run(job, program, self._keep, max_clocks=self.max_iter)
        return self

    def _keep(self, result):
        self.coef_ = result.tables["w"][:, 0]
        self.history_ = result.history
        self.n_iter_ = result.n_clocks
        self.stopped_by_ = result.stopped_by


def make_data(n_rows=400, n_features=5):
    """Rows, and targets that the coefficients 0, 1, 2, ... fit exactly."""
    X = np.random.default_rng(0).normal(size=(n_rows, n_features))
    return X, X @ np.arange(float(n_features))
