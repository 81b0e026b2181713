"""One rank of a run on a cluster: a long-running Dask task, and what it gives to its program."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from distributed import get_worker, secede

from dask_petuum.checkpoint.saved import Saved
from dask_petuum.data import Partition
from dask_petuum.exceptions import DamagedPartError, RunInterruptedError, TransportError
from dask_petuum.runtime import adapter
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.endpoint import Endpoint
from dask_petuum.runtime.free_loop import Assignment, Done
from dask_petuum.runtime.local import partition_seed
from dask_petuum.runtime.near import Near
from dask_petuum.runtime.program import Record
from dask_petuum.runtime.rank_run import RankRun
from dask_petuum.runtime.reporter import Reporter
from dask_petuum.runtime.scheduled_task import ScheduledTask
from dask_petuum.runtime.shelf import Shelf
from dask_petuum.runtime.spec import RunSpec
from dask_petuum.runtime.threads import Threads
from dask_petuum.runtime.version import PLUGIN_NAME
from dask_petuum.store.view import StoreView

__all__ = ["RankContext", "run_rank"]

T = TypeVar("T")
R = TypeVar("R")


class RankContext:
    """A rank of a run on a cluster; see :class:`dask_petuum.runtime.context.Context`."""

    def __init__(
        self, spec: RunSpec, rank: int, run: RankRun, threads: Threads, worker: Any
    ) -> None:
        self.rank = rank
        self.n_ranks = len(spec.addresses)
        self._spec = spec
        self._run = run
        self._endpoint = run.endpoint
        self._threads = threads
        self._worker = worker
        self._read_my_writes = True
        near = run.near
        self._all_near = near if near is not None and near.is_whole else None
        # not a method of this: a circle of references would keep the run's memory
        self._reporter = Reporter(
            partial(_tell, worker, spec.run_id, rank, run.endpoint), partial(adapter.after, worker)
        )

    def __repr__(self) -> str:
        return f"<RankContext {self.rank} of {self.n_ranks}, clock {self.clock_index}>"

    @property
    def clock_index(self) -> int:
        """Clocks that this rank has ended."""
        return self._endpoint.clock_index

    @property
    def n_threads(self) -> int:
        """Threads that ``map`` uses."""
        return self._threads.n_threads

    @property
    def stop_requested(self) -> bool:
        """Whether the client asked for the end."""
        return self._endpoint.stopping

    @property
    def seed_of_run(self) -> int:
        """Root of every random stream of the run."""
        return self._spec.seed

    def send_block(
        self, rank: int, partition: int, block: int, stamp: int, arrays: Mapping[str, Array]
    ) -> None:
        """Send a block's arrays to a partition at another rank; they must not change any more."""
        if self._all_near is None:
            self._run.outbox.put(rank, partition, (block, stamp, arrays))
        else:
            self._all_near.send((rank,), block, stamp, arrays)

    @property
    def near(self) -> Near | None:
        """The ranks on this host; None: no memory is shared."""
        return self._run.near

    @property
    def block_bytes(self) -> int:
        """Bytes of blocks that wait to be taken here, or to be sent."""
        lent = 0 if self._all_near is None else self._all_near.lent_bytes
        return self._run.block_bytes + lent

    def take_block(self, rank: int, block: int, stamp: int, limit: int) -> dict[str, Array]:
        """Wait until at most ``limit`` blocks wait to be sent, and for one of a rank; take it."""
        if self._all_near is not None:
            return self._all_near.fetch(rank, block, stamp, limit)
        self._run.outbox.wait_for_room(limit)
        return self._run.take_block(block, stamp)

    @property
    def shelf(self) -> Shelf:
        """The blocks that lie here."""
        return self._run.shelf

    def ask_task(
        self, number: int, partitions: Sequence[int], done: Done | None, homes: Sequence[int]
    ) -> ScheduledTask:
        """Tell the scheduler what is done and ask for the next task; wait for nothing."""
        reply = adapter.start_on_loop(
            self._worker,
            adapter.call_scheduler(
                self._worker,
                "petuum_next_task",
                run_id=self._spec.run_id,
                number=number,
                partitions=list(partitions),
                done=None if done is None else list(done),
            ),
        )

        def fetch(task: Assignment) -> None:
            rank = homes[task.source]
            if rank != self.rank:
                self._run.send_for_block(rank, task.block, task.task)

        return ScheduledTask(reply, fetch, self._endpoint.statistics)

    def tell_done(self, done: Done) -> None:
        """Tell the scheduler what is done."""
        # a pass that is long over is answered at once
        ask = _ask(
            self._worker,
            "petuum_next_task",
            run_id=self._spec.run_id,
            number=-1,
            partitions=[],
            done=list(done),
        )
        if ask["status"] != "OK":
            raise RunInterruptedError(ask["text"])

    def fetched_block(self, block: int, task: int) -> dict[str, Array]:
        """Take a block that has been sent for."""
        return self._run.take_block(block, task)

    def defer_increments(self) -> None:
        """From here on, views show increments from the next clock on unless they ask otherwise."""
        self._read_my_writes = False

    def table(self, name: str) -> _RankTable:
        """Look up a table of the run."""
        return _RankTable(self._endpoint, name, self._read_my_writes)

    def clock(self) -> None:
        """End this rank's step; wait until the views are fresh enough."""
        self._endpoint.clock()
        self._reporter.note()

    def barrier(self) -> None:
        """End this rank's step; wait for every rank's increments up to here."""
        self._endpoint.clock(barrier=True)
        self._reporter.note(now=True)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call a function (that releases the GIL) on each item in the rank's threads, in order."""
        return self._threads.map(function, items)

    def seed(self, partition: Partition) -> np.random.SeedSequence:
        """Seed for (run, partition, clock)."""
        return partition_seed(self._spec.seed, partition.index, self.clock_index)

    def statistics(self) -> dict[str, float]:
        """This rank's statistics since the last call."""
        out: dict[str, float] = self._endpoint.statistics.since_last()
        return out

    @property
    def saved(self) -> Saved | None:
        """The checkpoint that the run goes on from."""
        return self._run.saved

    @property
    def can_save(self) -> bool:
        """Whether there is a place for checkpoints."""
        return self._run.saver is not None

    @property
    def save_requested(self) -> bool:
        """Whether the client asked for a checkpoint by now."""
        return self._run.save_requested

    @property
    def is_saving(self) -> bool:
        """Whether the last checkpoint is not complete yet."""
        return self._run.is_saving

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Save the state of the run as it is now; every rank does, at the end of the same clock."""
        self._run.save(arrays)

    def report(self, record: Record) -> None:
        """Send a finished clock's record to the client, by way of the scheduler."""
        self._reporter.add(record)

    def finish(self) -> None:
        """Wait until every owner has this rank's increments; report what is left."""
        self._endpoint.finish()
        self._reporter.note(now=True)


