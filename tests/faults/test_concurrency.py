"""Fits of several clients on one cluster at the same time do not meet, nor do their ends.

Two fits are processes of their own, of which one is killed and one gets a Ctrl-C; the other two
are in this process and go on until both are gone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE
from programs import LeastSquares, make_data

from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions

pytestmark = pytest.mark.timeout(600)

N_WORKERS = 4
#: Far more than a fit needs to outlive two others.
MAX_CLOCKS = 100_000
#: Clocks that a fit goes on when the others are gone.
MORE_CLOCKS = 10
#: Of the two fits that go on: more and fewer than there are workers.
N_PARTITIONS = (6, 3)

FIT = """
import sys

sys.path[:0] = {path!r}
from distributed import Client
from programs import LeastSquares
from test_concurrency import data

from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import RunOptions


def tell(record):
    if record["clock"] == 5:
        print("fitting", flush=True)
    return False


if __name__ == "__main__":
    with Client({address!r}) as client, ClusterJob(client, data(6), dtype="float64") as job:
        options = RunOptions(max_clocks={max_clocks}, monitor=tell, save_clocks=500)
        result = job.run(LeastSquares(5, 400), options)
        print("stopped by", result.stopped_by, flush=True)
"""


@pytest.fixture(scope="module")
def shared():
    """Four workers that four clients share."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


def data(n_partitions):
    X, y = make_data()
    chunk = -(-len(X) // n_partitions)
    return open_dataset(da.from_array(X, chunks=(chunk, 5)), da.from_array(y, chunks=chunk))


class Process:
    """A fit in a process of its own, without an end."""

    def __init__(self, address, script):
        script.write_text(FIT.format(path=sys.path, address=address, max_clocks=MAX_CLOCKS))
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_until_it_fits(self):
        """Read what it prints."""
        line = self.process.stdout.readline()
        if line != "fitting\n":
            self.process.kill()
            raise AssertionError(f"{line!r}: {self.process.stderr.read()}")

    def end(self, number):
        """Send a signal; return the exit status and what was printed last."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.splitlines()[-1:], err


def fit(address, n_partitions, others_are_gone):
    """Fit beside others, and a few clocks more; return the result."""
    from distributed import Client

    left = [MORE_CLOCKS]
    until = time.monotonic() + 2 * PATIENCE

    def monitor(record):
        assert time.monotonic() < until, "the other fits did not end"
        left[0] -= others_are_gone.is_set()
        return left[0] <= 0

    with (
        Client(address, set_as_default=False) as client,
        ClusterJob(client, data(n_partitions), dtype="float64") as job,
    ):
        options = RunOptions(max_clocks=MAX_CLOCKS, monitor=monitor, save_clocks=500)
        return job.run(LeastSquares(5, 400), options)


def assert_as_alone(result, n_partitions):
    assert result.n_clocks < MAX_CLOCKS
    assert result.stopped_by == "callback"
    with LocalJob(data(n_partitions), dtype="float64") as job:
        alone = job.run(LeastSquares(5, 400), RunOptions(max_clocks=result.n_clocks))
    np.testing.assert_array_equal(result.tables["seen"], alone.tables["seen"])
    np.testing.assert_allclose(result.tables["w"], alone.tables["w"], atol=1e-12)
    for found, wanted in zip(result.outputs, alone.outputs, strict=True):
        np.testing.assert_array_equal(found["draws"], wanted["draws"])


def left_on_worker(dask_worker):
    """Everything of a run that a worker holds."""
    plugin = dask_worker.plugins.get("petuum")
    if plugin is None:
        return []
    return [*map(str, plugin.kept.vault.keys), *plugin._runs]


def left_on_scheduler(dask_scheduler):
    plugin = dask_scheduler.plugins["petuum"]
    return [*plugin._boards, *plugin._desk.fits]


def left(client):
    """Names of runs and fits on the scheduler, and what workers hold of runs."""
    on_workers = client.run(left_on_worker)
    return client.run_on_scheduler(left_on_scheduler), [k for v in on_workers.values() for k in v]


def wait_until(holds, client):
    """Ask, for a minute at most, until something holds of what is left."""
    until, pause = time.monotonic() + PATIENCE, threading.Event()
    while not holds(*(found := left(client))):
        assert time.monotonic() < until, found
        pause.wait(0.1)


def runs_of(held):
    """Runs of which workers hold anything but checkpoints."""
    return {key for key in held if not key.startswith("PartKey")}


def test_of_four_fits_one_is_killed_one_cancelled_and_two_do_not_notice(shared, tmp_path):
    from distributed import Client

    address = shared.scheduler_address
    others_are_gone = threading.Event()
    killed, cancelled = (
        Process(address, tmp_path / name) for name in ("killed.py", "cancelled.py")
    )
    try:
        with (
            Client(address, set_as_default=False) as observer,
            ThreadPoolExecutor(2) as threads,
        ):
            # before the other two begin: a process may take long to come to its fit
            killed.wait_until_it_fits()
            cancelled.wait_until_it_fits()
            fits = {n: threads.submit(fit, address, n, others_are_gone) for n in N_PARTITIONS}
            try:
                wait_until(lambda names, held: len(runs_of(held)) == 4, observer)
                assert killed.end(signal.SIGKILL)[0] == -signal.SIGKILL
                status, last, errors = cancelled.end(signal.SIGINT)
                assert (status, last) == (0, ["stopped by interrupt"]), errors
                # a run and its fit for each of the two that go on
                wait_until(
                    lambda names, held: len(names) == 4 and len(runs_of(held)) == 2, observer
                )
            finally:
                others_are_gone.set()
            for n, future in fits.items():
                assert_as_alone(future.result(timeout=2 * PATIENCE), n)
            wait_until(lambda names, held: not names and not held, observer)
    finally:
        for process in (killed.process, cancelled.process):
            process.kill()
            process.communicate(timeout=PATIENCE)
