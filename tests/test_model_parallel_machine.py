"""The machine against a model of it: what is in flight, where blocks are, who conflicts.

A hypothesis state machine lets ranks ask, finish in any order, give up and get lost, under every
policy. The model says which answers are allowed, and a twin with the same seed must give the same.
"""

from __future__ import annotations

from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dask_petuum.exceptions import RankLostError
from dask_petuum.model_parallel import Machine, Priority, Random, Rotation, RoundRobin, Task

RHO = 0.5
MOVING = [Rotation("fixed"), Rotation("free")]
SHARED = [
    Priority("sample", rho=RHO, sweep=3),
    Priority("greedy", rho=RHO, sweep=2, oversample=1.0),
    RoundRobin(rho=RHO),
    Random(rho=RHO),
    Priority("sample", rho=None),
    RoundRobin(),
]


class Strengths:
    """Strengths that are given, pair by pair."""

    def __init__(self, matrix):
        self.matrix = matrix

    def conflicts(self, block, chosen, rho):
        return any(self.matrix[block, other] >= rho for other in chosen)


def random_strengths(n_blocks, seed):
    upper = np.triu(np.random.default_rng(seed).random((n_blocks, n_blocks)), 1)
    return upper + upper.T


class MachineModel(RuleBasedStateMachine):
    """Any policy; at most four ranks."""

    @initialize(
        policy=st.sampled_from(MOVING + SHARED),
        n_ranks=st.integers(1, 4),
        more_blocks=st.integers(0, 6),
        width=st.integers(1, 3),
        homes=st.booleans(),
        seed=st.integers(0, 99),
    )
    def start(self, policy, n_ranks, more_blocks, width, homes, seed):
        self.policy = policy
        self.n_blocks = n_ranks + more_blocks
        self.strengths = random_strengths(self.n_blocks, seed)
        options = {
            "homes": [block % n_ranks for block in range(self.n_blocks)] if homes else None,
            "interference": None if policy.rho is None else Strengths(self.strengths),
            "width": 1 if policy.moves else width,
            "seed": seed,
        }
        self.machine = Machine(self.n_blocks, n_ranks, policy, **options)
        self.twin = Machine(self.n_blocks, n_ranks, policy, **options)
        self.places = list(options["homes"] or [-1] * self.n_blocks)
        self.handed = [0] * self.n_blocks
        self.visits = [0] * self.n_blocks
        self.pass_visits = np.zeros((n_ranks, self.n_blocks), dtype=int)
        self.alive = set(range(n_ranks))
        self.flying: dict[int, Task] = {}
        self.n_tasks = 0

    def pick_task(self, data):
        return self.flying[data.draw(st.sampled_from(sorted(self.flying)))]

    def compatible(self, blocks):
        if self.policy.rho is None:
            return True
        return all(self.strengths[pair] < RHO for pair in combinations(blocks, 2))

    @rule(data=st.data())
    def ask(self, data):
        rank = data.draw(st.sampled_from(sorted(self.alive)))
        task = self.machine.ask(rank)
        assert self.twin.ask(rank) == task
        if task is None:
            done_here = self.policy.moves and self.pass_visits[rank].all()
            turn_of_another = self.policy == Rotation("fixed")
            assert self.flying or done_here or turn_of_another, "free blocks, and none for a rank"
            return
        assert task.rank == rank
        assert 1 <= len(task.blocks) <= self.machine.width
        assert task.number == self.n_tasks
        self.n_tasks += 1
        busy = [block for other in self.flying.values() for block in other.blocks]
        together = [*busy, *task.blocks]
        assert len(set(together)) == len(together), "a block is in flight twice"
        assert self.compatible(together)
        assert task.sources == tuple(self.places[block] for block in task.blocks)
        assert task.visit == self.handed[task.blocks[0]]
        for block in task.blocks:
            self.handed[block] += 1
        if self.policy.moves:
            assert self.pass_visits[rank, task.blocks[0]] == 0, "twice at a rank in a pass"
        self.flying[task.number] = task

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), seconds=st.floats(0, 10), change=st.floats(-5, 5))
    def finish(self, data, seconds, change):
        task = self.pick_task(data)
        for machine in (self.machine, self.twin):
            machine.done(task.number, [change] * len(task.blocks), seconds)
        del self.flying[task.number]
        for block in task.blocks:
            self.places[block] = task.rank
            self.visits[block] += 1
            self.pass_visits[task.rank, block] += 1
        with pytest.raises(ValueError, match="no task"):
            self.machine.done(task.number, [change] * len(task.blocks), seconds)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def give_up(self, data):
        task = self.pick_task(data)
        assert self.machine.abandon(task.number) == list(task.blocks)
        self.twin.abandon(task.number)
        del self.flying[task.number]
        for block in task.blocks:
            self.places[block] = -1

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def lose(self, data):
        rank = data.draw(st.sampled_from(sorted(self.alive)))
        mine = [task for task in self.flying.values() if task.rank == rank]
        flying = {block for task in self.flying.values() for block in task.blocks}
        expected = {block for task in mine for block in task.blocks}
        expected |= {b for b in range(self.n_blocks) if self.places[b] == rank and b not in flying}
        assert self.machine.lost(rank) == sorted(expected)
        assert self.twin.lost(rank) == sorted(expected)
        for block in expected:
            self.places[block] = -1
        self.alive.remove(rank)
        for task in mine:
            del self.flying[task.number]
        for call in (self.machine.lost, self.machine.ask):
            with pytest.raises(ValueError, match="was lost"):
                call(rank)

    @rule()
    def end_pass(self):
        if self.policy.moves and not self.pass_visits[sorted(self.alive)].all():
            assert not self.machine.pass_is_over
            with pytest.raises(ValueError, match="not over"):
                self.machine.end_pass()
            return
        if self.policy.moves or (self.pass_visits.sum(0) > 0).all():
            assert self.machine.pass_is_over
        else:
            assert not self.machine.pass_is_over
        self.machine.end_pass()
        self.twin.end_pass()
        self.pass_visits[:] = 0

    @invariant()
    def agrees_with_the_model(self):
        if not hasattr(self, "machine"):
            return
        assert self.machine.in_flight == tuple(self.flying.values())
        assert self.machine.n_visits.tolist() == self.visits
        flying = {block for task in self.flying.values() for block in task.blocks}
        assert np.flatnonzero(self.machine.busy).tolist() == sorted(flying)
        assert self.machine.places.tolist() == self.places
        assert (self.machine.costs > 0).all()

    def teardown(self):
        """Whatever has happened, the pass can be finished: no block is stuck."""
        if not hasattr(self, "machine"):
            return
        for _ in range(100 * self.n_blocks):
            for task in self.machine.in_flight:
                self.machine.done(task.number, [1.0] * len(task.blocks), 0.0)
            if self.machine.pass_is_over:
                return
            tasks = [self.machine.ask(rank) for rank in sorted(self.alive)]
            assert any(tasks), "nothing is in flight and nobody gets a task"
        raise AssertionError(f"the pass does not end: {self.machine}")


