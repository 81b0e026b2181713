"""Which Dask client a fit uses."""

from __future__ import annotations

from functools import lru_cache

from distributed import Client, default_client

__all__ = ["active_client", "client_of"]


def active_client() -> Client | None:
    """The client that is active in this process, or None."""
    try:
        return default_client()
    except ValueError:
        return None


def client_of(address: str) -> Client:
    """A client of the scheduler at an address: the active one if it is its, else a new one.

    A new one is kept for later fits and is not made the active client.
    """
    active = active_client()
    if active is not None and active.scheduler is not None and active.scheduler.address == address:
        return active
    client = _connected(address)
    if client.status != "running":
        _connected.cache_clear()
        client = _connected(address)
    return client


@lru_cache(maxsize=4)
def _connected(address: str) -> Client:
    return Client(address, set_as_default=False)
