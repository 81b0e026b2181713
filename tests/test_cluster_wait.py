"""For whom a client waits after a loss."""

from __future__ import annotations

import pytest

from dask_petuum.runtime.cluster_wait import RETURN_SECONDS, is_settled


def status(workers=("a", "b"), doubtful=(), returning=()):
    return {"workers": dict.fromkeys(workers, "1"), "doubtful": doubtful, "returning": returning}


def test_nobody_is_waited_for_where_all_are_there():
    assert is_settled(status(), None, 10.0)


def test_some_worker_is_always_waited_for():
    assert not is_settled(status(workers=()), None, 10.0)
    assert not is_settled(status(workers=()), 0, 10.0)


@pytest.mark.parametrize("wait", [10.0, 200.0])
def test_a_nanny_is_given_as_long_as_is_configured_and_half_a_minute_at_least(wait):
    patience = max(wait, RETURN_SECONDS)
    assert not is_settled(status(returning=[patience - 1.0]), None, wait)
    assert is_settled(status(returning=[patience + 1.0]), None, wait)


def test_as_many_as_are_wanted_are_enough():
    assert is_settled(status(returning=[0.0]), 2, 10.0)
    assert not is_settled(status(returning=[0.0]), 3, 10.0)


def test_who_is_silent_is_waited_for_though_there_are_enough():
    assert not is_settled(status(doubtful=["c"]), 2, 10.0)
