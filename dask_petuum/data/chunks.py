"""Dask collections seen as lists of row chunks, and the graph that makes pieces of them.

The graph has one task per row chunk on top of the collections' own, optimised with them. A vector
in memory is cut in the graph, each slice a node of its own, so that it goes into the graph once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike

from dask_petuum.data.blocks import Matrix, Vector, as_vector
from dask_petuum.data.kinds import dask_backed, is_dask_array, is_dask_frame
from dask_petuum.data.partition import canonical_piece

__all__ = ["RowChunks", "align_rows", "cut_rows", "delayed_pieces", "join_columns", "row_chunks"]


@dataclass(frozen=True)
class RowChunks:
    """A Dask array, DataFrame or Series (or a vector in memory), cut by rows.

    Attributes
    ----------
    values
        The collection, or the ndarray.
    sizes
        Rows of each chunk; NaN where only computing would tell.
    n_columns
        None if unknown; 1 for a vector.
    """

    values: Any
    sizes: tuple[float, ...]
    n_columns: int | None

    @property
    def is_known(self) -> bool:
        """True if the number of rows of each chunk is known."""
        return not any(math.isnan(size) for size in self.sizes)

    @property
    def int_sizes(self) -> tuple[int, ...]:
        """Rows of each chunk, where they are known."""
        return tuple(int(size) for size in self.sizes)

    @property
    def n_rows(self) -> int | None:
        """Number of rows of all chunks, None if unknown."""
        return int(sum(self.sizes)) if self.is_known else None

    @property
    def is_wide(self) -> bool:
        """True for an array that is cut by columns too, and of which all sizes are known."""
        if not is_dask_array(self.values) or self.values.ndim == 1 or not self.is_known:
            return False
        return len(self.values.chunks[1]) > 1

    @property
    def n_chunks(self) -> int:
        """Number of row chunks."""
        return len(self.sizes)


def row_chunks(collection: Any, name: str, ndim: int = 2) -> RowChunks:
    """Return a Dask collection as row chunks.

    Raises
    ------
    ValueError
        It has not ``ndim`` dimensions (a vector may be a column).
    TypeError
        An array expression, which Dask cannot yet cut into ``Delayed`` objects.
    """
    if not hasattr(collection, "to_delayed"):
        raise TypeError(
            f"{name} is a Dask array expression, which is not supported; leave Dask's setting "
            "array.query-planning off."
        )
    if collection.ndim not in (1, 2) or collection.ndim < ndim:
        raise ValueError(
            f"Expected {ndim}D array, got {collection.ndim}D array instead: {name} is "
            f"{collection!r}."
        )
    if is_dask_frame(collection):
        sizes = (math.nan,) * int(collection.npartitions)
        n_columns: int | None = len(collection.columns) if collection.ndim == 2 else 1
    else:
        sizes = tuple(float(size) for size in collection.chunks[0])
        width = collection.shape[1] if collection.ndim == 2 else 1
        n_columns = None if math.isnan(width) else int(width)
    return RowChunks(collection, sizes, n_columns)


def align_rows(values: Any, x: RowChunks, name: str) -> RowChunks:
    """Return y or the weights cut as X is cut; lazily, if they are a Dask collection.

    Raises
    ------
    ValueError
        Lengths differ, there is more than one column, or chunk sizes are unknown and so the
        chunks cannot be matched.
    """
    collection = dask_backed(values)
    if collection is None:
        return _align_memory(as_vector(values, name), x, name)
    chunks = row_chunks(collection, name, ndim=1)
    if chunks.n_columns != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape "
            f"{(chunks.n_rows, chunks.n_columns)} instead."
        )
    if x.is_known and chunks.is_known:
        _check_lengths(x, chunks.n_rows)
        if chunks.sizes == x.sizes:
            return chunks
        rechunked = collection.rechunk({0: x.int_sizes})
        return replace(chunks, values=rechunked, sizes=x.sizes)
    if chunks.n_chunks != x.n_chunks:
        raise ValueError(
            f"{name} has {chunks.n_chunks} row chunks and X has {x.n_chunks}, and not all of their "
            "sizes are known, so they cannot be matched. Build both from one collection, or call "
            "compute_chunk_sizes() on both."
        )
    return chunks


def cut_rows(x: RowChunks, n_chunks: int) -> RowChunks:
    """Cut the row chunks of an array into at least so many, as far as there are rows.

    All are cut into equally many parts; none are joined.
    """
    n_parts = -(-n_chunks // x.n_chunks)
    sizes = tuple(
        size // n_parts + (part < size % n_parts)
        for size in x.int_sizes
        for part in range(min(n_parts, size))
    )
    meta = x.values._meta
    values = x.values.map_blocks(_sliceable, meta=meta) if sp.issparse(meta) else x.values
    return RowChunks(values.rechunk({0: sizes}), tuple(map(float, sizes)), x.n_columns)


def delayed_pieces(
    x: RowChunks, y: RowChunks | None, sample_weight: RowChunks | None, dtype: DTypeLike | None
) -> list[Any]:
    """Return one ``Delayed`` per row chunk of X, giving ``(X, y, sample_weight)``; see `blocks`."""
    import dask.array as da

    values = [None if chunks is None else chunks.values for chunks in (x, y, sample_weight)]
    slots = tuple(number for number, value in enumerate(values) if is_dask_frame(value))
    packed = _packed([values[slot] for slot in slots]) if slots else None
    operands: list[Any] = []
    for value, columns in zip((*values, packed), "jklm", strict=True):
        if value is None or is_dask_frame(value):
            operands += [None, None]
        elif is_dask_array(value):
            operands += [value, "i" if value.ndim == 1 else "i" + columns]
        else:
            operands += [da.from_array(value, chunks=(x.int_sizes,)), "i"]
    blocks: Any = da.blockwise(
        _make_piece,
        "i",
        *operands,
        slots,
        None,
        None if dtype is None else np.dtype(dtype),
        None,
        concatenate=False,  # column chunks come as a list
        align_arrays=False,  # would refuse unknown sizes
        meta=np.empty((0,), dtype=object),
        dtype=object,
        token="petuum-piece",
    )
    return list(blocks.to_delayed(optimize_graph=True))


def join_columns(blocks: list[Any]) -> Any:
    """Return the column chunks of one row chunk side by side; the block itself if it is one."""
    if len(blocks) == 1:
        return blocks[0]
    if any(sp.issparse(block) for block in blocks):
        return sp.hstack(blocks, format="csr")
    return np.concatenate(blocks, axis=1)


def _sliceable(block: Any) -> Any:
    """Return a sparse block in a format that has slices of rows."""
    is_sparse = bool(sp.issparse(block))  # not in the condition: mypy would take it for less
    return sp.csr_array(block) if is_sparse else block


def _packed(frames: list[Any]) -> Any:
    """Return a Dask array, each block of which is the tuple of the frames' partitions.

    Frames are brought together while they are expressions, so that what they share is read once.
    """
    first, *others = frames
    return first.map_partitions(
        _as_tuple, *others, meta=np.empty((0,), dtype=object), align_dataframes=False
    )


def _as_tuple(*partitions: Any) -> tuple[Any, ...]:
    return partitions


def _make_piece(
    x: Any,
    y: Any,
    sample_weight: Any,
    packed: tuple[Any, ...] | None,
    slots: tuple[int, ...],
    dtype: np.dtype[Any] | None,
) -> tuple[Matrix, Vector | None, Vector | None]:
    """Return one piece; the body of each task.

    Each of the first three is a block, a list of column chunks, or None; the ones numbered in
    ``slots`` lie in ``packed``.
    """
    parts = [
        join_columns(part) if isinstance(part, list) else part for part in (x, y, sample_weight)
    ]
    for slot, partition in zip(slots, packed or (), strict=True):
        parts[slot] = partition
    return canonical_piece((parts[0], parts[1], parts[2]), dtype)


def _align_memory(vector: Vector, x: RowChunks, name: str) -> RowChunks:
    if not x.is_known:
        raise ValueError(
            f"{name} is in memory and the chunk sizes of X are unknown, so it cannot be cut as X "
            "is. Call X.compute_chunk_sizes(), or pass it as a Dask collection cut like X."
        )
    _check_lengths(x, len(vector))
    return RowChunks(vector, x.sizes, 1)


def _check_lengths(x: RowChunks, length: int | None) -> None:
    if x.n_rows != length:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[x.n_rows, length]}"
        )
