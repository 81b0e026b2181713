"""Hosts of their own whose wires are cut, for a while or for good: nothing is lost, nobody hangs.

Each in a network namespace, which needs root. Every increment is a fingerprint that is checked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import dask
import pytest
from fingerprint import Fingerprints
from fits import EVERY, N_PARTITIONS, assert_marks, some_rows
from hosts import HostCrew

from benchmarks import namespaces
from benchmarks.links import Hosts, Wire
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions

WHY_NOT = namespaces.why_not()
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "hosts can be made"),
]

SIZE = 3
#: Seconds. A partition of 5 s may be felt for 10: TCP's pauses double; a busy machine adds to that.
LEASE = 60.0
#: The scheduler's where a host is to be given up.
SHORT = 9.0
MAX_CLOCKS = 100_000


@pytest.fixture(scope="module")
def crew():
    with HostCrew(SIZE, LEASE) as started:
        yield started


@pytest.fixture
def impatient():
    """A scheduler that gives up soon."""
    with dask.config.set({"petuum.recovery.lease": SHORT}):
        yield


class Strike:
    """A monitor that strikes once a checkpoint is there, and ends the fit when all is over.

    The mutable state is the epochs that there were, and the clock of the strike.
    """

    def __init__(self, crew, strike, is_over):
        self._crew, self._strike, self._is_over = crew, strike, is_over
        self.epochs = {}
        self._at = None

    def __call__(self, record):
        clock, board = int(record["clock"]), self._crew.board()
        if board is None or board.ended:
            return False
        self.epochs.setdefault(board.run_id, list(board.addresses))
        if self._at is None:
            if board.saved_clock > 0:
                self._at = clock
                self._strike(board.addresses[1])
            return False
        return clock > self._at + 3 * EVERY and self._is_over(self)


def fit(crew, strike, is_over, consistency="bsp"):
    """Fit under a fault; the workers of each epoch, by run."""
    crew.refill()
    monitor = Strike(crew, strike, is_over)
    bound = 2 if consistency == "essp" else 0
    options = RunOptions(
        MAX_CLOCKS,
        consistency=consistency,
        staleness=bound,
        monitor=monitor,
        save_clocks=EVERY,
    )
    with ClusterJob(crew.client, some_rows()) as job:
        result = job.run(Fingerprints(N_PARTITIONS, bound), options)
    assert_marks(result, bound)
    crew.assert_free()
    return monitor.epochs


def goes_on(monitor):
    return len(monitor.epochs) > 1


def is_whole_again(monitor):
    return goes_on(monitor) and len(list(monitor.epochs.values())[-1]) == SIZE


def test_a_partition_of_5_seconds_costs_nobody(crew):
    epochs = fit(
        crew,
        lambda address: crew.part(address, 5.0),
        lambda monitor: not crew.n_parted,
        "essp",
    )
    assert len(epochs) == 1


@pytest.mark.usefixtures("impatient")
def test_a_host_that_comes_back_from_a_long_partition_does_no_harm(crew):
    """The fit goes on without it; its worker ends, and the next one at its address is used."""
    parted = []

    def part(address):
        parted.append(address)
        crew.part(address, None)

    def is_over(monitor):
        if goes_on(monitor):
            crew.mend(parted[0])
        return is_whole_again(monitor)

    epochs = fit(crew, part, is_over)
    first, second, *_, last = epochs.values()
    assert sorted(second) == sorted(set(first) - set(parted))
    assert parted[0] in last


@pytest.mark.usefixtures("impatient")
def test_a_host_that_vanishes_is_gone_on_without(crew):
    epochs = fit(crew, crew.vanish, goes_on)
    assert [len(addresses) for addresses in epochs.values()] == [SIZE, SIZE - 1]
    numbers = [run_id.rpartition(".")[2] for run_id in epochs]
    assert numbers == ["0", "1"], "none began with a worker that was out of reach"


OWNER = """
import sys
from benchmarks import namespaces
from benchmarks.links import Hosts, Wire
hosts = Hosts(2, Wire()).__enter__()
hosts.start(1, ["sleep", "1000"])
print(*hosts.names, namespaces.make_folder(), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(capfd):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    *names, folder = owner.stdout.readline().split()
    assert len(names) == 2
    assert not set(names) & set(namespaces.sweep()), "its owner lives"
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()  # what it has started has it, too, and lives
    assert all((namespaces.FOLDER / name).exists() for name in names)
    assert os.path.isdir(folder)
    with Hosts(1, Wire()) as hosts:
        assert not any((namespaces.FOLDER / name).exists() for name in names)
        assert all((namespaces.FOLDER / name).exists() for name in hosts.names)
    assert not any((namespaces.FOLDER / name).exists() for name in hosts.names)
    assert not os.path.exists(folder)
    assert names[0] in capfd.readouterr().err
