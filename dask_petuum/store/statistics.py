"""What the store did, per table: bytes and rows in and out, time waited, how stale reads were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Statistics", "TableStatistics"]


@dataclass
class TableStatistics:
    """Counts of one table in one rank. Bytes are those that crossed to another rank."""

    bytes_in: int = 0
    bytes_out: int = 0
    rows_in: int = 0
    rows_out: int = 0
    #: Reads by how many clocks behind the reader the values were.
    staleness: Counter[int] = field(default_factory=Counter)


class Statistics:
    """Counts of one rank, over the whole run and since the last look."""

    def __init__(self, tables: Sequence[str]) -> None:
        self.tables = {name: TableStatistics() for name in tables}
        self.waited = 0.0
        self._last = self._sums()

    def sent(self, table: str, n_bytes: int, n_rows: int) -> None:
        """Count increments sent to another rank."""
        counts = self.tables[table]
        counts.bytes_out += n_bytes
        counts.rows_out += n_rows

    def received(self, table: str, n_bytes: int, n_rows: int) -> None:
        """Count rows that another rank sent."""
        counts = self.tables[table]
        counts.bytes_in += n_bytes
        counts.rows_in += n_rows

    def read(self, table: str, lag: int) -> None:
        """Count a clock that starts with values ``lag`` clocks behind."""
        self.tables[table].staleness[lag] += 1

    def since_last(self) -> dict[str, float]:
        """Sums over the tables since the last call: bytes, seconds waited, reads and their lag."""
        now = self._sums()
        out = {name: now[name] - self._last[name] for name in now}
        self._last = now
        return out

    def to_dict(self) -> dict[str, Any]:
        """All counts, as plain data."""
        tables = {}
        for name, counts in self.tables.items():
            plain = {**vars(counts), "staleness": dict(sorted(counts.staleness.items()))}
            tables[name] = plain
        return {"waited": self.waited, "tables": tables}

    def summary(self) -> dict[str, float]:
        """Sums over the tables since the start, and the mean lag of the reads."""
        sums = self._sums()
        reads, lag = sums.pop("reads"), sums.pop("lag")
        return {**sums, "staleness": lag / reads if reads else 0.0}

    def _sums(self) -> dict[str, float]:
        counts = self.tables.values()
        return {
            "bytes_in": float(sum(c.bytes_in for c in counts)),
            "bytes_out": float(sum(c.bytes_out for c in counts)),
            "waited": self.waited,
            "reads": float(sum(c.staleness.total() for c in counts)),
            "lag": float(sum(k * n for c in counts for k, n in c.staleness.items())),
        }
