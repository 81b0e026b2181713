"""Ratings in a Dask DataFrame: numbered, shuffled by user, and made into sparse row chunks.

Only the distinct ids come to the client. The frame is set to an index of user numbers with given
borders, so that a partition holds all ratings of its users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .mf_ratings import Ratings, columns_of, matrix_of, number_ids, places

__all__ = ["shuffle_ratings"]


def shuffle_ratings(frame: Any) -> Ratings:
    """Turn a Dask DataFrame of three columns into a lazy matrix; computes the distinct ids."""
    import dask
    import dask.array as da
    import pandas as pd

    user, item = frame.columns[:2]
    distinct = dask.compute(frame[user].unique(), frame[item].unique())
    users, _ = number_ids(distinct[0].to_numpy(), "user")
    items, _ = number_ids(distinct[1].to_numpy(), "item")
    if not len(users):
        raise ValueError("there is no rating to train on: X holds none")
    meta = pd.DataFrame(
        {
            "user": np.empty(0, np.int64),
            "item": np.empty(0, np.int64),
            "rating": np.empty(0, np.float32),
        }
    )
    ids = dask.delayed((users, items), pure=True, traverse=False)
    numbered = frame.map_partitions(_number, ids, meta=meta)
    n_parts = min(int(frame.npartitions), len(users))
    borders = np.arange(n_parts + 1) * len(users) // n_parts
    divisions = [*borders[:-1].tolist(), len(users) - 1]
    if n_parts > 1:
        parts = numbered.set_index("user", divisions=divisions, drop=True).to_delayed()
    else:
        parts = numbered.repartition(npartitions=1).set_index("user", sort=False).to_delayed()
    chunks = []
    for part, low, high in zip(parts, borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        chunk = dask.delayed(_matrix)(part, low, high, len(items))
        shape, empty = (high - low, len(items)), sp.csr_array((0, 0), dtype=np.float32)
        chunks.append(da.from_delayed(chunk, shape=shape, meta=empty))
    return Ratings(da.concatenate(chunks), users, items)


def _number(frame: Any, ids: tuple[NDArray[Any], NDArray[Any]]) -> Any:
    import pandas as pd

    columns = columns_of(frame, 3)
    return pd.DataFrame(
        {
            "user": places(columns.users, ids[0]),
            "item": places(columns.items, ids[1]),
            "rating": columns.ratings,
        }
    )


def _matrix(part: Any, low: int, high: int, n_items: int) -> sp.csr_array[Any]:
    users = part.index.to_numpy() - low
    return matrix_of(
        users, part["item"].to_numpy(), part["rating"].to_numpy(), (high - low, n_items)
    )