class _RankTable:
    """A table of the run."""

    def __init__(self, endpoint: Endpoint, name: str, read_my_writes: bool) -> None:
        self._endpoint = endpoint
        self._name = name
        self._read_my_writes = read_my_writes

    def view(
        self, rows: Sequence[int] | Array | None = None, *, read_my_writes: bool | None = None
    ) -> StoreView:
        """Declare the rows that the rank will use."""
        own = self._read_my_writes if read_my_writes is None else read_my_writes
        return self._endpoint.open_view(self._name, rows, own)


def run_rank(
    spec: RunSpec, rank: int, function: Callable[[Any, Sequence[Any]], Any], pieces: Sequence[Any]
) -> tuple[Any, dict[str, Any]]:
    """Be one rank of a run: the body of a long-running task.

    Returns
    -------
    what ``function(ctx, pieces)`` returned, and this rank's statistics.
    """
    worker = get_worker()
    secede()
    endpoint: Endpoint | None = None
    try:
        run = worker.plugins[PLUGIN_NAME].start_run(spec, rank)
        endpoint = run.endpoint
        opened = run.open_memory(rank, _exchange(worker, spec, rank, run.describe_memory()))
        run.share_memory(rank, _exchange(worker, spec, rank, opened))
        with Threads(spec.n_threads or worker.state.nthreads) as threads:
            ctx = RankContext(spec, rank, run, threads, worker)
            result = function(ctx, pieces)
        ctx.finish()
        _ask(worker, "petuum_finish", run_id=spec.run_id, rank=rank)
    except RunInterruptedError:
        raise
    except DamagedPartError as error:
        text = f"rank {rank} cannot begin at the checkpoint: {error}"
        _ask(worker, "petuum_fail", run_id=spec.run_id, rank=rank, text=text, kind="damaged")
        raise
    except TransportError as error:
        # of a peer that is lost, or about to be: the run is, the program is not to blame
        clock = spec.first_clock if endpoint is None else endpoint.clock_index
        text = f"rank {rank} lost touch in clock {clock}: {error}"
        _ask(worker, "petuum_fail", run_id=spec.run_id, rank=rank, text=text, kind="lost")
        raise
    except BaseException:
        text = traceback.format_exc()
        _ask(worker, "petuum_fail", run_id=spec.run_id, rank=rank, text=text)
        raise
    return result, endpoint.statistics.to_dict()


def _tell(
    worker: Any, run_id: str, rank: int, endpoint: Endpoint, records: Sequence[Record]
) -> None:
    """Report a rank's clock, and records of finished ones, to the scheduler."""
    plugin = worker.plugins.get(PLUGIN_NAME)
    if plugin is not None:
        message = {
            "run_id": run_id,
            "rank": rank,
            "clock": endpoint.clock_index,
            "state": endpoint.statistics.summary(),
            "records": list(records),
        }
        adapter.on_loop(worker, plugin.tell, "petuum-clock", message)


def _exchange(worker: Any, spec: RunSpec, rank: int, value: Any) -> list[Any]:
    """Tell all ranks something and hear what they tell; returns when all are there."""
    reply = _ask(worker, "petuum_exchange", run_id=spec.run_id, rank=rank, value=value)
    if reply["status"] != "OK":
        # the run may have been closed before it began here: nobody would tell this worker again
        adapter.wait_on_loop(worker, worker.plugins[PLUGIN_NAME].close_run(spec.run_id))
        raise RunInterruptedError(reply["text"])
    values: list[Any] = reply["values"]
    return values


def _ask(worker: Any, operation: str, **message: Any) -> dict[str, Any]:
    """Call the scheduler from a task's thread, and wait."""
    reply: dict[str, Any] = adapter.wait_on_loop(
        worker, adapter.call_scheduler(worker, operation, **message)
    )
    return reply
