"""Who is armed, who is expected back, and who was lost."""

from __future__ import annotations

from dask_petuum.runtime.roster import MEMORY_SECONDS, Roster


def roster():
    found = Roster()
    found.add("a", "1", nanny=True)
    found.add("b", "1", nanny=False)
    return found


def test_only_armed_workers_that_are_there_are_told():
    assert roster().there({"b", "c"}) == ["b"]


def test_a_worker_under_a_nanny_is_expected_back_for_a_while():
    found = roster()
    found.remove("a", 10.0, retires=False)
    found.remove("b", 10.0, retires=False)
    assert found.there({"a", "b"}) == []
    assert found.returning(10.0) == [0.0]
    assert found.returning(25.0) == [15.0]
    assert found.returning(10.0 + MEMORY_SECONDS) == []


def test_one_that_retires_is_not():
    found = roster()
    found.remove("a", 10.0, retires=True)
    assert found.returning(10.0) == []


def test_nor_one_whose_nanny_starts_no_other():
    found = roster()
    found.expect_no_other("a")
    found.remove("a", 10.0, retires=False)
    assert found.returning(10.0) == []


def test_whoever_comes_is_the_one_that_was_expected():
    found = roster()
    found.remove("a", 10.0, retires=False)
    assert not found.add("c", "1", nanny=True), "at an address of its own"
    assert found.returning(10.0) == []


def test_a_worker_at_an_address_where_one_was_lost_is_known_as_such_once():
    found = roster()
    found.remove("b", 10.0, retires=False)
    assert found.add("b", "1", nanny=False)
    assert not found.add("b", "1", nanny=False)
