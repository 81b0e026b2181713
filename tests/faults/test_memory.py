"""Dask's limits of memory in a fit: a worker that is paused computes on, one that is ended is lost.

The program allocates for real; the worker's monitor measures its process, and its nanny ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE
from distributed import Client, LocalCluster, get_worker
from distributed.core import Status

from dask_petuum.data import open_dataset
from dask_petuum.exceptions import RankLostError
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions, RunResult
from dask_petuum.runtime.program import DataParallelProgram
from dask_petuum.store.spec import TableSpec

pytestmark = pytest.mark.timeout(400)

N_CLOCKS = 40
#: Clock in which memory is filled, and the one in which it is let go.
FILLED, FREED = 8, 12
#: What a worker may use, and the shares of it from which Dask pauses and ends a worker.
LIMIT = 800 * 2**20
PAUSE, TERMINATE = 0.7, 0.95
#: Bytes that are taken at a time; seconds between two looks at the worker.
PIECE = 16 * 2**20
LOOK_SECONDS = 0.05


@dataclass
class Greedy(DataParallelProgram):
    """Counts clocks; in one of them partition 0 fills memory up to a share of the limit.

    Parameters
    ----------
    share
        Above `TERMINATE` its worker ends there.
    marker
        A file that is made then: it does so once. "": whenever it comes to that clock.
    keeps
        Whether the worker keeps it all when the fit is over, until `let_go`.
    """

    share: float
    marker: str
    keeps: bool = False

    def __post_init__(self) -> None:
        self._held: list[Any] = []

    def tables(self) -> Sequence[TableSpec]:
        return [TableSpec("clocks", (2, 1), "int64")]

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        ctx.table("clocks").view()
        return {"paused": np.zeros(1, dtype=np.int64)}

    def step(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        if partition.index == 0:
            if ctx.clock_index == FILLED and not (self.marker and Path(self.marker).exists()):
                self._fill()
            state["paused"] += get_worker().status == Status.paused
            if ctx.clock_index == FREED and self.keeps:
                get_worker().kept_by_tests = self._held
            elif ctx.clock_index == FREED:
                self._held.clear()
        ctx.table("clocks").view().inc(np.ones((1, 1), dtype=np.int64), at=[partition.index])
        return {}

    def finish(self, ctx: Any, partition: Any, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def _fill(self) -> None:
        """Fill memory; return when the worker is paused. Where it is to end, it does so here."""
        worker = get_worker()
        if self.marker:
            Path(self.marker).touch()
        while worker.monitor.get_process_memory() < self.share * LIMIT:
            self._held.append(np.ones(PIECE, dtype=np.uint8))
        until = time.monotonic() + PATIENCE
        while worker.status != Status.paused or self.share > TERMINATE:
            assert time.monotonic() < until, f"{worker} is {worker.status}"
            threading.Event().wait(LOOK_SECONDS)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    limits = {"target": False, "spill": False, "pause": PAUSE, "terminate": TERMINATE}
    settings = {f"distributed.worker.memory.{name}": value for name, value in limits.items()}
    # or the cluster closes for good whoever is away 15 s after an earlier loss
    settings["distributed.deploy.lost-worker-timeout"] = "1 hour"
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        connected.wait_for_workers(2, timeout=PATIENCE)
        yield connected


@pytest.fixture
def filled(client: Client) -> Iterator[Any]:
    """A function that pauses a worker, by its memory; all of them have room again afterwards."""

    def fill(address: str) -> None:
        client.run(fill_up, workers=[address])
        wait_until(client, address, Status.paused)

    yield fill
    client.run(let_go)
    for address in addresses_of(client):
        wait_until(client, address, Status.running)


@pytest.fixture
def calm(tmp_path: Path) -> Greedy:
    """A program that has been greedy already."""
    marker = tmp_path / "filled"
    marker.touch()
    return Greedy(0.0, str(marker))


def fill_up(dask_worker: Any) -> None:
    """Hold memory above the share at which Dask pauses a worker, and below where it ends it."""
    held = dask_worker.kept_by_tests = []
    while dask_worker.monitor.get_process_memory() < (PAUSE + TERMINATE) / 2 * LIMIT:
        held.append(np.ones(PIECE, dtype=np.uint8))


def let_go(dask_worker: Any) -> None:
    """Let go of what was held."""
    dask_worker.kept_by_tests = []


def addresses_of(client: Client) -> list[str]:
    client.wait_for_workers(2, timeout=PATIENCE)
    return sorted(client.cluster.scheduler.workers)


def wait_until(client: Client, address: str, status: Status) -> None:
    """Wait until the scheduler knows that a worker is paused, or is not."""
    until = time.monotonic() + PATIENCE
    while client.cluster.scheduler.workers[address].status != status:
        assert time.monotonic() < until, f"{address} is not {status}"
        threading.Event().wait(LOOK_SECONDS)


def fit(client: Client, share: float, marker: Path | None, keeps: bool = False) -> RunResult:
    """Fit two partitions, one to each worker."""
    client.wait_for_workers(2, timeout=PATIENCE)
    with ClusterJob(client, open_dataset(np.ones((2, 1)))) as job:
        program = Greedy(share, "" if marker is None else str(marker), keeps)
        return job.run(program, RunOptions(max_clocks=N_CLOCKS, save_clocks=5))


def assert_right(result: RunResult) -> None:
    assert result.n_clocks == N_CLOCKS
    np.testing.assert_array_equal(result.tables["clocks"], np.full((2, 1), N_CLOCKS))


def test_a_worker_that_is_paused_for_its_memory_computes_on(client, tmp_path, caplog):
    result = fit(client, (PAUSE + TERMINATE) / 2, tmp_path / "filled")
    assert_right(result)
    assert result.outputs[0]["paused"][0] >= FREED - FILLED
    assert "the fit goes on from" not in caplog.text, "nobody was lost"


def test_a_worker_that_is_ended_for_its_memory_is_replaced(client, tmp_path, caplog):
    assert_right(fit(client, 1.2, tmp_path / "filled"))
    assert caplog.text.count("the fit goes on from") == 1


def test_a_program_that_always_wants_more_than_there_is_ends_with_an_error(client, tmp_path):
    with (
        dask.config.set({"petuum.recovery.attempts": 1}),
        pytest.raises(RankLostError, match="1 losses without a checkpoint between them"),
    ):
        fit(client, 1.2, None)
    (tmp_path / "filled").touch()
    assert_right(fit(client, 1.2, tmp_path / "filled"))


def test_tables_are_read_from_a_worker_that_stays_paused(client, filled, tmp_path, caplog):
    """It begins no task, not even one that would read them."""
    result = fit(client, (PAUSE + TERMINATE) / 2, tmp_path / "filled", keeps=True)
    assert_right(result)
    assert [w.status for w in client.cluster.scheduler.workers.values()].count(Status.paused) == 1
    assert "the fit goes on from" not in caplog.text, "nobody was lost"


def test_a_worker_that_is_paused_is_left_out_until_it_is_not(client, filled, calm, caplog):
    first, other = addresses_of(client)
    filled(first)
    used: list[set[str]] = []

    def monitor(record: Mapping[str, Any]) -> bool:
        plugin = client.cluster.scheduler.plugins["petuum"]
        used.extend(set(board.addresses) for board in plugin._boards.values())
        if len(used) == 5:
            client.run(let_go, workers=[first])
        return bool(used) and used[-1] == {first, other}

    options = RunOptions(max_clocks=100_000, save_clocks=5, monitor=monitor)
    with ClusterJob(client, open_dataset(da.ones((2, 1), chunks=1))) as job:
        result = job.run(calm, options)
    assert used[0] == {other}
    assert used[-1] == {first, other}, "it has joined"
    np.testing.assert_array_equal(result.tables["clocks"], np.full((2, 1), result.n_clocks))
    assert f"with nearly full memory, and left out: {first}" in caplog.text


def test_a_rank_whose_worker_is_paused_before_it_begins_is_gone_on_without(
    client, filled, calm, caplog
):
    with (
        dask.config.set({"petuum.recovery.lease": "5s"}),
        ClusterJob(client, open_dataset(np.ones((2, 1)))) as job,
    ):
        filled(addresses_of(client)[0])
        assert_right(job.run(calm, RunOptions(max_clocks=N_CLOCKS, save_clocks=5)))
    assert "could not begin: worker" in caplog.text


def test_tasks_on_data_of_a_worker_that_is_paused_move_with_them(client, filled, caplog):
    with (
        dask.config.set({"petuum.recovery.lease": "5s"}),
        ClusterJob(client, open_dataset(np.ones((2, 1)))) as job,
    ):
        filled(addresses_of(client)[0])
        assert job.map(lambda partition: partition.n_rows) == [1, 1]
    assert "has been paused by Dask for" in caplog.text


def test_where_all_workers_are_paused_the_error_says_so(client, filled, calm):
    dataset = open_dataset(np.ones((2, 1)))
    settings = {"petuum.recovery.lease": "5s", "petuum.recovery.attempts": 0}
    with dask.config.set(settings), ClusterJob(client, dataset) as job:
        for address in addresses_of(client):
            filled(address)
        with pytest.raises(RankLostError, match=r"rank . could not begin: .* paused by Dask"):
            job.run(calm, RunOptions(max_clocks=N_CLOCKS))
        with pytest.raises(RankLostError, match="takes no data: it is paused by Dask"):
            ClusterJob(client, dataset)
