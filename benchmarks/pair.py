"""Two hosts joined by a pair of devices whose rate the kernel keeps. Needs root, on Linux.

There is no delay and no loss, and no process that carries frames (:mod:`benchmarks.wires`): nothing
but the hosts' own processes takes time of the cores.

    with Pair(rate=100e6) as pair:
        pair.start(0, [sys.executable, "server.py"])
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks import namespaces
from benchmarks.links import address_of
from benchmarks.wires import DEVICE, MTU

__all__ = ["Pair"]

#: Bytes that the kernel lets pass at once, more than what TCP hands over in one piece; and what may
#: wait before it.
BURST, QUEUE = 2**17, 2**24


class Pair:
    """Two namespaces and what joins them, while the context lasts.

    Parameters
    ----------
    rate
        Bits a second, each way.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        group = secrets.token_hex(2)
        self._names = [namespaces.name_of(f"{group}-{host}") for host in range(2)]
        self._processes: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"<Pair {self._names}, {self._rate / 1e6:g} Mbit/s>"

    def __enter__(self) -> Self:
        for name in namespaces.sweep():
            print(f"removed namespace {name}, whose process is gone", file=sys.stderr)
        try:
            for name in self._names:
                namespaces.make(name)
            first, second = self._names
            ends = ["type", "veth", "peer", "name", DEVICE, "netns", second]
            namespaces.ip("link", "add", DEVICE, "netns", first, *ends)
            for host, name in enumerate(self._names):
                self._set_up(name, address_of(host))
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
        for name in self._names:
            namespaces.remove(name)
        for process in self._processes:
            process.wait()

    def start(
        self, host: int, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[Any]:
        """Start a process on a host; it ends with the pair."""
        inside = ["ip", "netns", "exec", self._names[host], *command]
        process = subprocess.Popen(inside, env={**os.environ, **(env or {})})
        self._processes.append(process)
        return process

    def _set_up(self, name: str, address: str) -> None:
        namespaces.ip("-n", name, "link", "set", DEVICE, "mtu", str(MTU), "up")
        namespaces.ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
        shape = ["root", "tbf", "rate", f"{self._rate:.0f}bit", "burst", str(BURST)]
        command = ["tc", "qdisc", "add", "dev", DEVICE, *shape, "limit", str(QUEUE)]
        subprocess.run(["ip", "netns", "exec", name, *command], check=True)
