"""Settings that the runtime reads, checked where they are read."""

from __future__ import annotations

import sys

from dask.utils import parse_timedelta

from dask_petuum.config import get

__all__ = [
    "handover_seconds",
    "lease_seconds",
    "save_clocks",
    "save_seconds",
    "shares_memory",
    "uses_pipes",
    "wait_seconds",
]


def uses_pipes() -> bool:
    """Whether ranks that share memory send messages through pipes, past Dask."""
    return bool(get("pipes"))


def shares_memory() -> bool:
    """Whether ranks of one host may share memory: ``petuum.shared-memory``, on Linux."""
    return bool(get("shared-memory")) and sys.platform == "linux"


def handover_seconds() -> float:
    """How long a retirement waits for fits: ``petuum.recovery.handover``, seconds."""
    return _seconds("recovery.handover", 0.0)


def lease_seconds() -> float:
    """For how long a worker with a rank may be silent: ``petuum.recovery.lease``, seconds.

    Raises
    ------
    ValueError
        Where it is below a second: Dask's workers are heard of about twice a second.
    """
    return _seconds("recovery.lease", 1.0)


def save_clocks(given: int | None = None) -> int | None:
    """Clocks between two checkpoints: as given, or ``petuum.checkpoint.clocks``; None: no limit.

    Raises
    ------
    ValueError
        Where it is no whole number of at least 1.
    """
    value = get("checkpoint.clocks", override_with=given)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"petuum.checkpoint.clocks must be a whole number >= 1, got {value!r}")
    return value


def save_seconds() -> float | None:
    """Time between two checkpoints: ``petuum.checkpoint.interval``, seconds; None: no limit."""
    if get("checkpoint.interval") in (None, False):
        return None
    return _seconds("checkpoint.interval", 0.0)


def wait_seconds() -> float:
    """How long lost workers are waited for: ``petuum.recovery.wait``, seconds."""
    return _seconds("recovery.wait", 0.0)


def _seconds(key: str, least: float) -> float:
    value = float(parse_timedelta(get(key), default="s"))
    if not value >= least:
        raise ValueError(f"petuum.{key} must be at least {least} s, got {get(key)!r}")
    return value
