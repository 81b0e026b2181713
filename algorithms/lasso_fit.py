"""One call of ``Lasso.fit`` or ``path`` on data in memory, in this process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from dask_petuum.runtime.interrupt import Interruption
from dask_petuum.runtime.threads import Threads, count_threads

from .inputs import check_rows, weights_in_memory
from .lasso_certificate import Penalty
from .lasso_columns import columns_of
from .lasso_search import Outcome
from .lasso_solver import LassoSolver, Tell

if TYPE_CHECKING:
    from .lasso import ElasticNet

__all__ = ["SMALLEST", "fit_here", "interrupted", "keep", "path_here", "penalty_of", "warn"]

#: What stands for a penalty of 0, as a share of the smallest whose solution is 0.
SMALLEST = 1e-9
#: A product of the data that rounding alone leaves of 0, as a share of |x| |y|.
ROUNDING = 1e-14


@dataclass(frozen=True)
class _Data:
    """X, y as the solver takes them, and how to come back.

    Attributes
    ----------
    x
        F-contiguous or CSC; scaled by the roots of the weights.
    y
        (n_rows,) float64, scaled and centred.
    ones
        (n_rows,) what columns are centred with, or empty.
    mean
        Of y.
    """

    x: Any
    y: NDArray[np.float64]
    ones: NDArray[np.float64]
    mean: float


def fit_here(estimator: ElasticNet, X: Any, y: Any, sample_weight: Any) -> None:
    """Fit, and set the estimator's fitted attributes."""
    data = _prepare(estimator, X, y, sample_weight)
    root = estimator._init_callback_context(max_subtasks=int(estimator.max_iter) + 1)
    root.call_on_fit_task_begin(estimator=estimator)
    start = warm_coefficients(estimator, data.x.shape[1])
    with Threads(count_threads(estimator.n_jobs)) as threads, Interruption() as interruption:
        columns = columns_of(data.x, data.ones, threads)
        solver = LassoSolver(columns, data.y, start)
        history: list[dict[str, float]] = []
        tell = _recorder(
            history, estimator._monitor(root), lambda: interruption.requested, len(data.y)
        )
        largest = solver.search.largest_lam(bool(estimator.positive))
        penalty = penalty_of(estimator, estimator.alpha, len(data.y), largest)
        outcome = solver.solve(penalty, estimator.tol, int(estimator.max_iter), tell)
        stopped = interruption.requested
    mean = data.mean - float(columns.means @ solver.w)
    keep(estimator, solver.w.astype(data.x.dtype), mean, outcome, len(data.y))
    estimator.history_ = history
    root.call_on_fit_task_end(estimator=estimator)
    if stopped:
        interrupted(outcome.n_rounds)
    warn(estimator, outcome, len(data.y))


def path_here(
    estimator: ElasticNet,
    X: Any,
    y: Any,
    sample_weight: Any,
    alphas: NDArray[np.float64] | None,
    grid: tuple[float, int],
) -> tuple[NDArray[Any], ...]:
    """Solve for each alpha; ``grid`` is (eps, n_alphas) where none are given.

    Returns
    -------
    Alphas, coefficients (n_features, n_alphas), intercepts, gaps, rounds.
    """
    data = _prepare(estimator, X, y, sample_weight)
    n_rows = len(data.y)
    points = []
    with Threads(count_threads(estimator.n_jobs)) as threads:
        columns = columns_of(data.x, data.ones, threads)
        solver = LassoSolver(columns, data.y)
        before = largest = solver.search.largest_lam(bool(estimator.positive))
        if alphas is None:
            first = largest / n_rows / float(estimator.l1_ratio)
            alphas = max(first, np.finfo(float).tiny) * np.geomspace(1.0, *grid)
        coefs = np.zeros((data.x.shape[1], len(alphas)), dtype=data.x.dtype, order="F")
        for place, alpha in enumerate(alphas):
            penalty = penalty_of(estimator, float(alpha), n_rows, largest)
            strong = 2.0 * penalty.lam - before
            limit = int(estimator.max_iter)
            outcome = solver.solve(
                penalty, estimator.tol, limit, lambda _: False, max(strong, 0.5 * penalty.lam)
            )
            before = penalty.lam
            coefs[:, place] = solver.w
            intercept = data.mean - float(columns.means @ solver.w)
            points.append((intercept, outcome.gap / n_rows, outcome.n_rounds))
            warn(estimator, outcome, n_rows)
    intercepts, gaps, rounds = (np.array(values) for values in zip(*points, strict=True))
    return alphas, coefs, intercepts, gaps, rounds


