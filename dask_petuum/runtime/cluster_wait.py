"""Waiting, after a loss, for the workers that a cluster is about to have again."""

from __future__ import annotations

import time
from typing import Any

from distributed import Client

from dask_petuum.runtime import adapter, config

__all__ = ["status_of", "wait_for_workers"]

#: Pause between two looks for workers that come back, seconds.
LOOK_SECONDS = 0.1


def wait_for_workers(client: Client, n_workers: int | None = None) -> bool:
    """Give workers that were lost the time to come back, and those that are silent to speak.

    Parameters
    ----------
    client
        Of a cluster that is armed.
    n_workers
        That many are enough; None: all that are expected back.

    Returns
    -------
    whether there is any; after ``petuum.recovery.wait`` at the latest.
    """
    status = status_of(client)
    until = time.monotonic() + config.wait_seconds()
    while time.monotonic() < until:
        enough = n_workers is not None and len(status["workers"]) >= n_workers
        settled = not status["doubtful"] and (enough or not status["returning"])
        if status["workers"] and settled:
            break
        time.sleep(LOOK_SECONDS)
        status = status_of(client)
    return bool(status["workers"])


def status_of(client: Client) -> dict[str, Any]:
    """What the scheduler tells of its workers, fits and runs."""
    status: dict[str, Any] = client.sync(adapter.ask_scheduler, client, "petuum_status")
    return status
