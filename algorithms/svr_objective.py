"""What support vector regression minimises, as the dual program's only task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.program import State

from .kernels.svr import descend_svr, measure_svr
from .svm_rows import Rows, given_weights

__all__ = ["SvrObjective"]


@dataclass(frozen=True)
class SvrObjective:
    """``1/2 |w|^2 + sum_i C_i loss(max(|y_i - x_i'w| - epsilon, 0))``.

    Attributes
    ----------
    hinge
        The loss is linear; else it is squared.
    epsilon
        Errors up to this cost nothing.
    C
        Weight of a row's loss.
    bias
        Value of the constant feature whose weight is the intercept (0: none).
    """

    hinge: bool
    epsilon: float
    C: float
    bias: float
    n_tasks: int = 1

    def begin(self, partition: Partition) -> tuple[Array, Array, Array]:
        """Targets (n_rows,), costs (n_rows, 1); loss and dual at weights of 0, (1, 2)."""
        targets = np.asarray(partition.y, dtype=np.float64)
        given = given_weights(partition)
        costs = self.C * given if len(given) else np.full(len(targets), self.C)
        beyond = np.maximum(np.abs(targets) - self.epsilon, 0.0)
        loss = float(costs @ (beyond if self.hinge else beyond**2))
        return targets, costs[:, None], np.array([[loss, 0.0]])

    def measure(self, rows: Rows, state: State, weights: Array, out: Array) -> None:
        """Loss and dual value, (2,), at weights (n_features + 1,)."""
        targets, costs = state["targets"], np.ascontiguousarray(state["costs"][:, 0])
        kind = (self.hinge, self.epsilon, self.bias)
        measure_svr(*rows.arrays, targets, costs, kind, state["alpha"][0, :, 0], weights, out)

    def descend(
        self, rows: Rows, state: State, work: tuple[int, int], order: Array, weights: Array
    ) -> int:
        """Make passes over the rows of ``order``, both in place; rows visited.

        ``work`` is the task, which is 0, and the number of passes.
        """
        return descend_svr(
            *rows.arrays,
            state["targets"],
            np.ascontiguousarray(state["costs"][:, 0]),
            state["squares"],
            (self.hinge, self.epsilon, self.bias),
            (float(state["charges"][0, 0]), float(state["charges"][0, 1])),
            work[1],
            order,
            state["limits"][0, 0],
            state["seeds"][0],
            state["alpha"][0, :, 0],
            weights,
        )
