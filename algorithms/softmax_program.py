"""Softmax regression as a program: local minibatch steps, averaged through a table.

A partition's rows are visited in a new random order in each pass. A clock takes the next part of
that order, deals it to ``n_lanes`` lanes, lets each lane make minibatch steps on a private copy of
the weights, and adds the average of the lanes' changes, each by its share of the rows of the clock
(local SGD, Stich 2019; with one lane and one partition, plain SGD). The number of lanes depends on
the number of rows, never on threads or ranks, and so does the result.

Table ``weights`` (n_features + 1, n_classes): the last row is the intercept. AdaGrad has a second
one, ``squares``, of the same shape: sums of squared gradients, averaged likewise.

References
----------
S. U. Stich, "Local SGD converges fast and communicates little", ICLR 2019.
W. Dai et al., "High-performance distributed ML at scale through parameter server consistency
models", AAAI 2015 (Petuum's MLR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .kernels.softmax_regression import ADAGRAD, SGD, train_csr, train_dense

__all__ = ["Objective", "Schedule", "SoftmaxProgram", "encode", "row_weights"]

#: Steps of a lane in a pass that justify twice as many lanes, and lanes at most.
STEPS_PER_LANE, MAX_LANES = 1024, 8
#: Steps between two averages at least, and clocks in a pass at most, where the user leaves it open.
STEPS_PER_CLOCK, MAX_CLOCKS_PER_PASS = 32, 10
#: The step size halves after this many steps at the earliest.
SLOW_STEPS = 1000
#: Passes whose mean loss is compared with that of as many before: one pass's is noisy.
WINDOW = 5


@dataclass(frozen=True)
class Objective:
    """What is minimised: ``unit / n sum_i s_i loss_i + penalty / 2 |W|^2``.

    Attributes
    ----------
    classes
        (n_classes,) labels in order.
    class_weights
        (n_classes,) factor of each class's rows.
    n_rows
        Rows of all partitions.
    unit
        n_rows / sum of the weights.
    penalty
        Strength of the l2 penalty (not on the intercept).
    fit_intercept
        Whether the last row of the weights is learnt.
    """

    classes: Array
    class_weights: NDArray[np.float64]
    n_rows: int
    unit: float
    penalty: float
    fit_intercept: bool


@dataclass(frozen=True)
class Schedule:
    """How steps are made.

    Attributes
    ----------
    rule
        "sgd" or "adagrad".
    rate
        First step size.
    decay
        Rate after t steps of a lane: ``rate / (1 + decay t / max(steps of a pass, 1000))``.
    momentum
        Of the rule "sgd".
    batch_size
        Rows of a step.
    clocks_per_pass
        Clocks in which every row is visited once.
    steps_done
        Steps of a lane made before this run.
    tol
        Progress of the mean loss of WINDOW passes that counts as such.
    shuffle
        New order in each pass.
    """

    rule: str
    rate: float
    decay: float
    momentum: float
    batch_size: int
    clocks_per_pass: int
    steps_done: int
    tol: float
    shuffle: bool

    def n_lanes(self, n_rows: int) -> int:
        """Lanes of a partition: a power of two."""
        wanted = n_rows // (STEPS_PER_LANE * self.batch_size)
        return int(min(MAX_LANES, 2 ** max(0, int(np.log2(max(1, wanted))))))

    def steps_per_pass(self, n_rows: int) -> float:
        """Steps of a lane of a partition of ``n_rows`` rows, in a pass."""
        return max(1.0, n_rows / self.n_lanes(n_rows) / self.batch_size)

    def rate_at(self, clock: int, n_rows: int) -> float:
        """Step size in a clock (0-based) of a partition of ``n_rows`` rows."""
        steps = self.steps_per_pass(n_rows)
        done = self.steps_done + clock * steps / self.clocks_per_pass
        return self.rate / (1.0 + self.decay * done / max(steps, SLOW_STEPS))


def clocks_per_pass(n_rows: int, n_lanes: int, batch_size: int) -> int:
    """Choose clocks so that a lane makes STEPS_PER_CLOCK steps in one, if it has as many."""
    steps = n_rows / n_lanes / batch_size
    return int(np.clip(steps // STEPS_PER_CLOCK, 1, MAX_CLOCKS_PER_PASS))


def encode(labels: Array | None, classes: Array) -> NDArray[np.int32]:
    """Number the labels by their place among the classes.

    Raises
    ------
    ValueError
        For a label that is not among them.
    """
    if labels is None:
        raise ValueError("requires y to be passed, but the target y is None")
    places = np.clip(np.searchsorted(classes, labels), 0, len(classes) - 1)
    unknown = classes[places] != labels
    if unknown.any():
        raise ValueError(
            f"y holds the label {labels[np.flatnonzero(unknown)[0]]!r}, "
            f"which is not among the classes {list(classes)}"
        )
    return places.astype(np.int32)


def row_weights(partition: Partition, codes: Array, class_weights: Array) -> NDArray[np.float64]:
    """Weight of each row, its class's included; empty where all are 1."""
    plain = bool((class_weights == 1).all())
    if partition.sample_weight is None:
        return np.empty(0) if plain else class_weights[codes]
    weights: NDArray[np.float64] = partition.sample_weight.astype(np.float64)
    return weights if plain else weights * class_weights[codes]


