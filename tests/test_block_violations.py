"""Fresh violations of all blocks become priorities, alike in every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import pytest

from dask_petuum.data import open_dataset
from dask_petuum.exceptions import RankError
from dask_petuum.model_parallel import Priority, Random, Rotation
from dask_petuum.runtime.block_program import BlockSpec, ModelParallelProgram
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions

N_BLOCKS, N_ROWS, WIDTH = 30, 8, 3


@dataclass
class Debts(ModelParallelProgram):
    """Blocks that pay half of what they owe, at which the next block owes more: whole numbers only.

    What a block owes is spread over the rows of the data; no change tells of what others add to it.
    """

    per_clock: int = 4
    policy: Any = field(default_factory=lambda: Priority("greedy", rho=None, sweep=10**9))
    n_violations: int = 2
    metrics = ("owed",)
    #: What ``priorities`` was given in this rank, and the blocks' values then.
    totals: list[Any] = field(default_factory=list)

    def blocks(self) -> Sequence[BlockSpec]:
        return [BlockSpec({"paid": np.zeros(1)}) for _ in range(N_BLOCKS)]

    def schedule(self) -> Any:
        return self.policy

    def width(self) -> int:
        return WIDTH

    def rounds_per_clock(self) -> int:
        return self.per_clock

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        owed = partition.data.sum(axis=0)
        return {"owed": owed, "log": [], "looks": [], "paid": np.zeros(N_BLOCKS)}

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        state["log"].append(batch.blocks)
        return state["owed"][list(batch.blocks), np.newaxis]

    def pull(self, ctx: Any, batch: Any, total: Any) -> Any:
        amounts = total[:, 0] // 2
        for values, amount in zip(batch.values, amounts, strict=True):
            values["paid"] += amount
        return amounts

    def sync(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        for block, amount in zip(batch.blocks, batch.update, strict=True):
            state["owed"][block] -= amount if partition.index == 0 else 0
            state["owed"][(block + 1) % N_BLOCKS] += amount // 2 if partition.index == 0 else 0
            state["paid"][block] += amount
        return {}

    def measure(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        return {"owed": float(state["owed"].sum())}

    def violations(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        paid = state["paid"] if partition.index == 0 else np.zeros(N_BLOCKS)
        state["looks"].append(np.stack([state["owed"], paid], axis=1))
        return state["looks"][-1]

    def priorities(self, totals: Any, values: Sequence[Mapping[str, Any]]) -> Any:
        self.totals.append((totals.copy(), np.concatenate([value["paid"] for value in values])))
        return super().priorities(totals, values)

    def finish(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        return {**state, "rank": ctx.rank, "totals": list(self.totals)}


def debts() -> Any:
    # all sums differ, so that there are no ties between blocks at the start
    rng = np.random.default_rng(3)
    return rng.integers(1, 2**20, size=(N_ROWS, N_BLOCKS)) * 1.0


def run(place: Any, program: Any, staleness: int, n_clocks: int = 12) -> Any:
    lazy = da.from_array(debts(), chunks=(N_ROWS // 4, N_BLOCKS))
    model = "essp" if staleness else "bsp"
    with place.job(open_dataset(lazy)) as job:
        return job.run(program, RunOptions(n_clocks, 7, model, staleness))


def expected_batches(n_clocks: int, per_clock: int) -> list[tuple[int, ...]]:
    """Batches of one rank, by hand: the largest first, those that nobody has done before all."""
    owed = debts().sum(axis=0)
    priorities = np.full(N_BLOCKS, np.inf)
    out = []
    for number in range(n_clocks * per_clock):
        seen = owed.copy()
        batch = np.argsort(-priorities, kind="stable")[:WIDTH]
        changes = owed[batch] // 2
        for block, amount in zip(batch, changes, strict=True):
            owed[block] -= amount
            owed[(block + 1) % N_BLOCKS] += amount // 2
        if number % per_clock == 0:
            priorities = np.abs(seen)
        priorities[batch] = changes  # committed since: the change counts, not what was owed before
        out.append(tuple(int(block) for block in batch))
    return out


def test_the_largest_violations_come_first(place: Any) -> None:
    result = run(place, Debts(), staleness=0)
    expected = expected_batches(12, 4)
    assert len({block for batch in expected for block in batch}) > 15
    for output in result.outputs:
        assert output["log"] == expected


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("per_clock", [1, 2, 7])
def test_sums_are_whole_and_decisions_equal(place: Any, staleness: int, per_clock: int) -> None:
    """Also where a clock is shorter than violations are under way (1 and 2 rounds)."""
    n_clocks = 9
    result = run(place, Debts(per_clock), staleness, n_clocks)
    slack = staleness if place.client is not None else 0
    first = result.outputs[0]
    for output in result.outputs:
        assert output["log"] == first["log"]
        assert len(output["looks"]) == n_clocks
    for output in result.outputs:
        # what was measured less than `slack` rounds before the end is never used
        assert len(output["totals"]) == sum(
            clock * per_clock + slack + 1 <= n_clocks * per_clock for clock in range(n_clocks)
        )
        for look, (totals, _) in enumerate(output["totals"]):
            parts = [other["looks"][look] for other in result.outputs]
            np.testing.assert_array_equal(totals, np.sum(parts, axis=0))
        for (totals, values), (others, same) in zip(output["totals"], first["totals"], strict=True):
            np.testing.assert_array_equal(totals, others)
            np.testing.assert_array_equal(values, same)


@pytest.mark.parametrize("staleness", [0, 2])
def test_few_blocks_are_committed_between_a_look_and_its_use(client: Any, staleness: int) -> None:
    program = Debts(per_clock=5, policy=Priority("greedy", rho=None, sweep=10**9))
    lazy = da.from_array(debts(), chunks=(N_ROWS // 4, N_BLOCKS))
    model = "essp" if staleness else "bsp"
    with ClusterJob(client, open_dataset(lazy)) as job:
        result = job.run(program, RunOptions(6, 7, model, staleness))
    for totals, values in result.outputs[0]["totals"]:
        committed = values != totals[:, 1]
        # a round is committed after the look, and with slack those under way before it
        assert committed.sum() <= WIDTH * (staleness + 1)
        assert committed.any()


class Overflowing(Debts):
    def violations(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        return np.full((N_BLOCKS, 2), np.inf)


class Narrow(Debts):
    def violations(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        return np.zeros(N_BLOCKS)


class Forgetful(Debts):
    def violations(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        return None


class Short(Debts):
    def priorities(self, totals: Any, values: Any) -> Any:
        return totals[1:, 0]


class Silent(Debts):
    violations = ModelParallelProgram.violations


@pytest.mark.parametrize(
    ("program", "error", "match"),
    [
        (Overflowing(), ValueError, "priorities must be 30 finite numbers"),
        (Narrow(), ValueError, r"violations must return .*\(30, 2\), got \(30,\)"),
        (Forgetful(), ValueError, r"violations must return .*\(30, 2\), got \(\)"),
        (Short(), ValueError, r"priorities must return .*\(30,\), got \(29,\)"),
        (Debts(n_violations=0), ValueError, "must be >= 1, as it has violations, got 0"),
        (Silent(), ValueError, "must be 0, as it has no violations, got 2"),
        (Debts(policy=Rotation()), ValueError, "blocks that move have no priorities"),
        (Debts(policy=Random()), TypeError, "take no priorities"),
    ],
)
def test_what_does_not_fit_is_refused(program: Any, error: Any, match: str) -> None:
    with LocalJob(open_dataset(debts())) as job, pytest.raises(error, match=match):
        job.run(program, RunOptions(2))


def test_an_error_in_one_rank_ends_the_run(client: Any) -> None:
    lazy = da.from_array(debts(), chunks=(N_ROWS // 4, N_BLOCKS))
    with ClusterJob(client, open_dataset(lazy)) as job:
        with pytest.raises(RankError, match="violations must return"):
            job.run(Narrow(), RunOptions(2))
        assert job.run(Debts(), RunOptions(2)).n_clocks == 2
