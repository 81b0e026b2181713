"""A run in this process: one rank, its tables here, ``n_threads`` threads, no Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.exceptions import RunError, TableError
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.free_loop import Assignment, Done, Tasks
from dask_petuum.runtime.interrupt import Interruption
from dask_petuum.runtime.local_keeping import LocalKeeping
from dask_petuum.runtime.program import Record
from dask_petuum.runtime.shelf import Shelf
from dask_petuum.runtime.threads import Threads
from dask_petuum.store.local import LocalTable, LocalView
from dask_petuum.store.owner import Cut
from dask_petuum.store.statistics import Statistics

__all__ = ["LocalContext", "partition_seed"]

T = TypeVar("T")
R = TypeVar("R")
Monitor = Callable[[Record], bool]


def partition_seed(seed: int, partition: int, clock: int) -> np.random.SeedSequence:
    """Seed for one partition in one clock; independent of the rank that asks."""
    return np.random.SeedSequence(seed, spawn_key=(partition, clock))


class LocalContext:
    """The only rank of a run in this process; see :class:`dask_petuum.runtime.context.Context`."""

    rank = 0
    n_ranks = 1
    near = None  # there is no other rank

    def __init__(
        self,
        tables: Mapping[str, LocalTable],
        threads: Threads,
        seed: int = 0,
        monitor: Monitor | None = None,
        interruption: Interruption | None = None,
        keeping: LocalKeeping | None = None,
    ) -> None:
        self._keeping = keeping
        self.saved = None if keeping is None else keeping.saved
        self.clock_index = 0 if self.saved is None else self.saved.clock
        if self.saved is not None:
            for table in tables.values():
                table.begin(self.saved.rows(table.spec, 0, table.spec.n_rows), self.saved.clock)
        self._stop_requested = False
        self._tables = tables
        self._threads = threads
        self._seed = seed
        self._monitor = monitor
        self._interruption = interruption or Interruption()
        self._read_my_writes = True
        #: What a run whose blocks move freely needs: its blocks, and who chooses.
        self.shelf = Shelf()
        self.tasks: Tasks | None = None
        #: As the store counts them on a cluster; every read is fresh here.
        self.counts = Statistics(list(tables))

    def __repr__(self) -> str:
        return f"<LocalContext clock {self.clock_index}, tables {sorted(self._tables)}>"

    @property
    def n_threads(self) -> int:
        """Threads that ``map`` uses."""
        return self._threads.n_threads

    @property
    def stop_requested(self) -> bool:
        """Whether a callback or Ctrl-C asked for the end."""
        return self._stop_requested or self._interruption.requested

    @property
    def seed_of_run(self) -> int:
        """Root of every random stream of the run."""
        return self._seed

    def send_block(
        self, rank: int, partition: int, block: int, stamp: int, arrays: Mapping[str, Array]
    ) -> None:
        """Refuse: there is no other rank."""
        raise RunError(f"there is no rank {rank} to send block {block} to")

    @property
    def block_bytes(self) -> int:
        """Bytes of blocks that wait: none, as nobody sends any."""
        return 0

    def take_block(self, rank: int, block: int, stamp: int, limit: int) -> dict[str, Array]:
        """Refuse: there is no other rank."""
        raise RunError(f"there is no rank {rank} that could send block {block}")

    def ask_task(
        self, number: int, partitions: Sequence[int], done: Done | None, homes: Sequence[int]
    ) -> _LocalAsked:
        """Ask the machine, which is here, as late as can be."""
        if self.tasks is None:
            raise RunError("this run has no machine")
        if done is not None:
            self.tasks.finish(done)
        return _LocalAsked(self.tasks, number, partitions)

    def tell_done(self, done: Done) -> None:
        """Tell the machine."""
        if self.tasks is None:
            raise RunError("this run has no machine")
        self.tasks.finish(done)

    def fetched_block(self, block: int, task: int) -> dict[str, Array]:
        """Refuse: there is no other rank."""
        raise RunError(f"there is no other rank that could have sent block {block}")

    def defer_increments(self) -> None:
        """From here on, views show increments from the next clock on unless they ask otherwise."""
        self._read_my_writes = False

    def table(self, name: str) -> _LocalHandle:
        """Look up a table of the run."""
        if name not in self._tables:
            raise TableError(f"no table {name!r}; there are {sorted(self._tables)}")
        return _LocalHandle(self._tables[name], self._read_my_writes)

    def clock(self) -> None:
        """End this rank's step: nothing to send or to wait for, held-back increments are shown."""
        self.clock_index += 1
        self.finish()
        for name in self._tables:
            self.counts.read(name, 0)

    def finish(self) -> None:
        """Apply what the views hold back, as at the end of the last clock."""
        for table in self._tables.values():
            table.end_clock()

    def barrier(self) -> None:
        """End this rank's step; with one rank that is all a barrier is."""
        self.clock()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call a function (that releases the GIL) on each item in the rank's threads, in order."""
        return self._threads.map(function, items)

    def seed(self, partition: Partition) -> np.random.SeedSequence:
        """Seed for (run, partition, clock)."""
        return partition_seed(self._seed, partition.index, self.clock_index)

    def statistics(self) -> dict[str, float]:
        """Statistics since the last call: nothing is sent and nothing waited for."""
        out: dict[str, float] = self.counts.since_last()
        return out

    @property
    def can_save(self) -> bool:
        """Whether there is a place for checkpoints."""
        return self._keeping is not None

    @property
    def save_requested(self) -> bool:
        """Whether the client asked for a checkpoint: nobody does here."""
        return False

    @property
    def is_saving(self) -> bool:
        """Whether the last checkpoint is not complete yet."""
        return self._keeping is not None and not self._keeping.saver.is_idle

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Save the state of the run as it is now."""
        if self._keeping is None:
            raise RunError("this run has no place for checkpoints")
        blocks = [(name, 0, table.values.copy()) for name, table in self._tables.items()]
        self._keeping.saver.put_cut(Cut(self.clock_index, blocks))
        self._keeping.saver.put_states(self.clock_index, arrays)

    def report(self, record: Record) -> None:
        """Tell the caller's callbacks; they may ask for the end."""
        if self._monitor is not None and self._monitor(record):
            self._stop_requested = True


@dataclass(frozen=True)
class _LocalAsked:
    """A question to the machine of this process, put when the answer is waited for."""

    tasks: Tasks
    number: int
    partitions: Sequence[int]
    is_answered = False

    def wait(self) -> Assignment | None:
        """Ask."""
        if self.tasks.is_over(self.number):
            return None
        return self.tasks.ask(self.partitions)


class _LocalHandle:
    """A table with the run's default for ``read_my_writes``."""

    def __init__(self, table: LocalTable, read_my_writes: bool) -> None:
        self._table = table
        self._read_my_writes = read_my_writes

    def view(
        self, rows: Sequence[int] | Array | None = None, *, read_my_writes: bool | None = None
    ) -> LocalView:
        """Declare the rows that the rank will use."""
        own = self._read_my_writes if read_my_writes is None else read_my_writes
        return self._table.view(rows, read_my_writes=own)

    @property
    def spec(self) -> Any:
        """What the table is."""
        return self._table.spec
