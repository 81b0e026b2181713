"""Two hosts joined by a pair of devices whose rate the kernel keeps. Needs root, on Linux.

There is no delay and no loss, and no process that carries frames (:mod:`benchmarks.wires`): nothing
but the hosts' own processes takes time of the cores.

    with Pair(rate=100e6) as pair:
        pair.start(0, [sys.executable, "server.py"])
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Self

from benchmarks import namespaces
from benchmarks.host import Host, address_of, clear
from benchmarks.wires import DEVICE

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
        self._hosts = [Host(f"{group}-{host}", address_of(host)) for host in range(2)]

    def __repr__(self) -> str:
        return f"<Pair {self._hosts}, {self._rate / 1e6:g} Mbit/s>"

    def __enter__(self) -> Self:
        clear()
        try:
            for host in self._hosts:
                host.make()
            first, second = (host.name for host in self._hosts)
            ends = ["type", "veth", "peer", "name", DEVICE, "netns", second]
            namespaces.ip("link", "add", DEVICE, "netns", first, *ends)
            for host in self._hosts:
                host.set_up()
                self._narrow(host.name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for host in self._hosts:
            host.end()

    def start(
        self, host: int, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[Any]:
        """Start a process on a host; it ends with the pair."""
        return self._hosts[host].start(command, env)

    def _narrow(self, name: str) -> None:
        shape = ["root", "tbf", "rate", f"{self._rate:.0f}bit", "burst", str(BURST)]
        command = ["tc", "qdisc", "add", "dev", DEVICE, *shape, "limit", str(QUEUE)]
        subprocess.run(["ip", "netns", "exec", name, *command], check=True)
