"""Workers that are about to retire, and the time that fits get to leave them.

Dask retires a worker as soon as its keys are elsewhere; it knows nothing of ranks, of rows of
tables or of checkpoints that are kept there. So a retirement that is asked for waits, for a bounded
time, until every fit has gone on without the workers that retire and keeps nothing there only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from dask_petuum.runtime import adapter, config
from dask_petuum.runtime.board import Board
from dask_petuum.runtime.checkpoint_desk import CheckpointDesk

__all__ = ["Handover"]

logger = logging.getLogger(__name__)

#: Time between two looks whether fits have left, seconds.
LOOK_SECONDS = 0.1


class Handover:
    """Holds up the retirement of workers.

    Parameters
    ----------
    scheduler
        Knows the workers' states.
    armed
        Tells the workers that have the plugin.
    desk
        Knows the fits, and where their checkpoints are.
    boards
        The runs, by id.
    """

    # The mutable state is `_about_to`: how many retirements each worker is in; only the scheduler's
    # event loop changes it.

    def __init__(
        self,
        scheduler: Any,
        armed: Callable[[], list[str]],
        desk: CheckpointDesk,
        boards: Mapping[str, Board],
    ) -> None:
        self._scheduler = scheduler
        self._armed = armed
        self._desk = desk
        self._boards = boards
        self._about_to: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Handover from {sorted(self._about_to)}>"

    @property
    def leaving(self) -> list[str]:
        """Armed workers that retire, or are about to."""
        workers = self._scheduler.workers
        return [a for a in self._armed() if a in self._about_to or adapter.leaves(workers[a])]

    @property
    def staying(self) -> set[str]:
        """Armed workers that do not."""
        return set(self._armed()) - set(self.leaving)

    @asynccontextmanager
    async def wait(self, addresses: Collection[str]) -> AsyncIterator[None]:
        """Wait until nobody needs some workers, or ``petuum.recovery.handover`` is over.

        They count as leaving until the ``with`` block ends.
        """
        self._about_to.update(addresses)
        until = time.monotonic() + config.handover_seconds()
        try:
            while (needed := self._are_needed()) and time.monotonic() < until:
                await asyncio.sleep(LOOK_SECONDS)
            if needed:
                text = "Workers %s retire before every fit has left them"
                logger.warning(text, ", ".join(sorted(addresses)))
            yield
        finally:
            self._about_to.subtract(addresses)
            self._about_to += Counter()  # without those at zero

    def _are_needed(self) -> bool:
        """Whether a fit has ranks or parts of its checkpoint where workers leave, and could go."""
        staying = self.staying
        return bool(staying) and not all(self._is_on(fit, staying) for fit in self._desk.fits)

    def _is_on(self, fit_id: str, workers: set[str]) -> bool:
        boards = (board for board in self._boards.values() if board.fit_id == fit_id)
        return self._desk.is_held(fit_id, workers) and any(
            not board.ended and workers.issuperset(board.addresses) for board in boards
        )
