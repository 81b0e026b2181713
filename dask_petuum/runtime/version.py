"""The version that scheduler, workers and client must agree on."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__all__ = ["PLUGIN_NAME", "version"]

#: Name of the plugins on the scheduler and on each worker.
PLUGIN_NAME = "petuum"


@cache
def version() -> str:
    """Version of the installed package."""
    return metadata.version("dask_petuum")
