"""Rows of a partition as the kernels of support vector machines read them; the binary tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.program import State

from .kernels.svm import descend, measure, square_norms
from .softmax_program import encode

__all__ = ["Objective", "Rows", "given_weights", "relative_gap"]

_NOTHING = np.empty(0, dtype=np.int32)
#: Rows that are worth a thread of their own.
CHUNK_ROWS = 4096
#: Chunks of a partition at most: each has its own sums.
MAX_CHUNKS = 4


@dataclass(frozen=True)
class Objective:
    """What is minimised for each task: ``1/2 |w|^2 + sum_i C_i loss(y_i x_i'w)``.

    With two classes there is one task, whose positive rows are those of the second class; else
    task k has the rows of class k against all others.

    Attributes
    ----------
    hinge
        Hinge; else the squared hinge.
    C
        Weight of a row's loss.
    bias
        Value of the constant feature whose weight is the intercept (0: none).
    classes
        (n_classes,) labels in order.
    class_weights
        (n_classes,) factor of C of each class's rows.
    """

    hinge: bool
    C: float
    bias: float
    classes: Array
    class_weights: NDArray[np.float64]

    @property
    def n_tasks(self) -> int:
        """Number of binary problems."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def costs(self, codes: Array, weights: Array) -> NDArray[np.float64]:
        """Costs C_i of rows, (n_rows, 2): in the tasks of other classes, in that of their own.

        ``codes`` are the places of the rows' classes, ``weights`` their weights (empty: 1 each).
        As in liblinear, a class's factor is for its own rows; in their own task only, unless
        there is but one task.
        """
        own = self.C * self.class_weights[codes]
        other = own if self.n_tasks == 1 else np.full(len(codes), self.C)
        costs = np.stack([other, own], axis=1)
        return costs * weights[:, None] if len(weights) else costs

    def begin(self, partition: Partition) -> tuple[Array, Array, Array]:
        """Labels (n_rows,) and costs (n_rows, 2) of rows; losses and duals at 0, (n_tasks, 2)."""
        codes = encode(partition.y, self.classes)
        costs = self.costs(codes, given_weights(partition))
        parts = np.zeros((self.n_tasks, 2))
        for task in range(self.n_tasks):
            own = self.signs(codes, task) > 0
            parts[task, 0] = costs[own, 1].sum() + costs[~own, 0].sum()
        return codes, costs, parts

    def measure(self, rows: Rows, state: State, weights: Array, out: Array) -> None:
        """Loss and dual value of the only task, (2,), at weights (n_features + 1,)."""
        signs, costs = self._of_task(state, 0)
        alpha = state["alpha"][0, :, 0]
        measure(*rows.arrays, signs, costs, self.hinge, self.bias, alpha, weights, out)

    def descend(
        self, rows: Rows, state: State, work: tuple[int, int], order: Array, weights: Array
    ) -> int:
        """Make passes for one task over the rows of ``order``, both in place; rows visited.

        ``work`` is the task and the number of passes.
        """
        task, n_passes = work
        group, lane = divmod(task, state["alpha"].shape[2])
        signs, costs = self._of_task(state, task)
        alpha = np.ascontiguousarray(state["alpha"][group, :, lane])
        visits = descend(
            *rows.arrays,
            signs,
            costs,
            state["squares"],
            self.hinge,
            (self.bias, *state["charges"][task].tolist()),
            n_passes,
            order,
            state["limits"][group, lane],
            state["seeds"][task],
            alpha,
            weights,
        )
        state["alpha"][group, :, lane] = alpha
        return visits

    def _of_task(self, state: State, task: int) -> tuple[Array, Array]:
        """Signs and costs of the rows in a task."""
        signs = self.signs(state["targets"], task)
        return signs, np.where(signs > 0, state["costs"][:, 1], state["costs"][:, 0])

    def signs(self, codes: Array, task: int) -> NDArray[np.int8]:
        """Signs of rows in a task."""
        positive = 1 if self.n_tasks == 1 else task
        return np.where(codes == positive, 1, -1).astype(np.int8)


class Rows:
    """A partition's rows, dense or CSR, with the constant feature.

    Parameters
    ----------
    partition
        Its data are float32 or float64.
    bias
        Value of the constant feature.
    """

    def __init__(self, partition: Partition, bias: float) -> None:
        data: Any = partition.data
        self.n_rows, self.n_features = data.shape
        self.bias = float(bias)
        self.sparse = bool(issparse(data))
        self.arrays: tuple[Array, Array, Array] = (
            (data.data, data.indices, data.indptr) if self.sparse else (data, _NOTHING, _NOTHING)
        )

    def squares(self) -> NDArray[np.float64]:
        """Squared length of each row, without the constant feature."""
        out = np.empty(self.n_rows)
        square_norms(*self.arrays, out)
        return out

    def spans(self) -> Sequence[tuple[int, int]]:
        """Cut the rows into chunks; the cuts depend on nothing but their number."""
        n_chunks = min(MAX_CHUNKS, max(1, self.n_rows // CHUNK_ROWS))
        cuts = [self.n_rows * c // n_chunks for c in range(n_chunks + 1)]
        return list(pairwise(cuts))


def given_weights(partition: Partition) -> NDArray[np.float64]:
    """Weights of the rows in float64; empty where there are none."""
    given = partition.sample_weight
    return np.empty(0) if given is None else given.astype(np.float64)


def relative_gap(primal: Array, dual: Array) -> NDArray[np.float64]:
    """Gap by primal, which is >= 0; 0 where both are 0."""
    out = np.zeros(len(primal))
    np.divide(np.maximum(primal - dual, 0.0), primal, out=out, where=primal > 0)
    return out
