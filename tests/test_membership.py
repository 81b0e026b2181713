"""When a fit goes on with other workers: from scripted news, without a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_petuum.runtime import membership
from dask_petuum.runtime.membership import Membership, Reform
from dask_petuum.runtime.rebalance import longest_time, rebalance


@dataclass
class Placed:
    addresses: list[str] = field(default_factory=lambda: ["a", "b"])
    ranks: list[int] = field(default_factory=lambda: [0, 0, 0, 1, 1, 1])
    work: list[int] = field(default_factory=lambda: [10] * 6)


class Run:
    n_saves = 0

    def request_save(self):
        self.n_saves += 1


def news(**fields):
    return {
        "ended": False,
        "clocks": [5, 5],
        "ranks": {},
        "saved_clock": 3,
        "workers": ["a", "b"],
        "leaving": [],
        **fields,
    }


def test_nothing_new_changes_nothing():
    run, members = Run(), Membership(Placed(), can_save=True)
    for clock in range(5):
        members.look(run, news(saved_clock=clock))
    assert run.n_saves == 0


def test_a_checkpoint_that_would_leave_with_workers_is_made_anew():
    run, members = Run(), Membership(Placed(), can_save=True)
    members.look(run, news(exposed=True))
    members.look(run, news(exposed=True))
    assert run.n_saves == 1, "and again, where it does not come"
    members.look(run, news(exposed=False, saved_clock=4))
    assert run.n_saves == 1


@pytest.mark.parametrize(
    ("fields", "leaving", "why"),
    [
        ({"workers": ["a", "b", "c"]}, [], "c joined"),
        ({"leaving": ["b"]}, ["b"], "b retire"),
    ],
)
def test_members_change_at_the_next_checkpoint(fields, leaving, why):
    run, members = Run(), Membership(Placed(), can_save=True)
    members.look(run, news(**fields))
    members.look(run, news(**fields))
    assert run.n_saves == 1, "asked for once"
    with pytest.raises(Reform, match=why) as caught:
        members.look(run, news(**fields, saved_clock=4))
    assert list(caught.value.leaving) == leaving


def test_a_worker_that_joins_is_of_no_use_without_a_partition_for_it():
    run, members = Run(), Membership(Placed(ranks=[0, 1], work=[1, 1]), can_save=True)
    members.look(run, news(workers=["a", "b", "c"]))
    assert run.n_saves == 0


def test_the_last_worker_cannot_be_left():
    run, members = Run(), Membership(Placed(), can_save=True)
    members.look(run, news(leaving=["a", "b"]))
    assert run.n_saves == 0


@pytest.mark.parametrize("fields", [{"ended": True}, {}])
def test_a_run_that_has_ended_or_cannot_save_keeps_its_members(fields):
    run, members = Run(), Membership(Placed(), can_save=bool(fields))
    members.look(run, news(workers=["a", "b", "c"], **fields))
    assert run.n_saves == 0


def looked_at_times(monkeypatch, busy_of, rebalances=True):
    """Let a membership look every second; the seconds that ranks are busy by then are given."""
    now = [100.0]
    monkeypatch.setattr(membership.time, "monotonic", lambda: now[0])
    run, members = Run(), Membership(Placed(), can_save=True)
    with dask.config.set({"petuum.recovery.rebalance": rebalances}):
        for second in range(1, 12):
            now[0] += 1
            ranks = {str(rank): {"busy": busy} for rank, busy in enumerate(busy_of(second))}
            members.look(run, news(clocks=[4 * second] * 2, ranks=ranks))
    return run, members


def test_partitions_move_away_from_a_rank_that_is_slow_for_good(monkeypatch):
    run, members = looked_at_times(monkeypatch, lambda second: (0.4 * second, 0.9 * second))
    assert run.n_saves == 1
    with pytest.raises(Reform, match="slow rank") as caught:
        members.look(run, news(saved_clock=9, clocks=[99, 99]))
    slowness = caught.value.slowness
    assert slowness["b"] / slowness["a"] == pytest.approx(0.9 / 0.4)


@pytest.mark.parametrize(
    ("busy_of", "rebalances"),
    [
        (lambda second: (0.4 * second, 0.45 * second), True),
        (lambda second: (0.4 * second, 0.9 * second), False),
        (lambda second: (0.4 * second, 0.4 * second + 0.5 * min(second, 4)), True),  # a burst
    ],
)
def test_ranks_of_about_one_speed_keep_their_partitions(monkeypatch, busy_of, rebalances):
    run, _ = looked_at_times(monkeypatch, busy_of, rebalances)
    assert run.n_saves == 0


SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=12)


@given(SIZES, st.lists(st.floats(0.5, 4), min_size=1, max_size=4), st.randoms())
def test_moving_never_makes_the_longest_time_longer(sizes, slowness, random):
    ranks = [random.randrange(len(slowness)) for _ in sizes]
    moved = rebalance(sizes, ranks, slowness)
    assert longest_time(sizes, moved, slowness) <= longest_time(sizes, ranks, slowness)
    assert set(ranks) <= set(moved), "every rank that had a partition keeps one"


def test_a_rank_at_half_speed_gets_half_the_work():
    moved = rebalance([1] * 12, [0] * 6 + [1] * 6, [1.0, 2.0])
    assert moved.count(0) == 8
    assert longest_time([1] * 12, moved, [1.0, 2.0]) == 8
