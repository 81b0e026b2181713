"""A learnt factorisation at work: predictions of pairs, and the best of many scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .mf_ratings import columns_of, places

__all__ = ["Model", "Predictions", "best", "predict_pairs"]

#: Pairs whose factors are gathered at once: 2 x 10 MB at 40 factors.
CHUNK_PAIRS = 1 << 16

Floats = NDArray[np.float32]


class Model(NamedTuple):
    """What a prediction needs."""

    user_factors: Floats
    item_factors: Floats
    user_bias: Floats
    item_bias: Floats
    mean: float
    users: NDArray[Any]
    items: NDArray[Any]


def predict_pairs(model: Model, pairs: tuple[NDArray[Any], NDArray[Any]]) -> Floats:
    """Predict the ratings of pairs of ids; of unknown ids, what the other side tells counts."""
    users, items = places(pairs[0], model.users), places(pairs[1], model.items)
    out = np.full(len(users), model.mean, np.float32)
    for low in range(0, len(users), CHUNK_PAIRS):
        cut = slice(low, low + CHUNK_PAIRS)
        u, i = users[cut], items[cut]
        known_u, known_i = u >= 0, i >= 0
        out[cut][known_u] += model.user_bias[u[known_u]]
        out[cut][known_i] += model.item_bias[i[known_i]]
        both = known_u & known_i
        out[cut][both] += np.einsum(
            "ij,ij->i", model.user_factors[u[both]], model.item_factors[i[both]]
        )
    return out


def best(scores: NDArray[Any], n: int, without: NDArray[Any]) -> NDArray[np.intp]:
    """Places of the ``n`` highest scores, best first, equal ones in order; some left out."""
    allowed = np.ones(len(scores), np.bool_)
    allowed[without] = False
    places_left = np.flatnonzero(allowed)
    left = scores[places_left]
    n = min(n, len(left))
    if not n:
        return np.empty(0, np.intp)
    least = np.partition(left, len(left) - n)[len(left) - n]
    candidates = np.flatnonzero(left >= least)
    order = candidates[np.argsort(-left[candidates], kind="stable")][:n]
    return places_left[order]


class Predictions:
    """A function of pairs; picklable, without the estimator."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, pairs: Any) -> NDArray[np.float32]:
        columns = columns_of(pairs, 2)
        return predict_pairs(self.model, (columns.users, columns.items))

    def series(self, frame: Any) -> Any:
        """Predictions of a frame's pairs, with its index."""
        import pandas as pd

        return pd.Series(self(frame), index=frame.index, name="prediction")
