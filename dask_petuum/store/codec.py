"""Increments and rows as they go over the wire: dense, by rows or by cells, whichever is smaller.

A message carries *chunks*: plain dicts of ints and strings around numpy arrays, at most
``MAX_FRAME_BYTES`` each (a row is never cut), so that one big table never holds up the small
messages behind it. A chunk is addressed by (plan, block, first): position ``first`` of the rows
that a rank's access plan has in one row block; the row numbers themselves were sent once, with the
plan.

=====  =====================================  =================================
kind   arrays                                 bytes
=====  =====================================  =================================
dense  values (n, n_cols)                     n n_cols itemsize
rows   rows int32 (m,), values (m, n_cols)    m (4 + n_cols itemsize)
cells  cells int64 (k,), values (k,)          k (8 + itemsize)
csr    rows, indptr int64 (m + 1,), indices   4 m + 8 (m + 1) + k (4 + itemsize)
       int32 (k,), values (k,)
=====  =====================================  =================================

n rows of the block, m of them with a change, k changed cells; a sparse table's chunks are csr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.exceptions import ProtocolError
from dask_petuum.store import kernels
from dask_petuum.store.rows import is_sparse

__all__ = [
    "MAX_FRAME_BYTES",
    "Allocator",
    "Chunk",
    "chunk_bytes",
    "chunk_rows",
    "decode_csr",
    "encode_delta",
    "encode_rows",
    "n_chunk_rows",
]

Array = npt.NDArray[Any]
Chunk = dict[str, Any]
#: As ``numpy.empty``: (shape, dtype) to an array of anything.
Allocator = Callable[..., Array]

#: Largest array in a message, bytes: 3 ms of a 1.4 GB/s loopback.
MAX_FRAME_BYTES = 4 * 2**20
#: How many times an encoding's bytes count where the receiver reads them in place: rows are copied
#: first, and single cells take ten times as long to list and to add as rows do (measured 2026-11).
IN_PLACE = {"dense": 1, "rows": 2, "cells": 8}
#: Rows looked at before all are counted.
SAMPLE_ROWS = 32


def encode_delta(
    delta: Any, plan: int, block: int, empty: Allocator = np.empty, *, in_place: bool = False
) -> Iterator[Chunk]:
    """Encode the increments of one row block; nothing where nothing changed.

    Parameters
    ----------
    delta
        (n_rows, n_cols) array, C-contiguous, or a ``csr_array``. Dense chunks are slices of it:
        it must not change until the message has been acknowledged.
    plan, block
        Address of the chunk's first row.
    empty
        Makes new arrays, as ``numpy.empty``: in memory that the receiver can reach, for example.
    in_place
        The receiver is in this process and reads the arrays where they lie: not the smallest
        encoding is best then, but the one that is fastest to make and to add (`IN_PLACE`).
    """
    if is_sparse(delta):
        changed = np.flatnonzero(np.diff(delta.indptr)).astype(np.int32)
        yield from _encode_csr(delta[changed], changed, plan, block)
        return
    for first, part in _slices(delta):
        chunk = _encode_dense_delta(part, empty, in_place)
        if chunk is not None:
            yield {"plan": plan, "block": block, "first": first, **chunk}


def encode_rows(
    values: Any,
    plan_rows: Array | None,
    changed: Array,
    plan: int,
    block: int,
    empty: Allocator = np.empty,
) -> Iterator[Chunk]:
    """Encode the rows of a plan that changed, as copies of their values.

    Parameters
    ----------
    values
        (n_rows, n_cols) values of the row block, array or ``csr_array``.
    plan_rows
        (n_plan,) int32 rows of the block that the plan has; None: all.
    changed
        (n_plan,) bool.
    empty
        Makes new arrays, as ``numpy.empty``.
    """
    where = np.flatnonzero(changed).astype(np.int32)
    if len(where) == 0:
        return
    address = {"plan": plan, "block": block}
    source = where if plan_rows is None else np.ascontiguousarray(plan_rows[where])
    if is_sparse(values):
        yield from _encode_csr(values[source], where, plan, block)
        return
    everything = len(where) == len(changed)
    row_bytes = values.shape[1] * values.itemsize
    for first, part in _slices(source, row_bytes):
        out = empty((len(part), values.shape[1]), values.dtype)
        if everything and plan_rows is None:
            np.copyto(out, values[first : first + len(part)])
        else:
            kernels.gather_rows(values, part, out)
        if everything:
            yield {**address, "first": first, "kind": "dense", "values": out}
        else:
            rows = where[first : first + len(part)]
            yield {**address, "first": 0, "kind": "rows", "rows": rows, "values": out}


def chunk_rows(chunk: Chunk, n_rows: int) -> Array:
    """Positions of the rows a dense, rows or csr chunk talks about, int32.

    Raises
    ------
    ProtocolError
        Where they do not lie within the block's ``n_rows``.
    """
    first = int(chunk["first"])
    if "rows" in chunk:
        rows = chunk["rows"]
        if rows.dtype != np.int32 or rows.ndim != 1:
            raise ProtocolError(f"rows of a chunk must be 1-d int32, got {rows.dtype}")
        rows = rows + np.int32(first) if first else rows
    else:
        rows = np.arange(first, first + len(chunk["values"]), dtype=np.int32)
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise ProtocolError(f"a chunk's rows reach outside its block of {n_rows} rows")
    return np.ascontiguousarray(rows)


def decode_csr(chunk: Chunk, n_cols: int) -> Any:
    """Make the ``csr_array`` of a csr chunk."""
    shape = (len(chunk["indptr"]) - 1, n_cols)
    return sp.csr_array((chunk["values"], chunk["indices"], chunk["indptr"]), shape=shape)


def n_chunk_rows(chunk: Chunk, n_cols: int) -> int:
    """Rows that a chunk says something of."""
    if chunk["kind"] == "csr":
        return len(chunk["indptr"]) - 1
    if chunk["kind"] == "cells":
        return int(kernels.count_rows(np.ascontiguousarray(chunk["cells"]), n_cols))
    return len(chunk["values"])


def chunk_bytes(chunk: Chunk) -> int:
    """Bytes of a chunk's arrays."""
    return sum(v.nbytes for v in chunk.values() if isinstance(v, np.ndarray))


