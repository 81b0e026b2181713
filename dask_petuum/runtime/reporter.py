"""A rank's reports to the scheduler, put together: a report may take longer than a clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dask_petuum.runtime.program import Record

__all__ = ["Reporter"]

#: Least time between two reports, seconds. One takes 1-2 ms of the scheduler's and the client's
#: process, which share cores with the ranks on one host.
REPORT_SECONDS = 0.05


class Reporter:
    """Says when to send what: at once, or with what else comes in a moment.

    Parameters
    ----------
    send
        Sends the rank's clock, and records; in any thread.
    later
        Calls a function after so many seconds, in any thread.
    clock
        Seconds.
    """

    # The mutable state is `_records`, `_sent` and `_is_waiting`, all under the lock.

    def __init__(
        self,
        send: Callable[[Sequence[Record]], None],
        later: Callable[[float, Callable[[], None]], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._send = send
        self._later = later
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._sent = -REPORT_SECONDS
        self._is_waiting = False

    def __repr__(self) -> str:
        with self._lock:
            return f"<Reporter with {len(self._records)} records to send>"

    def add(self, record: Record) -> None:
        """Report a record, soon."""
        with self._lock:
            self._records.append(record)
        self.note()

    def note(self, now: bool = False) -> None:
        """Report the clock: at once, or where the last report was a moment ago, with the next."""
        with self._lock:
            wait = self._sent + REPORT_SECONDS - self._clock()
            if wait > 0 and not now:
                if self._records and not self._is_waiting:
                    self._is_waiting = True
                    self._later(wait, self._flush)
                return
            records = self._take()
        self._send(records)

    def _flush(self) -> None:
        with self._lock:
            self._is_waiting = False
            if not self._records:
                return
            records = self._take()
        self._send(records)

    def _take(self) -> list[Record]:
        records, self._records = self._records, []
        self._sent = self._clock()
        return records