def penalty_of(estimator: ElasticNet, alpha: float, n_rows: int, largest: float) -> Penalty:
    """Scale the penalty to the sum of squares; ``largest`` is the smallest lam that gives 0."""
    ratio = float(estimator.l1_ratio)
    lam = alpha * ratio * n_rows
    ridge = alpha * (1.0 - ratio) * n_rows
    if alpha == 0.0:
        lam = SMALLEST * largest
    return Penalty(lam, ridge, bool(estimator.positive))


def keep(
    estimator: ElasticNet, coef: NDArray[Any], intercept: float, outcome: Outcome, n_rows: int
) -> None:
    """Set what ``fit`` has found."""
    estimator.coef_ = coef
    estimator.intercept_ = coef.dtype.type(intercept) if estimator.fit_intercept else 0.0
    estimator.dual_gap_ = float(outcome.gap / n_rows)
    estimator.n_iter_ = outcome.n_rounds


def warn(estimator: ElasticNet, outcome: Outcome, n_rows: int) -> None:
    """Warn where the gap is not small enough, unless somebody stopped the search."""
    if not outcome.converged and not outcome.stopped:
        warnings.warn(
            f"{type(estimator).__name__} did not converge: the dual gap is "
            f"{outcome.gap / n_rows:.3e} after {outcome.n_rounds} rounds, wanted is tol "
            f"({estimator.tol}) times y'y / n_rows; increase max_iter, tol or alpha.",
            ConvergenceWarning,
            stacklevel=5,
        )


def interrupted(n_rounds: int) -> None:
    """End as after Ctrl-C."""
    raise KeyboardInterrupt(
        f"fit was interrupted after {n_rounds} rounds; the estimator keeps what it had learnt"
    )


def warm_coefficients(estimator: ElasticNet, n_features: int) -> NDArray[np.float64] | None:
    """Coefficients to start from."""
    coef = getattr(estimator, "coef_", None)
    if not estimator.warm_start or coef is None or len(coef) != n_features:
        return None
    start = np.asarray(coef, dtype=np.float64)
    return np.maximum(start, 0.0) if estimator.positive else start


def _prepare(estimator: ElasticNet, X: Any, y: Any, sample_weight: Any) -> _Data:
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"{name} requires y to be passed, but the target y is None")
    X, y = check_rows(estimator, X, y, reset=True, columns=True)
    target = np.asarray(y, dtype=np.float64)
    n_rows = len(target)
    ones = np.ones(n_rows) if estimator.fit_intercept else np.empty(0)
    if not isinstance(X, np.ndarray) and not X.has_canonical_format:
        X = sp.csc_array(X, copy=True)
        X.sum_duplicates()
    if sample_weight is not None:
        weights = weights_in_memory(X, sample_weight)
        total = float(weights.sum())
        if not total > 0:
            raise ValueError("sample_weight must not be 0 everywhere")
        roots = np.sqrt(weights * (n_rows / total))
        X, target = _scaled(X, roots), target * roots
        ones = roots if estimator.fit_intercept else ones
    mean = 0.0
    if len(ones):
        mean = float(ones @ target) / float(ones @ ones)
        scale = np.abs(target).max()
        target = target - mean * ones
        if np.abs(target).max() <= ROUNDING * scale:
            target = np.zeros(n_rows)
    return _Data(X, target, ones, mean)


def _scaled(X: Any, roots: NDArray[np.float64]) -> Any:
    """Multiply the rows; X's dtype and layout are kept."""
    factors = roots.astype(X.dtype)
    if not isinstance(X, np.ndarray):
        return sp.csc_array((X.data * factors[X.indices], X.indices, X.indptr), shape=X.shape)
    return np.multiply(X, factors[:, None], order="F")


def _recorder(
    history: list[dict[str, float]],
    monitor: Callable[[dict[str, float]], bool],
    requested: Callable[[], bool],
    n_rows: int,
) -> Tell:
    """Make the function that keeps the history, and tells callbacks."""
    started = time.perf_counter()

    def tell(found: dict[str, float]) -> bool:
        record = {
            "clock": float(len(history)),
            "seconds": time.perf_counter() - started,
            **found,
            "objective": found["objective"] / n_rows,
            "dual_gap": found["dual_gap"] / n_rows,
        }
        history.append(record)
        return monitor(record) or requested()

    return tell
