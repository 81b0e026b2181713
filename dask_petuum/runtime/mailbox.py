"""Blocks that were sent to a rank: put in by the event loop, taken out by the rank's thread."""

from __future__ import annotations

import math
import reprlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dask_petuum.exceptions import ProtocolError
from dask_petuum.runtime.context import Array
from dask_petuum.store.codec import MAX_FRAME_BYTES, Allocator
from dask_petuum.store.messages import field_of, number_of

__all__ = ["Array", "Mailbox", "decode_arrays", "encode_arrays"]


class Mailbox:
    """Blocks by (block, stamp); each is taken once, and a repeated one is dropped.

    The mutable state is `_blocks`, `_told`, `_seen` and `_cause`, all under the condition.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: dict[tuple[int, int], dict[str, Array]] = {}
        #: Whom to tell when a block is taken.
        self._told: dict[tuple[int, int], list[Callable[[], None]]] = {}
        #: Newest stamp of each block that came: stamps of a block only rise.
        self._seen: dict[int, int] = {}
        self._cause: Exception | None = None

    def __repr__(self) -> str:
        with self._changed:
            return f"<Mailbox with blocks {sorted(self._blocks)}>"

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that nobody has taken yet."""
        with self._changed:
            return sum(v.nbytes for arrays in self._blocks.values() for v in arrays.values())

    def put(
        self,
        block: int,
        stamp: int,
        arrays: dict[str, Array],
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """Put a block in, unless it came before; ``taken`` is called when it is taken."""
        key = block, stamp
        with self._changed:
            if self._seen.get(block, -1) < stamp and self._cause is None:
                self._seen[block] = stamp
                self._blocks[key] = arrays
                self._changed.notify_all()
            if key in self._blocks:
                self._told.setdefault(key, []).append(taken)
                return
        taken()

    def take(self, block: int, stamp: int) -> dict[str, Array]:
        """Wait for a block; raises why the run ended, should it end before."""
        key = block, stamp
        with self._changed:
            self._changed.wait_for(lambda: key in self._blocks or self._cause is not None)
            if key not in self._blocks:
                assert self._cause is not None
                raise self._cause
            arrays, told = self._blocks.pop(key), self._told.pop(key, [])
        for taken in told:
            taken()
        return arrays

    def interrupt(self, cause: Exception) -> None:
        """End every wait with its cause."""
        with self._changed:
            self._cause = self._cause or cause
            told = [taken for each in self._told.values() for taken in each]
            self._told.clear()
            self._changed.notify_all()
        for taken in told:
            taken()


def encode_arrays(
    arrays: Mapping[str, Array], empty: Allocator | None = None
) -> list[dict[str, Any]]:
    """Cut a block's arrays into parts of at most a frame each.

    Parameters
    ----------
    empty
        Makes memory that the receiver can reach, into which the parts are copied; None: they are
        not, and the arrays must not change.
    """
    out = []
    for name, values in arrays.items():
        flat = np.ascontiguousarray(values).reshape(-1)
        if empty is not None:
            flat, source = empty(flat.shape, flat.dtype), flat
            np.copyto(flat, source)
        step = max(1, MAX_FRAME_BYTES // max(flat.itemsize, 1))
        parts = [flat[first : first + step] for first in range(0, max(len(flat), 1), step)]
        out.append({"name": name, "shape": list(values.shape), "parts": parts})
    return out


def decode_arrays(message: Mapping[str, Any]) -> tuple[int, int, dict[str, Array]]:
    """Check and copy what `encode_arrays` made: (block, stamp, arrays).

    Raises
    ------
    ProtocolError
        Where the message is not one of a block.
    """
    block, stamp = number_of(message, "block"), number_of(message, "stamp")
    arrays: dict[str, Array] = {}
    for item in field_of(message, "arrays", (list, tuple)):
        if not isinstance(item, Mapping):
            raise ProtocolError("arrays of a block must be mappings")
        name, shape = field_of(item, "name", str), field_of(item, "shape", (list, tuple))
        if name in arrays:
            raise ProtocolError(f"array {name!r} of a block comes twice")
        parts = field_of(item, "parts", (list, tuple))
        arrays[name] = _joined(name, shape, parts)
    return block, stamp, arrays


def _joined(name: str, shape: Sequence[Any], parts: Sequence[Any]) -> Array:
    if not parts:
        raise ProtocolError(f"array {name!r} of a block is empty")
    if any(not isinstance(part, np.ndarray) or part.dtype.hasobject for part in parts):
        raise ProtocolError(f"array {name!r} of a block has parts that are no plain arrays")
    if len({part.dtype for part in parts}) != 1:
        raise ProtocolError(f"array {name!r} of a block has parts of different dtypes")
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    # in Python: a product of int64 would overflow
    if not whole or sum(part.size for part in parts) != math.prod(shape):
        raise _misfit(name, shape)
    # a copy in any case: the sender's memory is used again
    flat: Array = np.concatenate([part.reshape(-1) for part in parts])
    try:
        return flat.reshape(shape)
    except ValueError as error:  # what numpy has not, such as (0, 2**62), or 65 dimensions
        raise _misfit(name, shape) from error


def _misfit(name: str, shape: Sequence[Any]) -> ProtocolError:
    text = reprlib.repr(list(shape))
    return ProtocolError(f"array {name!r} of a block does not fit its shape {text}")
