"""Blocks of arrays from one rank's thread to another's, on one host, without an event loop.

Each rank has a pipe (:mod:`.ends`) that its own thread reads while it waits for a block. A frame
names a block and the places of its arrays in the sender's arena. They are read where they lie,
until their reader takes the next block of that number: it then tells the sender, who may use that
memory again.

Measured on two ranks with one core each: 0.02 ms from ``send`` to ``take``, against 1 ms and more
by messages through both event loops (2026-11).
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from dask_petuum.exceptions import ProtocolError
from dask_petuum.transport.ends import Ends
from dask_petuum.transport.frames import FRAME_BYTES, frame_of
from dask_petuum.transport.shared import LEAST_BYTES, Arena, PeerArena
from dask_petuum.transport.wire import inline, pack, unpack

__all__ = ["Channel"]

logger = logging.getLogger(__name__)

#: Smaller arrays travel in the frame, bytes; a frame has room for some of them.
INLINE_BYTES = 256
#: Kinds of frames: [kind, rank of the sender, block, stamp, arrays]. A part goes ahead of a block
#: whose arrays do not fit into one frame.
SENT, READ, WOKEN, PART = range(4)

Arrays = dict[str, Any]


class Channel:
    """One rank's pipe, and the way to those of its peers.

    ``send`` and ``take`` are for one thread at a time; ``interrupt`` is for any.

    Parameters
    ----------
    rank
        This one.
    arena
        Its memory that the peers can read.
    """

    # The mutable state is `_ends` (connected before the first block), `_blocks` (came and not
    # taken), `_parts` (of blocks that have not come whole), `_lent` (sent and maybe still read),
    # `_taken` (stamps whose arrays may be in use here) and `_cause`.

    def __init__(self, rank: int, arena: Arena) -> None:
        self._rank = rank
        self._arena = arena
        self._ends = Ends(rank)
        self._blocks: dict[tuple[int, int, int], Mapping[str, Any]] = {}
        self._parts: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._lent: dict[tuple[int, int], deque[tuple[int, Arrays]]] = {}
        self._taken: dict[tuple[int, int], int] = {}
        self._cause: Exception | None = None
        self._lock = threading.Lock()  # of `_cause`

    def __repr__(self) -> str:
        return f"<Channel to {list(self._ends)}, {len(self._blocks)} blocks not taken>"

    def describe(self) -> dict[str, Any]:
        """What a peer needs to open it, besides the description of the arena."""
        return {"channel": self._ends.sink}

    def connect(self, peer: int, description: Mapping[str, Any], arena: PeerArena) -> bool:
        """Open the channel of a peer whose arena has been opened; False where that cannot be."""
        process, end = int(description["pid"]), int(description["channel"])
        return self._ends.connect(peer, process, end, arena)

    def reaches(self, peer: int) -> bool:
        """Whether a peer's channel is open here."""
        return peer in self._ends

    def place(self, arrays: Mapping[str, Any]) -> Arrays:
        """Copy arrays to where the peers can read them, those that do not lie there already."""
        return {name: self._placed(values) for name, values in arrays.items()}

    def send(self, peer: int, block: int, stamp: int, placed: Arrays) -> None:
        """Send a block, whose arrays have been placed.

        Raises
        ------
        TransportError
            Where the peer's process has ended.
        """
        # before it is written: the answer may come at once
        self._lent.setdefault((peer, block), deque()).append((stamp, placed))
        *parts, last = _frames([self._rank, block, stamp], pack(placed, inline, self._arena))
        for part in parts:
            self._write(peer, [PART, *part])
        self._write(peer, [SENT, *last])

    def take(self, peer: int, block: int, stamp: int) -> Arrays:
        """Wait for a block of a peer; its arrays are good until the next one of that number.

        Raises
        ------
        Exception
            The cause for which the channel was interrupted.
        """
        before = self._taken.pop((peer, block), None)
        if before is not None:
            self._write(peer, [READ, self._rank, block, before])
        key = peer, block, stamp
        while key not in self._blocks:
            self._wait()
        self._taken[peer, block] = stamp
        return self._look(key)

    def fetch(self, peer: int, block: int, stamp: int, limit: int) -> Arrays:
        """Wait until at most ``limit`` sent blocks are unread, and for one of a peer; copy it.

        The copy lies in this rank's own memory, to be changed and sent on, and the peer's is
        free at once. A block is taken either so or by `take`, not now so and then so.

        Raises
        ------
        Exception
            The cause for which the channel was interrupted.
        """
        key = peer, block, stamp
        while key not in self._blocks or sum(map(len, self._lent.values())) > limit:
            self._wait()
        arrays = {name: self._copied(values) for name, values in self._look(key).items()}
        self._write(peer, [READ, self._rank, block, stamp])
        return arrays

    @property
    def lent_bytes(self) -> int:
        """Bytes of the blocks that were sent and may not have been read."""
        return sum(
            values.nbytes
            for lent in self._lent.values()
            for _, placed in lent
            for values in placed.values()
        )

    def interrupt(self, cause: Exception) -> None:
        """End every wait with its cause."""
        with self._lock:
            self._cause = self._cause or cause
        try:
            os.write(self._ends.sink, frame_of(msgpack.packb([WOKEN, self._rank, 0, 0])))
        except BlockingIOError:  # full: who waits wakes up anyway
            logger.debug("The pipe is full")

    def _look(self, key: tuple[int, int, int]) -> Arrays:
        """The arrays of a block that has come, where they lie."""
        arrays: Arrays = unpack(self._blocks.pop(key), self._ends.arena_of(key[0]))
        return arrays

    def _placed(self, values: Any) -> Any:
        """An array where the peers can read it, or small enough for a frame."""
        values = np.ascontiguousarray(values)
        if values.nbytes <= INLINE_BYTES or self._arena.locate(values) is not None:
            return values
        return self._copied(values)

    def _copied(self, values: Any) -> Any:
        flat = self._arena.empty((max(values.nbytes, LEAST_BYTES),), np.uint8)[: values.nbytes]
        own = flat.view(values.dtype).reshape(values.shape)
        np.copyto(own, values)
        return own

    def _wait(self) -> None:
        """Wait until something comes, and take it in."""
        if self._cause is not None:
            raise self._cause
        poll = select.poll()
        poll.register(self._ends.source, select.POLLIN)
        poll.poll()
        self._read()

    def _read(self) -> None:
        for frame in self._ends.read():
            if self._is_of_ours(frame):
                self._accept(*frame)
            else:
                logger.warning("A frame to rank %d is refused: %.80r", self._rank, frame)

    def _is_of_ours(self, frame: list[Any]) -> bool:
        """Whether a frame is one that this rank or a peer of it sends."""
        numbers = frame[:4]
        if len(numbers) < 4 or any(type(n) is not int for n in numbers):
            return False
        kind, peer, *_ = numbers
        if kind in (SENT, PART):
            return peer in self._ends and len(frame) == 5 and isinstance(frame[4], dict)
        return kind in (READ, WOKEN) and len(frame) == 4

    def _accept(self, kind: int, peer: int, block: int, stamp: int, arrays: Any = None) -> None:
        if kind in (SENT, PART):
            parts = self._parts.setdefault((peer, block, stamp), {})
            parts.update(arrays)
            if kind == SENT:
                self._blocks[peer, block, stamp] = self._parts.pop((peer, block, stamp))
        elif kind == READ:
            lent = self._lent.get((peer, block), deque())
            while lent and lent[0][0] <= stamp:
                lent.popleft()

    def _write(self, peer: int, frame: list[Any]) -> None:
        packed = msgpack.packb(frame)
        while not self._ends.write(peer, packed):
            self._make_room(self._ends.sink_of(peer))

    def _make_room(self, sink: int) -> None:
        """Wait for room in a peer's pipe; it may be waiting for room in this one's."""
        if self._cause is not None:
            raise self._cause
        poll = select.poll()
        poll.register(sink, select.POLLOUT)
        poll.register(self._ends.source, select.POLLIN)
        poll.poll()
        self._read()


def _frames(head: list[int], arrays: Mapping[str, Any]) -> list[list[Any]]:
    """Cut a block into frames that are short enough, without their kind."""
    if len(msgpack.packb([PART, *head, arrays])) <= FRAME_BYTES:
        return [[*head, arrays]]
    names = list(arrays)
    if len(names) == 1:
        raise ProtocolError(f"the name of an array is too long for a frame: {names[0]:.40}...")
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return [
        frame for half in halves for frame in _frames(head, {name: arrays[name] for name in half})
    ]