class SoftmaxProgram(DataParallelProgram):
    """Minibatch steps; a number of clocks make a pass.

    Parameters
    ----------
    objective, schedule
        What is minimised and how.
    weights, squares
        (n_features + 1, n_classes) first values of the tables, in the rows' dtype.
    """

    metrics = ("loss", "weight", "penalty")

    def __init__(
        self, objective: Objective, schedule: Schedule, weights: Array, squares: Array
    ) -> None:
        self.objective_ = objective
        self.schedule = schedule
        self.weights = weights
        self.squares = squares
        self._opened: tuple[Context, list[View]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def tables(self) -> Sequence[TableSpec]:
        """Specify the weights and, for AdaGrad, the sums of squares."""
        first = {"weights": self.weights}
        if self.schedule.rule == "adagrad":
            first["squares"] = self.squares
        return [
            TableSpec(name, values.shape, values.dtype.name, values, dims=("feature", "class"))
            for name, values in first.items()
        ]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Number the labels; rest at first, for the momentum."""
        codes = encode(partition.y, self.objective_.classes)
        state: State = {
            "codes": codes,
            "weights": row_weights(partition, codes, self.objective_.class_weights),
            "order": np.arange(partition.n_rows),
        }
        n_lanes = self.schedule.n_lanes(partition.n_rows)
        kept = n_lanes if self.schedule.momentum else 0
        state["velocity"] = np.zeros((kept, *self._local_shape(partition)), self.weights.dtype)
        self._views(ctx)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Let each lane go through its part of this clock's rows; add the average change."""
        clock = ctx.clock_index - 1
        part = clock % self.schedule.clocks_per_pass
        if part == 0 and self.schedule.shuffle:
            state["order"] = np.random.default_rng(ctx.seed(partition)).permutation(
                partition.n_rows
            )
        cuts = np.arange(self.schedule.clocks_per_pass + 1) * partition.n_rows
        low, high = (cuts // self.schedule.clocks_per_pass)[part : part + 2]
        views = self._views(ctx)
        metrics = {"loss": 0.0, "weight": 0.0, "penalty": self._penalty(partition, views[0])}
        if low == high:
            return metrics
        rows = state["order"][low:high]
        lanes = np.array_split(rows, self.schedule.n_lanes(partition.n_rows))
        first = [self._local(partition, view.values) for view in views]
        rate = self.schedule.rate_at(clock, partition.n_rows)
        moved = ctx.map(
            lambda lane: self._lane(partition, state, first, (lane, lanes[lane]), rate),
            range(len(lanes)),
        )
        share = partition.n_rows / self.objective_.n_rows
        for place, view in enumerate(views):
            change = np.zeros_like(first[place])
            for lane, (_, arrays) in enumerate(moved):
                change += (arrays[place] - first[place]) * change.dtype.type(
                    share * len(lanes[lane]) / len(rows)
                )
            view.inc(self._local(partition, change))
        metrics["loss"] = sum(loss for loss, _ in moved)
        metrics["weight"] = float(
            state["weights"][rows].sum() if len(state["weights"]) else len(rows)
        )
        return metrics

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the objective of the rows visited, each before its own step."""
        mean = totals["loss"] / totals["weight"] if totals["weight"] else 0.0
        return {"loss": mean + totals["penalty"]}

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when the mean loss of WINDOW passes is not below that of the WINDOW before.

        The first pass does not count: its losses come without much of the penalty to come.
        """
        length = self.schedule.clocks_per_pass
        n_passes, rest = divmod(len(history), length)
        if rest or n_passes < 2 * WINDOW + 1:
            return False
        losses = [record["loss"] for record in history[-2 * WINDOW * length :]]
        before, last = np.mean(np.split(np.array(losses), 2), axis=1)
        return bool(last > before - self.schedule.tol)

    def _lane(
        self,
        partition: Partition,
        state: State,
        first: list[Array],
        work: tuple[int, Array],
        rate: float,
    ) -> tuple[float, list[Array]]:
        """Make one lane's steps; the loss, and the tables as the lane has changed them."""
        lane, order = work
        schedule, objective = self.schedule, self.objective_
        arrays = [values.copy() for values in first]
        if schedule.rule == "adagrad":
            memory = arrays[1]
        else:
            memory = state["velocity"][lane] if schedule.momentum else np.empty_like(arrays[0])
        rule = ADAGRAD if schedule.rule == "adagrad" else SGD
        scales = (objective.unit, objective.penalty)
        settings = (rule, rate, float(schedule.momentum))
        rest = (order, schedule.batch_size, scales, settings, objective.fit_intercept)
        data: Any = partition.data
        if self._sparse(partition):
            csr = (data.data, data.indices, data.indptr)
            loss = train_csr(csr, state["codes"], state["weights"], *rest, arrays[0], memory)
        else:
            loss = train_dense(data, state["codes"], state["weights"], *rest, arrays[0], memory)
        return float(loss), arrays

    def _views(self, ctx: Context) -> list[View]:
        if self._opened is None or self._opened[0] is not ctx:
            names = [spec.name for spec in self.tables()]
            self._opened = (ctx, [ctx.table(name).view() for name in names])
        return self._opened[1]

    def _local(self, partition: Partition, values: Array) -> Array:
        """Change between the table's layout and the kernel's (its own inverse)."""
        return values if self._sparse(partition) else np.ascontiguousarray(values.T)

    def _sparse(self, partition: Partition) -> bool:
        return bool(issparse(partition.data))

    def _local_shape(self, partition: Partition) -> tuple[int, ...]:
        shape = self.weights.shape
        return shape if self._sparse(partition) else shape[::-1]

    def _penalty(self, partition: Partition, view: View) -> float:
        if partition.index:
            return 0.0
        values = view.values[:-1].astype(np.float64)
        return 0.5 * self.objective_.penalty * float((values**2).sum())
