"""The data of a program of one's own: what a caller may give, as one piece per partition."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from dask_petuum.data import open_dataset

__all__ = ["given_pieces", "join_pieces"]


def given_pieces(partitions: Any) -> list[Any]:
    """Cut what was given into pieces; a piece of a Dask collection is a ``Delayed``.

    Raises
    ------
    ValueError
        For an empty list, or lengths that differ.
    """
    if partitions is None:
        return []
    if isinstance(partitions, list):
        if not partitions:
            raise ValueError("partitions must not be an empty list; use None for no data")
        return list(partitions)
    several = isinstance(partitions, tuple)
    given = partitions if several else (partitions,)
    if not 1 <= len(given) <= 3:
        raise ValueError(f"partitions must be X, (X, y) or (X, y, weights), got {len(given)}")
    pick = partial(_pick, several, len(given))
    pieces = open_dataset(*given).pieces()
    if any(hasattr(piece, "dask") for piece in pieces):
        return _lazily(pick, pieces)
    return [pick(piece) for piece in pieces]


def join_pieces(pieces: Sequence[Any]) -> Any:
    """Join the pieces of one rank by rows; None where there is none.

    Raises
    ------
    ValueError
        Where there are several that have no rows to join.
    """
    if not pieces:
        return None
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    if isinstance(first, tuple):
        return tuple(join_pieces(column) for column in zip(*pieces, strict=True))
    if sp.issparse(first):
        return sp.csr_array(sp.vstack(pieces, format="csr"))
    if isinstance(first, np.ndarray):
        return np.concatenate(pieces)
    if hasattr(first, "iloc"):
        import pandas as pd

        return pd.concat(pieces)
    raise ValueError(
        f"{len(pieces)} partitions of type {type(first).__name__} fall to one rank and cannot be "
        "joined by rows; give arrays, DataFrames or tuples of them, or one partition per rank"
    )


def _lazily(function: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    """Call a function on each ``Delayed`` of one collection, lazily.

    One layer of tasks for all of them, where a ``dask.delayed`` each has a graph of its own:
    2,000 pieces in this process are made in 0.02 s instead of 0.15 and computed in 0.7 s instead
    of 1.0 (2026-11).
    """
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    name = f"petuum-given-{uuid.uuid4().hex}"
    tasks = {(name, index): (function, piece.key) for index, piece in enumerate(pieces)}
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=pieces)
    return [Delayed(key, graph, layer=name) for key in tasks]


def _pick(several: bool, n: int, piece: tuple[Any, ...]) -> Any:
    return tuple(piece[:n]) if several else piece[0]
