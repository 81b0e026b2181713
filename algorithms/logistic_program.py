"""Logistic regression on sums over all rows: one clock is one trial point.

Each partition adds its loss and gradient at the trial point (and, where the unknowns are few, the
Hessian) to tables; in the next clock every rank reads the sums and makes the same decision: halve
the step, or take the point, bound its distance to the optimum, and try the next one. What a
partition adds is the difference to what it added before, so the tables always hold the sums at the
latest trial point. The models of the objective are in :mod:`.logistic_models`, the certificate is
:func:`.logistic_objective.lower_bound`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .kernels.logistic import look_at_rows
from .kernels.svm_newton import change_hessian
from .logistic_models import NewtonModel, QuasiNewtonModel
from .logistic_objective import LogisticObjective, lower_bound
from .softmax_program import encode
from .svm_rows import Rows, given_weights

__all__ = ["LogisticProgram"]

#: Share of the slope that a step must gain, and the shortest step.
ARMIJO, SHORTEST = 1e-4, 2.0**-30
#: Steps in a row without gain after which the search ends: the gap falls a little longer.
IDLE = 3


class LogisticProgram(DataParallelProgram):
    """One clock is one trial point.

    Parameters
    ----------
    objective
        What is minimised.
    n_features
        Columns of the rows.
    newton
        Whether the true Hessian is summed: a table of (n_features + 1)^2 n_columns^2.
    tol
        Stop when the duality gap is at most this share of the objective; without a penalty, when
        no slope of the mean loss is above this.
    init
        (n_features + 1, n_columns) first weights.
    """

    metrics = ("primal", "dual", "open")

    def __init__(
        self, objective: LogisticObjective, n_features: int, newton: bool, tol: float, init: Array
    ) -> None:
        self.objective_ = objective
        self.n_features = n_features
        self.newton = newton
        self.tol = tol
        self.init = np.asarray(init, dtype=np.float64)
        self._rank: _Rank | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rank": None}

    def tables(self) -> Sequence[TableSpec]:
        """Specify the gradient, the sums of each class's rows, loss and entropy, the Hessian."""
        d, columns = self.init.shape
        shapes = {"gradient": (d, columns), "moments": (d, self._n_classes), "sums": (1, 2)}
        if self.newton:
            shapes["hessian"] = (d * columns, d * columns)
        return [
            TableSpec(name, shape, "float64", dims=("row", "column"))
            for name, shape in shapes.items()
        ]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Evaluate the first point."""
        objective = self.objective_
        codes = encode(partition.y, objective.classes)
        state: State = {
            "codes": codes,
            "costs": objective.costs(codes, given_weights(partition)),
            "gradient": np.zeros_like(self.init),
            "sums": np.zeros((1, 2)),
        }
        if self.newton:
            state["hessian"] = np.zeros((self.init.size, self.init.size))
        rank = self._of(ctx)
        rank.views["moments"].inc(self._moments(partition, state))
        self._evaluate(ctx, partition, state, rank.trial)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Decide from the sums at the trial point, and evaluate the next one."""
        rank = self._of(ctx)
        rank.advance(ctx.clock_index)
        if not rank.finished:
            self._evaluate(ctx, partition, state, rank.trial)
        first = float(partition.index == 0)
        return {
            "primal": first * rank.primal,
            "dual": first * rank.dual,
            "open": first * float(not rank.finished),
        }

    def save(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the state, and what a rank remembers of the search."""
        return {**state, **{f"search.{k}": v for k, v in self._of(ctx).save().items()}}

    def resume(self, ctx: Context, partition: Partition, saved: State) -> State:
        """Go on with the search that was saved with any partition."""
        search = {k.removeprefix("search."): v for k, v in saved.items() if k.startswith("search.")}
        self._of(ctx).resume(search)
        return {key: values for key, values in saved.items() if not key.startswith("search.")}

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the objective of the point taken last, and its gap."""
        return {**totals, "gap": totals["primal"] - totals["dual"]}

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop at the tolerance."""
        return history[-1]["open"] == 0

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the weights and their certificate."""
        if partition.index:
            return {}
        rank = self._of(ctx)
        return {
            "weights": rank.best,
            "certificate": np.array([rank.primal, rank.dual, float(rank.finished)]),
        }

    @property
    def _n_classes(self) -> int:
        return len(self.objective_.classes)

    def _of(self, ctx: Context) -> _Rank:
        if self._rank is None or self._rank.ctx is not ctx:
            self._rank = _Rank(ctx, self)
        return self._rank

    def _moments(self, partition: Partition, state: State) -> NDArray[np.float64]:
        """Sums of C x of each class's rows; sums of C in the last row."""
        given = np.zeros((partition.n_rows, self._n_classes))
        given[np.arange(partition.n_rows), state["codes"]] = state["costs"]
        inner = partition.data.T @ given
        return np.vstack([inner, given.sum(axis=0)])

    def _evaluate(self, ctx: Context, partition: Partition, state: State, w: Array) -> None:
        """Add what changed since the last trial point."""
        rows = Rows(partition, float(self.objective_.fit_intercept))
        errors = np.empty((partition.n_rows, w.shape[1]))
        parts = ctx.map(
            lambda span: self._sums(partition, rows, state, w, (span, errors)), rows.spans()
        )
        views = self._of(ctx).views
        for place, name in enumerate(("gradient", "sums", "hessian")[: len(parts[0])]):
            total = parts[0][place]
            for part in parts[1:]:
                total += part[place]
            views[name].inc(total - state[name])
            state[name] = total

    def _sums(
        self,
        partition: Partition,
        rows: Rows,
        state: State,
        w: Array,
        place: tuple[tuple[int, int], Array],
    ) -> list[NDArray[np.float64]]:
        """Gradient, (loss, entropy) and, if wanted, the Hessian of one chunk of rows."""
        span, errors = place
        gradient, sums = np.zeros_like(w), np.zeros((1, 2))
        look_at_rows(
            *rows.arrays,
            state["codes"],
            state["costs"],
            self.objective_.fit_intercept,
            w,
            span,
            errors,
            gradient,
            sums[0],
        )
        if not self.newton:
            return [gradient, sums]
        return [gradient, sums, self._hessian(partition, rows, state, (span, errors))]

    def _hessian(
        self,
        partition: Partition,
        rows: Rows,
        state: State,
        place: tuple[tuple[int, int], Array],
    ) -> NDArray[np.float64]:
        """Hessian of the loss of one chunk, ordered as the raveled weights."""
        span, errors = place
        part = slice(*span)
        n_columns, d = errors.shape[1], self.n_features + 1
        costs = state["costs"]
        hot = np.zeros((span[1] - span[0], n_columns))
        first = 1 if n_columns == 1 else 0
        own = state["codes"][part] - first
        chosen = own >= 0
        hot[np.flatnonzero(chosen), own[chosen]] = costs[part][chosen]
        # C p, from the errors C (p - [k = y]).
        weighted = errors[part] + hot
        safe = np.where(costs[part] > 0, costs[part], 1.0)[:, None]
        if rows.sparse and n_columns == 1:
            bend = np.zeros(partition.n_rows)
            bend[part] = np.maximum(weighted * (1.0 - weighted / safe), 0.0)[:, 0]
            one, out = np.ones(partition.n_rows), np.zeros((d, d))
            inside = np.zeros(partition.n_rows, dtype=np.uint8)
            change_hessian(*rows.arrays, one, 2.0 * one, bend, rows.bias, span, inside, out)
            return np.tril(out) + np.tril(out, -1).T
        data: Any = partition.data[part]
        block = np.empty((span[1] - span[0], d))
        block[:, :-1] = data.toarray() if rows.sparse else data
        block[:, -1] = rows.bias
        out = np.empty((d, n_columns, d, n_columns))
        for k in range(n_columns):
            for other in range(k + 1):
                same = float(k == other)
                bend = weighted[:, k] * (same - weighted[:, other] / safe[:, 0])
                out[:, k, :, other] = (block * bend[:, None]).T @ block
                out[:, other, :, k] = out[:, k, :, other].T
        return out.reshape(d * n_columns, d * n_columns)


class _Rank:
    """A rank's part of the search: the same numbers in every rank; only ``advance`` changes it."""

    def __init__(self, ctx: Context, program: LogisticProgram) -> None:
        self.ctx = ctx
        self.views: dict[str, View] = {
            spec.name: ctx.table(spec.name).view() for spec in program.tables()
        }
        self._objective, self._tol = program.objective_, program.tol
        model = NewtonModel if program.newton else QuasiNewtonModel
        shape = (program.init.shape[0], program.init.shape[1])
        self._model: NewtonModel | QuasiNewtonModel = model(program.objective_, shape)
        self.best = self.trial = program.init
        self.primal, self.dual, self.finished = np.inf, 0.0, False
        self._length, self._slope, self._clock, self._idle = 0.0, 0.0, 0, 0

    def save(self) -> dict[str, Array]:
        """Everything, as arrays."""
        numbers = [self.primal, self.dual, self.finished, self._length, self._slope]
        return {
            "best": self.best,
            "trial": self.trial,
            "numbers": np.array([*numbers, self._clock, self._idle], dtype=np.float64),
            **{f"model.{key}": values for key, values in self._model.save().items()},
        }

    def resume(self, saved: Mapping[str, Array]) -> None:
        """Be as it was saved."""
        self.best, self.trial = saved["best"], saved["trial"]
        numbers: list[float] = saved["numbers"].tolist()
        self.primal, self.dual, finished, self._length, self._slope, clock, idle = numbers
        self.finished, self._clock, self._idle = bool(finished), int(clock), int(idle)
        self._model.resume({k.removeprefix("model."): v for k, v in saved.items()})

    def advance(self, clock: int) -> None:
        """Take in the sums at the trial point; once a clock, whichever partition asks first."""
        if clock == self._clock or self.finished:
            return
        self._clock = clock
        loss, entropy = self.views["sums"].values[0]
        primal = float(loss) + self._objective.penalty(self.trial)
        if self._length > 0.0:
            wanted = ARMIJO * self._model.gain(self._length, self._slope)
            # Rounding makes values of equal points differ.
            enough = primal <= self.primal + wanted + 1e-14 * abs(self.primal)
            if not enough and self._length > SHORTEST:
                self._length *= 0.5
                self.trial = self._model.trial(self._length)
                return
            gained = self.primal - primal > 1e-14 * abs(self.primal)
            self._idle = 0 if gained else self._idle + 1
            if not enough or self._idle > IDLE:
                self.finished = True  # no further in this arithmetic
                return
        self._take(primal, float(entropy))

    def _take(self, primal: float, entropy: float) -> None:
        gradient = np.array(self.views["gradient"].values)
        self.best, self.primal = self.trial, primal
        objective = self._objective
        if objective.l1 == 0.0 and objective.l2 == 0.0:
            moments = self.views["moments"].values[-1]
            if float(np.abs(gradient).max()) <= self._tol * float(moments.sum()):
                self.finished = True
                return
        else:
            moments = self.views["moments"].values
            self.dual = min(primal, lower_bound(objective, gradient, entropy, moments))
            if primal - self.dual <= self._tol * primal:
                self.finished = True
                return
        hessian = self.views["hessian"].values if "hessian" in self.views else gradient
        self._slope = self._model.take(self.trial, gradient, hessian)
        self._length = 1.0
        self.trial = self._model.trial(1.0)
        if self._slope >= 0.0:
            self.finished = True
