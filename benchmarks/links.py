"""Two hosts on one machine, joined by a link of a given rate and delay. Needs root, on Linux.

Each host is a network namespace with one device. With a delay, these are TAP devices, and a process
of its own carries frames from one to the other, in order, when their time has come (kernels without
``netem`` have no other way). The queue before the link has no limit. At 200 Mbit/s and frames of
9000 bytes it moves 2,800 frames a second each way, which takes a tenth of a core (2026-11).
Without a delay, they are the ends of a pair, and the kernel holds frames back (``tc tbf``): nobody
carries them.

    with Link(rate=200e6, delay=0.005) as link:
        link.start(0, [sys.executable, "server.py"])
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["ADDRESSES", "DEVICE", "Link"]

#: Of the two hosts.
ADDRESSES = ("10.79.0.1", "10.79.0.2")
DEVICE = "wire0"
MTU = 9000
#: Bytes that the kernel lets pass at once, more than what TCP hands over in one piece; and what may
#: wait before it.
BURST, QUEUE = 2**17, 2**24
#: Of linux/if_tun.h.
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Link:
    """Two namespaces and the link between them, while the context lasts.

    Parameters
    ----------
    rate
        Bits a second, each way.
    delay
        Seconds, each way; 0: no process is needed for the link.
    """

    def __init__(self, rate: float, delay: float) -> None:
        self._names = [f"petuum-{os.getpid()}-{host}" for host in range(2)]
        self._rate, self._delay = rate, delay
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        try:
            if self._delay:
                self._start_carrier()
            else:
                self._join()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()
        for name in self._names:
            if Path("/run/netns", name).exists():
                _ip("netns", "del", name)

    def start(
        self, host: int, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[Any]:
        """Start a process on a host; it is killed with the link."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._names[host], *command], env={**os.environ, **(env or {})}
        )
        self._processes.append(process)
        return process

    def _start_carrier(self) -> None:
        command = [sys.executable, "-m", "benchmarks.links"]
        # it ends when this process does, however that dies: then its input is closed
        process = subprocess.Popen(
            [*command, repr(self._rate), repr(self._delay), *self._names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the link does not come up: see above")

    def _join(self) -> None:
        """Join the namespaces by a pair of devices that the kernel slows down."""
        first, second = self._names
        ends = ["type", "veth", "peer", "name", DEVICE, "netns", second]
        _ip("link", "add", DEVICE, "netns", first, *ends)
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _set_up(name, address)
            shape = ["root", "tbf", "rate", f"{self._rate:.0f}bit", "burst", str(BURST)]
            command = ["tc", "qdisc", "add", "dev", DEVICE, *shape, "limit", str(QUEUE)]
            subprocess.run(["ip", "netns", "exec", name, *command], check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _set_up(namespace: str, address: str) -> None:
    _ip("-n", namespace, "link", "set", DEVICE, "mtu", str(MTU), "up")
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", DEVICE)


def open_device(namespace: str) -> int:
    """Make a TAP device in a namespace; frames are read from and written to the descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, 0):
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TAP | IFF_NO_PI))
        libc.setns(home, 0)
    finally:
        os.close(home)
        os.close(there)
    return device


def carry(ends: tuple[int, int], rate: float, delay: float) -> None:
    """Carry frames between two devices until the standard input is closed."""
    queues: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
    free = [0.0, 0.0]
    poll = select.epoll()
    poll.register(0, select.EPOLLIN)
    for end in ends:
        poll.register(end, select.EPOLLIN)
    while True:
        due = min((queue[0][0] for queue in queues if queue), default=None)
        wait = -1 if due is None else max(0.0, due - time.monotonic())
        for source, _ in poll.poll(wait):
            if source == 0:
                return
            side = ends.index(source)
            while (frame := _read(source)) is not None:
                free[side] = max(free[side], time.monotonic()) + 8 * len(frame) / rate
                queues[side].append((free[side] + delay, frame))
        for side, queue in enumerate(queues):
            while queue and queue[0][0] <= time.monotonic():
                _write(ends[1 - side], queue.popleft()[1])


def _read(source: int) -> bytes | None:
    try:
        return os.read(source, 2 * MTU)
    except BlockingIOError:
        return None


def _write(target: int, frame: bytes) -> None:
    try:
        os.write(target, frame)
    except OSError:  # the device's own queue is full: a lost frame, as on any link
        print("a frame was lost", file=sys.stderr)


def main() -> None:
    """Be the process between the two hosts."""
    rate, delay, *names = sys.argv[1:]
    first, second = (open_device(name) for name in names)
    for name, address in zip(names, ADDRESSES, strict=True):
        _set_up(name, address)
    os.setpriority(os.PRIO_PROCESS, 0, -19)  # a network does not wait for the hosts' cores
    print("ready", flush=True)
    carry((first, second), float(rate), float(delay))


if __name__ == "__main__":
    main()
