"""The history checker: histories that are right pass; each broken promise is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dask_petuum.runtime.local import LocalContext
from dask_petuum.runtime.threads import Threads
from dask_petuum.store.audit import End, Final, Inc, Read, check
from dask_petuum.store.audit_run import TABLES, Fingerprint, audit
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.local import LocalTable, LocalView
from dask_petuum.store.spec import TableSpec

ROW = np.array([0])


def inc(rank, clock, view=0, amount=1, **options):
    return Inc(rank, clock, "w", ROW, np.array([amount]), view, **options)


def read(rank, clock, cells, view=0, bound=1, **options):
    """``cells``: one list of clocks per rank."""
    return Read(rank, clock, "w", ROW, np.array([cells]), view, bound, **options)


def right_history():
    """Two ranks, two clocks, a bound of one clock."""
    return [
        inc(0, 0),
        inc(1, 0, amount=2),
        read(0, 0, [[1, 0], [0, 0]]),
        End(0, 1, 1),
        read(0, 1, [[1, 0], [0, 0]]),
        End(1, 1, 1),
        inc(0, 1),
        read(0, 1, [[1, 1], [2, 0]], fresh=1),
        End(0, 2, 1, last=True),
        inc(1, 1),
        read(1, 1, [[1, 0], [2, 1]], fresh=1),
        End(1, 2, 1, last=True),
        Final("w", np.array([[[1, 1], [2, 1]]])),
    ]


def kinds(events, one_order=True, n_clocks=2):
    return [v.kind for v in check(events, 2, n_clocks, {"w": 1}, one_order=one_order)]


@pytest.mark.parametrize("one_order", [True, False])
def test_a_right_history_has_no_violations(one_order):
    assert kinds(right_history(), one_order) == []


def broken(index, event):
    history = right_history()
    history[index] = event
    return history


def test_an_increment_seen_twice():
    assert kinds(broken(4, read(0, 1, [[2, 0], [0, 0]]))) == ["surplus", "backwards"]


def test_an_increment_that_nobody_made_yet():
    history = broken(2, read(0, 0, [[1, 0], [0, 1]]))
    assert "surplus" in kinds(history)


def test_without_one_order_an_increment_may_be_logged_later():
    early = broken(4, read(0, 1, [[1, 0], [2, 0]]))
    assert kinds(early, one_order=False) == []


def test_a_read_beyond_the_bound():
    assert kinds(broken(7, read(0, 1, [[1, 1], [0, 0]], bound=0))) == ["stale"]


def test_a_read_without_a_bound_may_be_old():
    assert kinds(broken(7, read(0, 1, [[1, 1], [0, 0]], bound=None))) == []


def test_a_view_that_claims_to_be_fresher_than_it_is():
    assert kinds(broken(7, read(0, 1, [[1, 1], [0, 0]], fresh=1))) == ["fresh"]


def test_bsp_shows_nothing_of_the_readers_own_clock():
    history = right_history()
    history[10] = read(1, 1, [[1, 1], [2, 1]], ahead=-1)
    assert kinds(history) == ["too new"]
    history[10] = read(1, 1, [[1, 0], [2, 1]], ahead=-1)
    assert kinds(history) == []


def test_others_are_at_most_the_bound_ahead():
    events = [inc(1, c) for c in range(3)] + [read(0, 0, [[0] * 3, [1, 1, 1]], ahead=1)]
    events.append(Final("w", np.array([[[0] * 3, [1] * 3]])))
    assert kinds(events, one_order=False, n_clocks=3) == ["too new"]
    events[3] = replace(events[3], ahead=2)
    assert kinds(events, one_order=False, n_clocks=3) == []


def test_an_own_increment_of_an_earlier_clock_is_missing():
    assert "own" in kinds(broken(4, read(0, 1, [[0, 0], [0, 0]])))


def test_an_own_increment_of_this_clock_is_missing():
    assert kinds(broken(2, read(0, 0, [[0, 0], [0, 0]]))) == ["own"]


def test_a_deferred_increment_is_not_due_within_its_clock():
    history = right_history()
    history[0] = inc(0, 0, deferred=True)
    assert kinds(history) == ["early"]
    history[2] = read(0, 0, [[0, 0], [0, 0]])
    assert kinds(history) == []


def test_a_deferred_increment_is_due_in_the_next_clock():
    history = right_history()
    history[0] = inc(0, 0, deferred=True)
    history[2] = read(0, 0, [[0, 0], [0, 0]])
    history[4] = read(0, 1, [[0, 0], [0, 0]])
    assert kinds(history) == ["own"]


def test_an_increment_through_another_view_is_due_in_the_next_clock():
    history = right_history()
    history[2] = read(0, 0, [[0, 0], [0, 0]], view=1)
    assert kinds(history) == []
    history[4] = read(0, 1, [[0, 0], [0, 0]], view=1)
    assert kinds(history) == ["own"]


def test_a_view_goes_backwards():
    history = [inc(1, 0), read(0, 0, [[0, 0], [1, 0]]), read(0, 0, [[0, 0], [0, 0]])]
    history.append(Final("w", np.array([[[0, 0], [1, 0]]])))
    assert kinds(history) == ["backwards"]
    history[2] = replace(history[2], view=1)
    assert kinds(history) == []


def test_clocks_go_up_one_by_one():
    assert "clock" in kinds(broken(8, End(0, 3, None, last=True)))
    assert "clock" in kinds(broken(8, End(0, 1, None, last=True)))


def test_clocks_drift_apart_by_the_bound_at_most():
    history = right_history()
    history[8] = End(0, 2, 0, last=True)
    assert kinds(history) == []
    ahead = [End(0, 1, 0), End(0, 2, 0), Final("w", np.zeros((1, 2, 2)))]
    assert kinds(ahead) == ["spread"]
    assert kinds(ahead, one_order=False) == []
    assert kinds([End(1, 1, 0, last=True), *ahead]) == []


@pytest.mark.parametrize("cell", [0, 3])
def test_the_final_table_is_the_sum(cell):
    final = np.array([[[1, 1], [2, 1]]])
    final.reshape(-1)[cell] = 7
    assert kinds(broken(12, Final("w", final))) == ["final"]


def test_a_table_that_nobody_read_at_the_end_is_reported():
    assert kinds(right_history()[:-1]) == ["final"]


class OneRank:
    """A session of one rank in this process, with nothing but what an audit needs."""

    def __init__(self):
        self.tables = {}

    def create_table(self, name, **options):
        self.tables[name] = LocalTable(TableSpec(name, **options))

    def run(self, function, consistency="essp", staleness=1):
        with Threads(1) as threads:
            return [function(LocalContext(self.tables, threads), None)]


@pytest.mark.parametrize("model", ["bsp", "ssp", "essp", "asp"])
def test_an_audit_of_one_rank(model):
    report = audit(OneRank(), Consistency.parse(model), n_clocks=4)
    assert report.ok, str(report)
    assert report.n_ranks == 1
    assert report.n_reads == 4 * 2 * 2 * len(TABLES)
    assert report.n_increments > 0
    assert "0 violations" in str(report)


def test_an_audit_finds_a_broken_store(monkeypatch):
    def inc(self, delta, at=None, original=LocalView.inc):
        original(self, delta, at)
        original(self, delta, at)

    monkeypatch.setattr(LocalView, "inc", inc)
    report = audit(OneRank(), Consistency.parse("essp", 1), n_clocks=3)
    assert not report.ok
    assert {violation.kind for violation in report.violations} >= {"surplus", "final"}
    assert "surplus: rank 0 in clock" in str(report)


def test_an_audit_needs_a_clock():
    with pytest.raises(ValueError, match="n_clocks must be >= 1, got 0"):
        audit(OneRank(), Consistency.parse("bsp"), n_clocks=0)


def test_what_a_rank_adds_follows_from_the_seed():
    first, again = (Fingerprint(2, 3, Consistency.parse("bsp"), seed=5) for _ in range(2))
    other = Fingerprint(2, 3, Consistency.parse("bsp"), seed=6)
    assert repr(list(first.all(1))) == repr(list(again.all(1)))
    assert repr(list(first.all(1))) != repr(list(other.all(1)))
    assert repr(list(first.all(1))) != repr(list(first.all(0)))
