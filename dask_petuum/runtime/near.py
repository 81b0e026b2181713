"""The ranks on this rank's host, as a program may use them: blocks past every event loop."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from dask_petuum.runtime.context import Array
from dask_petuum.store.statistics import BLOCKS, Statistics
from dask_petuum.transport.channel import Channel

__all__ = ["Near"]


class Near:
    """Sends blocks to the ranks of the same host and takes theirs, in the rank's own thread.

    Parameters
    ----------
    channel
        This rank's.
    ranks
        Which ranks have opened this one's memory and channel, and this one theirs.
    is_whole
        Whether all ranks of the run are near each other; the same in each of them.
    statistics
        Where blocks and waits are counted.
    """

    def __init__(
        self, channel: Channel, ranks: Collection[int], is_whole: bool, statistics: Statistics
    ) -> None:
        self.ranks = frozenset(ranks)
        self.is_whole = is_whole
        self._channel = channel
        self._statistics = statistics

    def __repr__(self) -> str:
        return f"<Near ranks {sorted(self.ranks)}>"

    def send(
        self, ranks: Collection[int], block: int, stamp: int, arrays: Mapping[str, Array]
    ) -> None:
        """Send a block to several ranks; its arrays are copied, once."""
        placed = self._channel.place(arrays)
        n_bytes = sum(values.nbytes for values in placed.values())
        for rank in ranks:
            self._statistics.sent(BLOCKS, n_bytes, 1)
            self._channel.send(rank, block, stamp, placed)

    @property
    def lent_bytes(self) -> int:
        """Bytes of the blocks that were sent and may not have been read."""
        return self._channel.lent_bytes

    def fetch(self, rank: int, block: int, stamp: int, limit: int) -> dict[str, Array]:
        """Wait until at most ``limit`` sent blocks are unread, and for one of a rank; its copy."""
        began = time.perf_counter()
        arrays = self._channel.fetch(rank, block, stamp, limit)
        self._statistics.waited += time.perf_counter() - began
        self._statistics.received(BLOCKS, sum(values.nbytes for values in arrays.values()), 1)
        return arrays

    def take(self, rank: int, block: int, stamp: int) -> dict[str, Array]:
        """Wait for a block of a rank; its arrays are good until the next one of that number."""
        began = time.perf_counter()
        arrays = self._channel.take(rank, block, stamp)
        self._statistics.waited += time.perf_counter() - began
        self._statistics.received(BLOCKS, sum(values.nbytes for values in arrays.values()), 1)
        return arrays
