"""Ratings in any accepted form, turned into a CSR matrix of users by items.

Three columns (user, item, rating) get numbers for their ids; a sparse matrix has them already. A
rating that is stored counts, also where it is 0. A pair that comes twice is refused: the sum that
scipy would make of it is no rating.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.data.blocks import check_container
from dask_petuum.data.kinds import dask_backed, is_dask_frame, is_pandas_frame

__all__ = [
    "Columns",
    "Ratings",
    "check_piece",
    "columns_of",
    "number_ids",
    "one_id",
    "open_ratings",
    "places",
    "rated_pairs",
]

_INT32_MAX = int(np.iinfo(np.int32).max)


class Columns(NamedTuple):
    """Ratings as three columns in memory; ``ratings`` is None for pairs to predict."""

    users: NDArray[Any]
    items: NDArray[Any]
    ratings: NDArray[Any] | None


class Ratings(NamedTuple):
    """Ratings with numbered ids."""

    #: (n_users, n_items) csr_array, or a Dask array of such, rows in the order of ``users``.
    matrix: Any
    #: (n_users,) and (n_items,) ids in the order of rows and columns, None: the numbers themselves.
    users: NDArray[Any] | None
    items: NDArray[Any] | None


def open_ratings(X: Any, *, lazy: bool = False) -> Ratings:
    """Look at ratings of any accepted kind.

    Parameters
    ----------
    X
        scipy.sparse (n_users, n_items); a Dask array of scipy.sparse chunks; or three columns:
        an array (n_ratings, 3), a tuple of three, a pandas or a Dask DataFrame.
    lazy
        Whether a Dask DataFrame is to stay on the cluster; else it is computed here.

    Raises
    ------
    ValueError
        No ratings, values that are not finite, pairs that come twice, another number of columns.
    TypeError
        Another kind of thing.
    """
    if sp.issparse(X):
        return Ratings(_checked_matrix(X), None, None)
    collection = dask_backed(X)
    if collection is not None and not is_dask_frame(collection):
        once = collection.map_blocks(_rated_once, meta=collection._meta, dtype=collection.dtype)
        return Ratings(once, None, None)
    if collection is not None and lazy:
        from .mf_shuffle import shuffle_ratings

        return shuffle_ratings(_three(collection))
    columns = columns_of(X if collection is None else collection.compute(), 3)
    users, user_numbers = number_ids(columns.users, "user")
    items, item_numbers = number_ids(columns.items, "item")
    assert columns.ratings is not None
    matrix = matrix_of(user_numbers, item_numbers, columns.ratings, (len(users), len(items)))
    return Ratings(matrix, users, items)


def matrix_of(
    users: NDArray[np.integer], items: NDArray[np.integer], ratings: NDArray[Any], shape: Any
) -> sp.csr_array[Any]:
    """Build the matrix of numbered ratings; refuse pairs that come twice."""
    kind = np.int32 if max(*shape, len(ratings)) <= _INT32_MAX else np.int64
    triplets = sp.coo_array(
        (ratings, (users.astype(kind, copy=False), items.astype(kind, copy=False))), shape=shape
    )
    return _checked_matrix(triplets)


def columns_of(X: Any, n_columns: int) -> Columns:
    """Take two or three columns from a frame, an array, a tuple of columns or a list of rows.

    ``n_columns`` 2: pairs; further columns of a frame or array are left alone.
    """
    if is_pandas_frame(X):
        frame = _three(X) if n_columns == 3 else X
        parts = [frame.iloc[:, k].to_numpy() for k in range(min(n_columns, frame.shape[1]))]
    elif isinstance(X, tuple) or _has_rows(X):
        columns = X if isinstance(X, tuple) else zip(*X, strict=True)
        parts = [np.asarray(check_container(part)) for part in columns]
    else:
        values = np.asarray(check_container(X))
        if values.ndim != 2:
            raise ValueError(_expected(f"an array of shape {values.shape}", n_columns))
        parts = list(values.T)
    if len(parts) < n_columns or (n_columns == 3 and len(parts) > 3):
        raise ValueError(_expected(f"{len(parts)} columns", n_columns))
    parts = parts[:n_columns]
    if any(part.ndim != 1 or len(part) != len(parts[0]) for part in parts):
        shapes = [part.shape for part in parts]
        raise ValueError(_expected(f"columns of shapes {shapes}", n_columns))
    ratings = _checked_ratings(parts[2]) if n_columns == 3 else None
    return Columns(parts[0], parts[1], ratings)


def rated_pairs(X: Any) -> Columns:
    """Take ratings of any accepted kind as three columns, float32; a lazy X is computed.

    Raises
    ------
    ValueError
        As for `open_ratings`; a pair of three columns may come twice.
    """
    collection = dask_backed(X)
    given: Any = X if collection is None else collection.compute()
    if sp.issparse(given):
        coo = sp.coo_array(_checked_matrix(given))
        columns = Columns(coo.row, coo.col, coo.data)
    else:
        columns = columns_of(given, 3)
    if not len(columns.users):
        raise ValueError("there is no rating to score: X holds none")
    return columns


def _has_rows(X: Any) -> bool:
    """Whether X is a list of rows alike: each column of it may have a type of its own."""
    if not isinstance(X, list) or not X or not all(isinstance(row, (tuple, list)) for row in X):
        return False
    return len({len(row) for row in X}) == 1


def number_ids(ids: NDArray[Any], what: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Number ids: the ids in order (of their values, else of their coming), and each one's number.

    Raises
    ------
    ValueError
        For a missing id.
    TypeError
        For an id that cannot be hashed.
    """
    if ids.dtype == object:
        return _number_objects(ids, what)
    if ids.dtype.kind == "f":
        if not np.isfinite(ids).all():
            raise ValueError(f"X has a {what} id that is missing or not finite")
        if (np.abs(ids) < 2.0**63).all() and (ids == np.rint(ids)).all():
            ids = ids.astype(np.int64)  # an array of three columns has one type
    found, numbers = np.unique(ids, return_inverse=True)
    return found, numbers


