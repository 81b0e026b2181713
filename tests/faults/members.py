"""What the crews of the tests have in common: who is there, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from distributed import Client, LocalCluster

__all__ = ["FEW_MESSAGES", "PATIENCE", "Members", "held"]

#: Dask keeps each connection's last 1,000 batches of messages, with the tasks in them and data that
#: belong to a graph: 20 MiB for four fits of the soak, for ever (2026-11-26).
FEW_MESSAGES = {"distributed.admin.low-level-log-length": 20}

#: Longest wait for workers to come or go, seconds.
PATIENCE = 120


class Members(ABC):
    """The workers of a scheduler in this process; whoever makes them sets the attributes.

    Attributes
    ----------
    size
        How many there are when all is well.
    n_faults
        How many were taken so far; those that join are no faults.
    """

    size: int
    cluster: LocalCluster
    client: Client
    n_faults = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.addresses} at {self.cluster.scheduler_address}>"

    @abstractmethod
    def refill(self) -> None:
        """Wait until there are ``size`` workers that answer."""

    @property
    @abstractmethod
    def n_members(self) -> tuple[int, int]:
        """How many workers there are at least and at most: some begin, some leave."""

    @property
    def addresses(self) -> list[str]:
        """Workers that the scheduler knows."""
        return sorted(self.cluster.scheduler.workers)

    def board(self) -> Any:
        """What the scheduler knows of the epoch that began last; None: no run."""
        plugin = self.cluster.scheduler.plugins.get("petuum")
        boards = [] if plugin is None else list(plugin._boards.values())
        return boards[-1] if boards else None

    def wait_for(self, condition: Any, what: str) -> None:
        """Wait until a condition holds."""
        until = time.monotonic() + PATIENCE
        tick = self.client.loop.asyncio_loop
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"no {what} within {PATIENCE} s; there are {self.addresses}")
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), tick).result()

    def assert_free(self) -> None:
        """Nothing of any run is left, neither on a worker nor on the scheduler."""
        self.refill()
        left: list[Any] = []

        def is_free() -> bool:
            left[:] = [v for v in self.client.run(held, on_error="return").values() if v]
            plugin = self.cluster.scheduler.plugins.get("petuum")
            if plugin is not None:
                left.extend([*plugin._boards, *plugin._desk.fits])
            return not left

        try:
            self.wait_for(is_free, "free workers")
        except TimeoutError as error:
            raise AssertionError(f"left behind: {left}") from error


def held(dask_worker: Any) -> Sequence[Any]:
    """What a worker holds of runs and of checkpoints."""
    plugin = dask_worker.plugins.get("petuum")
    return [] if plugin is None else [*plugin.kept.vault.keys, *plugin._runs]
