"""Workers on hosts of their own, whose wires tests may cut, narrow and spoil. Needs root, on Linux.

Scheduler and client are in this process, on the first host; on every other one a service starts
``dask worker`` (under its nanny) again and again, as systemd would, at the same address each time.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Mapping
from typing import Any, Self

import dask
from distributed import Client, LocalCluster
from members import FEW_MESSAGES, Members

from benchmarks import namespaces
from benchmarks.links import Hosts, Wire, address_of

__all__ = ["CALM", "HostCrew"]

PORTS = ("4000", "4001")
#: What a host's service does: start the worker again, in a folder of its own.
SERVICE = 'while :; do "$@"; sleep 0.2; done'
#: Wires that nothing is wrong with.
CALM = Wire()


class HostCrew(Members):
    """A cluster of ``size`` hosts with a worker of one thread each.

    Parameters
    ----------
    lease
        ``petuum.recovery.lease``, seconds. A partition is felt for longer than it lasts, twice as
        long at worst: TCP sends again after pauses that double.
    settings
        More of Dask's settings, for the scheduler and the workers.
    """

    # The mutable state is the hosts, which of them are used, and the wires that are to be mended;
    # the test's thread and the timers change them, `_lock` keeps them apart.

    def __init__(self, size: int, lease: float, settings: Mapping[str, Any] | None = None) -> None:
        self.size = size
        self._lock = threading.RLock()
        self._timers: list[threading.Timer] = []
        self._used: set[int] = set()
        self._given_up: set[int] = set()
        self._folder = namespaces.make_folder()
        self._values = {
            "petuum.recovery.attempts": 20,
            "petuum.recovery.wait": "20s",
            "petuum.recovery.lease": f"{lease}s",
            "petuum.recovery.rebalance": False,  # or partitions leave the host that stalls
            "petuum.shared-memory": False,  # hosts of one machine have none
            "distributed.worker.multiprocessing-method": "forkserver",
            "distributed.logging.distributed": "error",
            **FEW_MESSAGES,
            **(settings or {}),
        }
        self._settings = dask.config.set(self._values)
        self._hosts = Hosts(1, CALM).__enter__()
        try:
            # threads that are made here, the event loop's first of all, stay on that host
            with self._hosts.entered(0):
                self.cluster = LocalCluster(
                    n_workers=0,
                    host=address_of(0),
                    dashboard_address=":0",
                    scheduler_kwargs={"dashboard": False},
                )
                self.client = Client(self.cluster, set_as_default=False)
            self.refill()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._cancel()
        if hasattr(self, "client"):
            self.client.close()
        if hasattr(self, "cluster"):
            self.cluster.close()
        self._hosts.__exit__(None, None, None)
        self._settings.__exit__(None, None, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def n_members(self) -> tuple[int, int]:
        """How many workers there are at least and at most."""
        n = len(self.addresses)
        return n, n

    @property
    def n_parted(self) -> int:
        """How many wires are cut, and will be mended."""
        with self._lock:
            return sum(timer.is_alive() for timer in self._timers)

    def worsen(self, wire: Wire) -> None:
        """Give all hosts another wire, the scheduler's, too, until `refill`."""
        self.n_faults += 1
        with self._lock:
            for host in (0, *self._used):
                self._hosts.join(host, wire)

    def part(self, address: str, seconds: float | None) -> None:
        """Let nothing come from or to a worker's host for so many seconds; None: until `mend`."""
        host = self._host_of(address)
        self.n_faults += 1
        with self._lock:
            self._hosts.join(host, Wire(is_cut=True))
            if seconds is None:
                self._given_up.add(host)
                return
            timer = threading.Timer(seconds, self._mend, (host,))
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def mend(self, address: str) -> None:
        """Let all come again from and to a host that is parted from the others."""
        host = self._host_of(address)
        with self._lock:
            if host in self._given_up:
                self._given_up.discard(host)
                self._hosts.join(host)

    def vanish(self, address: str) -> None:
        """Take a worker's host away, without a last word."""
        host = self._host_of(address)
        self.n_faults += 1
        with self._lock:
            self._used.discard(host)
            self._hosts.vanish(host)

    def refill(self) -> None:
        """Mend the wires; replace the hosts that are gone for good; wait for all workers."""
        self._cancel()
        with self._lock:
            for host in self._given_up:
                self._used.discard(host)
                self._hosts.vanish(host)
            self._given_up.clear()
            for host in (0, *self._used):
                self._hosts.join(host)
            while len(self._used) < self.size:
                self._begin()
        self.wait_for(self._is_full, f"workers on the hosts {sorted(self._used)}")

    def _is_full(self) -> bool:
        wanted = sorted(f"tcp://{address_of(host)}:{PORTS[0]}" for host in self._used)
        return sorted(self.addresses) == wanted

    def _begin(self) -> None:
        """Make a host, and its service."""
        host = self._hosts.add()
        self._used.add(host)
        place = self._folder / str(host)
        place.mkdir()
        worker = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker"]
        worker += [self.cluster.scheduler_address, "--host", address_of(host)]
        worker += ["--worker-port", PORTS[0], "--nanny-port", PORTS[1], "--nthreads", "1"]
        worker += ["--no-dashboard", "--memory-limit", "0", "--local-directory", str(place)]
        env = {_variable_of(key): str(value) for key, value in self._values.items()}
        env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._hosts.start(host, ["sh", "-c", SERVICE, "sh", *worker], env=env, cwd=place)

    def _host_of(self, address: str) -> int:
        return int(address.rpartition(":")[0].rpartition(".")[2]) - 1

    def _mend(self, host: int) -> None:
        with self._lock:
            if host in self._used:
                self._hosts.join(host)

    def _cancel(self) -> None:
        with self._lock:
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()


def _variable_of(key: str) -> str:
    """The environment's name of a setting; a shell passes on none with hyphens."""
    return "DASK_" + key.replace(".", "__").replace("-", "_").upper()
