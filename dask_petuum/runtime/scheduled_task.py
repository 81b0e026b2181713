"""A task that a rank has asked the scheduler for, and its block on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from dask_petuum.exceptions import RunInterruptedError
from dask_petuum.runtime.free_loop import Assignment

__all__ = ["ScheduledTask"]


class ScheduledTask:
    """See :class:`dask_petuum.runtime.free_loop.Asked`.

    Parameters
    ----------
    reply
        The scheduler's, when it comes.
    fetch
        Called with the task when it is known, to send for its block.
    statistics
        Of the rank: the time that it waited is added.
    """

    # No mutable state but the future's: the block is sent for in the thread that brings the answer.

    def __init__(
        self,
        reply: Future[dict[str, Any]],
        fetch: Callable[[Assignment], None],
        statistics: Any,
    ) -> None:
        self._fetch = fetch
        self._statistics = statistics
        self._task: Future[Assignment | None] = Future()
        reply.add_done_callback(self._arrived)

    def __repr__(self) -> str:
        return f"<ScheduledTask, {'answered' if self.is_answered else 'under way'}>"

    @property
    def is_answered(self) -> bool:
        """Whether the answer is here."""
        return self._task.done()

    def wait(self) -> Assignment | None:
        """Wait for the answer."""
        began = time.perf_counter()
        task = self._task.result()
        self._statistics.waited += time.perf_counter() - began
        return task

    def _arrived(self, reply: Future[dict[str, Any]]) -> None:
        try:
            task = self._read(reply.result())
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._task.set_exception(error)
        else:
            self._task.set_result(task)

    def _read(self, reply: Mapping[str, Any]) -> Assignment | None:
        if reply["status"] != "OK":
            raise RunInterruptedError(reply["text"])
        if reply["task"] is None:
            return None
        task = Assignment(**reply["task"])
        self._fetch(task)
        return task