def _slices(values: Any, row_bytes: int | None = None) -> Iterator[tuple[int, Any]]:
    """Cut rows into parts of at most MAX_FRAME_BYTES, each with its first row."""
    n_rows = values.shape[0]
    if is_sparse(values):
        cell_bytes = values.indices.itemsize + values.dtype.itemsize
        ends = values.indptr[1:].astype(np.int64) * cell_bytes + np.arange(1, n_rows + 1) * 12
        first = 0
        while first < n_rows:
            limit = MAX_FRAME_BYTES - 8 + (ends[first - 1] if first else 0)
            stop = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
            yield first, values[first:stop]
            first = stop
        return
    if row_bytes is None:
        row_bytes = values.shape[1] * values.itemsize
    step = max(1, MAX_FRAME_BYTES // max(row_bytes, 1))
    for first in range(0, n_rows, step):
        yield first, values[first : first + step]


def _encode_dense_delta(delta: Array, empty: Allocator, in_place: bool) -> Chunk | None:
    if _looks_dense(delta):
        return {"kind": "dense", "values": delta}
    n_rows, n_cols = delta.shape
    counts = np.empty(n_rows, dtype=np.int32)
    n_cells = kernels.count_changes(delta, counts)
    if n_cells == 0:
        return None
    n_changed = int(np.count_nonzero(counts))
    sizes = {
        "dense": delta.nbytes,
        "rows": n_changed * (4 + n_cols * delta.itemsize),
        "cells": n_cells * (8 + delta.itemsize),
    }
    kind = min(sizes, key=lambda k: sizes[k] * (IN_PLACE[k] if in_place else 1))
    if kind == "dense":
        return {"kind": kind, "values": delta}
    if kind == "rows":
        rows = np.flatnonzero(counts).astype(np.int32)
        values = empty((n_changed, n_cols), delta.dtype)
        kernels.gather_rows(delta, rows, values)
        return {"kind": kind, "rows": rows, "values": values}
    cells = empty((n_cells,), np.dtype(np.int64))
    values = empty((n_cells,), delta.dtype)
    kernels.gather_cells(delta, counts, cells, values)
    return {"kind": kind, "cells": cells, "values": values}


def _looks_dense(delta: Array) -> bool:
    """Whether a sample of rows has no zero at all: then counting the rest cannot pay."""
    step = max(1, len(delta) // SAMPLE_ROWS)
    return len(delta) >= 2 * SAMPLE_ROWS and bool(delta[::step].all())


def _encode_csr(part: Any, rows: Array, plan: int, block: int) -> Iterator[Chunk]:
    for first, piece in _slices(part):
        yield {
            **{"plan": plan, "block": block, "first": 0, "kind": "csr"},
            "rows": rows[first : first + piece.shape[0]],
            "indptr": piece.indptr.astype(np.int64),
            "indices": piece.indices.astype(np.int32),
            "values": piece.data,
        }
