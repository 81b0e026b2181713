"""Messages on their way: arrays become frames, or places in memory that both sides share.

A message is plain data around arrays. Nothing in it is ever pickled: an array goes as a frame of
its own (marked by the caller's ``wrap``), or, to a rank on the same host, as a small dict that
names its place in the sender's arena; everything else is msgpack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dask_petuum.exceptions import ProtocolError
from dask_petuum.transport.shared import Arena, PeerArena

__all__ = ["inline", "pack", "unpack"]

#: Key of the dict that stands for an array in shared memory, and of one that carries it.
SHARED, INLINE = "__shared__", "__inline__"


def pack(value: Any, wrap: Callable[[Any], Any], arena: Arena | None = None) -> Any:
    """Make a message ready to be sent.

    Parameters
    ----------
    value
        Plain data around arrays.
    wrap
        Marks an array to travel as a frame.
    arena
        The sender's, where the receiver can read it.
    """
    if isinstance(value, np.ndarray):
        offset = None if arena is None else arena.locate(value)
        if offset is not None:
            return {SHARED: offset, "shape": list(value.shape), "dtype": value.dtype.str}
        return wrap(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {key: pack(item, wrap, arena) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item, wrap, arena) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def inline(array: Any) -> dict[str, Any]:
    """Put a C-contiguous array into the message itself, instead of a frame of its own."""
    return {INLINE: array.tobytes(), "shape": list(array.shape), "dtype": array.dtype.str}


def unpack(value: Any, arena: PeerArena | None) -> Any:
    """Turn a message back into plain data around arrays.

    Raises
    ------
    ProtocolError
        For a place in shared memory where none is shared, or outside of it; for what is no place
        or no array, and for what is nested too deeply.
    """
    try:
        return _unpacked(value, arena)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a message cannot be read: {error!r:.200}") from error


def _unpacked(value: Any, arena: PeerArena | None) -> Any:
    if isinstance(value, Mapping):
        if INLINE in value:
            return _array_of(value)
        if SHARED not in value:
            return {key: _unpacked(item, arena) for key, item in value.items()}
        if arena is None:
            raise ProtocolError("a message names shared memory, but its sender shares none")
        shape = tuple(int(n) for n in value["shape"])
        return arena.array(int(value[SHARED]), shape, str(value["dtype"]))
    if isinstance(value, (list, tuple)):
        return [_unpacked(item, arena) for item in value]
    return value


def _array_of(value: Mapping[str, Any]) -> Any:
    dtype, data = np.dtype(str(value["dtype"])), value[INLINE]
    if dtype.kind not in "iufb" or not isinstance(data, bytes):
        raise ProtocolError(f"an array of {dtype} is not taken")
    try:
        return np.frombuffer(data, dtype).reshape(value["shape"]).copy()
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a message carries no array of {dtype}: {error}") from error
