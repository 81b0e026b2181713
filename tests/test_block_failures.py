"""A rank that is killed ends a model-parallel run with its name; bad messages do not end it.

Both kinds of blocks: those that move, in fixed and in free order, and those that all ranks have.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE
from test_cluster_failures import assert_free, assert_next_run_works

from dask_petuum.data import open_dataset
from dask_petuum.exceptions import RankLostError
from dask_petuum.model_parallel import Priority, Random, Rotation
from dask_petuum.runtime import adapter
from dask_petuum.runtime.block_program import BlockSpec, ModelParallelProgram
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions
from dask_petuum.runtime.mailbox import encode_arrays

pytestmark = pytest.mark.timeout(400)

N_BLOCKS = 6


@pytest.fixture(scope="module")
def mortals() -> Iterator[Any]:
    """Two workers that tests may kill; their nannies start others."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture
def two(mortals: Any) -> Iterator[Any]:
    """A client of two living workers; afterwards the cluster must be free and do a run."""
    from distributed import Client

    with Client(mortals, set_as_default=False) as connected:
        connected.wait_for_workers(2, timeout=PATIENCE)
        yield connected
        connected.wait_for_workers(2, timeout=PATIENCE)
        assert_next_run_works(connected)
        assert_free(connected)


@pytest.fixture
def apart(two: Any) -> Iterator[Any]:
    """The same, without shared memory: blocks go as messages."""
    import dask

    two.run(dask.config.set, {"petuum.shared-memory": False})
    yield two
    two.run(dask.config.set, {"petuum.shared-memory": True})


