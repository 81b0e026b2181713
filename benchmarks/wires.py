"""A switch whose wires are as bad as one likes: the process that carries frames between hosts.

Each host has one TAP device; this process reads frames from each and writes them to where they
belong, in order, when their time has come (kernels without ``netem`` have no other way). The queue
before a wire has no limit. At 200 Mbit/s and frames of 9000 bytes it moves 2,800 frames a second
each way, which takes some percent of a core. Commands come as lines of JSON on the standard input,
each is answered when it is in force, and the end of the input is the end of the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from benchmarks import namespaces

__all__ = ["DEVICE", "MTU", "Port", "Switch", "Wire"]

DEVICE = "wire0"
MTU = 9000
#: Of linux/if_tun.h.
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
#: Frames that are read from one device before the others have their turn.
AT_ONCE = 64


@dataclass(frozen=True)
class Wire:
    """What a host's wire is like, each way.

    Parameters
    ----------
    rate
        Bits a second; 0: no limit.
    delay
        Seconds, of what the host sends: once between two hosts.
    loss
        Share of frames that are lost.
    is_cut
        Nothing passes.
    """

    rate: float = 0.0
    delay: float = 0.0
    loss: float = 0.0
    is_cut: bool = False


@dataclass
class Port:
    """A wire, what is on its way out of it, and until when it is busy, seconds."""

    wire: Wire
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    free_in: float = 0.0
    free_out: float = 0.0


class Switch:
    """Decides where frames go and when; no I/O, no clock, and its chance from a seed.

    The mutable state is the ports and which host is at which.
    """

    def __init__(self, seed: int = 0) -> None:
        self.ports: dict[int, Port] = {}
        self._homes: dict[bytes, int] = {}
        self._chance = random.Random(seed)

    def take(self, source: int, frame: bytes, now: float) -> None:
        """Take a frame from a port, seconds; it is then in the queues of where it goes to."""
        sender = self.ports[source]
        if self._is_lost(sender.wire):
            return
        target, self._homes[frame[6:12]] = self._homes.get(frame[:6]), source
        for number in [target] if target is not None else list(self.ports):
            if number != source and number in self.ports:
                self._send(sender, self.ports[number], frame, now)
        # while it is on its wire no other frame is; a receiver's wire takes it at the same time
        sender.free_in = max(sender.free_in, now) + _seconds(frame, sender.wire)

    def due(self, port: Port, now: float) -> list[bytes]:
        """The frames that have come to a port's host by now."""
        out = []
        while port.queue and port.queue[0][0] <= now:
            frame = port.queue.popleft()[1]
            if not port.wire.is_cut:
                out.append(frame)
        return out

    def next_time(self) -> float | None:
        """When the next frame is due; None: none is on its way."""
        return min((port.queue[0][0] for port in self.ports.values() if port.queue), default=None)

    def _send(self, sender: Port, receiver: Port, frame: bytes, now: float) -> None:
        if self._is_lost(receiver.wire):
            return
        begins = max(now, sender.free_in, receiver.free_out)
        ends = begins + max(_seconds(frame, sender.wire), _seconds(frame, receiver.wire))
        receiver.free_out = ends
        receiver.queue.append((ends + sender.wire.delay, frame))

    def _is_lost(self, wire: Wire) -> bool:
        return wire.is_cut or (wire.loss > 0.0 and self._chance.random() < wire.loss)


def _seconds(frame: bytes, wire: Wire) -> float:
    return 8 * len(frame) / wire.rate if wire.rate else 0.0


def open_device(namespace: str) -> int:
    """Make a TAP device in a namespace; frames are read from and written to the descriptor."""
    with namespaces.entered(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Carrier:
    """Moves the frames of a switch, and obeys.

    The mutable state is the switch, and each port's device, 0 being the standard input.
    """

    def __init__(self) -> None:
        self._switch = Switch()
        self._devices: dict[int, int] = {}
        self._poll = select.epoll()
        self._poll.register(0, select.EPOLLIN)

    def run(self) -> None:
        """Carry until the standard input is closed."""
        while True:
            due = self._switch.next_time()
            wait = -1 if due is None else max(0.0, due - time.monotonic())
            for source, _ in self._poll.poll(wait):
                if source == 0:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    print(self._obey(**json.loads(line)), flush=True)
                else:
                    self._read(source)
            for device, port in self._switch.ports.items():
                for frame in self._switch.due(port, time.monotonic()):
                    _write(device, frame)

    def _obey(self, host: int, wire: dict[str, Any] | None, namespace: str) -> str:
        """Give a host a wire; None: take it away."""
        if wire is None:
            device = self._devices.pop(host)
            self._poll.unregister(device)
            del self._switch.ports[device]
            os.close(device)
            return "done"
        if host not in self._devices:
            self._devices[host] = device = open_device(namespace)
            self._switch.ports[device] = Port(Wire())
            self._poll.register(device, select.EPOLLIN)
        self._switch.ports[self._devices[host]].wire = Wire(**wire)
        return "done"

    def _read(self, device: int) -> None:
        for _ in range(AT_ONCE):
            if device not in self._switch.ports:  # taken away a moment ago
                return
            try:
                frame = os.read(device, 2 * MTU)
            except BlockingIOError:
                return
            self._switch.take(device, frame, time.monotonic())


def _write(target: int, frame: bytes) -> None:
    try:
        os.write(target, frame)
    except OSError:  # the device's own queue is full, or it is not up: lost, as on any wire
        print("a frame was lost", file=sys.stderr)


if __name__ == "__main__":
    os.setpriority(os.PRIO_PROCESS, 0, -19)  # a network does not wait for the hosts' cores
    print("ready", flush=True)
    Carrier().run()
