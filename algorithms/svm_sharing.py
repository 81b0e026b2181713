"""How partitions share the weights of a support vector machine: ADMM in its sharing form.

Partition k has ``t_k = sum a_i y_i x_i`` of its rows, and the dual of a task is

    min over a of  sum_k f_k(a_k) + 1/2 |t|^2,   t = sum_k t_k.

Besides the total ``t`` there are weights ``w`` of the primal; they agree at the optimum. A clock
is (Boyd et al. 2011, section 7.3, for K partitions and charges r):

    every partition lowers  f_k(a_k) + o'D_k + r/2 |D_k|^2,   o = w + r/K (t - w),

with ``D_k`` the change of its ``t_k``; then ``w <- w + r / (K + r) (t - w)``. With r = K the origin
``o`` is ``t`` and the step is CoCoA+ (Ma et al. 2015). That is slow along directions in which many
rows of every partition point, above all the intercept's: what one partition's dual variables give
up for another's costs nothing in ``t``, but is charged. Smaller r charge less, and ``w`` sees to it
that the partitions agree. Features and the intercept have a charge each in every task; it is raised
where ``t`` and ``w`` disagree, lowered where the partitions hardly move.

For any ``w`` and any feasible ``a`` the duality gap is that of the partitions' problems at ``w``
plus ``1/2 |w - t|^2``; so nothing of the certificate depends on r.

References
----------
S. Boyd et al., "Distributed optimization and statistical learning via the alternating direction
method of multipliers", Found. Trends Mach. Learn. 3, 2011, sections 3.4.1 and 7.3.
C. Zhang, H. Lee, K. G. Shin, "Efficient distributed linear classification algorithms via the
alternating direction method of multipliers", AISTATS 2012.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.runtime.context import Array
from dask_petuum.runtime.program import State

__all__ = ["guess_charge", "origin", "per_feature", "settle", "squares_moved"]

Doubles = NDArray[np.float64]

#: First charge of the features, as a share of the number of partitions.
FIRST = 0.15
#: First charge of the intercept, as a share of the guess below: with a hinge most rows stand at a
#: bound and do not answer (synthetic texts: 120 clocks; above 150 from the whole guess).
SHARE = 0.1
#: A charge changes by a factor where the two residuals differ by more than another.
FACTOR, UNLIKE = 1.5, 2.0


def guess_charge(rows: Any, costs: Array, bias: float, n_partitions: int) -> float:
    """Guess what the intercept's charge should be: the stiffness of a partition's answer to it.

    The rows' dual variables answer a change of the intercept by ``1 / r`` of ``t``, where r is
    about the squared length of the mean row, and what each row's own curvature adds.

    Parameters
    ----------
    rows
        (n_rows, n_features), dense or CSR.
    costs
        (n_rows,) costs of the rows.
    """
    n_rows, used = rows.shape[0], costs[costs > 0]
    if len(used) == 0:
        return float(n_partitions)
    mean = np.asarray(rows.sum(axis=0), dtype=np.float64).ravel() / n_rows
    guess = n_partitions * float(mean @ mean) + 0.5 / float(np.median(used)) / n_rows
    return float(min(SHARE * guess / bias**2, n_partitions))


def per_feature(charges: Doubles, n_features: int) -> Doubles:
    """Spread (n_tasks, 2) charges over the features and the intercept behind them."""
    out = np.repeat(charges[:, :1], n_features + 1, axis=1)
    out[:, -1] = charges[:, 1]
    return out


def origin(primal: Array, totals: Array, charges: Doubles, n_partitions: int) -> Doubles:
    """Weights from which every partition descends, (n_tasks, n_features + 1)."""
    shares = per_feature(charges, totals.shape[1] - 1) / n_partitions
    out: Doubles = primal + shares * (totals - primal)
    return out


def squares_moved(change: Array) -> Doubles:
    """Squared change of a partition's ``t_k`` in its features and its intercept, (n_tasks, 2)."""
    features = change[:, :-1]
    return np.stack([np.einsum("ij,ij->i", features, features), change[:, -1] ** 2], axis=1)


def settle(state: State, totals: Array, moved: Array, n_partitions: int) -> None:
    """Move the primal weights to the new totals, and balance the charges; tasks that moved only.

    Parameters
    ----------
    state
        ``primal`` (n_tasks, n_features + 1), ``charges`` (n_tasks, 2), ``moved`` (n_tasks,) are
        read, the first two replaced. The charges of the first clock are 0: ``moved`` has a first
        guess for the intercept then.
    totals
        (n_tasks, n_features + 1) ``t`` after the last clock.
    moved
        (n_tasks, 2) what `squares_moved` gave, summed over the partitions.
    """
    charges = state["charges"]
    if not charges.any():
        state["charges"] = np.stack(
            [np.full(len(moved), FIRST * n_partitions), moved[:, 1]], axis=1
        )
        return
    awake = state["moved"] > 0
    away = totals - state["primal"]
    apart = np.sqrt(squares_moved(away) / n_partitions)
    walked = charges * np.sqrt(np.maximum(moved, 0.0))
    rates = per_feature(charges / (n_partitions + charges), totals.shape[1] - 1)
    state["primal"] = state["primal"] + rates * away * awake[:, None]
    factors = np.where(apart > UNLIKE * walked, FACTOR, 1.0)
    factors = np.where(walked > UNLIKE * apart, 1.0 / FACTOR, factors)
    factors[~awake] = 1.0
    state["charges"] = np.minimum(charges * factors, float(n_partitions))
