"""Places to run in: this process, and the ranks of a real cluster that is started once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

#: Enough for what takes a second, on a busy machine; pytest-timeout ends what hangs.
PATIENCE = 120
N_WORKERS = 4
#: Property of a test: how many faults it executed.
FAULTS = "faults"
#: The common cluster, once a test has asked for it.
STARTED = pytest.StashKey[Any]()

# An example that takes 0.2 s fails by default, and so does one that is long in the making: on a
# busy machine that says nothing of the code.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def wait_until(holds: Callable[[], Any], what: str | Callable[[], Any]) -> None:
    """Ask until something holds; fail with what never came, or with what there is instead."""
    until, pause = time.monotonic() + PATIENCE, threading.Event()
    while not holds():
        assert time.monotonic() < until, what() if callable(what) else f"never: {what}"
        pause.wait(0.02)


#: Files that take longest, the longest first: they begin first, so that no process has one of them
#: left when the others have nothing more to do.
LONGEST = (
    "test_battery",
    "test_elasticity",
    "test_recovery",
    "test_leftovers",
    "test_leftovers_of_losses",
    "test_hosts",
    "test_nn_survival",
    "test_block_failures",
    "test_cluster_failures",
    "test_links",
    "test_memory",
    "test_cluster_sharing",
    "test_nn_cluster",
    "test_recovery_simulator",
    "test_cluster_interrupts",
    "test_lda_rotation",
    "test_cluster_arming",
    "test_security",
    "test_checkpoint_crash",
    "test_concurrency",
    "test_cloud",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; each file's tests stay as they are."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_configure() -> None:
    """Let the processes of tests be interrupted: a shell's job in the background ignores that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Four worker processes with one thread each; never killed by a test."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=N_WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as started:
        started.wait_for_workers(N_WORKERS, timeout=PATIENCE)
        request.session.stash[STARTED] = started
        yield started


@pytest.fixture(scope="session")
def client(cluster: Any) -> Iterator[Any]:
    """A client of the cluster that is not the active one: other tests stay in this process."""
    from distributed import Client

    with Client(cluster, set_as_default=False) as connected:
        connected.wait_for_workers(4, timeout=PATIENCE)
        yield connected


@pytest.fixture(autouse=True)
def nothing_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that costs the common cluster a worker fails itself, not those after it."""
    yield
    started = request.session.stash.get(STARTED, None)
    assert started is None or len(started.scheduler.workers) == N_WORKERS


@dataclass(frozen=True)
class Place:
    """Where a test runs: in this process, or with so many ranks on the cluster."""

    n_ranks: int
    client: Any = None

    def session(self) -> Any:
        """Open a session here."""
        import dask_petuum as petuum

        return petuum.connect("local" if self.client is None else self.client)

    def job(self, dataset: Any, **keywords: Any) -> Any:
        """Open a job here: as many ranks as the dataset has partitions, four at most."""
        if self.client is None:
            from dask_petuum.runtime.job import LocalJob

            return LocalJob(dataset, **keywords)
        from dask_petuum.runtime.cluster_job import ClusterJob

        return ClusterJob(self.client, dataset, **keywords)

    def run(self, session: Any, function: Callable[..., Any], **keywords: Any) -> list[Any]:
        """Run a function with this place's number of ranks, one number as each one's partition."""
        return list(session.run(function, list(range(self.n_ranks)), **keywords))

    def split(self, items: Sequence[Any]) -> list[Any]:
        """Cut rows into one partition per rank."""
        return [np.asarray(part) for part in np.array_split(np.asarray(items), self.n_ranks)]


PLACES = ("local", "1 rank", "2 ranks", "4 ranks")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    """Every place."""
    if request.param == "local":
        return Place(1)
    return Place(int(request.param.split()[0]), request.getfixturevalue("client"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many faults the tests executed, in all processes together."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    counts = [
        value
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == FAULTS
    ]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} faults in {len(counts)} tests")
