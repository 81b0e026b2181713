"""A Dask cluster of worker processes on this machine, and a live look at the ranks of a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distributed import Client, LocalCluster
from rich.console import Console
from rich.live import Live

from dask_petuum.demo.screen import ranks_table
from dask_petuum.exceptions import TransportError
from dask_petuum.runtime.adapter import ask_scheduler

__all__ = ["cluster_address", "start_cluster", "watch_ranks"]

#: Time between two looks at the scheduler, seconds.
LOOK_SECONDS = 0.25


@contextmanager
def start_cluster(n_workers: int = 2, n_threads: int = 1) -> Iterator[Client]:
    """Start worker processes on this machine; they end with the ``with`` block."""
    options = {"processes": True, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=n_threads, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


def cluster_address(client: Client) -> str:
    """Return the scheduler's address."""
    return str(client.scheduler_info()["address"])


@contextmanager
def watch_ranks(client: Client, console: Console) -> Iterator[None]:
    """Show each rank's clock, staleness and bytes while the ``with`` block runs."""
    done = threading.Event()
    waiting = ranks_table([0] * len(client.nthreads()), {})
    with Live(waiting, console=console, refresh_per_second=4) as live:
        watcher = threading.Thread(
            target=_watch, args=(client, live, done), name="watch-ranks", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(client: Client, live: Live, done: threading.Event) -> None:
    while not done.wait(LOOK_SECONDS):
        try:
            reply = client.sync(ask_scheduler, client, "petuum_status")
        except TransportError:  # not armed yet
            continue
        newest = _newest_run(reply["runs"])
        if newest is not None:
            live.update(ranks_table(newest["clocks"], newest["ranks"]))


def _newest_run(runs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the run that was created last, if there is one."""
    return list(runs.values())[-1] if runs else None
