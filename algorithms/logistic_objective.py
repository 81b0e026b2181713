"""The objective of logistic regression, and a bound of its distance to the optimum.

With scores ``z_i = W x_i + b`` (two classes: one vector, the first class's score is 0),

    P(W, b) = sum_i C_i (log sum_k exp z_ik - z_{i y_i}) + l1 |W|_1 + l2/2 |W|^2

    D(q) = - sum_i C_i f(q_i) - sum_j penalty*(V_j),   f(q) = sum_k q_k log q_k,
    V = sum_i C_i ([k = y_i] - q_i) x_i'

for any probabilities ``q_i`` with ``sum_i C_i ([k = y_i] - q_i) = 0`` where there is an intercept;
``penalty*(v)`` is ``max(|v| - l1, 0)^2 / (2 l2)``, or 0 where |v| <= l1 and infinite elsewhere if
l2 = 0. ``D <= P`` always (Fenchel), and they are equal at the optimum with ``q = p = softmax(z)``.
:func:`lower_bound` makes a feasible q of the p at hand, from sums over the rows only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from dask_petuum.runtime.context import Array

__all__ = ["LogisticObjective", "lower_bound"]


@dataclass(frozen=True)
class LogisticObjective:
    """What is minimised.

    Attributes
    ----------
    C
        Cost of a row of weight 1.
    l1, l2
        Strengths of the penalties.
    fit_intercept
        Whether there are intercepts (not penalised).
    classes
        (n_classes,) labels in order.
    class_weights
        (n_classes,) factor of the cost of each class's rows.
    """

    C: float
    l1: float
    l2: float
    fit_intercept: bool
    classes: Array
    class_weights: NDArray[np.float64]

    @property
    def n_columns(self) -> int:
        """Vectors of weights: one for two classes."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def costs(self, codes: Array, weights: Array) -> NDArray[np.float64]:
        """C_i of rows; codes: places of their classes; weights: of the rows, empty: 1 each."""
        costs = self.C * self.class_weights[codes]
        return costs * weights if len(weights) else costs

    def penalty(self, w: Array) -> float:
        """Penalty of weights (n_features + 1, n_columns)."""
        inner = w[:-1]
        return float(self.l1 * np.abs(inner).sum() + 0.5 * self.l2 * (inner * inner).sum())


def lower_bound(
    objective: LogisticObjective, gradient: Array, entropy: float, moments: Array
) -> float:
    """Bound the least objective from below, from sums at some weights.

    The probabilities are first mixed with one distribution r, the same for all rows, so that the
    intercepts' slopes vanish: ``q = (1 - t) p + t r``; then with the labels themselves, so that an
    l1 penalty's constraint holds: ``c q + (1 - c) [k = y]``. The entropy of the mixture is bounded
    by convexity, ``f(..) <= c (1 - t) f(p) + c t f(r)``, which needs no further pass over the rows.

    Parameters
    ----------
    gradient
        (n_features + 1, n_columns) of the loss.
    entropy
        Sum of C f(p).
    moments
        (n_features + 1, n_classes): sums of C x of each class's rows, sums of C in the last row.
    """
    slope, l1, l2 = -gradient[:-1], objective.l1, objective.l2
    if objective.fit_intercept:
        error = gradient[-1]
        if objective.n_columns == 1:
            error = np.array([-error[0], error[0]])
        counts = moments[-1]
        total = counts.sum()
        share = float(np.max(error / np.maximum(counts + error, 1e-300), initial=0.0))
        if share > 0.0:
            share = min(share, 1.0)
            rest = (counts - (1.0 - share) * (counts + error)) / (share * total)
            rest = np.maximum(rest, 0.0)
            # All of it may be lost in rounding where the share is tiny.
            rest = rest / rest.sum() if rest.sum() > 0.0 else counts / total
            whole = moments[:-1].sum(axis=1)
            first = 1 if objective.n_columns == 1 else 0
            fixed = moments[:-1, first:] - whole[:, None] * rest[first:]
            slope = (1.0 - share) * slope + share * fixed
            entropy = (1.0 - share) * entropy + share * total * float(xlogy(rest, rest).sum())
    best = 0.0
    top = float(np.abs(slope).max(initial=0.0))
    for scale in (1.0, 1.0 if top <= l1 else l1 / top):
        over = np.maximum(scale * np.abs(slope) - l1, 0.0)
        if l2 > 0.0:
            best = max(best, -scale * entropy - float((over * over).sum()) / (2.0 * l2))
        elif float(over.max(initial=0.0)) <= 1e-15 * l1:
            best = max(best, -scale * entropy)
    return best
