"""The scheduler's part in reading tables: it passes on what workers have, and reads none of it.

Not by tasks: a worker whose memory is nearly full, with these very tables maybe, begins none.
"""

from __future__ import annotations

from typing import Any

from dask_petuum.exceptions import TransportError
from dask_petuum.runtime import adapter
from dask_petuum.runtime.boards import Boards
from dask_petuum.store.messages import field_of

__all__ = ["ShardCalls"]


class ShardCalls:
    """Answers for the rows of the tables of runs.

    Parameters
    ----------
    scheduler
        Whose workers are asked.
    boards
        The runs, by id.
    """

    def __init__(self, scheduler: Any, boards: Boards) -> None:
        self._scheduler = scheduler
        self._boards = boards

    def __repr__(self) -> str:
        return f"<ShardCalls of runs {self._boards}>"

    async def read(self, run_id: str, rank: int, table: str) -> dict[str, Any]:
        """Give a rank's blocks of a table, as they come from its worker."""
        board = self._boards.get(run_id)
        if board is None:
            return {"status": "gone", "text": f"there is no run {run_id}"}
        board.check_rank(rank)
        name = field_of({"table": table}, "table", str)
        try:
            return await adapter.call_worker_of(
                self._scheduler, board.addresses[rank], "petuum_read", run_id=run_id, table=name
            )
        except TransportError as error:
            return {"status": "gone", "text": str(error)}
