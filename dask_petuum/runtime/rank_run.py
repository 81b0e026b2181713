"""What a worker has of one run: a shard, the rank's endpoint, and memory shared with its host."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from dask_petuum.runtime import config
from dask_petuum.runtime.endpoint import Endpoint
from dask_petuum.runtime.mailbox import Array, Mailbox, decode_arrays, encode_arrays
from dask_petuum.runtime.owner_service import OwnerService
from dask_petuum.runtime.shelf import Shelf
from dask_petuum.runtime.spec import RunSpec
from dask_petuum.store.codec import Allocator
from dask_petuum.store.layout import plan_layout
from dask_petuum.store.messages import number_of
from dask_petuum.store.owner import Owner
from dask_petuum.store.rank import RankCore
from dask_petuum.transport.dask_comms import DaskTransport, Node
from dask_petuum.transport.shared import Arena, PeerArena

__all__ = ["RankRun"]

#: Under what name the moving blocks are counted.
BLOCKS = "__blocks__"
#: Blocks that may be on their way to a rank and not yet taken there.
WINDOW = 1


class RankRun:
    """One rank of a run, in its worker's process.

    Parameters
    ----------
    spec, rank
        Which.
    node
        The worker.
    before
        The run whose final values this one starts with.
    """

    # The mutable state beside that of its parts is `_answers`: those whose arrays another rank may
    # still read here; the event loop changes it.

    def __init__(self, spec: RunSpec, rank: int, node: Node, before: RankRun | None = None) -> None:
        identity = spec.identity(rank)
        layout = plan_layout(spec.tables, len(spec.addresses))
        ordered = spec.consistency.ordered
        self.arena = Arena() if config.shares_memory() and len(spec.addresses) > 1 else None
        empty: Allocator = np.empty if self.arena is None else self.arena.empty
        self.owner = Owner(identity, spec.tables, layout, ordered=ordered, empty=empty)
        if before is not None:
            self.owner.adopt(before.owner)
        self.service = OwnerService(self.owner)
        core = RankCore(identity, spec.tables, layout, spec.consistency, empty)
        self.transport = DaskTransport(node, spec.addresses, self.arena)
        self.endpoint = Endpoint(core, self.service, self.transport, spec.consistency)
        self.mailbox = Mailbox()
        self.shelf = Shelf()
        self._outgoing: dict[tuple[int, int], deque[tuple[int, int, Mapping[str, Array]]]] = {}
        self._sending: Counter[tuple[int, int]] = Counter()
        self._sending_lock = threading.Lock()
        self.endpoint.on_delivered = self._delivered
        self.endpoint.on_failure = self.mailbox.interrupt
        self.endpoint.on_fetched = self._arrived
        self._answers: dict[int, dict[tuple[str, int], list[Any]]] = {}

    def describe_memory(self) -> dict[str, Any] | None:
        """What others need to read this rank's arena; None: nothing is shared."""
        return None if self.arena is None else self.arena.describe()

    def open_memory(self, rank: int, descriptions: list[dict[str, Any] | None]) -> list[int]:
        """Map the arenas of the ranks on this host; return which they are."""
        self._peers = {}
        for other, description in enumerate(descriptions):
            if other != rank and description is not None and self.arena is not None:
                peer = PeerArena.open(description)
                if peer is not None:
                    self._peers[other] = peer
        return sorted(self._peers)

    def share_memory(self, rank: int, opened: list[list[int]]) -> None:
        """Use shared memory with the ranks that have opened this one's."""
        readers = {other for other, ranks in enumerate(opened) if rank in ranks}
        self.transport.share(self._peers, readers)

    def send_block(
        self, rank: int, partition: int, block: int, stamp: int, arrays: Mapping[str, Array]
    ) -> None:
        """Send a block's arrays to a partition at another rank; they must not change any more.

        They wait here while ``WINDOW`` blocks are on their way there that have not been taken: a
        rank that is behind would else come to hold everybody's blocks. (Of a partition and not of
        a rank: a partition takes its blocks in the order in which they are sent.)
        """
        with self._sending_lock:
            self._outgoing.setdefault((rank, partition), deque()).append((block, stamp, arrays))
        self._send_next(rank, partition)

    @property
    def block_bytes(self) -> int:
        """Bytes of blocks that wait here, for this rank to take them or to be sent."""
        with self._sending_lock:
            waiting = [arrays for queue in self._outgoing.values() for _, _, arrays in queue]
        own = sum(values.nbytes for arrays in waiting for values in arrays.values())
        return own + self.mailbox.nbytes

    def _send_next(self, rank: int, partition: int) -> None:
        to = rank, partition
        with self._sending_lock:
            if self._sending[to] >= WINDOW or not self._outgoing.get(to):
                return
            block, stamp, arrays = self._outgoing[to].popleft()
            self._sending[to] += 1
        empty = self._allocator(rank)
        n_bytes = sum(values.nbytes for values in arrays.values())
        self.endpoint.statistics.sent(BLOCKS, n_bytes, 1)
        parts = encode_arrays(arrays, empty)
        message = {"partition": partition, "block": block, "stamp": stamp, "arrays": parts}
        self.endpoint.send_block(rank, message)

    def _delivered(self, rank: int, partition: int) -> None:
        with self._sending_lock:
            self._sending[rank, partition] -= 1
        self._send_next(rank, partition)

    def _allocator(self, rank: int) -> Allocator | None:
        """Where to put what is sent to a rank: in memory that it reaches, if there is any."""
        near = self.arena is not None and self.transport.reaches(rank)
        return self.arena.empty if near and self.arena is not None else None

    def take_block(self, block: int, stamp: int) -> dict[str, Array]:
        """Wait for a block that was sent here, and take it."""
        began = time.perf_counter()
        arrays = self.mailbox.take(block, stamp)
        self.endpoint.statistics.waited += time.perf_counter() - began
        n_bytes = sum(values.nbytes for values in arrays.values())
        self.endpoint.statistics.received(BLOCKS, n_bytes, 1)
        return arrays

    def fetch_block(self, rank: int, block: int, task: int) -> dict[str, Array]:
        """Get a block from the rank where it lies."""
        self.endpoint.fetch_block(rank, {"block": block, "stamp": task})
        return self.take_block(block, task)

    def give_block(self, message: Mapping[str, Any]) -> Any:
        """Answer another rank's fetch."""
        sender = number_of(message, "rank")

        def encode(arrays: dict[str, Array]) -> Mapping[str, Any]:
            n_bytes = sum(values.nbytes for values in arrays.values())
            self.endpoint.statistics.sent(BLOCKS, n_bytes, 1)
            return {"arrays": encode_arrays(arrays, self._allocator(sender))}

        block, task = number_of(message, "block"), number_of(message, "stamp")
        given = self.shelf.give(block, task, encode)
        return self.transport.pack(sender, {"status": "OK", **given})

    def _arrived(self, message: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        self.mailbox.put(*decode_arrays({**message, **reply}))

    def keep(self, message: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Keep an answer's arrays until its reader says that they are installed."""
        kept = self._answers.setdefault(message["rank"], {})
        for kind, number in message.get("consumed", ()):
            kept.pop((str(kind), int(number)), None)
        if self.arena is not None and reply.get("chunks"):
            kind = "pull" if "number" in message else "open"
            number = int(message["number" if kind == "pull" else "plan"])
            # A request that was repeated has several answers, and any of them may be read.
            kept.setdefault((kind, number), []).append(reply)

    def close(self) -> None:
        """Let go of everything."""
        self.endpoint.close()
        self._answers.clear()
