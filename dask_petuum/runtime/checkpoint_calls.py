"""What ranks tell the scheduler of their parts of checkpoints: kept, or not to be had."""

from __future__ import annotations

from typing import Any

from dask_petuum.exceptions import CheckpointError, ProtocolError
from dask_petuum.runtime.boards import Boards
from dask_petuum.runtime.checkpoint_desk import CheckpointDesk
from dask_petuum.store.messages import number_of

__all__ = ["CheckpointCalls"]


class CheckpointCalls:
    """Handlers of the scheduler; the state is the desk's and the boards'."""

    def __init__(self, desk: CheckpointDesk, boards: Boards) -> None:
        self._desk = desk
        self._boards = boards

    async def add_part(
        self, fit_id: str, run_id: str, clock: int, part: dict[str, Any]
    ) -> dict[str, Any]:
        """Note a rank's part of a checkpoint; answered when the checkpoint is complete."""
        board = self._boards.get(run_id)
        number_of({"clock": clock}, "clock")
        try:
            if board is not None and self._desk.add(fit_id, part, board, clock):
                self._boards.notify(run_id)
        except CheckpointError as error:
            raise ProtocolError(f"a part of a checkpoint of run {run_id}: {error}") from error
        while not self._desk.is_complete(fit_id, run_id, clock):
            why = self._desk.why_given_up(fit_id, run_id, clock)
            if why is not None:
                return {"status": "failed", "text": why}
            if board is None or board.failure is not None or run_id not in self._boards:
                return {"status": "gone", "text": f"run {run_id} is over"}
            await self._boards.wait(run_id)
        return await self._desk.checkpoint(fit_id)

    async def give_up_part(
        self, fit_id: str, run_id: str, clock: int, rank: int, why: str
    ) -> dict[str, Any]:
        """Note that a rank could not save its part: nobody is to wait for that checkpoint."""
        board = self._boards.get(run_id)
        if board is not None and board.fit_id == fit_id:
            board.check_rank(rank)
            number_of({"clock": clock}, "clock")
            self._desk.give_up(fit_id, run_id, clock, f"rank {rank} could not save: {why}")
            self._boards.notify(run_id)
        return {"status": "OK"}
