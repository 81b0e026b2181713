"""The scheduler's part in checkpoints: who keeps which, and word to the workers of what may go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from dask_petuum.checkpoint.ledger import Ledger
from dask_petuum.runtime import adapter
from dask_petuum.runtime.board import Board

__all__ = ["CheckpointDesk"]

logger = logging.getLogger(__name__)

#: Wait for the workers' word that they have dropped a fit's checkpoints, seconds.
FORGET_SECONDS = 5.0


class CheckpointDesk:
    """Keeps the ledger of a cluster's checkpoints.

    Parameters
    ----------
    scheduler
        To reach the workers.
    armed
        Tells those that have the plugin: a message to others would cost them their connection.
    """

    # The mutable state is the ledger's.

    def __init__(self, scheduler: Any, armed: Callable[[], list[str]]) -> None:
        self._scheduler = scheduler
        self._armed = armed
        self._ledger = Ledger()

    def __repr__(self) -> str:
        return f"<CheckpointDesk: {self._ledger!r}>"

    @property
    def fits(self) -> list[str]:
        """Fits that there are."""
        return self._ledger.fits

    def of_client(self, client: str) -> list[str]:
        """Fits of a client."""
        return self._ledger.of_client(client)

    def begin(self, fit_id: str, client: str) -> None:
        """Note a fit."""
        self._ledger.begin(fit_id, client)

    def add(self, fit_id: str, part: dict[str, Any], board: Board, clock: int) -> bool:
        """Note a rank's part; where it is the last one, tell all workers. True if it is."""
        n, run_id = len(board.addresses), board.run_id
        if board.failure is not None:
            return False
        if not self._ledger.add(fit_id, part, run_id=run_id, clock=clock, n=n):
            return False
        board.saved_clock = clock
        adapter.cast_to_workers(
            self._scheduler,
            self._armed(),
            "petuum-complete",
            fit_id=fit_id,
            run_id=run_id,
            clock=clock,
        )
        return True

    def give_up(self, fit_id: str, run_id: str, clock: int, why: str) -> None:
        """Note that a rank could not save its part of a checkpoint."""
        self._ledger.give_up(fit_id, run_id=run_id, clock=clock, why=why)

    def why_given_up(self, fit_id: str, run_id: str, clock: int) -> str | None:
        """Why a checkpoint will not be complete; None: it may be."""
        return self._ledger.why_given_up(fit_id, run_id, clock)

    def is_complete(self, fit_id: str, run_id: str, clock: int) -> bool:
        """Whether a checkpoint, or a later one of its run, is complete."""
        return self._ledger.is_complete(fit_id, run_id, clock)

    def is_held(self, fit_id: str, workers: Collection[str]) -> bool:
        """Whether some workers, or files, have every part of a fit's last checkpoint."""
        return self._ledger.is_held(fit_id, workers)

    def lose(self, address: str) -> None:
        """Note that a worker is gone, with all that it kept."""
        self._ledger.lose(address)

    def holders(self, fit_id: str) -> set[str]:
        """The workers that were given parts of a fit's last checkpoint."""
        return self._ledger.holders(fit_id)

    async def checkpoint(self, fit_id: str) -> dict[str, Any]:
        """Tell a fit's newest checkpoint that is complete, or None, and which workers are there."""
        there = sorted(self._ledger.keeping(fit_id, self._scheduler.workers))
        return {"status": "OK", "checkpoint": self._ledger.newest(fit_id), "there": there}

    async def forget(self, fit_id: str, done: bool = False) -> dict[str, Any]:
        """Drop a fit's checkpoints, here and on all workers; ``done``: it has ended well."""
        if self._ledger.forget(fit_id):
            telling = adapter.broadcast(
                self._scheduler, self._armed(), "petuum_forget", fit_ids=[fit_id], done=done
            )
            try:
                await asyncio.wait_for(telling, FORGET_SECONDS)
            except TimeoutError:
                logger.warning("A worker does not answer; it may keep checkpoints of %s", fit_id)
        return {"status": "OK"}
