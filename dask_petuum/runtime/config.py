"""Settings that the runtime reads, checked where they are read."""

from __future__ import annotations

import sys

from dask_petuum.config import get

__all__ = ["shares_memory"]


def shares_memory() -> bool:
    """Whether ranks of one host may share memory: ``petuum.shared-memory``, on Linux."""
    return bool(get("shared-memory")) and sys.platform == "linux"
