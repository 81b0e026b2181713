"""Waiting, after a loss, for the workers that a cluster is about to have again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from distributed import Client

from dask_petuum.runtime import adapter, config

__all__ = ["is_settled", "status_of", "wait_for_workers"]

#: For how long a nanny is expected to start another worker, where `recovery.wait` is shorter.
RETURN_SECONDS = 30.0
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
    wait = config.wait_seconds()
    until = time.monotonic() + wait
    while time.monotonic() < until and not is_settled(status, n_workers, wait):
        time.sleep(LOOK_SECONDS)
        status = status_of(client)
    return bool(status["workers"])


def is_settled(status: Mapping[str, Any], n_workers: int | None, wait: float) -> bool:
    """Whether there are workers, and no more need be waited for. Pure.

    Parameters
    ----------
    status
        What the scheduler tells: "workers", those of which it is not known whether they live
        ("doubtful"), and for how many seconds those that are expected back have been gone.
    n_workers
        As of `wait_for_workers`.
    wait
        Seconds that the caller gives them.
    """
    enough = n_workers is not None and len(status["workers"]) >= n_workers
    some_return = any(gone < max(wait, RETURN_SECONDS) for gone in status["returning"])
    return bool(status["workers"]) and not status["doubtful"] and (enough or not some_return)


def status_of(client: Client) -> dict[str, Any]:
    """What the scheduler tells of its workers, fits and runs."""
    status: dict[str, Any] = client.sync(adapter.ask_scheduler, client, "petuum_status")
    return status
