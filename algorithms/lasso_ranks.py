"""One call of ``Lasso.fit`` on partitions of the rows: in this process or on a Dask cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.data.kinds import dask_backed
from dask_petuum.runtime.job import Job, RunOptions, RunResult

from .inputs import float_dtype
from .lasso_fit import SMALLEST, interrupted, keep, warm_coefficients, warn
from .lasso_program import CERTIFIED, LassoProgram, Task
from .lasso_search import Outcome
from .linear_targets import check_targets, check_values_and_targets

if TYPE_CHECKING:
    from .lasso import ElasticNet

__all__ = ["fit_ranks"]

#: Columns of the first Gram table at most (32 MB); it is doubled when it is full.
CAPACITY = 2048


def fit_ranks(estimator: ElasticNet, X: Any, y: Any, sample_weight: Any) -> None:
    """Fit, and set the estimator's fitted attributes."""
    X, y, sample_weight = check_targets(estimator, X, y, sample_weight)
    dtype = float_dtype(X)
    check = None if dask_backed(X) is None else check_values_and_targets
    with estimator._open_job(X, y, sample_weight, check=check, dtype=dtype) as job:
        estimator.n_features_in_ = job.n_features
        root = estimator._init_callback_context(max_subtasks=int(estimator.max_iter) + 1)
        root.call_on_fit_task_begin(estimator=estimator)
        result, outcome, task = _run(estimator, job, root)
    w = np.array(result.tables["model"])[:, 0]
    means = np.asarray(result.outputs[0]["means"])
    keep(estimator, w.astype(dtype), task.mean - float(means @ w), outcome, task.n_rows)
    root.call_on_fit_task_end(estimator=estimator)
    if result.stopped_by == "interrupt":
        interrupted(outcome.n_rounds)
    warn(estimator, outcome, task.n_rows)


def _run(estimator: ElasticNet, job: Job, root: Any) -> tuple[RunResult, Outcome, Task]:
    """Run the program, again with a larger Gram table each time it is full."""
    task = _task(estimator, job)
    first = warm_coefficients(estimator, job.n_features)
    w: NDArray[np.float64] = np.zeros(job.n_features) if first is None else first
    history: list[dict[str, float]] = []
    told = estimator._monitor(root)

    def monitor(record: dict[str, float]) -> bool:
        return record["kind"] == CERTIFIED and told(_shown(record))

    while True:
        left = task.max_rounds - len(history)
        program = LassoProgram(replace(task, max_rounds=max(left, 0)), w)
        options = RunOptions(max_clocks=4 * (left + 2), monitor=monitor)
        result = job.run(program, options)
        certified = [record for record in result.history if record["kind"] == CERTIFIED]
        history += [_shown(record) for record in certified]
        if result.stopped_by != "converged" or not result.history[-1]["full"]:
            break
        w = np.array(result.tables["model"])[:, 0]
        task = replace(task, capacity=min(2 * task.capacity, job.n_features))
        history.pop()  # the next run certifies the same coefficients
    estimator.history_ = [{**record, "clock": float(k)} for k, record in enumerate(history)]
    gap = certified[-1]["dual_gap"] if certified else np.inf
    converged = bool(certified and certified[-1]["converged"])
    stopped = result.stopped_by in ("callback", "interrupt")
    outcome = Outcome(gap * task.n_rows, max(len(history) - 1, 0), converged, stopped)
    return result, outcome, task


def _task(estimator: ElasticNet, job: Job) -> Task:
    parts = np.array(job.map(_weight_and_sum))
    weight, total = (float(value) for value in parts.sum(axis=0))
    if not weight > 0:
        raise ValueError("sample_weight must not be 0 everywhere")
    return Task(
        n_features=job.n_features,
        n_rows=job.n_rows,
        mean=total / weight if estimator.fit_intercept else 0.0,
        unit=job.n_rows / weight,
        center=bool(estimator.fit_intercept),
        alpha=float(estimator.alpha),
        l1_ratio=float(estimator.l1_ratio),
        positive=bool(estimator.positive),
        tol=float(estimator.tol),
        max_rounds=int(estimator.max_iter),
        smallest=SMALLEST,
        capacity=min(CAPACITY, job.n_features),
    )


def _shown(record: dict[str, float]) -> dict[str, float]:
    hidden = ("kind", "converged", "finished", "full")
    return {name: value for name, value in record.items() if name not in hidden}


def _weight_and_sum(partition: Partition) -> tuple[float, float]:
    """Weight of the rows, and weighted sum of their targets."""
    y = np.asarray(partition.y, dtype=np.float64)
    if partition.sample_weight is None:
        return float(len(y)), float(y.sum())
    weights = partition.sample_weight.astype(np.float64)
    return float(weights.sum()), float(weights @ y)
