"""Workers that have a rank and do not answer: given up when their lease is over.

A rank that is lost to a stopped process or a dead machine holds up all others, and Dask waits five
minutes. Heartbeats come from a worker's event loop, about twice a second, also while its kernels
compute; so their absence says that the process is stopped, gone, or starved.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from dask_petuum.runtime import adapter, config

__all__ = ["give_up_silent"]

logger = logging.getLogger(__name__)


def give_up_silent(scheduler: Any, addresses: Iterable[str], now: float) -> None:
    """Remove those of some workers that were silent for longer than the lease."""
    lease = config.lease_seconds()
    for address in addresses:
        seen = adapter.last_seen(scheduler, address)
        if seen is not None and now - seen > lease:
            logger.warning("Worker %s was silent for %.1f s: it is given up", address, now - seen)
            adapter.soon(scheduler, adapter.give_up_worker, scheduler, address, "petuum-lease")
