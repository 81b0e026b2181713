"""Two-class logistic regression with an l1 penalty on one partition: growing working sets.

A clock looks at all columns once (one pass over the rows), measures the duality gap, adds the
columns that violate the optimality conditions most to the working set, and solves the problem of
the working set's columns (:mod:`.kernels.logistic_columns`) to a tenth of the gap. At the optimum
most columns have never been in the set; the certificate is of the whole problem.

References
----------
M. Massias, A. Gramfort, J. Salmon, "Celer: a fast solver for the lasso with dual extrapolation",
ICML 2018. Q. Bertrand et al., "Beyond l1: faster and better sparse models with skglm", NeurIPS
2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .kernels.logistic_columns import (
    add_rows,
    balance,
    count_columns,
    dual_entropy,
    gather_columns,
    newton_on_columns,
    slopes,
)
from .logistic_objective import LogisticObjective
from .softmax_program import encode
from .svm_rows import Rows, given_weights

__all__ = ["LogisticColumnsProgram"]

#: Columns of the first working set at least; new ones for each coefficient that is not 0.
FIRST_COLUMNS, GROWTH = 1000, 2
#: A working set this many times larger than its support is cut back to that when it grows.
WASTE = 1.5
#: Accuracy of a working set's solution: share of the tolerance, or of the whole problem's gap.
OF_TOL, OF_GAP = 0.3, 0.1
#: Newton steps on one working set at most.
MAX_STEPS = 50


class LogisticColumnsProgram(DataParallelProgram):
    """One clock is one working set.

    Parameters
    ----------
    objective
        What is minimised; two classes, l1 > 0.
    n_features
        Columns of the rows.
    tol
        Relative duality gap to stop at.
    init
        (n_features + 1, 1) first weights.
    """

    metrics = ("primal", "dual", "open", "columns", "support")

    def __init__(
        self, objective: LogisticObjective, n_features: int, tol: float, init: Array
    ) -> None:
        self.objective_ = objective
        self.n_features = n_features
        self.tol = tol
        self.init = np.asarray(init, dtype=np.float64)

    def tables(self) -> Sequence[TableSpec]:
        """There are none: one partition knows all."""
        return []

    def start(self, ctx: Context, partition: Partition) -> State:
        """Scores of the first weights."""
        objective = self.objective_
        codes = encode(partition.y, objective.classes)
        weights = self.init[:, 0].copy()
        scores = partition.data @ weights[:-1] + weights[-1]
        return {
            "signs": np.where(codes == 1, 1, -1).astype(np.int8),
            "costs": objective.costs(codes, given_weights(partition)),
            "weights": weights,
            "scores": np.asarray(scores, dtype=np.float64),
            "working": np.flatnonzero(weights[:-1]),
            "columns": np.empty(0),
            "rows": np.empty(0, dtype=np.int32),
            "ptr": np.zeros(1, dtype=np.int64),
            "certificate": np.array([np.inf, 0.0, 0.0]),
        }

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Measure the gap; if it is too large, grow the working set and solve it."""
        slope = self._measure(ctx, partition, state)
        primal, dual, finished = state["certificate"].tolist()
        weights = state["weights"]
        if not finished:
            self._grow(partition, state, slope)
            working = state["working"]
            beta = weights[working]
            gap = primal - dual
            shift, _, _ = newton_on_columns(
                state["columns"],
                state["rows"],
                state["ptr"],
                state["signs"],
                state["costs"],
                (self.objective_.l1, self.objective_.l2),
                self.objective_.fit_intercept,
                max(OF_TOL * self.tol * primal, OF_GAP * gap),
                MAX_STEPS,
                beta,
                state["scores"],
            )
            weights[working] = beta
            weights[-1] += shift
        return {
            "primal": primal,
            "dual": dual,
            "open": 1.0 - finished,
            "columns": float(len(state["working"])),
            "support": float(np.count_nonzero(weights[:-1])),
        }

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the objective at the clock's beginning, and its gap."""
        return {**totals, "gap": totals["primal"] - totals["dual"]}

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop at the tolerance."""
        return history[-1]["open"] == 0

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the weights and their certificate."""
        if not state["certificate"][2]:
            self._measure(ctx, partition, state)
        return {"weights": state["weights"][:, None], "certificate": state["certificate"]}

    def _measure(self, ctx: Context, partition: Partition, state: State) -> NDArray[np.float64]:
        """Bound the distance to the optimum; minus the loss's slope along each column."""
        objective, weights, scores = self.objective_, state["weights"], state["scores"]
        signs, costs = state["signs"], state["costs"]
        residual, bend = np.empty(len(scores)), np.empty(len(scores))
        if objective.fit_intercept:
            # The best intercept makes the residuals add up to 0, as the dual asks for.
            weights[-1] += balance(signs, costs, scores, residual, bend)
        loss = slopes(signs, costs, scores, residual, bend)
        rows = Rows(partition, 0.0)

        def part(span: tuple[int, int]) -> NDArray[np.float64]:
            out = np.zeros(self.n_features)
            add_rows(*rows.arrays, residual, *span, out)
            return out

        slope: NDArray[np.float64] = np.sum(ctx.map(part, rows.spans()), axis=0)
        primal = loss + objective.penalty(weights[:, None])
        top = float(np.abs(slope).max(initial=0.0))
        scale = 1.0 if top <= objective.l1 else objective.l1 / top
        dual = dual_entropy(costs, residual, scale)
        if objective.l2 > 0.0:
            over = np.maximum(np.abs(slope) - objective.l1, 0.0)
            whole = dual_entropy(costs, residual, 1.0) - float((over * over).sum()) / (
                2.0 * objective.l2
            )
            dual = max(dual, whole)
        finished = primal - dual <= self.tol * primal
        state["certificate"] = np.array([primal, dual, float(finished)])
        return slope

    def _grow(self, partition: Partition, state: State, slope: Array) -> None:
        """Add the columns that violate the optimality conditions most."""
        weights, working = state["weights"], state["working"]
        score = np.abs(slope)
        score[working] = 0.0
        support = np.flatnonzero(weights[:-1])
        n_new = min(
            max(FIRST_COLUMNS, GROWTH * len(support)), int((score > self.objective_.l1).sum())
        )
        if n_new:
            new = np.argpartition(score, -n_new)[-n_new:]
            kept = support if len(working) > WASTE * len(support) else working
            working = np.concatenate([kept, new])
        if n_new or len(state["ptr"]) != len(working) + 1:
            state["working"] = working
            state.update(_gather(partition, working))


def _gather(partition: Partition, working: Array) -> State:
    """Gather columns of the rows, one after the other."""
    data: Any = partition.data
    rows = Rows(partition, 0.0)
    if not rows.sparse:
        columns = np.ascontiguousarray(data[:, working].T)
        at = np.tile(np.arange(rows.n_rows, dtype=np.int32), len(working))
        ptr = np.arange(len(working) + 1, dtype=np.int64) * rows.n_rows
        return {"columns": columns.ravel(), "rows": at, "ptr": ptr}
    places = np.full(rows.n_features, -1, dtype=np.int32)
    places[working] = np.arange(len(working))
    ptr = np.empty(len(working) + 1, dtype=np.int64)
    values, indices, indptr = rows.arrays
    count_columns(indices, places, ptr)
    at, out = np.empty(ptr[-1], dtype=np.int32), np.empty(ptr[-1], dtype=values.dtype)
    gather_columns(values, indices, indptr, places, ptr, at, out)
    return {"columns": out, "rows": at, "ptr": ptr}
