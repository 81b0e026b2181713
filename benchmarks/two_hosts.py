"""Measuring on two hosts joined by a slow link: our cluster first, then the peer.

The link (``benchmarks/links.py``, needs root) has 200 Mbit/s and 5 ms each way; memory is not
shared. Both hosts are this machine, so the carrier of frames takes a part of its cores, of either
side's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Client

from benchmarks.ddp import N_RANKS
from benchmarks.links import DEVICE, Hosts, Wire, address_of
from benchmarks.pair import Pair

__all__ = ["LINK", "MEET", "be", "connect", "measure", "measure_ours", "measure_peer"]

WIRE = Wire(rate=200e6, delay=0.005)
#: The link in words.
LINK = f"{WIRE.rate / 1e6:.0f} Mbit/s and {1000 * WIRE.delay:.0f} ms"
PORTS = (8786, 29500)
#: Where the peer's ranks meet.
MEET = f"tcp://{address_of(0)}:{PORTS[1]}"
#: What every process gets: cores are shared by two ranks, memory is not.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": DEVICE,
    "DASK_PETUUM__SHARED_MEMORY": "false",
}

Measured = dict[str, Any]


def measure(module: str, quick: bool) -> tuple[Measured, Measured]:
    """Let a module measure ours and the peer, in processes on the hosts; see `be`."""
    return measure_ours(module, quick, Hosts(N_RANKS, WIRE)), measure_peer(module, quick)


def measure_ours(module: str, quick: bool, places: Hosts | Pair) -> Measured:
    """Let a module measure ours only."""
    with tempfile.TemporaryDirectory() as folder, places as hosts:
        start_cluster(hosts)
        return result(hosts, 0, module, "ours", Path(folder), quick)


def measure_peer(module: str, quick: bool) -> Measured:
    """Let a module measure the peer only."""
    with tempfile.TemporaryDirectory() as folder, Hosts(N_RANKS, WIRE) as hosts:
        start(hosts, 1, module, "1", f"{folder}/1", str(int(quick)))
        return result(hosts, 0, module, "0", Path(folder), quick)


def be(
    ours: Callable[[bool], Measured], theirs: Callable[[int, bool], Measured] | None = None
) -> None:
    """Be one of the processes: ours, with the client, or a rank of the peer, where there is one."""
    role, target, quick = sys.argv[1], Path(sys.argv[2]), bool(int(sys.argv[3]))
    out = ours(quick) if role == "ours" or theirs is None else theirs(int(role), quick)
    target.write_text(json.dumps(out), encoding="utf-8")


def connect() -> Client:
    """A client of the cluster, once both workers are there."""
    client = Client(f"tcp://{address_of(0)}:{PORTS[0]}")
    client.wait_for_workers(N_RANKS, timeout=60)
    return client


def start_cluster(hosts: Hosts | Pair) -> None:
    """Start a scheduler on the first host, and a worker of one thread on each."""
    port, module = str(PORTS[0]), "distributed.cli.dask_"
    words = ("--host", address_of(0), "--port", port, "--no-dashboard")
    start(hosts, 0, f"{module}scheduler", *words)
    for host in range(N_RANKS):
        options = ("--host", address_of(host), "--nthreads", "1", "--no-nanny", "--no-dashboard")
        start(hosts, host, f"{module}worker", f"tcp://{address_of(0)}:{port}", *options)


def start(hosts: Hosts | Pair, host: int, module: str, *words: str) -> Any:
    """Start a Python module on a host."""
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    env = {**ENVIRONMENT, "PYTHONPATH": paths, "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "warning"}
    return hosts.start(host, [sys.executable, "-W", "ignore", "-m", module, *words], env)


def result(
    hosts: Hosts | Pair, host: int, module: str, role: str, folder: Path, quick: bool
) -> Measured:
    """Run a module on a host; what it has measured."""
    target = folder / role
    process = start(hosts, host, module, role, str(target), str(int(quick)))
    if process.wait() != 0:
        raise RuntimeError(f"{role} ended with {process.returncode}: see above")
    out: Measured = json.loads(target.read_text(encoding="utf-8"))
    return out
