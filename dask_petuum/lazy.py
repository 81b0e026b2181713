"""Predictions as lazy as their input: one function over the blocks of rows of X.

The function gets blocks in the form of `dask_petuum.data` (ndarray in C order or csr_array) and is
put into a Dask graph once, under a key of its own: a fitted array of 100 MB inside it is held and
sent once, not once per task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dask_petuum.data.blocks import Matrix, as_matrix
from dask_petuum.data.chunks import join_columns, row_chunks
from dask_petuum.data.kinds import dask_backed, is_dask_frame

__all__ = ["map_rows"]


def map_rows(
    fn: Callable[[Matrix], NDArray[Any]],
    X: Any,
    *,
    n_columns: int | None,
    dtype: DTypeLike,
) -> Any:
    """Apply a function of one block of rows to all of X, now or lazily as X is.

    Nothing is computed or inferred for a lazy X; the result has its row chunks (unknown sizes
    stay unknown). Chunks without rows do not reach ``fn``.

    Parameters
    ----------
    fn
        Picklable; gets a block as ndarray or csr_array of shape (n_rows, n_features) and gives
        an ndarray of shape (n_rows,) if ``n_columns`` is None, else (n_rows, n_columns).
    X
        What `dask_petuum.data.open_dataset` accepts.
    n_columns
        Columns of the result, None for a 1-d result.
    dtype
        Type of the result; what ``fn`` gives is cast to it.

    Returns
    -------
    ndarray or dask.array.Array
        A Dask array for a Dask array, a Dask DataFrame and a DataArray backed by Dask (its labels
        are not kept); else an ndarray.

    Raises
    ------
    ValueError
        ``fn`` gives another shape than it should, or X is not 2-d.

    Examples
    --------
    >>> import numpy as np
    >>> map_rows(lambda block: block.sum(axis=1), np.ones((2, 3)), n_columns=None, dtype="f8")
    array([3., 3.])
    """
    wanted = np.dtype(dtype)
    collection = dask_backed(X)
    if collection is None:
        return _apply(fn, n_columns, wanted, as_matrix(X))
    row_chunks(collection, "X")  # refuses what is not 2-d
    from dask.delayed import delayed

    shared = delayed(fn, pure=True, traverse=False)
    if is_dask_frame(collection):
        return _map_frame(shared, collection, n_columns, wanted)
    return _map_array(shared, collection, n_columns, wanted)


def _map_array(shared: Any, X: Any, n_columns: int | None, dtype: np.dtype[Any]) -> Any:
    import dask.array as da

    return da.blockwise(
        _apply_to_columns,
        "i" if n_columns is None else "ik",
        shared,
        None,
        n_columns,
        None,
        dtype,
        None,
        X,
        "ij",
        new_axes={} if n_columns is None else {"k": n_columns},
        concatenate=False,  # column chunks come as a list
        align_arrays=False,  # would refuse unknown sizes
        meta=_meta(n_columns, dtype),
        dtype=dtype,
        token="petuum-map-rows",
    )


def _map_frame(shared: Any, X: Any, n_columns: int | None, dtype: np.dtype[Any]) -> Any:
    return X.map_partitions(
        _apply_to_frame,
        shared,
        n_columns,
        dtype,
        meta=_meta(n_columns, dtype),
        token="petuum-map-rows",
    )


def _meta(n_columns: int | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.empty((0,) if n_columns is None else (0, n_columns), dtype=dtype)


def _apply_to_columns(
    fn: Callable[[Matrix], NDArray[Any]],
    n_columns: int | None,
    dtype: np.dtype[Any],
    blocks: list[Any],
) -> NDArray[Any]:
    """Return ``fn`` of one row chunk given as its column chunks; the body of each task."""
    block = as_matrix(join_columns(blocks))
    if block.shape[0] == 0:
        return _meta(n_columns, dtype)
    return _apply(fn, n_columns, dtype, block)


def _apply_to_frame(
    frame: Any,
    fn: Callable[[Matrix], NDArray[Any]],
    n_columns: int | None,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    return _apply_to_columns(fn, n_columns, dtype, [frame])


def _apply(
    fn: Callable[[Matrix], NDArray[Any]],
    n_columns: int | None,
    dtype: np.dtype[Any],
    block: Matrix,
) -> NDArray[Any]:
    result = np.asarray(fn(block), dtype=dtype)
    n_rows = int(block.shape[0])
    expected = (n_rows,) if n_columns is None else (n_rows, n_columns)
    if result.shape != expected:
        raise ValueError(
            f"{fn!r} gave an array of shape {result.shape} for a block of {n_rows} rows, expected "
            f"{expected}."
        )
    return result
