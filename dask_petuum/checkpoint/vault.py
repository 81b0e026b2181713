"""What a worker keeps of checkpoints: its own ranks' parts, and copies of others'.

In memory. An array comes and goes in pieces of a few megabytes, so that no message holds up the
store's. What is kept belongs to a fit and outlives its epochs; the scheduler says what may go.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dask_petuum.checkpoint.saved import KINDS
from dask_petuum.exceptions import CheckpointError, ProtocolError
from dask_petuum.store.messages import field_of, number_of

__all__ = ["N_FORGOTTEN", "PIECE_BYTES", "PartKey", "Vault"]

Array = npt.NDArray[Any]

#: Bytes of an array that go in one message.
PIECE_BYTES = 4 * 2**20
#: Fits that are remembered to be over: more than any cluster ends while a part is on its way.
N_FORGOTTEN = 1000


class PartKey(NamedTuple):
    """One rank's part of one checkpoint."""

    fit_id: str
    run_id: str
    clock: int
    rank: int

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> PartKey:
        """Take it from a message.

        Raises
        ------
        ProtocolError
            Where a field is missing or cannot be.
        """
        texts = [field_of(message, name, str) for name in ("fit", "run")]
        return cls(*texts, *(number_of(message, name) for name in ("clock", "rank")))


class Vault:
    """Parts of checkpoints, by key; safe to call from any thread.

    Parameters
    ----------
    limit
        Bytes that copies of others' parts may take; None: what the host has.
    """

    # The mutable state is `_parts` and `_forgotten`, under the lock.

    def __init__(self, limit: int | None = None) -> None:
        self._limit = _bytes_of_host() if limit is None else limit
        self._lock = threading.Lock()
        self._parts: dict[PartKey, dict[str, Array]] = {}
        #: Fits that are over: a part of one that comes late is not kept.
        self._forgotten: deque[str] = deque(maxlen=N_FORGOTTEN)

    def __repr__(self) -> str:
        with self._lock:
            fits = sorted({key.fit_id for key in self._parts})
            return f"<Vault of {len(self._parts)} parts of {fits}, {self._n_bytes()} bytes>"

    @property
    def keys(self) -> list[PartKey]:
        """What is kept."""
        with self._lock:
            return sorted(self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that are kept."""
        with self._lock:
            return self._n_bytes()

    def put(self, key: PartKey, arrays: Mapping[str, Array]) -> None:
        """Keep a part of this worker's own; the arrays must not change any more."""
        with self._lock:
            if key.fit_id not in self._forgotten:
                self._parts[key] = dict(arrays)

    def get(self, key: PartKey, name: str) -> Array:
        """Look an array up.

        Raises
        ------
        CheckpointError
            Where it is not here.
        """
        with self._lock:
            part = self._parts.get(key)
            if part is None or name not in part:
                raise CheckpointError(f"{name!r} of {key} is not kept here")
            return part[name]

    def add_piece(self, message: Mapping[str, Any]) -> None:
        """Take a piece of an array of another rank's part; again, if it comes again.

        Raises
        ------
        ProtocolError
            For a piece that cannot be one.
        CheckpointError
            Where the fit is over: it ended while its last part was on its way.
        """
        key, name = PartKey.of(message), field_of(message, "name", str)
        piece = field_of(message, "piece", np.ndarray)
        shape, dtype = _checked_form(message)
        offset, n_bytes = number_of(message, "offset"), _n_bytes(shape, dtype)
        if piece.dtype != np.uint8 or piece.ndim != 1 or offset + piece.size > n_bytes:
            raise ProtocolError(f"a piece of {piece.size} bytes at {offset} is none of {n_bytes}")
        with self._lock:
            if key.fit_id in self._forgotten:
                raise CheckpointError(f"fit {key.fit_id} is over")
            part = self._parts.get(key, {})
            array = part.get(name)
            if array is None:
                array = self._room_for(shape, dtype)
                self._parts.setdefault(key, part)[name] = array
        if array.shape != shape or array.dtype != dtype:
            raise ProtocolError(f"{name!r} of {key} is {array.shape} {array.dtype} here")
        if piece.size:
            array.reshape(-1).view(np.uint8)[offset : offset + piece.size] = piece

    def keep_only(self, fit_id: str, run_id: str, clock: int) -> None:
        """Drop a fit's other checkpoints, but for later ones of the same run."""
        with self._lock:
            for key in list(self._parts):
                if key.fit_id == fit_id and not (key.run_id == run_id and key.clock >= clock):
                    del self._parts[key]

    def forget(self, fit_ids: Collection[str]) -> None:
        """Drop all of some fits."""
        with self._lock:
            self._forgotten.extend(fit_ids)
            for key in list(self._parts):
                if key.fit_id in fit_ids:
                    del self._parts[key]

    def _n_bytes(self) -> int:
        """The lock is held."""
        return sum(a.nbytes for arrays in self._parts.values() for a in arrays.values())

    def _room_for(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Make an array, where there is room; the lock is held."""
        kept = self._n_bytes()
        wanted = _n_bytes(shape, dtype)
        if kept + wanted > self._limit:
            raise ProtocolError(
                f"an array of {wanted} bytes is not taken: {kept} bytes of checkpoints are kept "
                f"here, {self._limit} are the limit"
            )
        try:
            return np.empty(shape, dtype)
        except (MemoryError, ValueError) as error:
            raise ProtocolError(f"an array of shape {shape} is not taken: {error}") from error


def _bytes_of_host() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _checked_form(message: Mapping[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    sizes = field_of(message, "shape", (list, tuple))
    shape = tuple(number_of({"shape": size}, "shape") for size in sizes)
    try:
        dtype = np.dtype(field_of(message, "dtype", str))
    except (TypeError, ValueError, SyntaxError) as error:
        raise ProtocolError(f"there is no type {message['dtype']!r}") from error
    if dtype.kind not in KINDS:
        raise ProtocolError(f"an array of {dtype} is not taken")
    return shape, dtype


def _n_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= n
    return size
