"""What a message to an owner must look like; the rest is refused before anything has changed.

The network may hand an owner anything. Kernels and scipy's C code index without looking, so every
number that becomes an index is checked here, once, where it comes in: an owner's shards then take
chunks as they are. Values are not looked at: NaN is a value of a float table like any other.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.exceptions import ProtocolError
from dask_petuum.store.spec import TableSpec

__all__ = ["FINISHED", "check_chunk", "checked_blocks", "field_of", "number_of"]

Array = npt.NDArray[Any]

#: Clock of a rank that has ended its last one.
FINISHED = 2**62

#: Arrays of each kind of chunk, with their dtype (None: the table's) and dimensions.
_ARRAYS: Mapping[str, Mapping[str, tuple[str | None, int]]] = {
    "dense": {"values": (None, 2)},
    "rows": {"rows": ("int32", 1), "values": (None, 2)},
    "cells": {"cells": ("int64", 1), "values": (None, 1)},
    "csr": {
        "rows": ("int32", 1),
        "indptr": ("int64", 1),
        "indices": ("int32", 1),
        "values": (None, 1),
    },
}
_ADDRESS = ("plan", "block", "first", "kind")


def number_of(message: Mapping[str, Any], name: str, low: int = 0, high: int = FINISHED) -> int:
    """Take an integer field; a float, a NaN or a bool is none."""
    value = field_of(message, name, int)
    if isinstance(value, bool) or not low <= value <= high:
        raise ProtocolError(f"{name!r} must be within {low} .. {high}, got {reprlib.repr(value)}")
    return int(value)


def field_of(message: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """Take a field of a message, of a type that is expected there."""
    if not isinstance(message, Mapping) or name not in message:
        raise ProtocolError(f"a message lacks {name!r}")
    value = message[name]
    if not isinstance(value, kind):
        raise ProtocolError(f"{name!r} of a message cannot be {reprlib.repr(value)}")
    return value


def checked_blocks(
    message: Mapping[str, Any], n_rows_of: Mapping[int, int], table: str
) -> list[tuple[int, Array | None]]:
    """Take the blocks of an access plan and the rows that it declares in each.

    Parameters
    ----------
    n_rows_of
        Rows of each block that this owner holds, by the block's number.

    Raises
    ------
    ProtocolError
        For a block that is not here, or rows that are not ascending int32 within it.
    """
    blocks = []
    for item in field_of(message, "blocks", (list, tuple)):
        if not isinstance(item, Sequence) or len(item) != 2:
            raise ProtocolError(f"a block of a plan must be (index, rows), got {type(item)}")
        index, rows = item
        if isinstance(index, bool) or not isinstance(index, int) or index not in n_rows_of:
            raise ProtocolError(f"block {reprlib.repr(index)} of table {table!r} is not here")
        if rows is not None:
            _check_array("rows", rows, "int32", 1)
            _check_ascending("rows", rows, n_rows_of[index])
        blocks.append((index, rows))
    return blocks


def check_chunk(chunk: Mapping[str, Any], spec: TableSpec, n_rows: int) -> None:
    """Refuse a chunk of increments that does not fit.

    Parameters
    ----------
    spec
        The table it is for.
    n_rows
        Rows that the sender's access plan has in the block.

    Raises
    ------
    ProtocolError
        Naming what does not fit.
    """
    kind = field_of(chunk, "kind", str)
    if kind not in _ARRAYS or (kind == "csr") != spec.sparse:
        raise ProtocolError(f"table {spec.name!r} takes no chunk of kind {kind!r}")
    arrays = _ARRAYS[kind]
    if set(chunk) != {*_ADDRESS, *arrays}:
        raise ProtocolError(f"a chunk of kind {kind!r} cannot have the fields {sorted(chunk)}")
    for name, (dtype, ndim) in arrays.items():
        _check_array(name, chunk[name], dtype or spec.dtype, ndim)
    left = n_rows - number_of(chunk, "first", 0, n_rows)
    _CHECKS[kind](chunk, spec.n_cols, left)


def _check_dense(chunk: Mapping[str, Any], n_cols: int, n_rows: int) -> None:
    values = chunk["values"]
    if values.shape[1] != n_cols or len(values) > n_rows:
        raise ProtocolError(f"values of shape {values.shape} do not fit {n_rows} x {n_cols}")


def _check_rows(chunk: Mapping[str, Any], n_cols: int, n_rows: int) -> None:
    expected = (len(chunk["rows"]), n_cols)
    if chunk["values"].shape != expected:
        raise ProtocolError(f"values must have shape {expected}, got {chunk['values'].shape}")
    _check_ascending("rows", chunk["rows"], n_rows)


def _check_cells(chunk: Mapping[str, Any], n_cols: int, n_rows: int) -> None:
    if chunk["cells"].shape != chunk["values"].shape:
        raise ProtocolError("a chunk needs as many cells as values")
    _check_ascending("cells", chunk["cells"], n_rows * n_cols)


def _check_csr(chunk: Mapping[str, Any], n_cols: int, n_rows: int) -> None:
    indptr, indices = chunk["indptr"], chunk["indices"]
    _check_ascending("rows", chunk["rows"], n_rows)
    if len(indptr) != len(chunk["rows"]) + 1:
        raise ProtocolError(f"indptr has {len(indptr)} entries for {len(chunk['rows'])} rows")
    if indptr[0] != 0 or indptr[-1] != len(indices) or len(indices) != len(chunk["values"]):
        raise ProtocolError("indptr, indices and values of a chunk do not fit each other")
    if (indptr[1:] < indptr[:-1]).any():
        raise ProtocolError("indptr of a chunk must not fall")
    if len(indices) and (indices.min() < 0 or indices.max() >= n_cols):
        raise ProtocolError(f"indices of a chunk must be within 0 .. {n_cols - 1}")


_CHECKS = {
    "dense": _check_dense,
    "rows": _check_rows,
    "cells": _check_cells,
    "csr": _check_csr,
}


def _check_array(name: str, array: Any, dtype: str, ndim: int) -> None:
    if not isinstance(array, np.ndarray):
        raise ProtocolError(f"{name} of a message must be an array, got {type(array).__name__}")
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise ProtocolError(
            f"{name} of a message must be {ndim}-d {dtype}, got {array.ndim}-d {array.dtype}"
        )


def _check_ascending(name: str, indices: Array, stop: int) -> None:
    """Indices ascend and lie within 0 .. stop-1; ascending also says that none is repeated."""
    if len(indices) == 0:
        return
    if indices[0] < 0 or indices[-1] >= stop or (indices[1:] <= indices[:-1]).any():
        raise ProtocolError(f"{name} of a message must ascend within 0 .. {stop - 1}")
