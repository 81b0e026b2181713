"""Messages between the ranks of one host, by pipes: for those who share memory already.

A message through Dask's comms takes a millisecond of both event loops while kernels have the cores
and the caches (2026-11); through a pipe (:mod:`.ends`) it takes a tenth of that.

A frame that is too long lies in the sender's arena, and the pipe says where, until its reader says
that it has read it. Nothing is pickled. A pipe loses nothing, so there is no repetition here; a
peer whose process has ended is a :class:`TransportError`.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgpack
import numpy as np

from dask_petuum.exceptions import ProtocolError, TransportError
from dask_petuum.transport.base import OnReply, Reply
from dask_petuum.transport.ends import Ends
from dask_petuum.transport.frames import FRAME_BYTES
from dask_petuum.transport.shared import LEAST_BYTES, Arena, PeerArena
from dask_petuum.transport.wire import inline, pack, unpack

__all__ = ["Pipes"]

logger = logging.getLogger(__name__)

#: Pause before a full pipe is tried again, seconds.
PAUSE = 0.001
#: Kinds of frames: [kind, rank of the sender, number, ...]
CALL, ANSWER, LETTER, READ = range(4)

Message = Mapping[str, Any]
#: Takes operation, message and what to call with the answer, once, in any thread.
Serve = Callable[[str, Message, Callable[[Reply], None]], None]


class Pipes:
    """One rank's pipe, and the way to those of its peers. Safe to call from any thread.

    Parameters
    ----------
    rank
        This one.
    arena
        Its memory that the peers can read.
    serve
        Takes a peer's message.
    """

    # The mutable state is `_ends` (connected before the first call), `_waiting` and `_letters`,
    # which are changed by single operations of a dict, and `_backlogs` and `_is_open`, under the
    # lock.

    def __init__(self, rank: int, arena: Arena, serve: Serve) -> None:
        self._rank = rank
        self._arena = arena
        self._serve = serve
        self._ends = Ends(rank)
        self._numbers = itertools.count()
        #: Calls without an answer: its arrays must live until it is there.
        self._waiting: dict[int, tuple[Message, OnReply]] = {}
        self._letters: dict[int, Any] = {}
        self._backlogs: dict[int, deque[bytes]] = {}
        self._lock = threading.Lock()
        self._is_open = True

    def __repr__(self) -> str:
        return f"<Pipes to {list(self._ends)}, {len(self._waiting)} calls not answered>"

    def describe(self) -> dict[str, Any]:
        """What a peer needs to open it, besides the description of the arena."""
        return {"pipe": self._ends.sink}

    def connect(self, peer: int, description: Mapping[str, Any], arena: PeerArena) -> bool:
        """Open the pipe of a peer whose arena has been opened; False where that cannot be."""
        process, end = int(description["pid"]), int(description["pipe"])
        if not self._ends.connect(peer, process, end, arena):
            return False
        self._backlogs[peer] = deque()
        return True

    @property
    def source(self) -> int:
        """End to be watched: `read` is to be called when there is something to read."""
        return self._ends.source

    def call(self, peer: int, operation: str, message: Message, on_reply: OnReply) -> None:
        """Send a message to a peer; ``on_reply`` is called with its answer, in any thread."""
        number = next(self._numbers)
        self._waiting[number] = message, on_reply
        try:
            self._send(peer, [CALL, self._rank, number, operation, message])
        except TransportError as error:
            if self._waiting.pop(number, None) is not None:
                on_reply(error)
        if not self._is_open:  # closed meanwhile: who waits is not to be kept
            self._waiting.clear()

    def read(self) -> None:
        """Take the frames that have come; called on the event loop."""
        for frame in self._ends.read():
            self._take(frame)

    def close(self) -> None:
        """Close all ends; the source must not be watched any more. No answer is handed on."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            self._backlogs.clear()
            self._ends.close()
        self._waiting.clear()
        self._letters.clear()

    def _take(self, frame: Sequence[Any]) -> None:
        """Take a frame; what goes wrong must not end the reading of others."""
        try:
            kind, peer, number, *rest = frame
            if peer not in self._ends:
                raise ProtocolError(f"a frame of rank {peer}, who is not near")
            if kind == CALL:
                self._take_call(peer, number, *rest)
            elif kind == ANSWER:
                self._take_answer(peer, number, *rest)
            elif kind == LETTER:
                self._take_letter(peer, number, *rest)
            elif kind == READ:
                self._letters.pop(number, None)
            else:
                raise ProtocolError(f"there are no frames of kind {kind!r:.20}")
        except Exception:
            logger.exception("Exception while handling a frame %.80r", frame)

    def _take_call(self, peer: int, number: int, operation: str, message: Message) -> None:
        answer = partial(self._answer, peer, number)
        try:
            unpacked = unpack(message, self._ends.arena_of(peer))
        except ProtocolError as error:
            answer({"status": "refused", "text": str(error)})
            return
        self._serve(operation, unpacked, answer)

    def _take_answer(self, peer: int, number: int, reply: Reply) -> None:
        _, on_reply = self._waiting.pop(number, (None, None))
        if on_reply is None:
            return
        try:
            answer: Reply | Exception = unpack(reply, self._ends.arena_of(peer))
        except ProtocolError as error:
            answer = TransportError(f"an answer of rank {peer} cannot be read: {error}")
        on_reply(answer)

    def _take_letter(self, peer: int, number: int, offset: int, size: int) -> None:
        letter = bytes(self._ends.arena_of(peer).array(offset, (size,), "|u1"))
        self._try_to_send(peer, [READ, self._rank, number])
        self._take(msgpack.unpackb(letter, raw=False, strict_map_key=False))

    def _answer(self, peer: int, number: int, reply: Reply) -> None:
        self._try_to_send(peer, [ANSWER, self._rank, number, reply])

    def _try_to_send(self, peer: int, frame: Sequence[Any]) -> None:
        try:
            self._send(peer, frame)
        except TransportError as error:
            logger.debug("%s", error)

    def _send(self, peer: int, frame: Sequence[Any]) -> None:
        packed = msgpack.packb(pack(frame, inline, self._arena))
        if len(packed) > FRAME_BYTES:
            packed = self._write_letter(packed)
        with self._lock:
            if not self._is_open:
                return
            backlog = self._backlogs[peer]
            backlog.append(packed)
            if len(backlog) == 1:
                self._write(peer, backlog)

    def _write_letter(self, packed: bytes) -> bytes:
        letter = self._arena.empty((max(len(packed), LEAST_BYTES),), np.uint8)
        letter[: len(packed)] = np.frombuffer(packed, np.uint8)
        number = next(self._numbers)
        self._letters[number] = letter
        place = self._arena.locate(letter)
        out: bytes = msgpack.packb([LETTER, self._rank, number, place, len(packed)])
        return out

    def _write(self, peer: int, backlog: deque[bytes]) -> None:
        """Write what waits for a peer, in order; under the lock."""
        try:
            while backlog:
                if not self._ends.write(peer, backlog[0]):
                    timer = threading.Timer(PAUSE, self._go_on, (peer,))
                    timer.daemon = True
                    timer.start()
                    return
                backlog.popleft()
        except TransportError:
            backlog.clear()
            raise

    def _go_on(self, peer: int) -> None:
        with self._lock:
            if not self._is_open:
                return
            try:
                self._write(peer, self._backlogs[peer])
            except TransportError as error:
                logger.debug("%s", error)
