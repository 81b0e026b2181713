"""Whose lease is over: silence counts only while the scheduler listens."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_petuum.runtime import adapter
from dask_petuum.runtime.lease import Leases, Silence


def test_silence_adds_up_from_the_last_sign_of_life():
    silence = Silence(pause=2.0)
    assert silence.look({"a": 10.0, "b": 10.0}, now=10.0) == {"a": 0.0, "b": 0.0}
    assert silence.look({"a": 10.0, "b": 10.9}, now=11.0) == {"a": 1.0, "b": 0.0}
    assert silence.look({"a": 10.0, "b": 10.9}, now=12.5) == {"a": 2.5, "b": 1.5}
    assert silence.look({"a": 12.6, "b": 10.9}, now=13.0) == {"a": 0.0, "b": 2.0}


def test_a_machine_that_was_paused_has_no_silent_workers():
    silence = Silence(pause=2.0)
    silence.look({"a": 10.0}, now=10.0)
    assert silence.look({"a": 10.0}, now=3610.0) == {"a": 2.0}


def test_a_worker_that_is_back_begins_anew():
    silence = Silence(pause=2.0)
    silence.look({"a": 10.0}, now=10.0)
    silence.look({"a": 10.0}, now=11.0)
    assert silence.look({}, now=12.0) == {}
    assert silence.look({"a": 10.0}, now=13.0) == {"a": 0.0}


@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=30))
def test_nobody_is_silent_for_longer_than_there_was_listening(steps):
    silence, now = Silence(pause=2.0), 0.0
    silence.look({"a": 0.0}, now)
    found = []
    for step in steps:
        now += step
        found.append(silence.look({"a": 0.0}, now)["a"])
    assert found == sorted(found)
    assert found[-1] <= now + 1e-9
    assert found[-1] <= 2.0 * len(steps)


class Workers:
    """A scheduler, as leases see it, whose workers were last heard of at a time each."""

    def __init__(self, **seen):
        self.workers = {address: SimpleNamespace(last_seen=at) for address, at in seen.items()}


@pytest.fixture
def given_up(monkeypatch):
    """The workers that are given up, in order."""
    found = []
    monkeypatch.setattr(adapter, "soon", lambda scheduler, give_up, address: found.append(address))
    with dask.config.set({"petuum.recovery.lease": 6.0}):
        yield found


def leases(scheduler, on_silence=print):
    return Leases(scheduler, 2.0, on_silence)


def test_a_worker_that_was_silent_before_it_was_needed_is_given_up_at_once(given_up):
    looking = leases(Workers(a=100.0, b=100.0))
    for now in range(100, 108):
        looking.look(["a", "b"], [], float(now))
    assert given_up == [], "nobody needs them"
    looking.look(["a", "b"], ["a"], 108.0)
    looking.look(["a", "b"], ["a"], 109.0)
    assert given_up == ["a"]


def test_a_silent_worker_of_a_run_that_lost_touch_is_given_up_though_the_run_is_over(given_up):
    """Its ranks have seen it before its lease was over."""
    scheduler = Workers(a=100.0, b=100.0, c=100.0)
    looking = leases(scheduler)
    for now in range(100, 103):
        looking.look(["a", "b", "c"], ["a", "b"], float(now))
    looking.suspect(["a", "b"])
    assert looking.suspects == ["a", "b"]
    scheduler.workers["b"].last_seen = 102.5
    for now in range(103, 113):
        looking.look(["a", "b", "c"], [], float(now))
    assert given_up == ["a"], "b was heard of, and nobody needs c"
    assert looking.suspects == ["a"]
    del scheduler.workers["a"]
    looking.look(["b", "c"], [], 113.0)
    assert looking.suspects == []


@pytest.mark.parametrize("nanny_answers", [True, False])
def test_nobody_is_expected_to_come_back_from_a_host_whose_nanny_is_silent(
    monkeypatch, nanny_answers
):
    class Nanny:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            return None

        async def kill(self, **options):
            if not nanny_answers:
                raise TimeoutError

    class Scheduler(Workers):
        connection_args: ClassVar = {}

        async def remove_worker(self, address, **options):
            del self.workers[address]

    silent, scheduler = [], Scheduler(a=100.0)
    scheduler.workers["a"].nanny = "nanny of a"
    monkeypatch.setattr(adapter, "rpc", lambda address, connection_args: Nanny())
    asyncio.run(adapter.give_up_worker(scheduler, "a", "test", silent.append))
    assert scheduler.workers == {}
    assert silent == ([] if nanny_answers else ["a"])
