"""Blocks that lie at a rank until somebody takes them: its own thread, or another rank."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from dask_petuum.exceptions import ProtocolError
from dask_petuum.runtime.context import Array

__all__ = ["Shelf"]


class Shelf:
    """Blocks by number. What another rank took is kept until it says that it has it.

    The mutable state is `_blocks` and, by the number of the task that took them, `_given`; both
    under the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[int, dict[str, Array]] = {}
        self._given: dict[int, Mapping[str, Any]] = {}

    def __repr__(self) -> str:
        with self._lock:
            return f"<Shelf with blocks {sorted(self._blocks)}, {len(self._given)} on their way>"

    def put(self, block: int, arrays: dict[str, Array]) -> None:
        """Lay a block down."""
        with self._lock:
            self._blocks[block] = arrays

    def take(self, block: int) -> dict[str, Array]:
        """Take a block that is here."""
        with self._lock:
            return self._blocks.pop(block)

    def take_all(self) -> dict[int, dict[str, Array]]:
        """Take all blocks."""
        with self._lock:
            blocks, self._blocks = self._blocks, {}
            return blocks

    def look(self) -> dict[int, dict[str, Array]]:
        """Look at the blocks that are here."""
        with self._lock:
            return dict(self._blocks)

    def nbytes_of(self, block: Any) -> int:
        """Bytes of a block; 0 where it is not here."""
        with self._lock:
            arrays = self._blocks.get(block, {}) if isinstance(block, int) else {}
            return sum(values.nbytes for values in arrays.values())

    def give(self, block: int, task: int, encode: Any) -> Mapping[str, Any]:
        """Give a block away for a task; asked again, the same again.

        Parameters
        ----------
        encode
            Makes of the arrays what is sent.

        Raises
        ------
        ProtocolError
            Where the block is not here.
        """
        with self._lock:
            if task not in self._given:
                if block not in self._blocks:
                    raise ProtocolError(f"block {block} is not here")
                self._given[task] = encode(self._blocks.pop(block))
            return self._given[task]

    def forget(self, task: int) -> None:
        """Drop what was given for a task: it has arrived."""
        with self._lock:
            self._given.pop(task, None)
