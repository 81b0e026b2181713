"""Consistency models and the bound that moves by itself."""

from __future__ import annotations

import pytest

from dask_petuum.store.consistency import AUTO_RANGE, AutoStaleness, Consistency


@pytest.mark.parametrize(
    ("model", "staleness", "ordered", "eager", "bounded"),
    [
        ("bsp", 0, True, True, True),
        ("ssp", 3, False, False, True),
        ("essp", 2, False, True, True),
        ("asp", 0, False, False, False),
    ],
)
def test_models(model, staleness, ordered, eager, bounded):
    parsed = Consistency.parse(model, staleness)
    assert (parsed.low, parsed.high) == (staleness, staleness)
    assert (parsed.ordered, parsed.eager, parsed.bounded) == (ordered, eager, bounded)


@pytest.mark.parametrize("model", ["ssp", "essp"])
def test_auto_moves_in_its_range(model):
    parsed = Consistency.parse(model, "auto")
    assert (parsed.low, parsed.high) == AUTO_RANGE


@pytest.mark.parametrize("model", ["ssp", "essp"])
@pytest.mark.parametrize("given", [(1, 4), [1, 4], (0, 0), (3, 3)])
def test_a_range_is_where_the_bound_moves(model, given):
    parsed = Consistency.parse(model, given)
    assert (parsed.low, parsed.high) == tuple(given)


@pytest.mark.parametrize(
    ("model", "staleness", "text"),
    [
        ("BSP", 0, "must be one of"),
        ("", 0, "must be one of"),
        ("bsp", 1, 'use "ssp"'),
        ("bsp", "auto", 'needs "ssp" or "essp"'),
        ("asp", "auto", 'needs "ssp" or "essp"'),
        ("ssp", -1, 'use consistency="asp" for no bound'),
        ("ssp", 1.5, "must be an integer"),
        ("ssp", True, "must be an integer"),
        ("ssp", "soon", "must be an integer"),
        ("bsp", (0, 2), r"staleness=\(0, 2\) needs \"ssp\" or \"essp\", not 'bsp'"),
        ("asp", [0, 2], r"staleness=\[0, 2\] needs \"ssp\" or \"essp\", not 'asp'"),
        ("ssp", (3, 2), r"must have 0 <= low <= high, got \(3, 2\)"),
        ("essp", (-1, 2), r"must have 0 <= low <= high, got \(-1, 2\)"),
        ("ssp", (1,), r"two integers \(low, high\), got \(1,\)"),
        ("ssp", (1, 2, 3), "two integers"),
        ("ssp", [], "two integers"),
        ("ssp", (0, 2.0), "two integers"),
        ("ssp", (False, True), "two integers"),
        ("ssp", ("auto", 2), "two integers"),
        ("essp", None, "must be an integer"),
    ],
)
def test_what_cannot_be_is_refused(model, staleness, text):
    with pytest.raises(ValueError, match=text):
        Consistency.parse(model, staleness)


def feed(auto, share, n=AutoStaleness.WINDOW):
    return [auto.record(1.0, share) for _ in range(n)][-1]


def test_a_rank_that_waits_gets_a_larger_bound():
    auto = AutoStaleness(0, 2)
    assert [feed(auto, 0.5) for _ in range(4)] == [1, 2, 2, 2]


def test_a_rank_that_hardly_waits_gives_it_back():
    auto = AutoStaleness(0, 8)
    assert [feed(auto, 0.5) for _ in range(3)] == [1, 2, 3]
    assert [feed(auto, 0.0) for _ in range(4)] == [2, 1, 0, 0]


def test_the_bound_stays_where_waiting_is_moderate():
    auto = AutoStaleness(1, 8)
    feed(auto, 0.5)
    assert feed(auto, 0.05, n=50) == 2


def test_the_bound_waits_for_a_window_of_clocks():
    auto = AutoStaleness(0, 8)
    assert feed(auto, 1.0, n=AutoStaleness.WINDOW - 1) == 0
    assert feed(auto, 1.0, n=1) == 1
    assert feed(auto, 1.0, n=AutoStaleness.WINDOW - 1) == 1


def test_a_fixed_bound_does_not_move():
    assert feed(AutoStaleness(3, 3), 1.0, n=100) == 3


def test_the_bound_never_leaves_its_range():
    auto = AutoStaleness(1, 3)
    shares = [0.9] * 60 + [0.0] * 90 + [0.05] * 20
    bounds = [auto.record(1.0, share) for share in shares]
    assert (min(bounds), max(bounds)) == (1, 3)


def test_clocks_of_no_time_move_nothing_up():
    auto = AutoStaleness(0, 8)
    assert [auto.record(0.0, 0.0) for _ in range(30)][-1] == 0
