"""Whose lease is over: silence counts only while the scheduler listens."""

from __future__ import annotations

from types import SimpleNamespace

import dask
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


def test_a_worker_that_was_silent_before_it_was_needed_is_given_up_at_once(monkeypatch):
    given_up = []
    monkeypatch.setattr(
        adapter, "soon", lambda scheduler, give_up, address: given_up.append(address)
    )
    leases = Leases(Workers(a=100.0, b=100.0), pause=2.0)
    with dask.config.set({"petuum.recovery.lease": 6.0}):
        for now in range(100, 108):
            leases.look(["a", "b"], [], float(now))
        assert given_up == [], "nobody needs them"
        leases.look(["a", "b"], ["a"], 108.0)
        leases.look(["a", "b"], ["a"], 109.0)
    assert given_up == ["a"]
