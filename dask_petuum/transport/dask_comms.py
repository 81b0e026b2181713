"""A transport over Dask's own connections: no port of our own, TLS where the cluster has it.

An array travels as a frame of its own, without a pickle or a copy (frames are at most 4 MB because
the codec cuts chunks so), or not at all where both ranks share memory (:mod:`.shared`); those send
each other messages by pipes (:mod:`.pipes`), past Dask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from dask_petuum.exceptions import TransportError
from dask_petuum.transport.base import OnReply
from dask_petuum.transport.pipes import Pipes
from dask_petuum.transport.shared import Arena, PeerArena
from dask_petuum.transport.wire import pack, unpack

__all__ = ["DaskTransport", "Node"]


class Node(Protocol):
    """What the transport needs of a Dask worker; given by the runtime's adapter."""

    async def call(self, address: str, operation: str, message: Any) -> Mapping[str, Any]:
        """Call another worker's handler."""

    def cast(self, operation: str, message: Mapping[str, Any]) -> None:
        """Send one message to the scheduler; on the event loop."""

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine soon on the event loop, from any thread."""

    def soon(self, function: Any, *args: Any) -> None:
        """Run a function soon on the event loop, from any thread."""

    def wrap(self, array: Any) -> Any:
        """Mark an array to travel as a frame of its own."""

    def watch(self, source: int, on_input: Any) -> None:
        """Call a function on the event loop whenever a pipe has something to read."""

    def unwatch(self, source: int, then: Any) -> None:
        """Undo `watch`; then call a function."""

    def close(self) -> None:
        """End the calls under way, and call nobody any more; from any thread."""


class DaskTransport:
    """Calls other ranks' workers.

    Parameters
    ----------
    node
        The worker that this rank runs on.
    addresses
        Worker of each rank.
    arena
        This rank's memory that others on its host can read; None: nothing is shared.
    """

    # The mutable state is `_peers`, `_readers` and `_pipes` (set once, before the first call) and
    # `_open`.

    def __init__(self, node: Node, addresses: Sequence[str], arena: Arena | None = None) -> None:
        self._node = node
        self._addresses = addresses
        self._arena = arena
        self._peers: dict[int, PeerArena] = {}
        self._readers: frozenset[int] = frozenset()
        self._pipes: Pipes | None = None
        self._open = True

    def share(
        self, peers: Mapping[int, PeerArena], readers: Iterable[int], pipes: Pipes | None = None
    ) -> None:
        """Note whose memory (and pipe) is within reach, and which ranks reach this one's."""
        self._peers = dict(peers)
        self._readers = frozenset(readers)
        self._pipes = pipes

    def reaches(self, peer: int) -> bool:
        """Whether a rank can read this one's arena."""
        return peer in self._readers

    def call(
        self, peer: int, operation: str, message: Mapping[str, Any], on_reply: OnReply
    ) -> None:
        """Send a message to a rank's owner."""
        if not self._open:
            return
        if self._pipes is not None and peer in self._peers and peer in self._readers:
            self._pipes.call(peer, operation, message, on_reply)
        else:
            self._node.spawn(self._call(peer, operation, message, on_reply))

    def cast(self, operation: str, message: Mapping[str, Any]) -> None:
        """Send a message to the scheduler's plugin."""
        if self._open:
            self._node.soon(self._node.cast, operation, message)

    def close(self) -> None:
        """Stop sending; let go of the shared memory."""
        self._open = False
        self._peers = {}

    def pack(self, peer: int, message: Any) -> Any:
        """Make a message to a peer ready to be sent."""
        return pack(message, self._node.wrap, self._arena if peer in self._readers else None)

    def unpack(self, peer: int, message: Any) -> Any:
        """Turn a message from a peer back into arrays."""
        return unpack(message, self._peers.get(peer))

    async def _call(
        self, peer: int, operation: str, message: Mapping[str, Any], on_reply: OnReply
    ) -> None:
        address = self._addresses[peer]
        reply: Mapping[str, Any] | Exception
        try:
            packed = self.pack(peer, message)
            reply = self.unpack(peer, await self._node.call(address, operation, packed))
        except TransportError as error:
            reply = error
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            reply = TransportError(f"{operation} to {address} failed: {error!r}")
        if self._open:
            on_reply(reply)
