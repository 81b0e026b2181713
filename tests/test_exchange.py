"""Programs whose partitions show each other arrays: the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pytest

from dask_petuum.data import open_dataset
from dask_petuum.exceptions import ProtocolError, RankError
from dask_petuum.runtime.exchange_loop import _Post
from dask_petuum.runtime.exchange_program import ExchangeProgram
from dask_petuum.runtime.job import LocalJob
from dask_petuum.runtime.options import RunOptions

N_ROUNDS = 3


class Walk(ExchangeProgram):
    """Each partition deals columns of its rows, then adds what all show, in turn."""

    metrics = ("total",)

    def __init__(self, n_parts: int, fail_at: int = -1) -> None:
        self.n_parts = n_parts
        self.fail_at = fail_at

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        return {"x": np.zeros(2), "log": np.zeros((0, self.n_parts))}

    def deal(self, ctx: Any, partition: Any, state: Any) -> list[dict[str, Any]]:
        # nothing for oneself, and an array of no rows for partition 0
        return [
            {"rows": partition.data[: to * 2]} if to != partition.index else {}
            for to in range(self.n_parts)
        ]

    def collect(self, ctx: Any, partition: Any, state: Any, dealt: Any) -> None:
        assert len(dealt) == self.n_parts
        assert dealt[partition.index] == {}
        others = [hand["rows"] for hand in dealt if hand]
        assert all(len(rows) == 2 * partition.index for rows in others)
        state["x"][0] = sum(rows.sum() for rows in others)

    def n_rounds(self, number: int) -> int:
        return N_ROUNDS + number

    def give(self, ctx: Any, partition: Any, state: Any, at: tuple[int, int]) -> dict[str, Any]:
        if at[0] == self.fail_at and partition.index == 1:
            raise ValueError("a round that fails")
        state["x"][1] += 1
        return (
            {"x": state["x"].copy()} if at[1] % 2 else {"x": state["x"].copy(), "more": np.ones(1)}
        )

    def take(
        self, ctx: Any, partition: Any, state: Any, at: tuple[int, int], given: Sequence[Any]
    ) -> None:
        assert all(("more" in each) == (at[1] % 2 == 0) for each in given)
        row = np.array([each["x"].sum() for each in given])
        state["log"] = np.vstack([state["log"], row])
        state["x"][0] = 0.5 * state["x"][0] + row @ np.arange(1.0, len(row) + 1) % 7

    def measure(self, ctx: Any, partition: Any, state: Any) -> Mapping[str, float]:
        return {"total": float(state["x"].sum())}

    def finish(self, ctx: Any, partition: Any, state: Any) -> dict[str, Any]:
        return dict(state)


def rows(n_parts: int) -> Any:
    return da.from_array(np.arange(40.0 * n_parts).reshape(-1, 2), chunks=(20, 2))


def test_the_same_on_any_number_of_ranks(place: Any) -> None:
    data = open_dataset(rows(4))
    expected = LocalJob(data).run(Walk(4), RunOptions(5))
    with place.job(data) as job:
        result = job.run(Walk(4), RunOptions(5))
    assert result.n_clocks == 5
    assert [r["total"] for r in result.history] == [r["total"] for r in expected.history]
    for got, wanted in zip(result.outputs, expected.outputs, strict=True):
        np.testing.assert_array_equal(got["x"], wanted["x"])
        np.testing.assert_array_equal(got["log"], wanted["log"])
        np.testing.assert_array_equal(got["log"], result.outputs[0]["log"])
    assert len(result.outputs[0]["log"]) == sum(N_ROUNDS + number for number in range(5))


def test_an_error_in_a_round_ends_the_run_everywhere(client: Any) -> None:
    from dask_petuum.runtime.cluster_job import ClusterJob

    with ClusterJob(client, open_dataset(rows(4))) as job:
        with pytest.raises(RankError, match="a round that fails"):
            job.run(Walk(4, fail_at=2), RunOptions(50))
        assert job.run(Walk(4), RunOptions(1)).n_clocks == 1
        with pytest.raises(ValueError, match="need a bound"):
            job.run(Walk(4), RunOptions(1, consistency="asp"))


class Scripted:
    """A rank 0 of two, whose peer sends what the test says."""

    rank = 0

    def __init__(self, message: Any) -> None:
        self.message = message
        self.sent: list[Any] = []

    def send_block(self, *what: Any) -> None:
        self.sent.append(what)

    def take_block(self, rank: int, block: int, stamp: int, limit: int) -> Any:
        return self.message


@pytest.mark.parametrize("key", ["0/x", "2/x", "one/x", "-1/x"])
def test_arrays_of_partitions_that_are_not_the_senders_are_refused(key: str) -> None:
    ctx: Any = Scripted({key: np.ones(1)})
    with pytest.raises(ProtocolError, match="partition"):
        _Post(ctx, (0, 1)).show({0: {"x": np.zeros(1)}})
    assert [what[:4] for what in ctx.sent] == [(1, 1, 0, 0)]
