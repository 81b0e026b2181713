"""The runs of a cluster by name, and who waits for news of one: on the scheduler's event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dask_petuum.runtime.board import Board

__all__ = ["Boards"]


class Boards(dict[str, Board]):
    """The boards of all runs, by the run's id."""

    # The mutable state is the mapping, and an event for each run of which somebody waits for news.

    def __init__(self) -> None:
        super().__init__()
        self._changed: dict[str, asyncio.Event] = {}

    @property
    def n_waited_for(self) -> int:
        """Runs of which somebody waits, or has waited, for news."""
        return len(self._changed)

    def notify(self, run_id: str) -> None:
        """Wake everybody who waits for news of a run."""
        event = self._changed.pop(run_id, None)
        if event is not None:
            event.set()

    async def wait(self, run_id: str, timeout: float | None = None) -> None:
        """Wait for news of a run, seconds at most; not at all where there is no such run."""
        if run_id not in self:
            return
        event = self._changed.setdefault(run_id, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout)
