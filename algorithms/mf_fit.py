"""One call of ``MatrixFactorization.fit``: pose the problem, run a solver, keep the factors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.model_parallel import Rotation
from dask_petuum.runtime.job import Job, RunResult

from .kernels.mf_lanes import LANES
from .mf_ccd import CcdProgram, Plan
from .mf_problem import Penalty, Problem, pose
from .mf_sgd import SgdProgram
from .mf_stop import Stop, passes_of

if TYPE_CHECKING:
    from .matrix_factorization import MatrixFactorization

__all__ = ["penalty_of", "run_fit"]


def penalty_of(estimator: MatrixFactorization) -> Penalty:
    """Read the penalties from an estimator's parameters."""
    biases = estimator.alpha if estimator.alpha_bias is None else estimator.alpha_bias
    return Penalty(float(estimator.alpha), float(biases), bool(estimator.weighted))


def run_fit(estimator: MatrixFactorization, job: Job) -> None:
    """Run the estimator's solver on a job and set what was learnt."""
    problem = pose(
        job,
        rank=int(estimator.n_components),
        has_biases=bool(estimator.fit_biases),
        penalty=penalty_of(estimator),
        share=float(estimator.validation_fraction) if estimator.early_stopping else 0.0,
        seed=estimator._seed(estimator.random_state),
    )
    stop = Stop(float(estimator.tol), int(estimator.n_iter_no_change))
    program: Any
    if estimator.solver == "ccd":
        plan = Plan(problem.width // LANES, problem.has_biases)
        program = CcdProgram(problem, plan, [size.n_rows for size in job.sizes], stop)
    else:
        order = Rotation("free" if estimator.schedule == "free" else "fixed")
        program = SgdProgram(problem, float(estimator.learning_rate), len(job.sizes), stop, order)
    seen = job.map(_rated) if estimator.keep_seen else None
    estimator._run(
        job,
        program,
        partial(_keep, estimator, problem, program),
        max_clocks=int(estimator.max_iter),
        seed=problem.seed,
    )
    estimator._seen = None if seen is None else _joined(seen)


def _keep(
    estimator: MatrixFactorization,
    problem: Problem,
    program: CcdProgram | SgdProgram,
    result: RunResult,
) -> None:
    """Set the fitted attributes."""
    users = np.concatenate([output["users"] for output in result.outputs])
    items = program.items_of(result)
    estimator.user_factors_, estimator.user_bias_ = problem.unpack(users, 0)
    estimator.item_factors_, estimator.item_bias_ = problem.unpack(items, 1)
    estimator.mean_ = problem.mean
    estimator._scale = problem.scale
    passes = passes_of(result.history)
    estimator.history_ = [
        {"pass": number + 1, **{k: v for k, v in record.items() if k != "pass_end"}}
        for number, record in enumerate(passes)
    ]
    estimator.n_iter_ = len(passes)


def _rated(partition: Partition) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which items each user of a partition has rated."""
    csr: Any = partition.data
    return csr.indptr, csr.indices


def _joined(
    parts: list[tuple[NDArray[Any], NDArray[Any]]],
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    counts = np.concatenate([np.diff(indptr) for indptr, _ in parts])
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return indptr, np.concatenate([indices for _, indices in parts])
