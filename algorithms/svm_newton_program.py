"""Support vector machines of few features: Newton's method on sums over all rows.

The unknowns are the ``d = n_features + 1`` weights of each task. One clock evaluates one trial
point: each partition adds its losses, gradient and Hessian (d x d) to a table, and in the next
clock every rank reads the sums and makes the same decision: halve the step, or take it, solve for
the next direction, and try that. So ten to thirty clocks make a fit, whatever the number of rows.

The squared hinge is smooth enough as it is. The hinge is solved as a sequence of smooth problems,
the proximal point method on its dual (an augmented Lagrangian method): see
:mod:`.kernels.svm_newton`. A row's ``alpha`` is feasible in the dual at any time, so the duality
gap of every trial point is known exactly; it is the stop rule.

References
----------
Y. Yan and Q. Li, "An efficient augmented Lagrangian method for support vector machine", Optim.
Methods Softw. 35, 2020. O. Chapelle, "Training a support vector machine in the primal", Neural
Computation 19, 2007 (Newton on the squared hinge).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .kernels.svm_newton import change_hessian, look_at_rows
from .softmax_program import encode
from .svm_rows import Objective, Rows, given_weights, relative_gap

__all__ = ["SvmNewtonProgram"]

#: Softness of the hinge's first smooth problem in units of the margin, and its factor from one
#: problem to the next (a9a to a gap of 1e-3, from 1: 14 steps; 22 with a factor of 0.3).
SOFT, SOFTER = 2.0, 0.5
#: A smooth problem is solved well enough when its own error is this share of the gap.
INNER = 0.5
#: Share of the slope that a step must gain (Armijo); steps shorter than this are not tried.
ARMIJO, SHORTEST = 1e-4, 2.0**-30
#: Columns of the table before the Hessian's: gradient, then phi, true loss, dual.
N_SUMS = 3


class SvmNewtonProgram(DataParallelProgram):
    """One clock is one trial point of every task.

    Parameters
    ----------
    objective
        What is minimised.
    n_features
        Columns of the rows.
    tol
        Relative duality gap at which a task is done.
    init
        (n_tasks, n_features + 1) first weights.
    """

    metrics = ("primal", "gap", "worst", "open")

    def __init__(self, objective: Objective, n_features: int, tol: float, init: Array) -> None:
        self.objective_ = objective
        self.n_features = n_features
        self.tol = tol
        self.init = np.asarray(init, dtype=np.float64)
        self._opened: tuple[Context, View] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def tables(self) -> Sequence[TableSpec]:
        """Specify the sums: for each task d rows of the Hessian, one of the gradient and sums."""
        d = self.n_features + 1
        shape = (self.objective_.n_tasks * (d + 1), d + N_SUMS)
        return [TableSpec("sums", shape, "float64", dims=("row", "column"))]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Evaluate the first point."""
        objective = self.objective_
        codes = encode(partition.y, objective.classes)
        n_tasks, n_rows, d = objective.n_tasks, partition.n_rows, self.n_features + 1
        state: State = {
            "signs": np.empty((n_tasks, n_rows), dtype=np.int8),
            "costs": np.empty((n_tasks, n_rows)),
            "reference": np.zeros((n_tasks, n_rows)),
            "alpha": np.zeros((n_tasks, n_rows)),
            "trial": self.init.copy(),
            "weights": self.init.copy(),
            "direction": np.zeros((n_tasks, d)),
            # step size, slope, value at `weights`, softness, whether done
            "steps": np.tile(
                [1.0, 0.0, np.inf, SOFT if objective.hinge else 1.0, 0.0], (n_tasks, 1)
            ),
            "duals": np.full((n_tasks, 2), np.inf),  # primal, dual of the last accepted point
            "inside": np.zeros((n_tasks, n_rows), dtype=np.uint8),
            "sent": np.zeros((n_tasks, d + N_SUMS)),
        }
        costs = objective.costs(codes, given_weights(partition))
        for task in range(n_tasks):
            signs = objective.signs(codes, task)
            state["signs"][task] = signs
            state["costs"][task] = np.where(signs > 0, costs[:, 1], costs[:, 0])
        self._evaluate(ctx, partition, state)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Decide from the sums at the trial points, and evaluate the next ones."""
        sums = self._view(ctx).values
        for task in range(self.objective_.n_tasks):
            if not state["steps"][task, 4]:
                self._decide(state, task, sums)
        finished = bool(state["steps"][:, 4].all())
        if not finished:
            self._evaluate(ctx, partition, state)
        if partition.index:
            return dict.fromkeys(self.metrics, 0.0)
        primal, dual = state["duals"].T
        return {
            "primal": float(primal.sum()),
            "gap": float(np.maximum(primal - dual, 0.0).sum()),
            "worst": float(relative_gap(primal, dual).max()),
            "open": float(len(primal) - state["steps"][:, 4].sum()),
        }

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when all tasks are done."""
        return history[-1]["open"] == 0

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the weights and their certificates."""
        if partition.index:
            return {}
        return {"weights": state["weights"], "duals": state["duals"]}

    def _decide(self, state: State, task: int, sums: Array) -> None:
        """Take or halve a step; from a point that was taken, choose the next trial point."""
        d = self.n_features + 1
        block = sums[task * (d + 1) : (task + 1) * (d + 1)]
        steps, trial = state["steps"][task], state["trial"][task]
        length, slope, best, soft, _ = steps
        phi, loss, linear = block[d, d:]
        square = 0.5 * float(trial @ trial)
        value = square + phi
        # Rounding makes values of equal points differ: a hair of 1e-13 is no rise.
        allowed = best + ARMIJO * length * slope + 1e-13 * abs(best)
        if value > allowed and length > SHORTEST:
            steps[0] = length * 0.5
            state["trial"][task] = state["weights"][task] + steps[0] * state["direction"][task]
            return
        moved = length > SHORTEST
        gradient = trial - block[d, :d]
        primal = square + loss
        dual = linear - 0.5 * float(block[d, :d] @ block[d, :d])
        state["weights"][task] = trial
        state["duals"][task] = primal, dual
        gap = primal - dual
        error = 0.5 * float(gradient @ gradient)
        steps[2] = value
        if gap <= self.tol * primal or (not moved and not self.objective_.hinge):
            steps[4] = 1.0
            return
        if self.objective_.hinge and (error <= INNER * gap or not moved):
            # The next smooth problem starts from this point, evaluated anew.
            state["reference"][task] = state["alpha"][task]
            steps[:] = 1.0, 0.0, np.inf, soft * SOFTER, 0.0
            return
        direction = _solve(block[:d, :d] / soft, gradient)
        state["direction"][task] = direction
        steps[:2] = 1.0, float(gradient @ direction)
        state["trial"][task] = trial + direction

    def _evaluate(self, ctx: Context, partition: Partition, state: State) -> None:
        """Add what changed since the last time, of all tasks that are not done."""
        d = self.n_features + 1
        rows = Rows(partition, self.objective_.bias)
        spans = rows.spans()
        tasks = np.flatnonzero(state["steps"][:, 4] == 0).tolist()
        work = [(task, span) for task in tasks for span in spans]
        parts = ctx.map(lambda item: self._sums(partition, rows, state, item), work)
        view = self._view(ctx)
        for place, task in enumerate(tasks):
            block = np.sum(parts[place * len(spans) : (place + 1) * len(spans)], axis=0)
            line = block[d].copy()
            block[d] -= state["sent"][task]
            state["sent"][task] = line
            view.inc(block, at=np.arange(task * (d + 1), (task + 1) * (d + 1)))

    def _sums(
        self, partition: Partition, rows: Rows, state: State, item: tuple[int, tuple[int, int]]
    ) -> NDArray[np.float64]:
        """One task's sums over one chunk of rows; of the Hessian what changed."""
        task, span = item
        hinge, d = self.objective_.hinge, self.n_features + 1
        costs = state["costs"][task]
        box = costs if hinge else np.where(costs > 0, np.inf, 0.0)
        weights = costs if hinge else 2.0 * costs
        alpha, inside = state["alpha"][task], state["inside"][task]
        block = np.zeros((d + 1, d + N_SUMS))
        look_at_rows(
            *rows.arrays,
            state["signs"][task],
            state["reference"][task],
            weights,
            state["steps"][task, 3],
            box,
            hinge,
            state["trial"][task],
            rows.bias,
            span,
            alpha,
            block[d, :d],
            block[d, d:],
        )
        if rows.sparse:
            change_hessian(
                *rows.arrays, alpha, box, weights, rows.bias, span, inside, block[:d, :d]
            )
            return block
        part = slice(*span)
        now = (alpha[part] > 0) & (alpha[part] < box[part])
        for changed, sign in ((now & (inside[part] == 0), 1.0), ((inside[part] == 1) & ~now, -1.0)):
            chosen = np.ones((int(changed.sum()), d))
            chosen[:, :-1], chosen[:, -1] = partition.data[part][changed], rows.bias
            block[:d, :d] += (chosen * (sign * weights[part][changed])[:, None]).T @ chosen
        inside[part] = now
        return block

    def _view(self, ctx: Context) -> View:
        if self._opened is None or self._opened[0] is not ctx:
            self._opened = (ctx, ctx.table("sums").view())
        return self._opened[1]


def _solve(hessian: Array, gradient: Array) -> NDArray[np.float64]:
    """Newton's direction: minus the inverse of (1 + hessian's lower triangle) times gradient."""
    matrix = np.tril(hessian)
    matrix[np.diag_indices_from(matrix)] += 1.0
    direction: NDArray[np.float64] = -cho_solve(cho_factor(matrix, lower=True), gradient)
    return direction
