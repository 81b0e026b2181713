"""A rank's pipe that its peers on the same host write to: how it is made, reached and closed.

A peer opens its end through ``/proc/PID/fd``, as it does the arena (:mod:`.shared`): no name, no
port, and only processes of the same user can. A frame (:mod:`.frames`) is short, so that frames of
several writers do not mix. What frames mean, and what to do where a pipe is full, is up to
:mod:`.pipes` and :mod:`.channel`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from typing import Any

from dask_petuum.exceptions import TransportError
from dask_petuum.transport.frames import PIPE_BYTES, frame_of, frames_in
from dask_petuum.transport.shared import PeerArena

__all__ = ["Ends"]

logger = logging.getLogger(__name__)


class Ends:
    """Both ends of a rank's own pipe, and the ends for writing of its peers' pipes.

    One thread at a time reads; any may write. They are closed with this, or when it is gone.

    Parameters
    ----------
    rank
        Whose, for the log.
    """

    # The mutable state is `_peers`, set before the first frame, and `_open`, what is to be closed.

    def __init__(self, rank: int) -> None:
        self._rank = rank
        #: To be waited for, and for whoever wants to wake up the reader.
        self.source, self.sink = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._open = [self.source, self.sink]
        self._close = weakref.finalize(self, _close, self._open)
        self._close.atexit = False  # the system does; a thread may be writing
        try:
            fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:  # this user's pipes have taken all that they may
            logger.debug("The pipe stays small: %s", error)
        self._peers: dict[int, tuple[int, PeerArena]] = {}

    def __contains__(self, peer: int) -> bool:
        return peer in self._peers

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._peers))

    def connect(self, peer: int, process: int, end: int, arena: PeerArena) -> bool:
        """Open the pipe of a peer whose arena has been opened; False where that cannot be.

        Parameters
        ----------
        process, end
            The peer's process, and what its `sink` is there.
        """
        try:
            sink = os.open(f"/proc/{process}/fd/{end}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        self._open.append(sink)
        self._peers[peer] = sink, arena
        return True

    def arena_of(self, peer: int) -> PeerArena:
        """Memory of a peer."""
        return self._peers[peer][1]

    def sink_of(self, peer: int) -> int:
        """End of a peer's pipe, to be waited for until there is room."""
        return self._peers[peer][0]

    def write(self, peer: int, packed: bytes) -> bool:
        """Write a message of at most ``FRAME_BYTES``; False where the peer's pipe has no room.

        Raises
        ------
        TransportError
            Where the peer's process has ended.
        """
        try:
            os.write(self.sink_of(peer), frame_of(packed))
        except BlockingIOError:
            return False
        except OSError as error:
            raise TransportError(f"rank {peer} has gone: {error}") from error
        return True

    def read(self) -> Iterator[list[Any]]:
        """Take the frames that have come; none where nothing has."""
        try:
            data = os.read(self.source, PIPE_BYTES)
        except BlockingIOError:
            return
        yield from frames_in(data, self._rank)

    def close(self) -> None:
        """Close all ends; a second time does nothing."""
        self._close()


def _close(ends: list[int]) -> None:
    for end in ends:
        os.close(end)
