"""Where to go next from a point: models of the objective around it, the same in every rank.

A model is told the points that were taken, with the gradient (and Hessian) of the loss there, and
proposes the next trial point. It is plain data and arithmetic: ranks that are told the same say the
same.

References
----------
J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for minimizing composite
functions", SIAM J. Optim. 24, 2014. G. Andrew and J. Gao, "Scalable training of L1-regularized
log-linear models", ICML 2007 (OWL-QN).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from dask_petuum.runtime.context import Array

from .kernels.logistic import descend_quadratic
from .logistic_objective import LogisticObjective

__all__ = ["NewtonModel", "QuasiNewtonModel"]

#: Pairs of moves and changes of the gradient that are kept.
MEMORY = 10
#: Accuracy of the quadratic's minimum under an l1 penalty (squares of moves).
QUADRATIC = 1e-10


class NewtonModel:
    """The quadratic with the true Hessian; its minimum with the penalty is the next point.

    Parameters
    ----------
    objective
        What is minimised.
    shape
        (n_features + 1, n_columns) of the weights.
    """

    needs_hessian = True

    def __init__(self, objective: LogisticObjective, shape: tuple[int, int]) -> None:
        self._inner = np.ones(shape)  # which weights are penalised
        self._inner[-1] = 0.0
        self._objective = objective
        self._w: Array = np.zeros(shape)
        self._step: Array = np.zeros(shape)

    def save(self) -> dict[str, Array]:
        """What a model goes on from."""
        return {"w": self._w, "step": self._step}

    def resume(self, saved: Mapping[str, Array]) -> None:
        """Go on from there."""
        self._w, self._step = saved["w"], saved["step"]

    def take(self, w: Array, gradient: Array, hessian: Array) -> float:
        """Take a point; the slope of the objective along the step to the next one (< 0)."""
        objective, inner = self._objective, self._inner
        self._w = w
        matrix = hessian + np.diag((objective.l2 * inner).ravel())
        # A constant column, an absent intercept, or intercepts that only matter by their
        # differences: no slope there, and a hair of curvature keeps the step at 0.
        matrix[np.diag_indices_from(matrix)] += 1e-10 * max(float(matrix.diagonal().max()), 1e-300)
        smooth = gradient + objective.l2 * inner * w
        if objective.l1 == 0.0:
            self._step = -_solve(matrix, smooth.ravel()).reshape(w.shape)
            return float((smooth * self._step).sum())
        step = np.empty(w.size)
        l1 = (objective.l1 * inner).ravel()
        descend_quadratic(matrix, smooth.ravel(), l1, w.ravel(), QUADRATIC, step)
        self._step = step.reshape(w.shape)
        change = np.abs(w + self._step) - np.abs(w)
        return float((smooth * self._step).sum() + objective.l1 * (inner * change).sum())

    def trial(self, length: float) -> NDArray[np.float64]:
        """Point at a share of the step."""
        point: NDArray[np.float64] = self._w + length * self._step
        return point

    def gain(self, length: float, slope: float) -> float:
        """Change of the objective that the slope promises there."""
        return length * slope


class QuasiNewtonModel:
    """Limited-memory BFGS; under an l1 penalty in the orthant of the step (OWL-QN)."""

    needs_hessian = False

    def __init__(self, objective: LogisticObjective, shape: tuple[int, int]) -> None:
        self._inner = np.ones(shape)
        self._inner[-1] = 0.0
        self._objective = objective
        self._pairs: deque[tuple[Array, Array, float]] = deque(maxlen=MEMORY)
        self._w = self._smooth = self._slope = self._step = self._side = np.empty(0)

    def save(self) -> dict[str, Array]:
        """What a model goes on from."""
        shape = (-1, *self._inner.shape)
        names = ("_w", "_smooth", "_slope", "_step", "_side")
        return {
            **{name[1:]: getattr(self, name) for name in names},
            "moved": np.array([pair[0] for pair in self._pairs]).reshape(shape),
            "changed": np.array([pair[1] for pair in self._pairs]).reshape(shape),
            "curvature": np.array([pair[2] for pair in self._pairs]),
        }

    def resume(self, saved: Mapping[str, Array]) -> None:
        """Go on from there."""
        for name in ("w", "smooth", "slope", "step", "side"):
            setattr(self, f"_{name}", saved[name])
        pairs = zip(saved["moved"], saved["changed"], saved["curvature"].tolist(), strict=True)
        self._pairs = deque(pairs, maxlen=MEMORY)

    def take(self, w: Array, gradient: Array, hessian: Array) -> float:
        """Take a point; the slope of the objective along the step to the next one (< 0)."""
        l1 = self._objective.l1 * self._inner
        smooth = gradient + self._objective.l2 * self._inner * w
        if len(self._w):
            moved, changed = w - self._w, smooth - self._smooth
            curvature = float((moved * changed).sum())
            if (
                curvature
                > 1e-12
                * float((changed * changed).sum()) ** 0.5
                * float((moved * moved).sum()) ** 0.5
            ):
                self._pairs.append((moved, changed, curvature))
        self._w, self._smooth = w, smooth
        edge = np.where(smooth < -l1, smooth + l1, np.where(smooth > l1, smooth - l1, 0.0))
        self._slope = np.where(w > 0, smooth + l1, np.where(w < 0, smooth - l1, edge))
        step = -self._inverse(self._slope)
        if self._objective.l1 > 0:
            step = np.where((step * self._slope < 0) | (l1 == 0), step, 0.0)
        if float((step * self._slope).sum()) >= 0.0:  # rounding: start anew along the slope
            self._pairs.clear()
            step = -self._inverse(self._slope)
        self._step = step
        self._side = np.where(w != 0, np.sign(w), -np.sign(self._slope))
        return float((self._slope * step).sum())

    def trial(self, length: float) -> NDArray[np.float64]:
        """Point at a share of the step, without what would cross 0."""
        point: NDArray[np.float64] = self._w + length * self._step
        if self._objective.l1 > 0:
            crossed = (point * self._side < 0) & (self._inner > 0)
            point = np.where(crossed, 0.0, point)
        return point

    def gain(self, length: float, slope: float) -> float:
        """Change of the objective that the slope promises there."""
        if self._objective.l1 == 0:
            return length * slope
        return float((self._slope * (self.trial(length) - self._w)).sum())

    def _inverse(self, slope: Array) -> NDArray[np.float64]:
        """Product of the inverse Hessian's estimate with a slope (two loops)."""
        q = slope.copy()
        if not self._pairs:
            return q / max(float(np.sqrt((q * q).sum())), 1e-300)
        factors = []
        for moved, changed, curvature in reversed(self._pairs):
            factor = float((moved * q).sum()) / curvature
            q -= factor * changed
            factors.append(factor)
        _, changed, curvature = self._pairs[-1]
        q *= curvature / float((changed * changed).sum())
        for (moved, changed, curvature), factor in zip(self._pairs, reversed(factors), strict=True):
            q += (factor - float((changed * q).sum()) / curvature) * moved
        return q


def _solve(matrix: Array, right: Array) -> NDArray[np.float64]:
    """Solve with a matrix that is positive but for rounding."""
    try:
        found: NDArray[np.float64] = cho_solve(cho_factor(matrix, lower=True), right)
    except LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        least = 1e-12 * float(values.max())
        found = vectors @ ((vectors.T @ right) / np.maximum(values, least))
    return found
