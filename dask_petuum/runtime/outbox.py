"""Blocks that wait to be sent: few at a time are on their way, and a rank may wait for room."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping

from dask_petuum.runtime.context import Array

__all__ = ["Outbox", "Parcel"]

#: Blocks that may be on their way to a partition and not yet taken there.
WINDOW = 1
#: (block, stamp, arrays)
Parcel = tuple[int, int, Mapping[str, Array]]


class Outbox:
    """Queues of blocks by (rank, partition); a block counts until it has been taken there.

    A rank that is behind would else come to hold everybody's blocks, and one that is ahead, all
    those that it has done. The queue is that of a partition and not of a rank: a partition takes
    its blocks in the order in which they are sent, so that none waits behind one that it must wait
    for.

    The mutable state is the queues, `_sending` and `_cause`, all under the condition.
    """

    def __init__(self, send: Callable[[int, int, Parcel], None]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._queues: dict[tuple[int, int], deque[Parcel]] = {}
        self._sending: Counter[tuple[int, int]] = Counter()
        self._cause: Exception | None = None

    def __repr__(self) -> str:
        with self._changed:
            return f"<Outbox: {self._count()} blocks, {self._sending.total()} on their way>"

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that nobody has begun to send."""
        with self._changed:
            parcels = [parcel for queue in self._queues.values() for parcel in queue]
        return sum(values.nbytes for _, _, arrays in parcels for values in arrays.values())

    def put(self, rank: int, partition: int, parcel: Parcel) -> None:
        """Send a block as soon as it may go."""
        with self._changed:
            self._queues.setdefault((rank, partition), deque()).append(parcel)
        self._send_next(rank, partition)

    def taken(self, rank: int, partition: int) -> None:
        """Note that a block has been taken there; send the next one."""
        with self._changed:
            self._sending[rank, partition] -= 1
            self._changed.notify_all()
        self._send_next(rank, partition)

    def wait_for_room(self, limit: int) -> None:
        """Wait until at most ``limit`` blocks are here; raises why the run ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._count() <= limit or self._cause is not None)
            if self._cause is not None:
                raise self._cause

    def interrupt(self, cause: Exception) -> None:
        """End every wait with its cause."""
        with self._changed:
            self._cause = self._cause or cause
            self._changed.notify_all()

    def close(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._queues.clear()
            self._send = _nowhere

    def _send_next(self, rank: int, partition: int) -> None:
        to = rank, partition
        with self._changed:
            if self._sending[to] >= WINDOW or not self._queues.get(to):
                return
            parcel = self._queues[to].popleft()
            self._sending[to] += 1
        self._send(rank, partition, parcel)

    def _count(self) -> int:
        return sum(map(len, self._queues.values())) + self._sending.total()


def _nowhere(rank: int, partition: int, parcel: Parcel) -> None:
    """Send a block nowhere: the run is over."""
