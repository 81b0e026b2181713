"""What a worker has of one run: a shard, the rank's endpoint, and memory shared with its host."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np

from dask_petuum.checkpoint.saved import Saved
from dask_petuum.checkpoint.saver import Saver
from dask_petuum.exceptions import RunError
from dask_petuum.runtime import config
from dask_petuum.runtime.endpoint import Endpoint
from dask_petuum.runtime.kept_parts import KeptParts
from dask_petuum.runtime.mailbox import Array, Mailbox, decode_arrays, encode_arrays
from dask_petuum.runtime.near import Near
from dask_petuum.runtime.outbox import Outbox, Parcel
from dask_petuum.runtime.owner_service import OwnerService
from dask_petuum.runtime.reception import Reception
from dask_petuum.runtime.shelf import Shelf
from dask_petuum.runtime.spec import RunSpec
from dask_petuum.store.codec import Allocator
from dask_petuum.store.layout import plan_layout
from dask_petuum.store.messages import number_of
from dask_petuum.store.owner import Owner
from dask_petuum.store.rank import RankCore
from dask_petuum.store.statistics import BLOCKS
from dask_petuum.transport.channel import Channel
from dask_petuum.transport.dask_comms import DaskTransport, Node
from dask_petuum.transport.pipes import Pipes
from dask_petuum.transport.shared import Arena, PeerArena

__all__ = ["RankRun"]


class RankRun:
    """One rank of a run, in its worker's process.

    Parameters
    ----------
    spec, rank
        Which.
    node
        The worker.
    pool
        Its thread for large messages.
    before
        The run whose final values this one starts with.
    kept
        The worker's part in checkpoints.
    """

    # The mutable state beside that of its parts is `_answers`: those whose arrays another rank may
    # still read here; under its lock.

    # over the limit: what a rank has, one line each
    def __init__(
        self,
        spec: RunSpec,
        rank: int,
        node: Node,
        pool: Executor,
        before: RankRun | None = None,
        kept: KeptParts | None = None,
    ) -> None:
        identity = spec.identity(rank)
        layout = plan_layout(spec.tables, len(spec.addresses))
        ordered = spec.consistency.ordered
        self.arena = Arena() if config.shares_memory() and len(spec.addresses) > 1 else None
        empty: Allocator = np.empty if self.arena is None else self.arena.empty
        first = spec.first_clock
        self.owner = Owner(
            identity, spec.tables, layout, ordered=ordered, empty=empty, first_clock=first
        )
        if before is not None:
            self.owner.adopt(before.owner)
        self.saved: Saved | None = None
        if spec.saved is not None and kept is not None:
            self.saved = saved = kept.open(spec)
            tables = {table.name: table for table in spec.tables}
            self.owner.fill(lambda name, start, stop: saved.rows(tables[name], start, stop))
        self.service = OwnerService(self.owner)
        self.saver: Saver | None = None
        if spec.keeping is not None and kept is not None:
            keeper = kept.keeper(spec, rank, node)
            self.saver = Saver(spec.keeping.fit_id, spec.run_id, rank, keeper)
            self.service.on_cut = self.saver.put_cut
        #: Whether the client asked for a checkpoint by now, and the last that is complete.
        self.save_requested = False
        self.kept_clock = self.saved_clock = first
        self._n_ranks = len(spec.addresses)
        core = RankCore(identity, spec.tables, layout, spec.consistency, empty, first)
        self.transport = DaskTransport(node, spec.addresses, self.arena)
        self.endpoint = Endpoint(core, self.service, self.transport, spec.consistency)
        self.mailbox = Mailbox()
        self.shelf = Shelf()
        self.outbox = Outbox(self._send)
        self.endpoint.on_delivered = self.outbox.taken
        self.endpoint.on_failure = self._interrupt
        self.endpoint.on_fetched = self._arrived
        self.reception = Reception(self, pool)
        self._node = node
        self._answers: dict[int, dict[tuple[str, int], list[Any]]] = {}
        self._answers_lock = threading.Lock()
        #: The ranks on this host, once memory is shared; None: it is not.
        self.near: Near | None = None
        self._channel = None if self.arena is None else Channel(rank, self.arena)
        self._pipes: Pipes | None = None
        if self.arena is not None and config.uses_pipes():
            self._pipes = Pipes(rank, self.arena, self.reception.take)
            node.watch(self._pipes.source, self._pipes.read)

    def sender_of(self, message: Mapping[str, Any]) -> int:
        """Take the sender's rank; raises ProtocolError where there is no such rank."""
        return number_of(message, "rank", 0, self._n_ranks - 1)

    def describe_memory(self) -> dict[str, Any] | None:
        """What others need to read this rank's arena; None: nothing is shared."""
        if self.arena is None or self._channel is None:
            return None
        pipes = {} if self._pipes is None else self._pipes.describe()
        return {**self.arena.describe(), **self._channel.describe(), **pipes}

    def open_memory(self, rank: int, descriptions: list[dict[str, Any] | None]) -> list[int]:
        """Map the arenas of the ranks on this host; return which they are."""
        self._peers = {}
        for other, description in enumerate(descriptions):
            if other != rank and description is not None and self.arena is not None:
                peer = PeerArena.open(description)
                ways = [way for way in (self._channel, self._pipes) if way is not None]
                if peer is not None and all(way.connect(other, description, peer) for way in ways):
                    self._peers[other] = peer
        return sorted(self._peers)

    def share_memory(self, rank: int, opened: list[list[int]]) -> None:
        """Use shared memory with the ranks that have opened this one's."""
        readers = {other for other, ranks in enumerate(opened) if rank in ranks}
        self.transport.share(self._peers, readers, self._pipes)
        if self._channel is not None:
            is_whole = all(len(ranks) == self._n_ranks - 1 for ranks in opened)
            near = readers & set(self._peers)
            self.near = Near(self._channel, near, is_whole, self.endpoint.statistics)

    @property
    def block_bytes(self) -> int:
        """Bytes of blocks that wait here, for this rank to take them or to be sent."""
        return self.outbox.nbytes + self.mailbox.nbytes

    def _interrupt(self, cause: Exception) -> None:
        self.mailbox.interrupt(cause)
        self.outbox.interrupt(cause)
        if self._channel is not None:
            self._channel.interrupt(cause)
        if self.saver is not None:
            self.saver.close()
        self._node.close()

    def _send(self, rank: int, partition: int, parcel: Parcel) -> None:
        block, stamp, arrays = parcel
        n_bytes = sum(values.nbytes for values in arrays.values())
        self.endpoint.statistics.sent(BLOCKS, n_bytes, 1)
        parts = encode_arrays(arrays, self._allocator(rank))
        message = {"partition": partition, "block": block, "stamp": stamp, "arrays": parts}
        self.endpoint.send_block(rank, message)

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

    def send_for_block(self, rank: int, block: int, task: int) -> None:
        """Ask the rank where a block lies for it; `take_block` waits for it."""
        self.endpoint.fetch_block(rank, {"block": block, "stamp": task})

    def give_block(self, message: Mapping[str, Any]) -> Any:
        """Answer another rank's fetch."""
        sender = self.sender_of(message)

        def encode(arrays: dict[str, Array]) -> Mapping[str, Any]:
            n_bytes = sum(values.nbytes for values in arrays.values())
            self.endpoint.statistics.sent(BLOCKS, n_bytes, 1)
            return {"arrays": encode_arrays(arrays, self._allocator(sender))}

        block, task = number_of(message, "block"), number_of(message, "stamp")
        return {"status": "OK", **self.shelf.give(block, task, encode)}

    def _arrived(self, message: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        self.mailbox.put(*decode_arrays({**message, **reply}))

    def keep(self, message: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Keep an answer's arrays until its reader says that they are installed."""
        with self._answers_lock:
            kept = self._answers.setdefault(message["rank"], {})
            for kind, number in message.get("consumed", ()):
                kept.pop((str(kind), int(number)), None)
            if self.arena is not None and reply.get("chunks"):
                kind = "pull" if "number" in message else "open"
                number = int(message["number" if kind == "pull" else "plan"])
                # A request that was repeated has several answers, and any of them may be read.
                kept.setdefault((kind, number), []).append(reply)

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Begin a checkpoint: the shard's copy follows when all ranks have come here."""
        if self.saver is None:
            raise RunError("this run has no place for checkpoints")
        self.saved_clock = self.endpoint.cut()
        self.save_requested = False
        self.saver.put_states(self.saved_clock, arrays)

    def note_kept(self, clock: int) -> None:
        """Note that a checkpoint is complete."""
        self.kept_clock = max(self.kept_clock, clock)

    @property
    def is_saving(self) -> bool:
        """Whether the last checkpoint is not complete yet."""
        if self.saver is None or self.saver.has_failed:
            return False
        return self.kept_clock < self.saved_clock

    def close(self) -> None:
        """Let go of everything."""
        if self.saver is not None:
            self.saver.close()
        self.endpoint.close()
        self.outbox.close()
        with self._answers_lock:
            self._answers.clear()
        self._node.close()
        if self._pipes is not None:
            self._node.unwatch(self._pipes.source, self._pipes.close)
