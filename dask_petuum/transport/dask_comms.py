"""A transport over Dask's own connections: no port of our own, TLS where the cluster has it.

An array travels as a frame of its own, without a pickle or a copy; everything else of a message
is msgpack. Frames are at most 4 MB because the codec cuts chunks so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dask_petuum.exceptions import TransportError
from dask_petuum.transport.base import OnReply

__all__ = ["DaskTransport", "Node", "pack"]


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


def pack(value: Any, wrap: Any) -> Any:
    """Mark the arrays of a message, whatever they are nested in."""
    if isinstance(value, np.ndarray):
        return wrap(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {key: pack(item, wrap) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item, wrap) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


class DaskTransport:
    """Calls other ranks' workers.

    Parameters
    ----------
    node
        The worker that this rank runs on.
    addresses
        Worker of each rank.
    """

    def __init__(self, node: Node, addresses: Sequence[str]) -> None:
        self._node = node
        self._addresses = addresses
        self._open = True

    def call(self, peer: int, operation: str, message: Mapping[str, Any], on_reply: OnReply) -> None:
        """Send a message to a rank's owner."""
        if self._open:
            self._node.spawn(self._call(self._addresses[peer], operation, message, on_reply))

    def cast(self, operation: str, message: Mapping[str, Any]) -> None:
        """Send a message to the scheduler's plugin."""
        if self._open:
            self._node.soon(self._node.cast, operation, message)

    def close(self) -> None:
        """Stop sending."""
        self._open = False

    async def _call(
        self, address: str, operation: str, message: Mapping[str, Any], on_reply: OnReply
    ) -> None:
        try:
            packed = pack(message, self._node.wrap)
            reply: Mapping[str, Any] | Exception
            reply = await self._node.call(address, operation, packed)
        except TransportError as error:
            reply = error
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            reply = TransportError(f"{operation} to {address} failed: {error!r}")
        if self._open:
            on_reply(reply)
