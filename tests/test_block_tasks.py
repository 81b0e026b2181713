"""Coarse blocks as tasks: the order without a cluster, ends in any order; then real tasks."""

from __future__ import annotations

import sys
import types
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from dask_petuum.model_parallel import Machine, Priority, Random, Rotation, RoundRobin
from dask_petuum.runtime.block_tasks import UNSEEN, Neighbours, drive, readers_of

RING = {block: ((block - 1) % 8, (block + 1) % 8) for block in range(8)}


class Script:
    """Starts tasks and ends them in a given order; notes what is in flight."""

    def __init__(self, picks: Any, changes: Any) -> None:
        self.picks, self.changes = picks, changes
        self.flying: dict[int, int] = {}
        self.together: list[set[int]] = []
        self.started: list[tuple[int, float]] = []
        self.last: dict[int, float] = {}

    def start(self, task: Any, priority: float) -> None:
        (block,) = task.blocks
        assert priority == abs(self.last.get(block, UNSEEN))
        self.flying[task.number] = block
        self.started.append((block, priority))
        self.together.append(set(self.flying.values()))
        assert len(self.together[-1]) == len(self.flying), "a block is in flight twice"

    def ended(self) -> tuple[int, float]:
        number = sorted(self.flying)[self.picks() % len(self.flying)]
        block = self.flying.pop(number)
        self.last[block] = self.changes(block)
        return number, self.last[block]


def run(policy: Any, script: Script, limits: Any, reads: Any = RING) -> Any:
    interference = Neighbours(reads) if policy.rho is not None else None
    return drive(
        Machine(8, 1, policy, interference=interference),
        script.start,
        script.ended,
        limits,
        readers_of(reads),
    )


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([Priority(rho=0.5), Random(rho=0.5), RoundRobin(rho=0.5)]),
    st.integers(1, 8),
    st.integers(0, 10_000),
)
def test_neighbours_are_never_in_flight_together(policy, n_together, seed):
    rng = np.random.default_rng(seed)
    script = Script(lambda: int(rng.integers(100)), lambda block: float(rng.normal()))
    updates = run(policy, script, (60, n_together, None))
    assert len(updates) == len(script.started) == 60
    assert not script.flying
    for flying in script.together:
        assert len(flying) <= n_together
        assert not any(other in flying for block in flying for other in RING[block])
    assert {update.block for update in updates} == set(range(8))


def test_a_block_conflicts_with_those_that_read_it():
    assert Neighbours({0: (1,)}).conflicts(1, [0], 1.0)
    assert Neighbours({0: (1,)}).conflicts(0, [2, 1], 1.0)
    assert not Neighbours({0: (1,)}).conflicts(2, [0, 1], 1.0)


@pytest.mark.parametrize("n_together", [1, 3])
def test_it_ends_where_all_blocks_are_at_rest(n_together):
    left = dict.fromkeys(range(8), 3)

    def change(block: int) -> float:
        left[block] -= 1
        return float(max(left[block], 0))

    updates = run(Priority(rho=0.5), Script(lambda: 0, change), (10_000, n_together, 0.0))
    assert all(n <= 0 for n in left.values())
    assert len(updates) < 200


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([None, 0.5]),
    st.integers(1, 4),
    st.permutations(range(8)),
    st.randoms(use_true_random=False),
)
def test_a_block_that_did_not_move_is_not_at_rest_where_its_neighbours_have(
    rho, n_together, values, random
):
    """The largest value goes around the ring, however tasks overlap."""
    values = list(values)
    flying: dict[int, tuple[int, int]] = {}  # by number: the block, and its value to be

    def start(task: Any, priority: float) -> None:
        (block,) = task.blocks
        flying[task.number] = block, max(values[block], *(values[other] for other in RING[block]))

    def ended() -> tuple[int, float]:
        number = random.choice(sorted(flying))
        block, new = flying.pop(number)
        change, values[block] = new - values[block], new
        return number, float(change)

    interference = Neighbours(RING) if rho is not None else None
    machine = Machine(8, 1, Priority(rho=rho), interference=interference)
    drive(machine, start, ended, (10_000, n_together, 0.0), readers_of(RING))
    assert values == [7] * 8


def test_no_updates_are_none():
    assert run(Random(), Script(lambda: 0, float), (0, 2, None)) == []


def blend(block: int, value: Any, others: Any, weight: float) -> tuple[Any, float]:
    """Move a block towards the mean of those that it reads."""
    new = value + weight * (np.mean(list(others.values())) - value)
    return new, float(new - value)


def fail_at_three(block: int, value: Any, others: Any) -> tuple[Any, float]:
    if block == 3:
        raise RuntimeError("no block three")
    return value, 1.0


def test_tasks_on_a_cluster_are_those_updates_one_after_the_other(client: Any) -> None:
    from dask_petuum.runtime.cluster_blocks import run_blocks

    first = [float(block**2) for block in range(8)]
    policy = Priority(rho=0.5)
    seen: list[tuple[int, float]] = []
    submit = client.submit

    def spy(*arguments: Any, **options: Any) -> Any:
        if options["key"].count("-") == 4:  # of the update itself
            seen.append((arguments[1], options["priority"]))
        return submit(*arguments, **options)

    client.submit = spy
    try:
        result = run_blocks(client, blend, first, policy, 40, args=(0.5,), reads=RING)
    finally:
        del client.submit
    values = list(first)
    last: dict[int, float] = {}
    for block, priority in seen:  # neighbours do not overlap: the order of starting tells all
        assert priority == abs(last.get(block, UNSEEN))
        values[block], last[block] = blend(
            block, values[block], {o: values[o] for o in RING[block]}, 0.5
        )
    assert client.gather(result.values) == values
    assert sorted(update.block for update in result.updates) == sorted(block for block, _ in seen)
    assert len(seen) == 40


def test_an_error_names_its_block_and_ends_the_others(client: Any) -> None:
    from dask_petuum.runtime.cluster_blocks import run_blocks

    with pytest.raises(RuntimeError, match="no block three") as caught:
        run_blocks(client, fail_at_three, [0.0] * 8, RoundRobin(), 100, n_together=2)
    assert caught.value.__notes__ == ["in the update of block 3, task 3"]


def test_a_function_of_a_module_that_workers_lack_leaves_them_alive(
    client: Any, monkeypatch: Any
) -> None:
    from dask_petuum.runtime.cluster_blocks import run_blocks

    module = types.ModuleType("not_on_workers")
    exec("def update(block, value, others): return value, 1.0", module.__dict__)
    monkeypatch.setitem(sys.modules, "not_on_workers", module)
    workers = set(client.scheduler_info(n_workers=-1)["workers"])
    with pytest.raises(ModuleNotFoundError, match="not_on_workers"):
        run_blocks(client, module.update, [0.0, 0.0], Random(), 4)
    assert set(client.scheduler_info(n_workers=-1)["workers"]) == workers


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"policy": Rotation()}, "no place of their own"),
        ({"n_updates": -1}, "n_updates must be >= 0"),
        ({"n_together": 0}, "n_together >= 1"),
        ({"reads": {0: (8,)}}, r"blocks 0 \.\. 7, got \[0, 8\]"),
    ],
)
def test_impossible_runs_are_refused(options: Any, text: str) -> None:
    from dask_petuum.runtime.cluster_blocks import run_blocks

    given = {"policy": Random(), "n_updates": 5, **options}
    with pytest.raises(ValueError, match=text):
        run_blocks(None, blend, [0.0] * 8, **given)