def test_the_machine_keeps_its_promises():
    run_state_machine_as_test(
        MachineModel,
        settings=settings(max_examples=100, stateful_step_count=40, deadline=None),
    )


@pytest.mark.parametrize("policy", MOVING, ids=repr)
def test_the_last_rank_lost_is_an_error(policy):
    machine = Machine(3, 2, policy, homes=[0, 0, 1])
    assert machine.lost(1) == [2]
    with pytest.raises(RankLostError, match="rank 0 was the last one"):
        machine.lost(0)


def test_blocks_lost_in_flight_begin_again_from_nowhere():
    machine = Machine(2, 2, Rotation("free"), homes=[0, 1])
    assert machine.ask(0) == Task(0, 0, (0,), (0,), 0)
    assert machine.lost(0) == [0]
    assert [machine.ask(1).sources for _ in range(2)] == [(1,), (-1,)]


def test_a_rank_takes_what_it_holds_first_and_then_the_most_work():
    machine = Machine(4, 2, Rotation("free"), homes=[0, 0, 0, 1], costs=[1, 2, 9, 3])
    assert [machine.ask(1).blocks for _ in range(2)] == [(3,), (2,)]
    assert [machine.ask(0).blocks for _ in range(2)] == [(1,), (0,)]


def test_costs_and_slowness_are_told_apart():
    """Two ranks, one three times as slow; one block costs ten times as much as believed."""
    true_costs, slowness = np.array([10.0, 1.0, 1.0, 2.0]), np.array([1e-3, 3e-3])
    machine = Machine(4, 2, Rotation("free"), costs=[1.0, 1.0, 1.0, 2.0])
    for _ in range(60):
        while not machine.pass_is_over:
            for rank in range(2):
                task = machine.ask(rank)
                if task is not None:
                    seconds = true_costs[task.blocks[0]] * slowness[rank]
                    machine.done(task.number, [0.0], seconds)
        machine.end_pass()
    np.testing.assert_allclose(machine.costs / machine.costs[1], true_costs, rtol=0.3)
    assert machine.slowness[1] / machine.slowness[0] == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize("seconds", [0.0, 5e-324])
