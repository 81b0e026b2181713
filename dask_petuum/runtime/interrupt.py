"""Ctrl-C during a fit in this process: the first ends it after the clock, the second at once.

A clock that is cut in the middle would leave tables and states that do not belong together; what
was learnt up to the end of a clock can be kept. A run on a cluster does the same
(:mod:`dask_petuum.runtime.cluster_run`).

A terminal sends Ctrl-C to the worker processes of a ``LocalCluster`` as well, which would die of
it, and with them all that was learnt: :func:`shield_from_interrupts` lets them live.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption", "shield_from_interrupts"]

logger = logging.getLogger(__name__)


class Interruption:
    """Notes the first SIGINT within its ``with`` block instead of raising.

    Does nothing outside of the main thread, which is the only one that gets signals, nor where
    SIGINT is ignored.
    """

    # The mutable state is `requested`; the signal handler sets it, in the main thread.

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __repr__(self) -> str:
        return f"<Interruption requested={self.requested}>"

    def __enter__(self) -> Interruption:
        main = threading.current_thread() is threading.main_thread()
        if main and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._before(number, frame)
            return
        self.requested = True
        logger.warning("Interrupted: ends after this clock; once more ends it at once")


def shield_from_interrupts() -> Callable[[], None]:
    """Ignore SIGINT in this process, where this is its main thread; return what undoes it."""
    if threading.current_thread() is not threading.main_thread():
        return _nothing
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def undo() -> None:
        signal.signal(signal.SIGINT, before)

    return undo


def _nothing() -> None:
    """Nothing was done, nothing is to be undone."""
