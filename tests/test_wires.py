"""Where a switch sends frames, when they arrive, and which ones are lost."""

from __future__ import annotations

import pytest

from benchmarks.wires import Port, Switch, Wire

EVERYBODY = b"\xff" * 6


def address(host):
    return bytes([2, 0, 0, 0, 0, host])


def frame(source, target, size=125):
    return (target + address(source)).ljust(size, b".")


def switch_of(*wires):
    """A switch with hosts 0, 1, ... that have all been heard of."""
    found = Switch()
    for host, wire in enumerate(wires):
        found.ports[host] = Port(Wire())
        found.take(host, frame(host, address(99)), 0.0)
        found.ports[host] = Port(wire)
    for port in found.ports.values():
        port.queue.clear()
    return found


def arrivals(switch, host):
    """When frames arrive at a host, and which."""
    return list(switch.ports[host].queue)


def test_a_frame_goes_to_its_host_only_and_a_broadcast_to_all_others():
    switch = switch_of(Wire(), Wire(), Wire())
    switch.take(0, frame(0, address(2)), 1.0)
    assert [len(arrivals(switch, host)) for host in range(3)] == [0, 0, 1]
    switch.take(0, frame(0, EVERYBODY), 2.0)
    assert [len(arrivals(switch, host)) for host in range(3)] == [0, 1, 2]


def test_a_wire_of_some_rate_takes_one_frame_at_a_time():
    """1,000 bits at 10,000 bits a second: 0.1 s each, whichever of the two wires is narrow."""
    for wires in ((Wire(rate=1e4), Wire()), (Wire(), Wire(rate=1e4)), (Wire(rate=1e4),) * 2):
        switch = switch_of(*wires)
        for _ in range(3):
            switch.take(0, frame(0, address(1)), 1.0)
        assert [at for at, _ in arrivals(switch, 1)] == pytest.approx([1.1, 1.2, 1.3])


def test_two_senders_share_the_wire_of_who_receives():
    switch = switch_of(Wire(rate=1e4), Wire(rate=1e4), Wire(rate=1e4))
    switch.take(0, frame(0, address(2)), 1.0)
    switch.take(1, frame(1, address(2)), 1.0)
    assert [at for at, _ in arrivals(switch, 2)] == pytest.approx([1.1, 1.2])


def test_a_delay_is_that_of_who_sends():
    switch = switch_of(Wire(delay=0.5), Wire(delay=0.25))
    switch.take(0, frame(0, address(1)), 1.0)
    switch.take(1, frame(1, address(0)), 1.0)
    assert [arrivals(switch, host)[0][0] for host in range(2)] == [1.25, 1.5]
    assert switch.next_time() == 1.25
    assert switch.due(switch.ports[0], 1.2) == []
    assert len(switch.due(switch.ports[0], 1.25)) == 1


@pytest.mark.parametrize("cut", [0, 1])
def test_nothing_passes_a_wire_that_is_cut(cut):
    switch = switch_of(*(Wire(is_cut=host == cut) for host in range(2)))
    switch.take(0, frame(0, address(1)), 1.0)
    assert arrivals(switch, 1) == []


def test_what_is_on_its_way_when_a_wire_is_cut_is_lost():
    switch = switch_of(Wire(delay=1.0), Wire())
    switch.take(0, frame(0, address(1)), 1.0)
    switch.ports[1].wire = Wire(is_cut=True)
    assert switch.due(switch.ports[1], 3.0) == []
    assert arrivals(switch, 1) == []


def test_so_many_frames_are_lost_as_the_wire_says():
    switch = switch_of(Wire(loss=0.25), Wire())
    for _ in range(4000):
        switch.take(0, frame(0, address(1)), 1.0)
    assert 2800 < len(arrivals(switch, 1)) < 3200
