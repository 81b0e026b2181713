"""Kernel of stochastic gradient descent: all ratings of one cell, in the order they are stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

from .mf_steps import fetch, step

__all__ = ["visit_cell"]

#: Ratings by which rows are asked for ahead of their step.
AHEAD = 6

Floats = NDArray[np.float32]


@kernel()
def visit_cell(
    entries: tuple[NDArray[np.int32], NDArray[np.int32], Floats],
    low: int,
    high: int,
    users: tuple[Floats, Floats],
    items: tuple[Floats, Floats],
    lanes: Floats,
    rate: float,
) -> float:
    """Step once for each rating low..high; see ``mf_steps`` for the step and the arguments.

    Parameters
    ----------
    entries : (n_ratings,) user row, item row, rating
    rate : step size before a row's speed

    Returns
    -------
    Sum of the squared errors, each before its own step.
    """
    user_of, item_of, rating_of = entries
    total = 0.0
    pace = np.float32(rate)
    for e in range(low, high):
        ahead = min(e + AHEAD, high - 1)
        fetch(users[0], np.int64(user_of[ahead]))
        fetch(items[0], np.int64(item_of[ahead]))
        where = (np.int64(user_of[e]), np.int64(item_of[e]))
        error = step(users, items, lanes, where, rating_of[e], pace)
        total += np.float64(error) * np.float64(error)
    return total