def _number_objects(ids: NDArray[Any], what: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    numbers: dict[Any, int] = {}
    try:
        out = np.fromiter((numbers.setdefault(i, len(numbers)) for i in ids), np.int64, len(ids))
    except TypeError as error:
        raise TypeError(f"every {what} id must be hashable: {error}") from None
    missing = [key for key in numbers if _is_missing(key)]
    if missing:
        raise ValueError(f"X has a {what} id that is missing: {missing[0]!r}")
    found = np.empty(len(numbers), object)
    found[:] = list(numbers)
    return found, out


def _is_missing(key: Any) -> bool:
    """Whether an id is None, NaN or pandas' NA, which is neither equal to itself nor not."""
    try:
        return key is None or bool(key != key)
    except TypeError:
        return True


def places(ids: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int64]:
    """Number of each id among the known ones, -1 where it is not."""
    ids = np.asarray(ids)
    if known.dtype == object or ids.dtype == object:
        table = {key: place for place, key in enumerate(known.tolist())}
        return np.fromiter((table.get(i, -1) for i in ids.tolist()), np.int64, len(ids))
    if not len(known) or _family(known) != _family(ids):
        return np.full(len(ids), -1)
    order = np.argsort(known, kind="stable")  # ids that came later stand behind
    place = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[place] == ids, place, -1)


def _family(ids: NDArray[Any]) -> str:
    """Kinds of ids that can be compared."""
    kind = ids.dtype.kind
    return "number" if kind in "biuf" else kind


def check_piece(X: Any, y: Any, sample_weight: Any) -> None:
    """Refuse a piece of a lazy matrix that is dense or has values that are not finite."""
    given: Any = X
    if not sp.issparse(X):
        raise TypeError(
            "X is a dense matrix of ratings; use scipy.sparse (only stored entries are ratings) "
            "or three columns: user, item, rating"
        )
    _checked_ratings(given.data)


def _checked_matrix(X: Any) -> sp.csr_array[Any]:
    """Return a matrix as CSR with float32 values; refuse what is not a rating.

    Raises
    ------
    ValueError
        For no users or no items, values that are no finite numbers, pairs that come twice.
    """
    X = check_container(X)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must be 2-d with a user and an item at least, got shape {X.shape}")
    if X.dtype.kind not in "iufb":
        raise ValueError(f"the ratings must be real numbers, got {X.dtype}")
    csr = _with_one_each(X)
    values = _checked_ratings(csr.data)
    return sp.csr_array((values, csr.indices, csr.indptr), shape=csr.shape)


def _rated_once(block: Any) -> Any:
    """Refuse pairs that come twice in a chunk of a lazy matrix, before they are added up."""
    is_matrix = bool(sp.issparse(block)) and block.ndim == 2 and block.dtype.kind in "iufb"
    return _with_one_each(check_container(block)) if is_matrix else block


def _with_one_each(X: Any) -> sp.csr_array[Any]:
    """Return a matrix as CSR with sorted indices; refuse pairs that come twice."""
    n_given = len(X.data) if X.format in ("csr", "csc", "coo") else X.nnz
    csr = sp.csr_array(X)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    if csr.nnz != n_given:
        raise ValueError(
            f"X has {n_given - csr.nnz} ratings of a pair of user and item that has one already; "
            "keep one rating of each pair"
        )
    return csr


def _checked_ratings(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return ratings as float32.

    Raises
    ------
    ValueError
        For those that are no real numbers or not finite, naming the first.
    """
    given = np.asarray(values)
    if given.dtype.kind in "cmM":
        raise ValueError(f"the ratings must be real numbers, got {given.dtype}")
    try:
        with np.errstate(over="ignore"):
            ratings = given.astype(np.float32, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the ratings must be real numbers: {error}") from None
    bad = np.flatnonzero(~np.isfinite(ratings))
    if len(bad):
        raise ValueError(
            f"the ratings must be finite (in float32), got {values[bad[0]]} (entry {bad[0]})"
        )
    return ratings


def _three(frame: Any) -> Any:
    """Return a frame that has the columns user, item, rating by place."""
    if len(frame.columns) != 3:
        raise ValueError(_expected(f"columns {list(frame.columns)}", 3))
    return frame


def _expected(got: str, n_columns: int) -> str:
    names = "user, item, rating" if n_columns == 3 else "user, item"
    return (
        f"X must be a scipy.sparse matrix, or {n_columns} columns: {names} "
        f"(array, tuple of columns or DataFrame); got {got}"
    )


def one_id(key: Any) -> NDArray[Any]:
    """One id as an array of ids."""
    kind = np.asarray(key)
    if kind.ndim == 0 and kind.dtype != object:
        return kind.reshape(1)
    out = np.empty(1, object)
    out[0] = key
    return out
