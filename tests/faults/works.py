"""The fits of the soak, and what came of each."""

from __future__ import annotations

import faulthandler
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse as sp
from injector import Fault, Injector
from members import Members

from benchmarks.corpora import split_documents, synthetic
from dask_petuum import LDA
from dask_petuum.algorithms.lasso import Lasso
from dask_petuum.algorithms.matrix_factorization import MatrixFactorization
from dask_petuum.algorithms.softmax_regression import SoftmaxRegression

__all__ = ["QUALITY", "Calm", "Outcome", "Work", "calm", "fit", "works"]

N_CHUNKS = 8
#: The furthest that an objective may be from the undisturbed one, as a share of it.
QUALITY = 0.01
#: A fit that takes longer hangs, seconds: the soak ends with all threads' stacks.
HANGS = 600


@dataclass(frozen=True)
class Work:
    """A fit, what is judged of it, and how many clocks it has, about."""

    name: str
    make: Callable[[], Any]
    data: Sequence[Any]
    objective: Callable[[Any], float]
    n_clocks: int


@dataclass(frozen=True)
class Calm:
    """A fit that nothing happened to."""

    seconds: float
    objective: float


@dataclass
class Outcome:
    """One fit under faults."""

    work: str
    faults: list[str]
    n_epochs: int
    seconds: float
    objective: float = float("nan")
    error: str = ""

    def deviation(self, calm: Calm) -> float:
        """How far the objective is from the undisturbed one, as a share of it."""
        return abs(self.objective - calm.objective) / max(abs(calm.objective), 1e-12)

    def is_good(self, calm: Calm) -> bool:
        return not self.error and self.deviation(calm) <= QUALITY


def works() -> list[Work]:
    """The four fits: some seconds each."""
    rng = np.random.default_rng(0)
    counts, _ = synthetic(4000, 2000)
    train, test = split_documents(counts, 400)
    rows = rng.standard_normal((40_000, 40))
    labels = (rows @ rng.standard_normal((40, 6)) + rng.gumbel(size=(40_000, 6))).argmax(axis=1)
    wide = rng.standard_normal((2000, 1500))
    target = wide[:, :40] @ rng.standard_normal(40) + rng.standard_normal(2000)
    ratings = np.where(
        rng.random((2000, 600)) < 0.1,
        rng.standard_normal((2000, 8)) @ rng.standard_normal((8, 600)),
        0.0,
    )
    return [
        Work(
            "LDA",
            lambda: LDA(20, max_iter=60, evaluate_every=0, random_state=0),
            [chunked(np.asarray(train.todense(), dtype=np.int32))],
            lambda model: float(model.perplexity(test)),
            60,
        ),
        Work(
            "SoftmaxRegression",
            lambda: SoftmaxRegression(max_iter=30, tol=0, random_state=0),
            [chunked(rows), chunked(labels)],
            lambda model: float(model.history_[-1]["loss"]),
            60,
        ),
        Work(
            "Lasso",
            lambda: Lasso(alpha=0.02, tol=1e-10),
            [chunked(wide), chunked(target)],
            lambda model: lasso_objective(model, wide, target, 0.02),
            40,
        ),
        Work(
            "MatrixFactorization",
            lambda: MatrixFactorization(8, solver="sgd", max_iter=60, tol=0, random_state=0),
            [chunked(ratings).map_blocks(sp.csr_array, meta=sp.csr_array((0, 0)))],
            lambda model: float(model.history_[-1]["rmse"]),
            60,
        ),
    ]


def chunked(values: Any) -> Any:
    return da.from_array(values, chunks=(-(-values.shape[0] // N_CHUNKS), *values.shape[1:]))


def lasso_objective(model: Any, X: Any, y: Any, alpha: float) -> float:
    residual = y - X @ model.coef_ - model.intercept_
    return float(residual @ residual / (2 * len(y)) + alpha * np.abs(model.coef_).sum())


def fit(crew: Members, work: Work, schedule: Sequence[Fault], fills: bool = True) -> Outcome:
    """Fit once; an error is an outcome, too.

    Parameters
    ----------
    fills
        Whether all members are to be there, before and after.
    """
    if fills:
        crew.refill()
    model = work.make()
    model.client = crew.client
    injector = Injector(crew, schedule, ends=False)
    model._print = injector  # told of every clock
    began = time.perf_counter()
    outcome = Outcome(work.name, injector.done, 0, 0.0)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        model.fit(*work.data)
        outcome.objective = work.objective(model)
        outcome.seconds = time.perf_counter() - began
        if fills:
            crew.assert_free()
    except Exception as error:
        logging.exception("%s under %s", work.name, schedule)
        outcome.error = repr(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
    outcome.n_epochs = len(injector.epochs)
    return outcome


def calm(crew: Members, fits: Iterable[Work]) -> dict[str, Calm]:
    """Make each fit undisturbed, when all is compiled."""
    found = {}
    for work in fits:
        fit(crew, work, ())
        outcome = fit(crew, work, ())
        found[work.name] = Calm(outcome.seconds, outcome.objective)
        print(f"{work.name}: {outcome.seconds:.1f} s, {outcome.objective:.6g} undisturbed")
    return found
