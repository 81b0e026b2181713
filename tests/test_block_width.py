"""The width of a batch where the program gives none: on data whose spectral radius is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_petuum.data import open_dataset
from dask_petuum.exceptions import RankError
from dask_petuum.model_parallel import Priority, Random, RoundRobin
from dask_petuum.runtime.block_program import BlockSpec, ModelParallelProgram
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions

N_BLOCKS, N_GROUPS = 30, 6


@dataclass
class Descent(ModelParallelProgram):
    """Least squares by coordinates; each partition notes the batches that come by."""

    n_blocks: int = N_BLOCKS
    policy: Any = field(default_factory=Random)
    metrics = ("sse",)

    def blocks(self) -> Sequence[BlockSpec]:
        return [BlockSpec({"w": np.zeros(1)}) for _ in range(self.n_blocks)]

    def schedule(self) -> Any:
        return self.policy

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        return {"r": np.array(partition.y, dtype=float), "batches": []}

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        state["batches"].append(batch.blocks)
        X = partition.data[:, list(batch.blocks)]
        squares = np.asarray(X.multiply(X).sum(0) if sp.issparse(X) else (X * X).sum(0)).ravel()
        return np.column_stack([X.T @ state["r"], squares])

    n_partials = 2

    def pull(self, ctx: Any, batch: Any, total: Any) -> Any:
        update = total[:, 0] / np.maximum(total[:, 1], 1e-300)
        for values, change in zip(batch.values, update, strict=True):
            values["w"] += change
        return update

    def sync(self, ctx: Any, partition: Any, state: Any, batch: Any) -> dict[str, float]:
        state["r"] = state["r"] - partition.data[:, list(batch.blocks)] @ batch.update
        return {}

    def measure(self, ctx: Any, partition: Any, state: Any) -> dict[str, float]:
        return {"sse": float(state["r"] @ state["r"])}

    def finish(self, ctx: Any, partition: Any, state: Any) -> Any:
        return {"batches": state["batches"]}


def grouped(n_empty: int = 0) -> Any:
    """Six groups of equal directions, orthogonal to each other; columns of different lengths.

    Scaled to norm 1, the matrix of their products has the radius 5: 30 / 5 = 6 blocks at a time.
    """
    X = np.repeat(np.kron(np.eye(N_GROUPS), np.ones((4, 1))), N_BLOCKS // N_GROUPS, axis=1)
    X = X * np.linspace(0.5, 20.0, N_BLOCKS)
    return np.hstack([X, np.zeros((len(X), n_empty))])


def sizes(result: Any) -> list[int]:
    """Sizes of the batches, the same at all partitions."""
    logs = [output["batches"] for output in result.outputs]
    assert all(log == logs[0] for log in logs)
    return [len(blocks) for blocks in logs[0]]


def fit(job: Any, program: Any, n_clocks: int = 3, staleness: int = 0) -> Any:
    with job:
        model = "essp" if staleness else "bsp"
        return job.run(program, RunOptions(n_clocks, 5, model, staleness))


def dataset(X: Any, n_partitions: int, kind: str = "dense") -> Any:
    n_rows = len(X) // n_partitions
    lazy = da.from_array(X, chunks=(n_rows, X.shape[1]))
    if kind == "sparse":
        lazy = lazy.map_blocks(sp.csr_array)
    return open_dataset(lazy, da.from_array(np.arange(len(X)) * 1.0, chunks=n_rows))


def test_the_width_is_that_of_the_data(place: Any) -> None:
    """The same on one rank, on two and on four."""
    kind = "dense" if place.n_ranks == 1 else "sparse"
    result = fit(place.job(dataset(grouped(), place.n_ranks, kind)), Descent())
    # a clock is one round for each block, in batches of six
    assert sizes(result) == [6] * (3 * N_BLOCKS // 6)


@pytest.mark.parametrize("policy", [Random(), RoundRobin(), Priority(rho=None)], ids=repr)
def test_every_policy_of_shared_blocks_gets_its_width(policy: Any) -> None:
    result = fit(LocalJob(dataset(grouped(), 2)), Descent(policy=policy))
    assert sizes(result) == [6] * (3 * N_BLOCKS // 6)


@pytest.mark.parametrize(("staleness", "expected"), [(1, 3), (7, 1)])
def test_batches_under_way_have_the_width_together(
    client: Any, staleness: int, expected: int
) -> None:
    place = ClusterJob(client, dataset(grouped(), 2))
    result = fit(place, Descent(), staleness=staleness)
    assert max(sizes(result)) == expected


def test_empty_columns_take_no_part() -> None:
    X = grouped(n_empty=6)
    result = fit(LocalJob(dataset(X, 2)), Descent(len(X.T)))
    assert max(sizes(result)) == 8  # 36 / 5, rounded up


def test_orthogonal_columns_are_all_updated_at_once() -> None:
    X = np.diag(np.linspace(1.0, 3.0, 8))
    result = fit(LocalJob(dataset(X, 2)), Descent(8), n_clocks=2)
    assert sizes(result) == [8, 8]
    assert result.history[-1]["sse"] < 1e-20


def test_columns_that_are_all_the_same_are_updated_one_by_one() -> None:
    X = np.outer(np.arange(1.0, 9.0), np.ones(8))
    result = fit(LocalJob(dataset(X, 2)), Descent(8))
    assert sizes(result) == [1] * 24


def test_wide_batches_converge_where_wider_ones_do_not() -> None:
    """What the bound is for; the columns of a group take what is there for one."""

    @dataclass
    class Wider(Descent):
        def width(self) -> int:
            return N_BLOCKS

    data = dataset(grouped() + 1e-3 * np.random.default_rng(0).normal(size=(24, 30)), 2)
    ours = fit(LocalJob(data), Descent(), n_clocks=20).history
    wider = fit(LocalJob(data), Wider(), n_clocks=20).history
    assert ours[-1]["sse"] < ours[0]["sse"]
    assert wider[-1]["sse"] > 1e3 * wider[0]["sse"]


@dataclass
class Pairs(Descent):
    """Two columns of the data are one block."""

    def curvature(self, ctx: Any, partition: Any, state: Any) -> Any:
        return (partition.data**2).sum(axis=0).reshape(-1, 2).sum(axis=1)

    def coupling(self, ctx: Any, partition: Any, state: Any, vector: Any) -> Any:
        X = partition.data[:, ::2] + partition.data[:, 1::2]
        return X.T @ (X @ vector)

    def push(self, ctx: Any, partition: Any, state: Any, batch: Any) -> Any:
        state["batches"].append(batch.blocks)
        return np.zeros((len(batch.blocks), self.n_partials))


def test_a_program_may_say_how_its_blocks_depend_on_each_other() -> None:
    """Pairs of equal columns: the curvature of a pair is 2, and 4 times the coupling of one."""
    X = np.repeat(np.kron(np.eye(4), np.ones((2, 1))), 4, axis=1)  # (8, 16)
    result = fit(LocalJob(dataset(X, 2)), Pairs(8))
    assert max(sizes(result)) == 2  # the radius is 4


def test_blocks_that_are_not_the_columns_are_refused(client: Any) -> None:
    text = r"the 7 blocks are not the 30 columns of the data; let"
    with pytest.raises(ValueError, match=text):
        fit(LocalJob(dataset(grouped(), 2)), Descent(7))
    with pytest.raises(RankError, match=text):
        fit(ClusterJob(client, dataset(grouped(), 2)), Descent(7))


class Short(Descent):
    def coupling(self, ctx: Any, partition: Any, state: Any, vector: Any) -> Any:
        return vector[:3]


class Endless(Descent):
    def coupling(self, ctx: Any, partition: Any, state: Any, vector: Any) -> Any:
        return vector * np.inf


class Negative(Descent):
    def curvature(self, ctx: Any, partition: Any, state: Any) -> Any:
        return np.full(N_BLOCKS, -1.0)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Short, r"Short.coupling must return 30 finite numbers, got shape \(3,\)"),
        (Endless, "Endless.coupling must return 30 finite numbers"),
        (Negative, "Negative.curvature must not be negative, got -2"),
    ],
)
def test_couplings_that_are_none_are_refused(kind: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fit(LocalJob(dataset(grouped(), 2)), kind())
