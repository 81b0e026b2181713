"""One host: a network namespace, its device, and the processes that run there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import namespaces
from benchmarks.wires import DEVICE, MTU

__all__ = ["Host", "address_of", "clear"]


def address_of(host: int) -> str:
    """Address of a host; a number is used once, and so is its address."""
    if not 0 <= host < 254:
        raise ValueError(f"hosts have numbers from 0 to 253, got {host}")
    return f"10.79.0.{host + 1}"


def clear() -> None:
    """Remove what processes that are gone have left, and say so."""
    for name in namespaces.sweep():
        print(f"removed namespace {name}, whose process is gone", file=sys.stderr)


class Host:
    """A host, from its making until its end.

    Parameters
    ----------
    label
        Tells it from the other hosts of this process.
    address
        Of its device.
    """

    # The mutable state is the processes.

    def __init__(self, label: str, address: str) -> None:
        self.name = namespaces.name_of(label)
        self._address = address
        self._processes: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} at {self._address}: {len(self._processes)} processes>"

    def make(self) -> None:
        """Make the namespace; its device comes from elsewhere."""
        namespaces.make(self.name)

    def set_up(self) -> None:
        """Give the device its address, and let it carry frames."""
        namespaces.ip("-n", self.name, "link", "set", DEVICE, "mtu", str(MTU), "up")
        namespaces.ip("-n", self.name, "addr", "add", f"{self._address}/24", "dev", DEVICE)

    def start(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a process there, options as of `Popen`; it ends with the host."""
        inside = ["ip", "netns", "exec", self.name, *command]
        process = subprocess.Popen(inside, env={**os.environ, **(env or {})}, **options)
        self._processes.append(process)
        return process

    def end(self) -> None:
        """End all that runs there, and remove it: nobody gets a last word of it."""
        for process in reversed(self._processes):
            process.kill()
        namespaces.remove(self.name)
        for process in self._processes:
            process.wait()
