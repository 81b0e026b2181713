"""The scripted network: what it does to messages, and that a seed does it again."""

from __future__ import annotations

import pytest

from dask_petuum.exceptions import TransportError
from dask_petuum.transport import Transport
from dask_petuum.transport.memory import Faults, MemoryNetwork

NO_FAULTS = Faults()


def run(seed=0, faults=NO_FAULTS, n=100):
    """Call a rank ``n`` times; what arrived there, and what was heard back by call."""
    network = MemoryNetwork(seed, faults)
    arrived, heard = [], {i: [] for i in range(n)}

    def handle(operation, message, answer):
        arrived.append((operation, message["i"]))
        answer({"status": "OK", "i": message["i"]})

    network.serve(1, handle)
    transport: Transport = network.connect(0)
    for i in range(n):
        transport.call(1, "push", {"i": i}, heard[i].append)
    while network.step():
        pass
    assert network.n_under_way == 0
    return arrived, heard


def errors(replies):
    return [reply for reply in replies if isinstance(reply, Exception)]


def test_without_faults_each_call_is_answered_once():
    arrived, heard = run()
    assert sorted(arrived) == [("push", i) for i in range(100)]
    assert all(replies == [{"status": "OK", "i": i}] for i, replies in heard.items())


def test_messages_overtake_each_other():
    arrived, _ = run()
    assert [i for _, i in arrived] != list(range(100))


def test_the_same_seed_does_the_same():
    faults = Faults(lose=0.2, repeat=0.2, late=0.2, slow=0.2)
    assert run(5, faults)[0] == run(5, faults)[0]
    assert run(5, faults)[0] != run(6, faults)[0]


def test_a_sender_hears_of_a_loss():
    arrived, heard = run(faults=Faults(lose=0.3))
    lost = [i for i, replies in heard.items() if errors(replies)]
    assert 20 < len(lost) < 80
    assert all(len(replies) == 1 for replies in heard.values())
    assert isinstance(heard[lost[0]][0], TransportError)
    # either the call was lost, or it arrived and its answer was
    assert 0 < len([i for i in lost if ("push", i) in arrived]) < len(lost)


def test_a_message_may_arrive_twice():
    arrived, heard = run(faults=Faults(repeat=0.3))
    assert len(arrived) > 110
    assert {i for _, i in arrived} == set(range(100))
    assert any(len(replies) > 1 for replies in heard.values())


def test_an_answer_that_was_called_lost_may_still_come():
    _, heard = run(faults=Faults(late=0.3))
    both = [replies for replies in heard.values() if len(replies) == 2]
    assert len(both) > 10
    assert all(len(errors(replies)) == 1 for replies in both)


def test_slow_messages_arrive_all_the_same():
    arrived, heard = run(faults=Faults(slow=1.0))
    assert len(arrived) == 100
    assert all(len(replies) == 1 for replies in heard.values())


def test_an_answer_may_come_later():
    network = MemoryNetwork(0)
    parked, heard = [], []
    network.serve(1, lambda operation, message, answer: parked.append(answer))
    network.connect(0).call(1, "pull", {}, heard.append)
    while network.step():
        pass
    assert heard == []
    parked[0]({"status": "OK"})
    assert network.n_under_way == 1
    while network.step():
        pass
    assert heard == [{"status": "OK"}]


def test_casts_go_to_the_coordinator():
    got = []
    network = MemoryNetwork(0, on_cast=lambda *cast: got.append(cast))
    network.connect(3).cast("clock", {"clock": 7})
    while network.step():
        pass
    assert got == [(3, "clock", {"clock": 7})]


@pytest.mark.parametrize("when", ["before the call", "before the answer"])
def test_nothing_is_heard_after_close(when):
    network = MemoryNetwork(0, on_cast=lambda *cast: pytest.fail("a cast after close"))
    network.serve(1, lambda operation, message, answer: answer({"status": "OK"}))
    transport = network.connect(0)
    heard = []
    if when == "before the call":
        transport.close()
    transport.call(1, "push", {}, heard.append)
    transport.close()
    transport.cast("clock", {})
    while network.step():
        pass
    assert heard == []
    assert "closed" in repr(transport)
