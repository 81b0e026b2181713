"""Arming a running cluster: one call from the client, for the workers there and those to come.

The scheduler's plugin goes first, then the workers'; both are idempotent and stay for the life of
the cluster (runs are made by calls, never by registering again). Before anything is registered, a
probe that needs nothing of this package tells which workers lack it or have another version: Dask
only logs a plugin that fails on a worker, and would leave it without.
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Mapping
from typing import Any

from distributed import Client

from dask_petuum.exceptions import RunError, TransportError, VersionMismatchError
from dask_petuum.runtime import adapter
from dask_petuum.runtime.scheduler_plugin import PetuumScheduler
from dask_petuum.runtime.version import PLUGIN_NAME, version
from dask_petuum.runtime.worker_plugin import PetuumWorker

__all__ = ["arm", "cluster_versions", "disarm", "workers_for_ranks"]

logger = logging.getLogger(__name__)

#: Wait for a worker that has just joined to install its plugin, seconds.
HELLO_SECONDS = 10.0
HELLO_PAUSE = 0.1


def arm(client: Client) -> dict[str, str]:
    """Install the plugins on a cluster where they are not, and check versions.

    Returns
    -------
    dict
        Version by worker address.

    Raises
    ------
    VersionMismatchError
        Naming each worker (or the scheduler) that lacks dask_petuum or has another version.
    RunError
        Where there is no worker.
    ValueError
        For a client whose calls give coroutines.
    """
    if client.asynchronous:
        raise ValueError(
            f"{client!r} is asynchronous, and this call waits for its result: use a Client without "
            "asynchronous=True, from a coroutine in a thread (asyncio.to_thread)"
        )
    armed = _armed_workers(client)
    if armed is None:
        _check_versions(cluster_versions(client))
        client.register_plugin(PetuumScheduler(), name=PLUGIN_NAME)
        client.register_plugin(PetuumWorker(), name=PLUGIN_NAME)
        armed = _armed_workers(client) or {}
    there = _workers(client)
    if not there:
        raise RunError("the cluster has no workers; wait for them with client.wait_for_workers(n)")
    if set(there) - set(armed):
        found = cluster_versions(client)
        _check_versions(
            {name: found[name] for name in there if name in found and name not in armed}
        )
        armed = _wait_for_hello(client, there)
    _check_versions(armed)
    return {address: armed[address] for address in there if address in armed}


def workers_for_ranks(client: Client) -> list[str]:
    """Arm a cluster, and tell which of its workers may be given ranks, in order.

    Those that Dask has paused, since their memory is nearly full, would begin none; they are left
    out where there are others. Raises as :func:`arm`.
    """
    armed = sorted(arm(client))
    paused = set(client.sync(_status, client)["paused"])
    able = [address for address in armed if address not in paused]
    if able and len(able) < len(armed):
        left_out = ", ".join(address for address in armed if address in paused)
        logger.warning("Paused by Dask, with nearly full memory, and left out: %s", left_out)
    return able or armed


def disarm(client: Client) -> None:
    """Remove the plugins and all that they hold from a cluster; runs under way end.

    Nothing is left behind: no handler, no thread, no table. Does nothing on a cluster that is not
    armed; finishes what another call of it left undone.
    """
    if not client.run_on_scheduler(_installed_probe()):
        return
    try:
        client.sync(adapter.ask_scheduler, client, "petuum_uninstall")
    except TransportError:
        logger.info("The scheduler's handlers are gone already")
    try:
        client.unregister_worker_plugin(PLUGIN_NAME)
    except ValueError:
        logger.info("The workers' plugins are gone already")
    client.unregister_scheduler_plugin(PLUGIN_NAME)


def cluster_versions(client: Client) -> dict[str, str | None]:
    """Version of dask_petuum on the scheduler and on each worker; None where it is missing.

    A worker that is lost meanwhile is left out.
    """
    probe = _probe()
    versions: dict[str, str | None] = dict(client.run(probe, on_error="ignore"))
    versions["scheduler"] = client.run_on_scheduler(probe)
    return versions


def _probe() -> types.FunctionType:
    """A function that is sent whole, so that it runs where this package is not installed."""

    def probe() -> str | None:
        from importlib import metadata

        try:
            return metadata.version("dask_petuum")
        except metadata.PackageNotFoundError:
            return None

    return _sent_whole(probe)


def _installed_probe() -> types.FunctionType:
    """A function that tells a scheduler's plugin is there, without asking the plugin."""
    name = PLUGIN_NAME

    def probe(dask_scheduler: Any) -> bool:
        return name in dask_scheduler.plugins

    return _sent_whole(probe)


def _sent_whole(function: Any) -> types.FunctionType:
    """Let cloudpickle send a function by value: it does so for what is not in a module."""
    function.__module__ = "__main__"
    function.__qualname__ = function.__name__
    sent: types.FunctionType = function
    return sent


def _workers(client: Client) -> list[str]:
    """Addresses of all workers, armed or not.

    Not from ``client.scheduler_info()``: a refresh in the background, which asks for no workers,
    may overwrite its answer before it is read.
    """
    reply: Mapping[str, Any] = client.sync(_status, client)
    return sorted(reply["there"])


def _armed_workers(client: Client) -> dict[str, str] | None:
    """Workers that said hello; None where the scheduler has no plugin."""
    if not client.run_on_scheduler(_installed_probe()):
        return None
    reply: Mapping[str, Any] = client.sync(_status, client)
    _check_versions({"scheduler": reply["version"]})
    return dict(reply["workers"])


async def _status(client: Client) -> Mapping[str, Any]:
    return await adapter.ask_scheduler(client, "petuum_status")


def _wait_for_hello(client: Client, there: list[str]) -> dict[str, str]:
    """Workers that have just joined say hello within moments; those that leave are not waited for.

    Raises
    ------
    RunError
        Naming the workers that have the package but did not say hello.
    """

    async def wait() -> dict[str, str]:
        waited = 0.0
        while True:
            armed: dict[str, str] = dict((await _status(client))["workers"])
            known = await client.scheduler.identity(n_workers=-1)
            silent = sorted(set(there) & set(known["workers"]) - set(armed))
            if not silent:
                return armed
            if waited > HELLO_SECONDS:
                raise RunError(
                    f"{', '.join(silent)} did not install the plugin within {HELLO_SECONDS} s: too "
                    "busy, or it failed there (see the worker's log)"
                )
            await asyncio.sleep(HELLO_PAUSE)
            waited += HELLO_PAUSE

    found: dict[str, str] = client.sync(wait)
    return found


def _check_versions(versions: Mapping[str, str | None]) -> None:
    wrong = {name: found for name, found in versions.items() if found != version()}
    if not wrong:
        return
    lines = [
        f"{name} has {'no dask_petuum' if found is None else 'dask_petuum ' + found}"
        for name, found in sorted(wrong.items())
    ]
    raise VersionMismatchError(
        f"this process has dask_petuum {version()}, but {'; '.join(lines)}. Install the same "
        "version everywhere (for example with distributed.PipInstall) and restart those workers"
    )
