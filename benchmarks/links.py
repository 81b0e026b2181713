"""Hosts on one machine, joined by a switch whose wires have a given rate, delay and loss, or none.

Each host is a network namespace with one device; a process of its own is the switch between them
(``benchmarks/wires.py``). Needs root, on Linux. Hosts of a process that was killed are removed by
the next one that makes some.

    with Hosts(2, Wire(rate=200e6, delay=0.005)) as hosts:
        hosts.start(0, [sys.executable, "server.py"])
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from benchmarks import namespaces
from benchmarks.host import Host, address_of, clear
from benchmarks.wires import DEVICE, Wire

__all__ = ["DEVICE", "Hosts", "Wire", "address_of"]

ROOT = Path(__file__).resolve().parent.parent


class Hosts:
    """Namespaces and the switch between them, while the context lasts.

    Parameters
    ----------
    n_hosts
        How many there are at first.
    wire
        What each is joined by.
    """

    # The mutable state is the switch, and the hosts that there are, by number.

    def __init__(self, n_hosts: int, wire: Wire) -> None:
        self._n_first = n_hosts
        self._wire = wire
        self._n_made = 0
        self._group = secrets.token_hex(2)  # a process may have several
        self._switch: subprocess.Popen[str] | None = None
        self._hosts: dict[int, Host] = {}

    def __repr__(self) -> str:
        return f"<Hosts {sorted(self._hosts)} of {self._n_made}, {self._wire}>"

    def __enter__(self) -> Self:
        clear()
        # it ends when this process does, however that dies: then its input is closed
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wires"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            self._expect("ready")
            for _ in range(self._n_first):
                self.add()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._switch is not None:
            self._switch.kill()
            self._switch.communicate()
        for host in self._hosts.values():
            host.end()

    @property
    def names(self) -> list[str]:
        """Namespaces of the hosts that there are, or were until the end."""
        return [host.name for host in self._hosts.values()]

    def add(self) -> int:
        """Make another host; return its number."""
        number, self._n_made = self._n_made, self._n_made + 1
        self._hosts[number] = host = Host(f"{self._group}-{number}", address_of(number))
        host.make()
        self.join(number, self._wire)
        host.set_up()
        return number

    def join(self, host: int, wire: Wire | None = None) -> None:
        """Give a host another wire, None: that of all; returns when it is in force."""
        self._tell(host, asdict(wire or self._wire))

    def vanish(self, host: int) -> None:
        """Take a host away, with all that runs there: nobody gets a last word of it."""
        self._tell(host, None)
        self._hosts.pop(host).end()

    def entered(self, host: int) -> AbstractContextManager[None]:
        """Let this thread, and what it starts, be on a host."""
        return namespaces.entered(self._hosts[host].name)

    def start(
        self,
        host: int,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a process on a host, options as of `Popen`; it ends with the host."""
        return self._hosts[host].start(command, env, **options)

    def _tell(self, host: int, wire: dict[str, Any] | None) -> None:
        assert self._switch is not None
        assert self._switch.stdin is not None
        command = {"host": host, "wire": wire, "namespace": self._hosts[host].name}
        self._switch.stdin.write(json.dumps(command) + "\n")
        self._switch.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._switch is not None
        assert self._switch.stdout is not None
        if self._switch.stdout.readline().strip() != word:
            raise RuntimeError("the switch between the hosts has failed: see above")
