"""The policies for shared blocks: frequencies, order, and that none waits for ever."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from dask_petuum.model_parallel import Machine, Priority, Random, Rotation, RoundRobin


class Strengths:
    """Strengths that are given, pair by pair."""

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix)

    def conflicts(self, block, chosen, rho):
        return any(self.matrix[block, other] >= rho for other in chosen)


def hand_out(machine, n_tasks, change=lambda block: 1.0):
    """Do one task after the other; return their blocks."""
    handed = []
    for _ in range(n_tasks):
        task = machine.ask(0)
        handed.append(task.blocks)
        machine.done(task.number, [change(block) for block in task.blocks], 0.0)
    return handed


def drive(machine, n_asks, depth, latest, seed, change):
    """Ask with up to `depth` tasks in flight, done in random order, after at most `latest` asks.

    Returns the largest number of asks that any block has waited between two hand-outs.
    """
    rng = np.random.default_rng(seed)
    asked_at, last = {}, np.zeros(machine.n_blocks, dtype=int)
    longest = 0

    def finish(task):
        machine.done(task.number, [change(block) for block in task.blocks], 0.0)

    for now in range(1, n_asks + 1):
        task = machine.ask(0)
        if task is not None:
            asked_at[task.number] = now
            blocks = list(task.blocks)
            longest = max(longest, int((now - last[blocks]).max()))
            last[blocks] = now
        for flying in machine.in_flight:
            if now - asked_at[flying.number] >= latest:
                finish(flying)
        while len(machine.in_flight) >= depth or (machine.in_flight and rng.random() < 0.2):
            finish(machine.in_flight[rng.integers(len(machine.in_flight))])
    return max(longest, int((n_asks - last).max()))


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_draws_are_in_proportion_to_priority_plus_base(power):
    """Chi-square over 20,000 draws of one block, the largest weight 1,000 times the base."""
    priorities = np.array([0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 0.0, 10.0])
    base = 0.05
    policy = Priority("sample", power=power, base=base, rho=None, sweep=10**9)
    machine = Machine(9, 1, policy, seed=5)
    machine.prioritise(priorities)
    handed = Counter(blocks[0] for blocks in hand_out(machine, 20_000, lambda b: priorities[b]))
    weights = priorities**power
    weights += base * weights[weights > 0].mean()
    observed = np.array([handed[block] for block in range(9)])
    expected = 20_000 * weights / weights.sum()
    assert expected.min() > 5
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_a_batch_is_drawn_without_replacement():
    """Pairs come as often as two draws, one after the other, give them."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    policy = Priority("sample", power=1.0, base=1e-12, rho=None, sweep=10**9)
    machine = Machine(4, 1, policy, width=2, seed=3)
    machine.prioritise(weights)
    handed = Counter(hand_out(machine, 12_000, lambda b: weights[b]))
    shares = weights / weights.sum()
    expected = {
        (i, j): shares[i] * shares[j] / (1 - shares[i])
        for i in range(4)
        for j in range(4)
        if i != j
    }
    assert set(handed) <= set(expected)
    observed = [handed[pair] for pair in expected]
    counts = 12_000 * np.array(list(expected.values()))
    assert stats.chisquare(observed, counts).pvalue > 0.001


def test_blocks_that_rest_are_drawn_alike_where_all_rest():
    machine = Machine(6, 1, Priority("sample", rho=None, sweep=10**9), seed=1)
    machine.prioritise(np.zeros(6))
    handed = Counter(blocks[0] for blocks in hand_out(machine, 6_000, lambda block: 0.0))
    assert stats.chisquare([handed[block] for block in range(6)]).pvalue > 0.001