@dataclass
class Sums(ModelParallelProgram):
    """Blocks that collect the column sums of the data, again and again."""

    policy: Any
    die_at: int = -1
    #: A file that says that it has happened; "": it happens every time.
    once: str = ""
    n_violations = 1
    metrics = ("visits",)

    def blocks(self) -> Sequence[BlockSpec]:
        return [BlockSpec({"sum": np.zeros(1)}) for _ in range(N_BLOCKS)]

    def schedule(self) -> Any:
        return self.policy

    def width(self) -> int:
        return 1

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        return {"replies": []}

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        if ctx.rank == 1 and batch.number == self.die_at and not os.path.exists(self.once):
            if self.once:
                open(self.once, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        sums = partition.data[:, batch.blocks].sum(axis=0)
        if self.policy.moves:
            batch.values[0]["sum"] += sums
            return None
        return sums[:, np.newaxis]

    def pull(self, ctx: Any, batch: Any, total: Any) -> Any:
        if self.policy.moves:
            return None
        for values, change in zip(batch.values, total[:, 0], strict=True):
            values["sum"] += change
        return total[:, 0]

    def sync(self, ctx: Any, partition: Any, state: Any, batch: Any) -> Mapping[str, float]:
        return {"visits": 1.0}

    def violations(self, ctx: Any, partition: Any, state: Any) -> Any:
        return np.ones((N_BLOCKS, 1))

    def finish(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        return state


class SumsWithoutViolations(Sums):
    n_violations = 0
    violations = ModelParallelProgram.violations


def program_of(policy: Any, **keywords: Any) -> Sums:
    kind = Sums if isinstance(policy, Priority) else SumsWithoutViolations
    return kind(policy, **keywords)


def rows() -> Any:
    X = np.arange(8.0 * N_BLOCKS).reshape(8, N_BLOCKS)
    return da.from_array(X, chunks=(4, N_BLOCKS))


FOR_EVER = 1_000_000
POLICIES = [
    pytest.param(Rotation(), "bsp", 0, id="fixed"),
    pytest.param(Rotation("free"), "bsp", 0, id="free"),
    pytest.param(Random(), "bsp", 0, id="shared"),
    pytest.param(Priority(rho=None), "essp", 2, id="shared-essp"),
]


@pytest.mark.parametrize(("policy", "model", "staleness"), POLICIES)
def test_a_killed_rank_ends_the_run_with_its_name(
    two: Any, policy: Any, model: str, staleness: int
) -> None:
    with ClusterJob(two, open_dataset(rows())) as job:
        lost = job._partitions.addresses[1]
        options = RunOptions(FOR_EVER, 1, model, staleness)
        with (
            dask.config.set({"petuum.recovery.attempts": 0}),
            pytest.raises(RankLostError, match=f"rank 1 .*{lost}"),
        ):
            job.run(program_of(policy, die_at=7), options)
    two.wait_for_workers(2, timeout=PATIENCE)
    with ClusterJob(two, open_dataset(rows())) as job:
        result = job.run(program_of(policy), RunOptions(2, 1, model, staleness))
    with LocalJob(open_dataset(rows())) as job:
        expected = job.run(program_of(policy), RunOptions(2, 1))
    visits = [record["visits"] for record in result.history]
    if staleness:  # what is under way at the end of a clock counts in the next one
        assert 0 < sum(visits) <= sum(record["visits"] for record in expected.history)
    else:  # whole numbers: the order of sums does not matter
        assert visits == [record["visits"] for record in expected.history]
        assert result.blocks == expected.blocks


@pytest.mark.parametrize(("policy", "model", "staleness"), POLICIES[:3])
def test_a_run_goes_on_without_its_killed_rank(
    two: Any, policy: Any, model: str, staleness: int, tmp_path: Any
) -> None:
    """As an undisturbed one: blocks that moved and blocks that are shared are as they were."""
    mark = tmp_path / "died"
    with ClusterJob(two, open_dataset(rows())) as job:
        options = RunOptions(12, 1, model, staleness, save_clocks=2)
        result = job.run(program_of(policy, die_at=7, once=str(mark)), options)
    with LocalJob(open_dataset(rows())) as job:
        expected = job.run(program_of(policy), RunOptions(12, 1))
    assert mark.exists()
    assert result.n_clocks == 12
    visits = [record["visits"] for record in result.history]
    assert visits == [record["visits"] for record in expected.history]
    if policy.moves:
        assert result.blocks == expected.blocks


MALFORMED: Sequence[Any] = (
    {},
    {"run": 5},
    {"run": "another"},
    {"rank": 0},
    {"rank": 0, "block": 0, "stamp": 0, "arrays": 5},
    {"rank": 0, "block": 0, "stamp": -1, "arrays": []},
    {"rank": 0, "block": 0, "stamp": 0, "arrays": [{"name": "sum", "shape": [2], "parts": []}]},
    {"rank": 0, "block": 0, "stamp": 0, "arrays": [{"name": "sum", "shape": [2], "parts": [5]}]},
)


def call_block(message: Mapping[str, Any]) -> str:
    """Send a block's message to this rank's own worker; in a rank."""
    from distributed import get_worker

    worker = get_worker()
    call = adapter.call_worker(worker, worker.address, "petuum_block", message=message)
    return str(adapter.wait_on_loop(worker, call)["status"])


def own_run() -> str:
    """Find the run that this rank is in."""
    from distributed import get_worker

    (run_id,) = get_worker().plugins["petuum"]._runs
    return str(run_id)


@dataclass
class Disturbed(SumsWithoutViolations):
    """Sends its own worker what is no block, and blocks that have come already."""

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        run = {"run": own_run()}
        if batch.number == 1:
            state["replies"] += [call_block({**run, **message}) for message in MALFORMED]
        return super().push(ctx, partition, state, batch)


def test_what_is_no_block_is_refused_and_the_run_goes_on(two: Any) -> None:
    with ClusterJob(two, open_dataset(rows())) as job:
        result = job.run(Disturbed(Rotation()), RunOptions(3))
    with LocalJob(open_dataset(rows())) as job:
        expected = job.run(SumsWithoutViolations(Rotation()), RunOptions(3))
    assert result.blocks == expected.blocks
    for output in result.outputs:
        expected_replies = ["refused", "refused", "gone"] + ["refused"] * (len(MALFORMED) - 3)
        assert output["replies"] == expected_replies * N_BLOCKS


@dataclass
class Repeated(SumsWithoutViolations):
    """Sends its own worker again each block that came, with other values."""

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        from distributed import get_worker

        (block,) = batch.blocks
        box = get_worker().plugins["petuum"]._runs[own_run()].mailbox
        stamp = box._seen.get(block)
        if stamp is not None:
            parts = encode_arrays({"sum": np.full(1, 1e9)})
            message = {"run": own_run(), "rank": 1 - ctx.rank, "block": block, "arrays": parts}
            state["replies"] += [call_block({**message, "stamp": s}) for s in (stamp, 0)]
        return super().push(ctx, partition, state, batch)


def test_a_block_that_comes_again_is_dropped(apart: Any) -> None:
    with ClusterJob(apart, open_dataset(rows())) as job:
        result = job.run(Repeated(Rotation()), RunOptions(3))
    with LocalJob(open_dataset(rows())) as job:
        expected = job.run(SumsWithoutViolations(Rotation()), RunOptions(3))
    assert result.blocks == expected.blocks
    for output in result.outputs:
        assert len(output["replies"]) > N_BLOCKS
        assert set(output["replies"]) == {"OK"}
