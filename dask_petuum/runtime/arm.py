"""Arming a running cluster: one call from the client, for the workers there and those to come.

The scheduler's plugin goes first, then the workers'; both are idempotent and stay for the life of
the cluster (runs are made by calls, never by registering again). Before anything is registered, a
probe that needs nothing of this package tells which workers lack it or have another version: Dask
only logs a plugin that fails on a worker, and would leave it without.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Mapping
from typing import Any

from distributed import Client

from dask_petuum.exceptions import RunError, VersionMismatchError
from dask_petuum.runtime import adapter
from dask_petuum.runtime.scheduler_plugin import PetuumScheduler
from dask_petuum.runtime.version import PLUGIN_NAME, version
from dask_petuum.runtime.worker_plugin import PetuumWorker

__all__ = ["arm", "cluster_versions", "disarm"]


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
    """
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
        _check_versions({name: found.get(name) for name in there if name not in armed})
        armed = _wait_for_hello(client, there)
    _check_versions({address: armed.get(address) for address in there})
    return {address: armed[address] for address in there}


def disarm(client: Client) -> None:
    """Remove the plugins and all that they hold from a cluster; runs under way end.

    Nothing is left behind: no handler, no thread, no table. Does nothing on a cluster that is not
    armed.
    """
    if _armed_workers(client) is None:
        return
    client.sync(adapter.call_scheduler, client, "petuum_uninstall")
    client.unregister_worker_plugin(PLUGIN_NAME)
    client.unregister_scheduler_plugin(PLUGIN_NAME)


def cluster_versions(client: Client) -> dict[str, str | None]:
    """Version of dask_petuum on the scheduler and on each worker; None where it is missing."""
    probe = _probe()
    versions: dict[str, str | None] = dict(client.run(probe))
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
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def _armed_workers(client: Client) -> dict[str, str] | None:
    """Workers that said hello; None where the scheduler has no plugin."""
    if not client.run_on_scheduler(_installed_probe()):
        return None
    reply: Mapping[str, Any] = client.sync(_status, client)
    return dict(reply["workers"])


async def _status(client: Client) -> Mapping[str, Any]:
    return await adapter.call_scheduler(client, "petuum_status")


def _wait_for_hello(client: Client, there: list[str]) -> dict[str, str]:
    """Workers that have just joined say hello within moments of registering."""

    async def wait() -> dict[str, str]:
        for _ in range(50):
            armed: dict[str, str] = dict((await _status(client))["workers"])
            if set(there) <= set(armed):
                return armed
            await asyncio.sleep(0.1)
        return armed

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
