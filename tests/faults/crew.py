"""Workers that tests may kill, stop, retire and add: one process each, under a nanny of ours.

The scheduler and the nannies live in this process, so that a process id is at hand without a
message, and what was lost can be replaced as fast as a process starts: workers are forked from a
process that has imported what they need, which takes 2 s of a core otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, Self

import dask
from distributed import Client, LocalCluster, Nanny
from distributed.core import Status
from distributed.utils import get_mp_context
from members import FEW_MESSAGES, PATIENCE, Members

#: Gets the scheduler's address, gives arguments of a Nanny.
Make = Callable[[str], dict[str, Any]]
#: What becomes of a nanny whose worker was told to leave, or lost the scheduler.
OVER = (Status.closing, Status.closed, Status.closing_gracefully, Status.failed)
#: Settings of a cluster whose members come and go within a test.
SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1 hour",
    "petuum.recovery.attempts": 20,
    "petuum.recovery.wait": "60s",  # a worker that was killed comes back, on a busy machine too
    "petuum.recovery.lease": "6s",
    "distributed.worker.multiprocessing-method": "forkserver",
    **FEW_MESSAGES,
}
#: What the process that workers are forked from has imported.
PRELOAD = (
    "distributed",
    "dask.array",
    "dask_petuum.runtime.worker_plugin",
    "dask_petuum.runtime.cluster_job",
)


class Crew(Members):
    """A cluster of ``size`` workers whose members a test may take away.

    Parameters
    ----------
    make
        Gets the scheduler's address, gives the arguments of a nanny.
    security
        Of the whole cluster.
    settings
        Of Dask's, beside those of every crew.

    The mutable state is ``n_faults``, ``_nannies``, ``_all`` and ``_stopped``; only the test's
    thread changes it.
    """

    def __init__(
        self,
        size: int,
        make: Make | None = None,
        security: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.size = size
        self._make = make or (lambda address: {"scheduler_ip": address})
        self._security = security
        self._settings = dask.config.set({**SETTINGS, **(settings or {})})
        get_mp_context().set_forkserver_preload(list(PRELOAD))
        self.cluster = LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},  # bokeh takes seconds to load
            security=security,
            protocol="tcp://" if security is None else "tls://",
        )
        self.client = Client(self.cluster, set_as_default=False)
        self._nannies: list[Nanny] = []
        self._all: list[Nanny] = []
        self._starting: set[asyncio.Future[Any]] = set()
        self._stopped: list[int] = []
        try:
            self.refill()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.wake()
        self.cluster.sync(self._close_all)
        self.client.close()
        self.cluster.close()
        self._settings.__exit__(None, None, None)

    @property
    def n_members(self) -> tuple[int, int]:
        """How many workers there are at least and at most: some begin, some leave."""
        counts = len(self._nannies), len(self.addresses)
        return min(counts), max(counts)

    @property
    def processes(self) -> list[int]:
        """Ids of the workers' processes."""
        return [nanny.pid for nanny in self._nannies if nanny.pid]

    def kill(self, address: str) -> None:
        """End a process without a word; its nanny starts another."""
        self._signal(address, signal.SIGKILL)

    def vanish(self, address: str) -> None:
        """End a process that does not come back."""
        nanny = self._nanny_of(address)
        if nanny is not None:
            nanny.close_gracefully("the machine vanishes")  # it starts no other
            plugin = self.cluster.scheduler.plugins.get("petuum")
            if plugin is not None:
                plugin._roster.expect_no_other(address)  # and nobody waits for another
            self._signal(address, signal.SIGKILL)
            self._nannies.remove(nanny)

    def stop(self, address: str) -> None:
        """Let a process answer nothing any more."""
        pid = self._signal(address, signal.SIGSTOP)
        if pid is not None:
            self._stopped.append(pid)

    def retire(self, address: str) -> None:
        """Let a worker leave in good order."""
        nanny = self._nanny_of(address)
        if nanny is not None:
            self.n_faults += 1
            self._nannies.remove(nanny)
            self._soon(self.cluster.scheduler.retire_workers(workers=[address], close_workers=True))

    def join(self) -> None:
        """Let a worker begin; returns before it is there."""
        self._nannies.append(self.cluster.sync(self._begin))

    def wake(self) -> None:
        """Let the processes that were stopped go on; their nannies may have ended them."""
        for pid in self._stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        self._stopped.clear()

    def refill(self) -> None:
        """Wait until there are ``size`` workers that answer."""
        self.wake()
        self._drop_closed()
        while len(self._nannies) > self.size:
            self.cluster.sync(self._nannies.pop().close)
        self.wait_for(self._is_full, f"{self.size} workers")
        self.client.wait_for_workers(self.size, timeout=PATIENCE)

    def _is_full(self) -> bool:
        """Whether the scheduler knows exactly our workers; begins those that are missing."""
        self._drop_closed()
        while len(self._nannies) < self.size:
            self._nannies.append(self.cluster.sync(self._begin))
        return sorted(str(nanny.worker_address) for nanny in self._nannies) == self.addresses

    def _drop_closed(self) -> None:
        """Forget nannies that have ended with their workers."""
        self._nannies = [nanny for nanny in self._nannies if nanny.status not in OVER]
        self._all = [nanny for nanny in self._all if nanny.status != Status.closed]

    async def _close_all(self) -> None:
        self._drop_closed()
        await asyncio.gather(*(nanny.close() for nanny in self._all), return_exceptions=True)

    def _nanny_of(self, address: str) -> Nanny | None:
        """The nanny of a worker; None: that worker is no more."""
        found = (nanny for nanny in self._nannies if nanny.worker_address == address)
        return next(found, None)

    def _signal(self, address: str, number: int) -> int | None:
        """Send a signal to a worker's process, if there is one; return its id."""
        nanny = self._nanny_of(address)
        pid = None if nanny is None else nanny.pid
        if pid is not None:
            os.kill(pid, number)
            self.n_faults += 1
        return pid

    async def _begin(self) -> Nanny:
        """Make a nanny, on the loop that it belongs to; it starts by itself."""
        nanny = Nanny(
            **self._make(self.cluster.scheduler_address),
            nthreads=1,
            memory_limit=0,
            quiet=True,
            silence_logs=logging.WARNING,
            security=self._security,
        )
        self._all.append(nanny)
        self._starting.add(task := asyncio.ensure_future(nanny))
        task.add_done_callback(self._starting.discard)
        return nanny

    def _soon(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.client.loop.asyncio_loop)