@pytest.mark.parametrize("mode", ["sample", "greedy"])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_every_block_is_handed_out_once_before_any_again(mode, width):
    machine = Machine(12, 1, Priority(mode, rho=None, sweep=10**9), width=width, seed=2)
    handed = hand_out(machine, 12 // width)
    assert sorted(block for blocks in handed for block in blocks) == list(range(12))
    assert machine.pass_is_over


@pytest.mark.parametrize("mode", ["sample", "greedy"])
@pytest.mark.parametrize("seed", range(5))
def test_a_new_block_that_conflicts_comes_as_soon_as_it_can(mode, seed):
    """Blocks 0 and 1 conflict, and one of them stays in flight: the other one is still new."""
    strengths = np.zeros((4, 4))
    strengths[0, 1] = strengths[1, 0] = 1.0
    policy = Priority(mode, rho=0.5, sweep=10**9)
    machine = Machine(4, 1, policy, interference=Strengths(strengths), seed=seed)
    tasks = [machine.ask(0) for _ in range(3)]
    first = next(task for task in tasks if task.blocks[0] in (0, 1))
    for task in tasks:
        if task is not first:
            machine.done(task.number, [8.0], 0.0)
    assert machine.ask(0).blocks[0] in (2, 3)  # again, as the new one cannot come yet
    machine.done(first.number, [100.0], 0.0)
    assert machine.ask(0).blocks == (1 - first.blocks[0],)


def test_greedy_takes_the_largest_first_and_ties_by_number():
    machine = Machine(5, 1, Priority("greedy", rho=None, sweep=10**9), width=2)
    machine.prioritise([1.0, -5.0, 3.0, 3.0, 0.0])
    assert hand_out(machine, 3, lambda block: 0.0) == [(1, 2), (3, 0), (0, 1)]


def test_prioritise_leaves_out_what_is_in_flight():
    for mode in ("sample", "greedy"):
        machine = Machine(3, 1, Priority(mode, rho=None, sweep=10**9), seed=4)
        task = machine.ask(0)
        machine.prioritise([1.0, 1.0, 1.0])
        others = {machine.ask(0).blocks[0] for _ in range(2)}
        assert others == {0, 1, 2} - set(task.blocks)
        assert machine.ask(0) is None


@pytest.mark.parametrize("priorities", [[1.0, 2.0], [1.0, 2.0, np.nan], [[1.0, 2.0, 3.0]]])
def test_bad_priorities_are_refused(priorities):
    machine = Machine(3, 1, Priority())
    with pytest.raises(ValueError, match="priorities must be 3 finite numbers"):
        machine.prioritise(priorities)


@pytest.mark.parametrize("policy", [RoundRobin(), Random(), Rotation(), Rotation("free")], ids=repr)
def test_policies_without_priorities_refuse_them(policy):
    with pytest.raises(TypeError, match="no priorities"):
        Machine(3, 1, policy).prioritise([1.0, 2.0, 3.0])


def test_the_longest_waiting_block_gets_its_turn_at_every_sweep():
    """All weight is on block 0; still, each tenth task is one of the others, in turn."""
    policy = Priority("greedy", rho=None, sweep=10)
    machine = Machine(4, 1, policy)
    machine.prioritise([9.0, 0.0, 0.0, 0.0])
    handed = hand_out(machine, 60, lambda block: 9.0 if block == 0 else 0.0)
    others = [blocks[0] for blocks in handed if blocks != (0,)]
    assert others == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("mode", ["sample", "greedy"])
@pytest.mark.parametrize("seed", range(4))
def test_no_block_waits_longer_than_the_bound_of_priority(mode, seed):
    """One block of no priority conflicts with all others, and two tasks are always in flight."""
    n_blocks, sweep, latest, width = 9, 4, 5, 2
    strengths = (np.random.default_rng(seed).random((n_blocks, n_blocks)) < 0.3).astype(float)
    strengths = np.maximum(strengths, strengths.T)
    strengths[0, :] = strengths[:, 0] = 1.0
    policy = Priority(mode, rho=0.5, sweep=sweep)
    machine = Machine(
        n_blocks, 1, policy, interference=Strengths(strengths), width=width, seed=seed
    )
    change = {block: float(block) ** 3 for block in range(n_blocks)}.__getitem__
    longest = drive(machine, 6_000, depth=3, latest=latest, seed=seed, change=change)
    assert longest <= n_blocks * (sweep + latest)
    assert machine.n_visits[-1] > 1.5 * machine.n_visits[0], "priority has no effect"


@pytest.mark.parametrize("policy", [RoundRobin(rho=0.5), Random(rho=0.5)], ids=repr)
@pytest.mark.parametrize("seed", range(4))
def test_no_block_waits_longer_than_two_rounds_of_the_baselines(policy, seed):
    n_blocks, latest, width = 9, 5, 2
    strengths = np.zeros((n_blocks, n_blocks))
    strengths[0, :] = strengths[:, 0] = 1.0
    machine = Machine(
        n_blocks, 1, policy, interference=Strengths(strengths), width=width, seed=seed
    )
    longest = drive(machine, 4_000, 3, latest, seed, change=lambda block: 1.0)
    assert longest <= (2 * n_blocks + 5 * width) * (latest + 1)
    assert machine.n_visits.max() <= 2 * machine.n_visits.min()


def test_round_robin_goes_round():
    machine = Machine(5, 1, RoundRobin(), width=2)
    assert hand_out(machine, 5) == [(0, 1), (2, 3), (4, 0), (1, 2), (3, 4)]


def test_random_goes_through_all_blocks_in_another_order_each_round():
    machine = Machine(30, 1, Random(), seed=7)
    rounds = [[blocks[0] for blocks in hand_out(machine, 30)] for _ in range(3)]
    assert all(sorted(order) == list(range(30)) for order in rounds)
    assert all(one != other for one, other in combinations(rounds, 2))


def test_a_block_that_conflicts_comes_as_soon_as_it_can():
    strengths = np.zeros((4, 4))
    strengths[0, 1] = strengths[1, 0] = 1.0
    machine = Machine(4, 1, RoundRobin(rho=0.5), interference=Strengths(strengths), width=2)
    first = machine.ask(0)
    assert first.blocks == (0, 2)
    assert machine.ask(0).blocks == (3,)
    machine.done(first.number, [1.0, 1.0], 0.0)
    assert machine.ask(0).blocks == (1, 2)


def test_a_block_whose_visit_came_to_nothing_comes_again_first():
    machine = Machine(4, 1, RoundRobin())
    machine.abandon(machine.ask(0).number)
    assert [machine.ask(0).blocks for _ in range(4)] == [(0,), (1,), (2,), (3,)]


def test_a_batch_is_smaller_where_only_few_fit():
    """All correlate with all: one block at a time, and nothing beside one in flight."""
    for policy in (Priority(rho=0.5), RoundRobin(rho=0.5), Random(rho=0.5)):
        machine = Machine(6, 1, policy, interference=Strengths(np.ones((6, 6))), width=3)
        task = machine.ask(0)
        assert len(task.blocks) == 1
        assert machine.ask(0) is None
        machine.done(task.number, [1.0], 0.0)
        assert machine.ask(0).blocks != task.blocks


def test_the_seed_decides():
    for policy in (Priority(rho=None), Random()):
        runs = [
            hand_out(Machine(40, 1, policy, width=3, seed=seed), 30) for seed in (1, 1, 2, [1, 2])
        ]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2] != runs[3]


def test_the_draws_are_the_same_on_every_machine():
    """A fixed sequence: a change of it would break runs whose ranks have other versions."""
    machine = Machine(100, 1, Priority(power=1.0, rho=None), width=3, seed=0)
    machine.prioritise(np.arange(100.0) ** 2)
    assert hand_out(machine, 4, float) == FIRST_DRAWS


FIRST_DRAWS = [(86, 64, 34), (25, 93, 97), (83, 89, 78), (98, 91, 13)]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Priority("best"), "mode must be"),
        (lambda: Priority(power=0.0), "power must be"),
        (lambda: Priority(base=0.0), "base must be"),
        (lambda: Priority(base=np.inf), "base must be"),
        (lambda: Priority(rho=0.0), "rho must be in"),
        (lambda: RoundRobin(rho=1.5), "rho must be in"),
        (lambda: Random(rho=-0.1), "rho must be in"),
        (lambda: Priority(sweep=0), "sweep must be"),
        (lambda: Priority(oversample=0.5), "oversample must be"),
    ],
)
def test_impossible_policies_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
