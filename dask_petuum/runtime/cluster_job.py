"""A job on the workers of a Dask cluster: partitions stay there, programs run beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from distributed import Client, Future

from dask_petuum.data import Dataset, Partition, PieceSize, measure, to_partition
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.cluster_data import homes_of, put_pieces
from dask_petuum.runtime.cluster_run import ClusterRun, new_run_id
from dask_petuum.runtime.cluster_tasks import gather_pinned, wait_pinned
from dask_petuum.runtime.job import Check, Job, Monitor, RunOptions, RunResult
from dask_petuum.runtime.loops import check_consistency, hidden_tables, machine_of, run_program
from dask_petuum.runtime.metrics import LoopPlan, RankResult
from dask_petuum.runtime.placement import place_partitions
from dask_petuum.runtime.program import Program, Record
from dask_petuum.runtime.sent import Sent
from dask_petuum.runtime.spec import RunSpec
from dask_petuum.runtime.threads import check_n_jobs, share_of_threads
from dask_petuum.store.consistency import Consistency

__all__ = ["ClusterJob"]

R = TypeVar("R")


class ClusterJob(Job):
    """A job on a cluster: one rank per worker that has partitions.

    Parameters
    ----------
    client
        Connected to the cluster, which is armed where it is not.
    dataset
        What ``fit`` was given. Dask partitions stay on their workers where the balance of their
        nonzeros allows it; data in this process is cut into one piece per worker and sent. Ranks
        are numbered in the order of their first partitions, and a float table's sum of a clock in
        BSP is that of the ranks in this order, each of which adds up its partitions in theirs.
    check
        Called with each piece where it lies.
    dtype
        Type that the partitions' values get (None: as they are).
    n_jobs
        Threads of each rank; None or -1: those of its worker; -2: all of these but one, and so
        on, as in joblib, counted by the worker with the fewest where they differ.

    Raises
    ------
    ValueError
        For ``n_jobs`` that cannot be, before anything is started.
    """

    def __init__(
        self,
        client: Client,
        dataset: Dataset,
        *,
        check: Check | None = None,
        dtype: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self._client = client
        check_n_jobs(n_jobs)
        workers = sorted(arm(client))
        if not dataset.is_lazy:
            dataset = dataset.split(min(len(workers), dataset.n_rows or 1))
        pieces = put_pieces(client, dataset.pieces(), workers)
        measured = client.map(
            Sent(partial(measure, check=check)),
            pieces,
            key=_key("measure"),
            workers=workers,
            pure=False,
        )
        self.sizes: Sequence[PieceSize] = gather_pinned(client, measured, workers)
        addresses = workers[: len(pieces)]
        placed = place_partitions(
            [size.nnz for size in self.sizes],
            homes_of(client, pieces, addresses),
            len(addresses),
        )
        order = _ranks_in_order(placed, len(addresses))
        self._ranks = [order.index(place) for place in placed]
        self._addresses = tuple(addresses[place] for place in order)
        self._n_threads = _n_threads(client, n_jobs, self._addresses)
        starts = [0, *accumulate(size.n_rows for size in self.sizes)]
        self._partitions: list[Future] = [
            client.submit(
                to_partition,
                piece,
                index,
                starts[index],
                dtype,
                workers=[self._address(index)],
                pure=False,
            )
            for index, piece in enumerate(pieces)
        ]
        wait_pinned(client, self._partitions, self._addresses)

    def __repr__(self) -> str:
        return f"<ClusterJob: {len(self.sizes)} partitions on {len(self._addresses)} ranks>"

    def map(self, function: Callable[[Partition], R]) -> list[R]:
        """Call a function on each partition, in its rank's worker."""
        sent, key = Sent(function), _key("map")
        futures = [
            self._client.submit(
                sent, part, key=f"{key}-{index}", workers=[self._address(index)], pure=False
            )
            for index, part in enumerate(self._partitions)
        ]
        return gather_pinned(self._client, futures, self._addresses)

    def run(self, program: Program, options: RunOptions) -> RunResult:
        """Run a program in all ranks."""
        consistency = Consistency.parse(options.consistency, options.staleness)
        plan = LoopPlan(options.max_clocks, consistency.high, self._ranks)
        check_consistency(program, consistency)
        hidden = hidden_tables(program, plan)
        tables = (*program.tables(), *hidden)
        spec = RunSpec(
            new_run_id(), self._addresses, tables, consistency, options.seed, self._n_threads
        )
        by_rank: list[list[Future]] = [[] for _ in self._addresses]
        for part, rank in zip(self._partitions, self._ranks, strict=True):
            by_rank[rank].append(part)
        run = ClusterRun(self._client, spec, machine=machine_of(program, len(self._partitions)))
        told = _Told(options.monitor)
        try:
            results = run.execute(
                partial(_loop, program, plan), by_rank, on_record=told, soft_interrupt=True
            )
            told.rest(results[0][0].history)
            values = {table.name: run.table(table.name) for table in tables[: -len(hidden)]}
        finally:
            run.close()
        return _merged([result for result, _ in results], values, run.interrupted)

    def close(self) -> None:
        """Let go of the partitions."""
        for future in self._partitions:
            future.release()
        self._partitions = []

    def _address(self, index: int) -> str:
        return self._addresses[self._ranks[index]]


def _loop(
    program: Program, plan: LoopPlan, ctx: Any, partitions: Sequence[Partition]
) -> RankResult:
    return run_program(ctx, program, partitions, plan)


def _n_threads(client: Client, n_jobs: int | None, addresses: Sequence[str]) -> int | None:
    """Threads of each rank; None: all of its worker."""
    if n_jobs is None or n_jobs == -1:
        return None
    if n_jobs > 0:
        return int(n_jobs)
    of_workers = client.nthreads()
    found = [of_workers[address] for address in addresses if address in of_workers]
    return share_of_threads(n_jobs, min(found, default=1))


def _key(name: str) -> str:
    return f"petuum-{name}-{new_run_id()}"


def _ranks_in_order(placed: Sequence[int], n_ranks: int) -> list[int]:
    """Order places by their first partition, so that ranks' sums do not depend on who is where."""
    first = {place: index for index, place in reversed(list(enumerate(placed)))}
    return sorted(range(n_ranks), key=lambda place: (first.get(place, len(placed)), place))


class _Told:
    """Tells a monitor of every clock once: records may come after the end of the run, or never."""

    def __init__(self, monitor: Monitor | None) -> None:
        self._monitor = monitor
        self._n_told = 0

    def __call__(self, record: Record) -> bool:
        if record["clock"] != self._n_told + 1:
            return False
        self._n_told += 1
        return self._monitor is not None and self._monitor(record)

    def rest(self, history: Sequence[Record]) -> None:
        for record in history[self._n_told :]:
            self(record)


def _merged(results: Sequence[RankResult], tables: Any, interrupted: bool) -> RunResult:
    outputs = {index: state for result in results for index, state in result.outputs.items()}
    blocks = {index: block for result in results for index, block in result.blocks.items()}
    return RunResult(
        tables=tables,
        outputs=[outputs[index] for index in sorted(outputs)],
        history=list(results[0].history),
        n_clocks=min(result.n_clocks for result in results),
        blocks=[blocks[index] for index in sorted(blocks)],
        block_bytes=[result.block_bytes for result in results],
        stopped_by="interrupt" if interrupted else results[0].stopped_by,
    )
