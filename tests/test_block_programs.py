"""Model-parallel programs: blocks that move and blocks that all ranks have, on every place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pytest

from dask_petuum.data import open_dataset
from dask_petuum.exceptions import ProtocolError, RankError
from dask_petuum.model_parallel import Random, Rotation
from dask_petuum.runtime.block_program import BlockSpec, ModelParallelProgram
from dask_petuum.runtime.job import RunOptions
from dask_petuum.runtime.shelf import Shelf

N_BLOCKS = 9


@dataclass
class Visits(ModelParallelProgram):
    """Blocks that write down where they have been; each partition notes what came by."""

    fail_at: int = -1
    order: str = "fixed"
    metrics = ("visits", "sum")

    def blocks(self) -> Sequence[BlockSpec]:
        empty = {"log": np.full((40, 2), -1), "value": np.zeros(3), "nothing": np.zeros((0, 2))}
        return [BlockSpec(empty) for _ in range(N_BLOCKS)]

    def schedule(self) -> Rotation:
        return Rotation(self.order)

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        return {"seen": np.zeros((0, 2), dtype=int), "draws": np.zeros(0)}

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> None:
        if partition.index == self.fail_at and batch.number == 1:
            raise RuntimeError("a push that fails")
        values = batch.values[0]
        at = int((values["log"][:, 0] >= 0).sum())
        values["log"][at % len(values["log"])] = batch.number, partition.index
        # the order of visits matters to the result
        values["value"] *= 1.5
        values["value"] += partition.data.sum(axis=0)[:3]
        state["seen"] = np.vstack([state["seen"], [batch.number, batch.blocks[0]]])
        state["draws"] = np.append(state["draws"], np.random.default_rng(batch.seeds).random())

    def sync(self, ctx: Any, partition: Any, state: Any, batch: Any) -> Mapping[str, float]:
        return {"visits": 1.0}

    def measure(self, ctx: Any, partition: Any, state: Any) -> Mapping[str, float]:
        return {"sum": float(partition.index)}

    def finish(self, ctx: Any, partition: Any, state: Any) -> Any:
        return {**state, "rank": np.array([ctx.rank])}


@dataclass
class Descent(ModelParallelProgram):
    """Least squares, a few coefficients at a time."""

    scale: Any
    metrics = ("sse",)

    def blocks(self) -> Sequence[BlockSpec]:
        return [BlockSpec({"w": np.zeros(1)}) for _ in self.scale]

    def schedule(self) -> Random:
        return Random()

    def width(self) -> int:
        return 2

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        return {"r": np.array(partition.y)}

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        return (partition.data[:, batch.blocks].T @ state["r"])[:, np.newaxis]

    def pull(self, ctx: Any, batch: Any, total: Any) -> Any:
        update = total[:, 0] / self.scale[list(batch.blocks)] / 2
        for values, change in zip(batch.values, update, strict=True):
            values["w"] += change
        return update

    def sync(self, ctx: Any, partition: Any, state: Any, batch: Any) -> Mapping[str, float]:
        state["r"] = state["r"] - partition.data[:, batch.blocks] @ batch.update
        return {}

    def measure(self, ctx: Any, partition: Any, state: Any) -> Mapping[str, float]:
        return {"sse": float(state["r"] @ state["r"])}

    def converged(self, history: Sequence[Mapping[str, float]]) -> bool:
        return history[-1]["sse"] < 1e-12

    def finish(self, ctx: Any, partition: Any, state: Any) -> Any:
        return {"r": state["r"]}


def rows(n_partitions: int = 4) -> Any:
    X = np.random.default_rng(1).normal(size=(80, 6))
    return da.from_array(X, chunks=(80 // n_partitions, 6)), X


@pytest.mark.parametrize("order", ["fixed", "free"])
@pytest.mark.parametrize("n_partitions", [1, 2, 4, 8])
def test_every_block_visits_every_partition_once_a_pass(
    place: Any, n_partitions: int, order: str
) -> None:
    X, _ = rows(n_partitions)
    with place.job(open_dataset(X)) as job:
        result = job.run(Visits(order=order), RunOptions(3, seed=5))
    assert len(result.blocks) == N_BLOCKS
    for block in result.blocks:
        log = block["log"][block["log"][:, 0] >= 0]
        assert log[:, 0].tolist() == sorted([0, 1, 2] * n_partitions)
        for number in range(3):
            assert sorted(log[log[:, 0] == number, 1]) == list(range(n_partitions))
        assert block["nothing"].shape == (0, 2)
    for output in result.outputs:
        assert sorted(map(tuple, output["seen"])) == [
            (number, block) for number in range(3) for block in range(N_BLOCKS)
        ]
    visits = [record["visits"] for record in result.history]
    assert visits == [N_BLOCKS * n_partitions] * 3
    assert result.history[0]["sum"] == sum(range(n_partitions))


def visits(job: Any) -> Any:
    with job:
        return job.run(Visits(), RunOptions(3, seed=5))


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_the_same_blocks_on_any_number_of_ranks(request: Any, n_workers: int) -> None:
    from distributed import Client, LocalCluster

    from dask_petuum.runtime.cluster_job import ClusterJob
    from dask_petuum.runtime.job import LocalJob

    X, _ = rows(4)
    expected = visits(LocalJob(open_dataset(X)))
    if n_workers == 4:
        result = visits(ClusterJob(request.getfixturevalue("client"), open_dataset(X)))
    else:
        with (
            LocalCluster(
                n_workers=n_workers, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            result = visits(ClusterJob(client, open_dataset(X)))
    assert {int(output["rank"][0]) for output in result.outputs} == set(range(n_workers))
    for got, wanted in zip(result.blocks, expected.blocks, strict=True):
        np.testing.assert_array_equal(got["log"], wanted["log"])
        np.testing.assert_array_equal(got["value"], wanted["value"])
    for got, wanted in zip(result.outputs, expected.outputs, strict=True):
        np.testing.assert_array_equal(got["draws"], wanted["draws"])


@pytest.mark.parametrize("staleness", [0, 2])
def test_shared_blocks_are_committed_alike(place: Any, staleness: int) -> None:
    X, dense = rows(4)
    y = dense @ np.arange(1.0, 7.0)
    program = Descent((dense * dense).sum(axis=0))
    model = "essp" if staleness else "bsp"
    options = RunOptions(200, seed=2, consistency=model, staleness=staleness)
    with place.job(open_dataset(X, da.from_array(y, chunks=20))) as job:
        result = job.run(program, options)
    w = np.concatenate([block["w"] for block in result.blocks])
    np.testing.assert_allclose(w, np.arange(1.0, 7.0), atol=1e-4)
    assert result.stopped_by == "converged"
    # what the partitions believe is what was committed
    residual = np.concatenate([output["r"] for output in result.outputs])
    np.testing.assert_allclose(residual, y - dense @ w, atol=1e-10)


def test_fewer_blocks_than_partitions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_petuum.runtime.job import LocalJob

    monkeypatch.setattr("test_block_programs.N_BLOCKS", 3)
    with LocalJob(open_dataset(rows(4)[0])) as job, pytest.raises(ValueError, match="n_blocks=3"):
        job.run(Visits(), RunOptions(1))


@pytest.mark.parametrize("order", ["fixed", "free"])
def test_an_error_in_a_push_ends_the_run_everywhere(client: Any, order: str) -> None:
    from dask_petuum.runtime.cluster_job import ClusterJob

    with ClusterJob(client, open_dataset(rows(4)[0])) as job:
        with pytest.raises(RankError, match="a push that fails"):
            job.run(Visits(fail_at=2, order=order), RunOptions(50))
        assert job.run(Visits(order=order), RunOptions(1)).n_clocks == 1


def test_no_bound_is_refused(client: Any) -> None:
    from dask_petuum.runtime.cluster_job import ClusterJob

    with (
        ClusterJob(client, open_dataset(rows(2)[0])) as job,
        pytest.raises(ValueError, match="need a bound"),
    ):
        job.run(Visits(), RunOptions(1, consistency="asp"))


@pytest.mark.parametrize("order", ["fixed", "free"])
def test_a_callback_stops_blocks_that_move(client: Any, order: str) -> None:
    from dask_petuum.runtime.cluster_job import ClusterJob

    options = RunOptions(20_000, monitor=lambda record: record["clock"] >= 2)
    with ClusterJob(client, open_dataset(rows(4)[0])) as job:
        result = job.run(Visits(order=order), options)
    assert result.stopped_by == "callback"
    assert 2 <= result.n_clocks < 20_000
    assert len(result.blocks) == N_BLOCKS


def test_what_was_given_is_given_again_until_it_has_arrived() -> None:
    shelf = Shelf()
    shelf.put(3, {"x": np.arange(4)})
    given = shelf.give(3, 7, lambda arrays: {"arrays": arrays})
    assert shelf.give(3, 7, dict) is given
    with pytest.raises(ProtocolError, match="block 3 is not here"):
        shelf.give(3, 8, dict)
    shelf.forget(7)
    with pytest.raises(ProtocolError, match="not here"):
        shelf.give(3, 7, dict)
    shelf.put(1, {})
    assert shelf.take_all() == {1: {}}
