"""Replies that are lost and messages that come twice, between real workers.

Put in place of a worker's way to the others (`install`), by a call on each worker.
"""

from __future__ import annotations

from typing import Any

from dask_petuum.exceptions import TransportError
from dask_petuum.runtime import rank_run, worker_plugin
from dask_petuum.runtime.worker_plugin import WorkerNode
from dask_petuum.transport.dask_comms import DaskTransport
from dask_petuum.transport.pipes import Pipes

__all__ = ["install", "n_spoilt", "uninstall"]

#: Every so many-th reply is lost; every so many-th message and reply comes twice.
LOST, TWICE = 10, 20


class LossyNode(WorkerNode):
    """A worker whose calls arrive, while some of the answers do not."""

    n_calls = 0
    n_lost = 0
    n_doubled = 0

    async def call(self, address: str, operation: str, message: Any) -> Any:
        cls = type(self)
        cls.n_calls += 1
        number = cls.n_calls
        if number % TWICE == 1:
            await super().call(address, operation, message)
            cls.n_doubled += 1
        reply = await super().call(address, operation, message)
        if number % LOST == 0:
            cls.n_lost += 1
            raise TransportError(f"the reply to {operation} was lost, by the test")
        return reply


class LossyPipes(Pipes):
    """Pipes that do the same."""

    def call(self, peer: int, operation: str, message: Any, on_reply: Any) -> None:
        cls = LossyNode
        cls.n_calls += 1
        number = cls.n_calls
        if number % TWICE == 1:
            cls.n_doubled += 1
            super().call(peer, operation, message, lambda reply: None)

        def spoilt(reply: Any) -> None:
            if number % LOST == 0:
                cls.n_lost += 1
                reply = TransportError(f"the reply to {operation} was lost, by the test")
            on_reply(reply)

        super().call(peer, operation, message, spoilt)


class DoublingTransport(DaskTransport):
    """A transport that hands every so many-th answer over twice, as the interface allows."""

    n_replies = 0

    def call(self, peer: int, operation: str, message: Any, on_reply: Any) -> None:
        def twice(reply: Any) -> None:
            cls = type(self)
            cls.n_replies += 1
            on_reply(reply)
            if cls.n_replies % TWICE == 0:
                on_reply(reply)

        super().call(peer, operation, message, twice)


def install(dask_worker: Any) -> None:
    """Spoil a worker's calls from now on."""
    worker_plugin.WorkerNode = LossyNode
    rank_run.DaskTransport = DoublingTransport
    rank_run.Pipes = LossyPipes
    plugin = dask_worker.plugins["petuum"]
    plugin.kept._node = LossyNode(dask_worker, plugin.reach)
    LossyNode.n_calls = LossyNode.n_lost = LossyNode.n_doubled = 0


def uninstall(dask_worker: Any) -> None:
    """Undo `install`."""
    worker_plugin.WorkerNode = WorkerNode
    rank_run.DaskTransport = DaskTransport
    rank_run.Pipes = Pipes
    plugin = dask_worker.plugins["petuum"]
    plugin.kept._node = WorkerNode(dask_worker, plugin.reach)


def n_spoilt() -> tuple[int, int]:
    """Replies that were lost, messages that came twice."""
    return LossyNode.n_lost, LossyNode.n_doubled
