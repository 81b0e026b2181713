"""What the store did, per table: bytes and rows in and out, time waited, how stale reads were."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["BLOCKS", "MAX_CLOCKS", "Statistics", "TableStatistics"]

#: Under what name moving blocks are counted, which are of no table.
BLOCKS = "__blocks__"
#: Clocks whose counts are kept one by one; of earlier ones the sums remain.
MAX_CLOCKS = 4096


@dataclass
class TableStatistics:
    """Counts of one table in one rank. Bytes are those that crossed to another rank."""

    bytes_in: int = 0
    bytes_out: int = 0
    rows_in: int = 0
    rows_out: int = 0
    #: Reads by how many clocks behind the reader the values were.
    staleness: Counter[int] = field(default_factory=Counter)
    #: The first four as they were when each of the last clocks ended.
    clocks: deque[tuple[int, int, int, int]] = field(
        default_factory=lambda: deque([(0, 0, 0, 0)], maxlen=MAX_CLOCKS + 1)
    )

    def end_clock(self) -> None:
        """Note the counts as they are."""
        self.clocks.append((self.bytes_in, self.bytes_out, self.rows_in, self.rows_out))

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data; ``by_clock`` has an int64 array for each of the first four."""
        names = ("bytes_in", "bytes_out", "rows_in", "rows_out")
        differences = np.diff(np.array(self.clocks, dtype=np.int64), axis=0)
        by_clock = {name: differences[:, i].copy() for i, name in enumerate(names)}
        sums = {name: getattr(self, name) for name in names}
        return {**sums, "staleness": dict(sorted(self.staleness.items())), "by_clock": by_clock}


class Statistics:
    """Counts of one rank, over the whole run and since the last look."""

    def __init__(self, tables: Sequence[str]) -> None:
        self.tables = {name: TableStatistics() for name in tables}
        self.waited = 0.0
        self.elapsed = 0.0
        self.waits: deque[float] = deque(maxlen=MAX_CLOCKS)
        self._last = self._sums()

    def sent(self, table: str, n_bytes: int, n_rows: int) -> None:
        """Count what was sent to another rank, of a table or (`BLOCKS`) of moving blocks."""
        counts = self.tables.setdefault(table, TableStatistics())
        counts.bytes_out += n_bytes
        counts.rows_out += n_rows

    def received(self, table: str, n_bytes: int, n_rows: int) -> None:
        """Count what another rank sent."""
        counts = self.tables.setdefault(table, TableStatistics())
        counts.bytes_in += n_bytes
        counts.rows_in += n_rows

    def read(self, table: str, lag: int) -> None:
        """Count a clock that starts with values ``lag`` clocks behind."""
        self.tables[table].staleness[lag] += 1

    def end_clock(self, waited: float, elapsed: float = 0.0) -> None:
        """Note that a clock has ended after so many seconds, ``waited`` of which were waiting."""
        self.waited += waited
        self.elapsed += elapsed
        self.waits.append(waited)
        for counts in self.tables.values():
            counts.end_clock()

    def since_last(self) -> dict[str, float]:
        """Sums over the tables since the last call: bytes, seconds waited, reads and their lag."""
        now = self._sums()
        out = {name: now[name] - self._last[name] for name in now}
        self._last = now
        return out

    def to_dict(self) -> dict[str, Any]:
        """All counts, as plain data: of the whole run, and of each of the last clocks."""
        return {
            "waited": self.waited,
            "waited_by_clock": np.array(self.waits),
            "tables": {name: counts.to_dict() for name, counts in self.tables.items()},
        }

    def summary(self) -> dict[str, float]:
        """Sums over the tables since the start, the mean lag of the reads, and seconds of work."""
        sums = self._sums()
        reads, lag = sums.pop("reads"), sums.pop("lag")
        busy = max(self.elapsed - self.waited, 0.0)
        return {**sums, "staleness": lag / reads if reads else 0.0, "busy": busy}

    def _sums(self) -> dict[str, float]:
        counts = self.tables.values()
        return {
            "bytes_in": float(sum(c.bytes_in for c in counts)),
            "bytes_out": float(sum(c.bytes_out for c in counts)),
            "waited": self.waited,
            "reads": float(sum(c.staleness.total() for c in counts)),
            "lag": float(sum(k * n for c in counts for k, n in c.staleness.items())),
        }
