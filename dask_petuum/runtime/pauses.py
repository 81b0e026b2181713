"""Workers that Dask has paused, since their memory is nearly full, and what waits for them.

A paused worker goes on with the ranks that it has, and answers; but it begins no task. One that is
pinned to it waits until memory is free, which may be never: it is given up when it has waited for
``petuum.recovery.lease``, so that the others go on without that worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_petuum.runtime import adapter, config
from dask_petuum.runtime.board import Failure
from dask_petuum.runtime.lease import Silence
from dask_petuum.runtime.spec import rank_of_task

__all__ = ["Pauses"]

#: What the keys of our own tasks begin with.
PREFIX = "petuum-"


class Pauses:
    """Knows the paused workers, and our tasks that wait for them.

    Parameters
    ----------
    scheduler
        On whose event loop `look` is called.
    pause
        As of `Silence`.
    fail
        Called with a run and its failure, where a rank cannot begin.
    """

    # The mutable state is for how long tasks have waited, and which of them for too long, and why.

    def __init__(self, scheduler: Any, pause: float, fail: Callable[[str, Failure], None]) -> None:
        self._scheduler = scheduler
        self._waiting = Silence(pause)
        self._fail = fail
        self._stuck: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Pauses of {sorted(adapter.paused_workers(self._scheduler))}>"

    def look(self, now: float) -> None:
        """Look at what waits, seconds since the epoch; end the runs that wait for too long."""
        homes = adapter.stuck_tasks(self._scheduler, PREFIX)
        waited = self._waiting.look(dict.fromkeys(homes, 0.0), now)
        self._stuck = {
            key: f"worker {homes[key]} has been paused by Dask for {seconds:.0f} s, since its "
            "memory is nearly full, and begins no task"
            for key, seconds in waited.items()
            if seconds > config.lease_seconds()
        }
        for key, text in self._stuck.items():
            task = rank_of_task(key)
            if task is not None:
                run_id, rank = task
                self._fail(run_id, Failure("lost", rank, f"rank {rank} could not begin: {text}"))

    def without(self, addresses: list[str]) -> list[str]:
        """Those of some workers that are not paused."""
        paused = adapter.paused_workers(self._scheduler)
        return [address for address in addresses if address not in paused]

    def view(self) -> dict[str, Any]:
        """What a client is told: the paused workers, and why tasks are stuck, by key."""
        paused = sorted(adapter.paused_workers(self._scheduler))
        return {"paused": paused, "stuck": dict(self._stuck)}
