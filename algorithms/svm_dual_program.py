"""Support vector machines of many features: dual coordinate descent, shared by partitions.

A partition keeps the dual variables of its rows; the totals ``t = sum a_i y_i x_i`` of every task
are a table. In a clock each partition reads it, makes passes of coordinate descent on its own
rows against a private copy, and adds its change. With one partition that is plain dual coordinate
descent (Hsieh et al. 2008), and ``t`` are the weights; several ones agree on weights as
:mod:`.svm_sharing` says.

At the beginning of a clock every partition also adds its part of the primal and the dual objective
at these very weights to a second table; so the duality gap is known to all in the next clock. A
task that reaches the tolerance stands still for a clock, in which its gap is measured again.

References
----------
C.-J. Hsieh et al., "A dual coordinate descent method for large-scale linear SVM", ICML 2008.
C. Ma et al., "Adding vs. averaging in distributed primal-dual optimization", ICML 2015.
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

from .kernels.svm_block import LANES, descend_block, measure_block
from .svm_rows import Objective, Rows, relative_gap
from .svm_sharing import guess_charge, origin, per_feature, settle, squares_moved
from .svr_objective import SvrObjective

__all__ = ["SvmDualProgram"]

#: Passes in the first clock, and at least and at most in a later one.
FIRST_PASSES, LEAST_PASSES, MOST_PASSES = 6, 2, 25
#: Eight tasks together cost as much as this many alone on the same rows (20 Newsgroups, 2026-11).
TOGETHER = 4.0
#: Passes of a partition among several: more of them drift apart for nothing.
SHARED_PASSES = 10


class SvmDualProgram(DataParallelProgram):
    """One clock is some passes over the rows for every task that is not done.

    Parameters
    ----------
    objective
        What is minimised.
    n_features, n_partitions
        Columns of the rows; parts they are in.
    tol
        Relative duality gap at which a task is done.
    """

    metrics = ("primal", "dual", "open", "visits")

    def __init__(
        self,
        objective: Objective | SvrObjective,
        n_features: int,
        n_partitions: int,
        tol: float,
    ) -> None:
        self.objective_ = objective
        self.n_features = n_features
        self.n_partitions = n_partitions
        self.tol = tol
        #: Tasks that are worked on together.
        self.lanes = 1 if objective.n_tasks == 1 else LANES
        self._opened: tuple[Context, list[View]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def tables(self) -> Sequence[TableSpec]:
        """Specify the weights, a row a task, and the losses and dual values at them."""
        n_tasks, d = self.objective_.n_tasks, self.n_features + 1
        return [
            TableSpec("weights", (n_tasks, d), "float64", dims=("task", "feature")),
            TableSpec("sums", (n_tasks, 4), "float64", dims=("task", "column")),
        ]

    def start(self, ctx: Context, partition: Partition) -> State:
        """All dual variables are 0, and so are the weights."""
        objective, lanes = self.objective_, self.lanes
        n_tasks, n_rows = objective.n_tasks, partition.n_rows
        n_groups = -(-n_tasks // lanes)
        targets, costs, parts = objective.begin(partition)
        sent = np.zeros((n_tasks, 4))
        if self.n_partitions > 1:
            sent[:, 3] = self._guess(partition, costs)
        self._views(ctx)[1].inc(sent)
        alone = self.n_partitions == 1
        return {
            "primal": np.zeros((n_tasks, self.n_features + 1)),
            # of the features and the intercept; 0 until the first guess is known
            "charges": np.full((n_tasks, 2), float(alone)),
            "targets": targets,
            "costs": costs,
            "squares": Rows(partition, objective.bias).squares(),
            "alpha": np.zeros((n_groups, n_rows, lanes)),
            "order": np.tile(np.arange(n_rows, dtype=np.int32), (n_groups, 1)),
            "limits": np.tile([np.inf, -np.inf, 0.0, 0.0], (n_groups, lanes, 1)),
            "seeds": ctx.seed(partition).generate_state(n_tasks, np.uint64).reshape(-1, 1),
            "parts": parts,  # loss, and dual without its square, as last measured
            "sent": sent,
            "moved": np.zeros(n_tasks, dtype=np.int8),  # whether the last clock made passes
            # rows that are not to be dropped in a task, as last measured
            "active": np.ones((n_groups, n_rows, lanes), dtype=np.uint8),
            # per task: relative gap when it was last known, passes made since
            "pace": np.tile([np.inf, 0.0], (n_tasks, 1)),
        }

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Measure, and make passes for the tasks that are not done."""
        view, other = self._views(ctx)
        totals, alone = view.values, self.n_partitions == 1
        rows = Rows(partition, self.objective_.bias)
        weights = self._settle(state, totals, other.values)
        self._measure(ctx, rows, state, weights)
        square = 0.5 * np.einsum("ij,ij->i", weights, weights)
        dual_square = 0.5 * np.einsum("ij,ij->i", totals, totals)
        known = state["parts"] if alone else other.values
        gaps = relative_gap(square + known[:, 0], known[:, 1] - dual_square)
        if not alone and ctx.clock_index == 1:
            gaps[:] = np.inf
        rests = gaps <= self.tol
        # With several partitions the sums are those of the last clock's weights.
        done = rests if alone else rests & (state["moved"] == 0)
        start = totals if alone else origin(weights, totals, state["charges"], self.n_partitions)
        change, visits = self._descend(ctx, rows, state, (start, gaps, rests))
        if visits:
            view.inc(change)
        sums = np.hstack([state["parts"], squares_moved(change)])
        other.inc(sums - state["sent"])
        state["sent"] = sums
        state["moved"] = (~rests).astype(np.int8)
        first = float(partition.index == 0)
        return {
            "primal": float(state["parts"][:, 0].sum() + first * square.sum()),
            "dual": float(state["parts"][:, 1].sum() - first * dual_square.sum()),
            "open": first * float((~done).sum()),
            "visits": float(visits),
        }

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the objectives at the clock's beginning, all tasks together, and their gap."""
        return {**totals, "gap": totals["primal"] - totals["dual"]}

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when all tasks are done."""
        return history[-1]["open"] == 0

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the weights, and this partition's part of the objectives at them."""
        views = self._views(ctx)
        totals = np.array(views[0].values)
        weights = np.array(self._settle(state, totals, views[1].values))
        self._measure(ctx, Rows(partition, self.objective_.bias), state, weights)
        squares = 0.5 * np.stack([(weights**2).sum(axis=1), (totals**2).sum(axis=1)], axis=1)
        if partition.index:
            return {"parts": state["parts"]}
        return {"weights": weights, "parts": state["parts"] + squares * [1.0, -1.0]}

    def _guess(self, partition: Partition, costs: Array) -> float:
        """This partition's share of the first charge of the intercept."""
        bias, n = self.objective_.bias, self.n_partitions
        return guess_charge(partition.data, costs.max(axis=1), bias, n) / n if bias else 1.0

    def _settle(self, state: State, totals: Array, sums: Array) -> Array:
        """Weights of the primal at this clock's totals."""
        if self.n_partitions == 1:
            return totals
        settle(state, totals, sums[:, 2:], self.n_partitions)
        return state["primal"]

    def _passes(self, pace: Array, gap: float) -> int:
        """Choose the passes of the next clock from the progress of the last; keep the gap."""
        before, made = pace
        if not np.isfinite(gap):
            passes = SHARED_PASSES
        elif not np.isfinite(before) or made == 0:
            passes = FIRST_PASSES
        else:
            rate = np.log(before / gap) / made if gap < before else 0.0
            wanted = np.log(gap / self.tol) / rate if rate > 0 and self.tol > 0 else np.inf
            passes = int(np.clip(np.ceil(min(wanted, MOST_PASSES)), LEAST_PASSES, MOST_PASSES))
        if self.n_partitions > 1:
            passes = min(passes, SHARED_PASSES)
        pace[:] = gap, passes
        return passes

    def _tasks(self, group: int) -> slice:
        return slice(group * self.lanes, min((group + 1) * self.lanes, self.objective_.n_tasks))

    def _measure(self, ctx: Context, rows: Rows, state: State, weights: Array) -> None:
        """Measure the tasks that moved in the last clock: losses and dual values at weights."""
        hinge, bias = self.objective_.hinge, rows.bias

        def one(group: int) -> None:
            tasks = self._tasks(group)
            alpha, out = state["alpha"][group], np.empty((self.lanes, 2))
            if self.lanes == 1:
                self.objective_.measure(rows, state, weights[0], out[0])
            else:
                measure_block(
                    *rows.arrays,
                    state["targets"],
                    state["costs"],
                    hinge,
                    bias,
                    tasks.start,
                    alpha,
                    _side_by_side(weights[tasks]),
                    state["limits"][group],
                    state["active"][group],
                    out,
                )
            state["parts"][tasks] = out[: tasks.stop - tasks.start]

        groups = range(len(state["alpha"]))
        ctx.map(one, [group for group in groups if state["moved"][self._tasks(group)].any()])

    def _descend(
        self, ctx: Context, rows: Rows, state: State, known: tuple[Array, Array, Array]
    ) -> tuple[Array, int]:
        """Make passes for the tasks that do not rest; ``known``: start, gaps, who rests.

        Returns
        -------
        Change of this partition's totals, and rows visited.
        """
        start, gaps, rests = known
        change = np.zeros_like(start)
        awake = np.flatnonzero(~rests)
        passes = np.zeros(len(rests), dtype=np.int64)
        for task in awake:
            passes[task] = self._passes(state["pace"][task], float(gaps[task]))

        def one(work: tuple[bool, int]) -> int:
            together, place = work
            if together:
                tasks = self._tasks(place)
                lanes = _side_by_side(start[tasks])
                visits = self._many_tasks(rows, state, place, passes[tasks], lanes)
                local = lanes.T[: tasks.stop - tasks.start]
            else:
                tasks, local = slice(place, place + 1), start[place : place + 1].copy()
                order = self._order(state, place)
                task_work = (place, int(passes[place]))
                visits = self.objective_.descend(rows, state, task_work, order, local[0])
            change[tasks] = local - start[tasks]
            change[tasks] /= per_feature(state["charges"][tasks], self.n_features)
            return visits

        together = self._dense_groups(state, awake)
        alone = [t for t in awake.tolist() if t // self.lanes not in together]
        work = [(True, group) for group in together] + [(False, task) for task in alone]
        return change, sum(ctx.map(one, work))

    def _dense_groups(self, state: State, awake: Array) -> list[int]:
        """Groups whose tasks have so many rows in common that they go through them together."""
        out: list[int] = []
        if self.lanes == 1:
            return out
        for group in np.unique(awake // self.lanes).tolist():
            chosen = awake[awake // self.lanes == group] - group * self.lanes
            active = state["active"][group][:, chosen]
            if active.sum() > TOGETHER * active.any(axis=1).sum():
                out.append(group)
        return out

    def _order(self, state: State, task: int) -> Array:
        """Rows that a task goes through alone."""
        if self.lanes == 1:
            return np.asarray(state["order"][0])
        group, lane = divmod(task, self.lanes)
        return np.flatnonzero(state["active"][group, :, lane]).astype(np.int32)

    def _many_tasks(self, rows: Rows, state: State, group: int, passes: Array, local: Array) -> int:
        """Make passes for a group, as many as the task that needs most; those with none rest."""
        tasks = self._tasks(group)
        charges, awake = np.ones((LANES, 2)), np.zeros(LANES, dtype=np.uint8)
        charges[: len(passes)] = state["charges"][tasks]
        awake[: len(passes)] = passes > 0
        return descend_block(
            *rows.arrays,
            state["targets"],
            state["costs"],
            state["squares"],
            self.objective_.hinge,
            rows.bias,
            charges,
            group * self.lanes,
            awake,
            int(passes.max()),
            state["order"][group],
            state["limits"][group],
            state["seeds"][tasks.start],
            state["alpha"][group],
            local,
        )

    def _views(self, ctx: Context) -> list[View]:
        if self._opened is None or self._opened[0] is not ctx:
            self._opened = (ctx, [ctx.table(name).view() for name in ("weights", "sums")])
        return self._opened[1]


def _side_by_side(weights: Array) -> NDArray[np.float64]:
    """Weights of up to LANES tasks, (n_tasks, d), as the block kernels read them: (d, LANES)."""
    out = np.zeros((weights.shape[1], LANES))
    out[:, : len(weights)] = weights.T
    return out
