"""Which Dask worker a task is on."""

from __future__ import annotations

from distributed import get_worker

__all__ = ["worker_address"]


def worker_address() -> str:
    """Address of the worker whose task calls this; "" outside of tasks."""
    try:
        return str(get_worker().address)
    except ValueError:
        return ""