def test_seconds_nobody_knows_teach_nothing(seconds):
    machine = Machine(1, 1, RoundRobin(), costs=[5.0])
    machine.done(machine.ask(0).number, [1.0], seconds)
    assert machine.costs.tolist() == [5.0]
    assert np.isnan(machine.slowness).all()


def test_a_rank_that_was_stopped_for_a_while_does_not_spoil_the_costs():
    machine = Machine(2, 1, RoundRobin())
    for seconds in (1.0, 1.0, 1e6, 1.0):
        machine.done(machine.ask(0).number, [1.0], seconds)
    assert 0.5 < machine.costs.min() < machine.costs.max() < 3


@pytest.mark.parametrize(
    ("changes", "seconds", "text"),
    [
        ([1.0], 0.0, "one number for each of the 2 blocks"),
        ([1.0, np.nan], 0.0, "changes must be finite"),
        ([1.0, 1.0], -1.0, "seconds"),
        ([1.0, 1.0], np.inf, "seconds"),
    ],
)
def test_a_bad_report_is_refused_and_changes_nothing(changes, seconds, text):
    machine = Machine(2, 1, RoundRobin(), width=2)
    task = machine.ask(0)
    with pytest.raises(ValueError, match=text):
        machine.done(task.number, changes, seconds)
    assert machine.in_flight == (task,)
    machine.done(task.number, [0.0, 0.0], 0.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_blocks": 0}, "n_blocks and n_ranks"),
        ({"n_ranks": 0}, "n_blocks and n_ranks"),
        ({"width": 0}, "width must be >= 1"),
        ({"policy": Rotation(), "width": 2}, "width must be 1, as the blocks move"),
        ({"costs": [1.0, 0.0]}, "costs must be 2 finite numbers > 0"),
        ({"costs": [1.0]}, "costs must be 2"),
        ({"homes": [0, 1]}, "homes must be ranks 0 .. 0"),
        ({"homes": [0.5, 0]}, "homes must be 2 whole numbers"),
        ({"homes": [0]}, "homes must be 2"),
        ({"interference": Strengths(np.eye(2))}, "it has no rho"),
    ],
)
def test_impossible_machines_are_refused(options, text):
    options = {"n_blocks": 2, "n_ranks": 1, "policy": RoundRobin(), **options}
    with pytest.raises(ValueError, match=text):
        Machine(**options)


@pytest.mark.parametrize("rank", [-1, 2])
def test_unknown_ranks_are_refused(rank):
    machine = Machine(2, 2, Rotation())
    for call in (machine.ask, machine.lost):
        with pytest.raises(ValueError, match=r"rank must be 0 \.\. 1"):
            call(rank)


def test_repr_shows_the_live_state():
    machine = Machine(2, 1, RoundRobin())
    machine.ask(0)
    assert repr(machine) == (
        "<Machine RoundRobin(rho=None), 2 blocks, 1 of 1 ranks, 1 tasks in flight, pass 0>"
    )
