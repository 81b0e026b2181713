"""A fit of fingerprints as a history, for the store's own checker (`dask_petuum.store.audit`).

What partitions read is in their states, which go back to a checkpoint with the run; so what is left
at the end is the history of a run without losses, whatever was lost on the way. Partitions are the
checker's ranks, and row p of the table of marks stands for the cells [p, 0 .. clocks). Each epoch
reads through views of its own: after a loss a partition may see less than it saw before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dask_petuum.store.audit import End, Event, Final, Inc, Read, Violation, check

__all__ = ["check_history", "events_of"]

#: Reads of a partition that are given to the checker at most: each is as large as all increments.
MOST_READS = 400
ONE = np.ones(1, dtype=np.int64)
ROW = np.zeros(1, dtype=np.int64)


def check_history(
    reads: Sequence[Any], n_clocks: Any, final: Any, bound: int | None
) -> list[Violation]:
    """Check what the partitions of a fit have read.

    Parameters
    ----------
    reads : (n_reads, 1 + n_partitions) int64 of each partition
        By clock: the epoch's number, and how many clocks of each partition were seen.
    n_clocks : (n_partitions,)
        Clocks that each has made.
    final : (n_partitions,)
        Clocks of each that the table holds at the end.
    bound
        Clocks that a read may lag, and that it may be ahead; None: no promise.
    """
    events = events_of(reads, n_clocks, final, bound)
    return check(events, len(reads), int(max(n_clocks)), {"marks": 1})


def events_of(
    reads: Sequence[Any], n_clocks: Any, final: Any, bound: int | None
) -> Iterator[Event]:
    """Turn what `check_history` gets into events, partition by partition."""
    length = int(max(n_clocks))
    for partition, own in enumerate(reads):
        step = -(-len(own) // MOST_READS)
        for clock in range(int(n_clocks[partition])):
            if clock % step == 0:
                epoch, seen = int(own[clock, 0]), own[clock, 1:]
                values = _cells(seen, length)
                yield Read(partition, clock, "marks", ROW, values, epoch, bound, bound)
            yield Inc(partition, clock, "marks", ROW, ONE)
            yield End(partition, clock + 1, last=clock + 1 == n_clocks[partition])
    yield Final("marks", _cells(np.asarray(final), length))


def _cells(seen: Any, length: int) -> Any:
    """Mark the clocks that were seen: (1, n_partitions, length)."""
    return (np.arange(length) < seen[:, np.newaxis])[np.newaxis].astype(np.int8)
