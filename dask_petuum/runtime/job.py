"""A job: one call of ``fit``, its data and the place where it runs.

An estimator opens a job for its data, may look at the data where it lies (``map``), and runs one or
more programs on it. There are two kinds: this process (:class:`LocalJob`) and the workers of a Dask
cluster (:class:`dask_petuum.runtime.cluster_job.ClusterJob`). Nothing that an algorithm does
depends on which it got.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, TypeVar

from dask_petuum.data import Dataset, Partition, PieceSize, measure, to_partition
from dask_petuum.runtime import config
from dask_petuum.runtime.checkpoints import Checkpoints, Place
from dask_petuum.runtime.fit_identity import identity_of
from dask_petuum.runtime.free_loop import make_tasks
from dask_petuum.runtime.interrupt import Interruption
from dask_petuum.runtime.local import LocalContext
from dask_petuum.runtime.local_keeping import LocalKeeping, open_keeping
from dask_petuum.runtime.loops import hidden_tables, machine_of, run_program
from dask_petuum.runtime.metrics import LoopPlan, RankResult
from dask_petuum.runtime.options import Monitor, RunOptions, RunResult
from dask_petuum.runtime.program import Program
from dask_petuum.runtime.threads import Threads, count_threads
from dask_petuum.store.local import LocalTable

__all__ = ["Job", "LocalJob", "Monitor", "RunOptions", "RunResult"]

R = TypeVar("R")
#: Called with (X, y, sample_weight) of a piece where it lies; raises on bad input.
Check = Callable[[Any, Any, Any], None]


class Job(ABC):
    """One call of ``fit``: data that has been checked and measured, and a place to run."""

    #: Size of each partition, in order.
    sizes: Sequence[PieceSize]

    @property
    def n_rows(self) -> int:
        """Rows of all partitions."""
        return sum(size.n_rows for size in self.sizes)

    @property
    def n_features(self) -> int:
        """Columns of the data."""
        return self.sizes[0].n_cols

    @abstractmethod
    def map(self, function: Callable[[Partition], R]) -> list[R]:
        """Call a picklable function on each partition where it lies; results in order."""

    @abstractmethod
    def run(self, program: Program, options: RunOptions) -> RunResult:
        """Run a program to its end.

        The first Ctrl-C ends it after a clock, as ``stopped_by="interrupt"`` in the result; a
        second one raises KeyboardInterrupt at once.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the job holds."""

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class LocalJob(Job):
    """A job in this process.

    Parameters
    ----------
    dataset
        What ``fit`` was given. A lazy one is computed here, a piece at a time.
    check
        Called with each piece as it was given.
    dtype
        Type that the partitions' values get (None: as they are).
    n_jobs
        Threads; see :func:`dask_petuum.runtime.threads.count_threads`.
    place
        Where checkpoints are files; None: there are none.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        check: Check | None = None,
        dtype: Any = None,
        n_jobs: int | None = None,
        place: Place | None = None,
    ) -> None:
        self._place = place or Place()
        self._threads = Threads(count_threads(n_jobs))
        pieces = [_computed(piece, dataset.is_lazy) for piece in dataset.pieces()]
        self.sizes = [measure(piece, check, hashed=self._place.url is not None) for piece in pieces]
        dataset.check(self.sizes)
        starts = [0, *accumulate(size.n_rows for size in self.sizes)]
        self._partitions = [
            to_partition(piece, index, starts[index], dtype) for index, piece in enumerate(pieces)
        ]

    def map(self, function: Callable[[Partition], R]) -> list[R]:
        """Call a function on each partition."""
        return [function(partition) for partition in self._partitions]

    def run(self, program: Program, options: RunOptions) -> RunResult:
        """Run a program here: one rank, the tables in this process."""
        has_url = self._place.url is not None
        identity = identity_of(program, options, self.sizes) if has_url else {}
        checkpoints = Checkpoints(self._place, identity, program.resumable)
        with open_keeping(checkpoints) as keeping:
            result = self._run(program, options, keeping)
        checkpoints.end(result)
        return result

    def _run(
        self, program: Program, options: RunOptions, keeping: LocalKeeping | None
    ) -> RunResult:
        plan = LoopPlan(
            options.max_clocks,
            homes=(0,) * len(self._partitions),
            save_clocks=config.save_clocks(options.save_clocks),
            save_seconds=None if keeping is None else config.save_seconds(),
        )
        specs = [*program.tables(), *hidden_tables(program, plan)]
        tables = {spec.name: LocalTable(spec) for spec in specs}
        with Interruption() as interruption:
            ctx = LocalContext(
                tables, self._threads, options.seed, options.monitor, interruption, keeping
            )
            machine = machine_of(program, len(self._partitions))
            ctx.tasks = None if machine is None else make_tasks(**machine)
            result: RankResult = run_program(ctx, program, self._partitions, plan)
        return RunResult(
            tables={spec.name: tables[spec.name].values for spec in program.tables()},
            outputs=[result.outputs[index] for index in range(len(self._partitions))],
            history=list(result.history),
            n_clocks=result.n_clocks,
            blocks=[result.blocks[block] for block in sorted(result.blocks)],
            block_bytes=[result.block_bytes],
            stopped_by="interrupt" if interruption.requested else result.stopped_by,
        )

    def close(self) -> None:
        """End the threads."""
        self._threads.__exit__(None, None, None)


def _computed(piece: Any, lazy: bool) -> Any:
    return piece.compute() if lazy else piece
