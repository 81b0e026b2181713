"""A fit goes on after losses, and its result is that of an undisturbed one.

Real worker processes that are killed where the test says, by clock. In BSP a fit that lost ranks
ends with the very numbers of one that did not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE, wait_until
from programs import LeastSquares, make_data

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.data import open_dataset
from dask_petuum.exceptions import CheckpointError, RankLostError
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions

pytestmark = pytest.mark.timeout(400)

N_PARTITIONS = 6
#: Clocks between two checkpoints.
EVERY = 5
#: Far more clocks than a test takes: a fit ends when what it waits for has been seen.
MAX_CLOCKS = 20_000


@pytest.fixture(scope="module")
def mortals():
    """Three workers that tests may kill; their nannies start others."""
    from distributed import LocalCluster

    with (
        dask.config.set(
            {
                "distributed.deploy.lost-worker-timeout": "1 hour",
                "distributed.scheduler.worker-ttl": "1 hour",  # who is silent is ours to give up
                "petuum.recovery.wait": "60s",  # they come back, on a busy machine too
            }
        ),
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture
def client(mortals):
    """A client of three living workers; afterwards they must hold nothing."""
    from distributed import Client

    with Client(mortals, set_as_default=False) as connected:
        connected.wait_for_workers(3, timeout=PATIENCE)
        yield connected
        connected.wait_for_workers(3, timeout=PATIENCE)
        wait_until(
            lambda: set(connected.run(n_held, on_error="return").values()) <= {0},
            "workers that hold nothing",
        )


def n_held(dask_worker):
    plugin = dask_worker.plugins.get("petuum")
    return 0 if plugin is None else len(plugin.kept.vault.keys) + len(plugin._runs)


def data():
    X, y = make_data()
    chunk = -(-len(X) // N_PARTITIONS)
    return open_dataset(da.from_array(X, chunks=(chunk, 5)), da.from_array(y, chunks=chunk))


def assert_same(result, dataset=None):
    """As in an undisturbed run: to the bit, but for the order in which floats are summed."""
    with LocalJob(data() if dataset is None else dataset, dtype="float64") as job:
        calm = job.run(LeastSquares(5, 400), RunOptions(result.n_clocks))
    assert [record["clock"] for record in result.history] == list(range(1, result.n_clocks + 1))
    np.testing.assert_array_equal(result.tables["seen"], calm.tables["seen"])
    np.testing.assert_allclose(result.tables["w"], calm.tables["w"], atol=1e-12)
    if dataset is None:
        for found, expected in zip(result.outputs, calm.outputs, strict=True):
            np.testing.assert_array_equal(found["draws"], expected["draws"])
            np.testing.assert_array_equal(found["where"], expected["where"])


def kill(*addresses: str) -> None:
    for address in addresses:
        os.kill(PIDS[address], signal.SIGKILL)


#: Process of each worker, filled by `at`.
PIDS: dict[str, int] = {}


def at(client, *events: tuple[int, Callable[[list[str]], None]], saves: bool = True):
    """A monitor that calls functions of the ranks' workers, each once; then it ends the fit.

    A function is called from a clock on, when the epoch has a checkpoint (``saves``), and one in
    each epoch: records of several clocks may come at once, after whom they tell of is dead. The
    fit ends with the first record of an epoch behind the last one. So nothing depends on how far
    the ranks have come when their records are heard.
    """
    left, struck = list(events), set()

    def monitor(record):
        run_id, ranks, saved = client.run_on_scheduler(newest_run)
        if run_id in struck:
            return False
        if left and record["clock"] >= left[0][0] and (saved > 0 or not saves):
            struck.add(run_id)
            PIDS.update(client.run(os.getpid))
            left.pop(0)[1](ranks)
            return False
        return not left

    return monitor


def newest_run(dask_scheduler):
    board = list(dask_scheduler.plugins["petuum"]._boards.values())[-1]
    return board.run_id, list(board.addresses), board.saved_clock


def run(client, monitor=None, place=None, dataset=None, **options):
    rows = data() if dataset is None else dataset
    options = {"max_clocks": MAX_CLOCKS, "monitor": monitor, "save_clocks": EVERY, **options}
    with ClusterJob(client, rows, dtype="float64", place=place) as job:
        return job.run(LeastSquares(5, 400), RunOptions(**options))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_is_killed_is_replaced(client, rank):
    assert_same(run(client, at(client, (12, lambda ranks: kill(ranks[rank])))))


@pytest.mark.parametrize("several", [False, True])
def test_data_that_the_client_sent_are_sent_again(client, several):
    """Dask cannot compute them again: they are lost with the workers that had them."""
    in_memory = open_dataset(*make_data())
    events = [(8, lambda ranks: kill(ranks[0]))]
    if several:
        events += [(16, lambda ranks: kill(ranks[1])), (24, lambda ranks: kill(ranks[0]))]
    result = run(client, at(client, *events), dataset=in_memory)
    assert len(result.outputs) == 3, "a partition for each worker"
    assert_same(result, in_memory)


def test_the_history_s_seconds_count_what_a_loss_takes(client):
    told, back = [], []

    def strike(ranks):
        kill(ranks[1])
        wait_until(lambda: ranks[1] not in client.nthreads(), "loss")
        client.wait_for_workers(3, timeout=PATIENCE)
        back.append(time.perf_counter())

    event = at(client, (12, strike))

    def monitor(record):
        told.append(time.perf_counter())
        return event(record)

    seconds = [record["seconds"] for record in run(client, monitor).history]
    assert seconds == sorted(seconds)
    assert seconds[-1] > back[0] - told[0], "the last one is of the epoch that began after that"


def test_losses_one_after_the_other(client):
    first = [(clock, lambda ranks: kill(ranks[0])) for clock in (8, 16, 24)]
    assert_same(run(client, at(client, *first)))


def test_a_loss_before_the_first_checkpoint_begins_again(client, caplog):
    event = at(client, (1, lambda ranks: kill(ranks[1])), saves=False)
    assert_same(run(client, event, save_clocks=None))
    assert "the fit goes on from its start" in caplog.text


def test_a_loss_when_all_ranks_are_done_is_survived(client):
    """Ranks do not wait for who is told of their clocks; what they end with is on workers still."""
    struck = []

    def monitor(record):
        if record["clock"] == 12:
            wait_until(lambda: client.run_on_scheduler(has_ended), "end of the ranks")
            PIDS.update(client.run(os.getpid))
            kill(client.run_on_scheduler(newest_run)[1][1])
            struck.append(record["clock"])

    result = run(client, monitor, max_clocks=30)
    assert struck == [12]
    assert result.n_clocks == 30
    assert_same(result)


def has_ended(dask_scheduler):
    return list(dask_scheduler.plugins["petuum"]._boards.values())[-1].ended


@pytest.mark.parametrize("consistency", ["ssp", "essp", "asp"])
def test_recovery_under_bounded_staleness(client, consistency):
    """The cut holds exactly the clocks before it: counts of rows are right to the bit."""
    staleness = 0 if consistency == "asp" else 2
    event = at(client, (12, lambda ranks: kill(ranks[1])))
    result = run(client, event, consistency=consistency, staleness=staleness)
    # where there is no bound, ranks end apart
    clocks = np.array([int(output["clocks"][0]) for output in result.outputs])
    n_rows = np.array([int(output["where"][2]) for output in result.outputs])
    assert clocks.min() == result.n_clocks
    assert consistency == "asp" or clocks.max() == result.n_clocks
    np.testing.assert_array_equal(result.tables["seen"], np.sum(n_rows * (clocks + 1)))


def test_a_part_that_is_lost_with_its_copy_is_an_error_that_names_both(client):
    """Neighbours in the ring, and a checkpoint lies behind."""
    with pytest.raises(RankLostError, match=r"lost with the workers that kept .* checkpoint=URL"):
        run(client, at(client, (14, lambda ranks: kill(ranks[0], ranks[1]))))


def test_with_files_two_losses_at_once_are_survived(client, tmp_path):
    place = Place(str(tmp_path))
    assert_same(run(client, at(client, (14, lambda ranks: kill(ranks[0], ranks[1]))), place))
    assert list(tmp_path.rglob("*.npz")) == []


def test_with_files_the_loss_of_all_workers_is_survived(client, tmp_path):
    """Whoever is there again reads the files, and computes the data again."""
    place = Place(str(tmp_path))
    assert_same(run(client, at(client, (14, lambda ranks: kill(*ranks))), place))
    assert list(tmp_path.rglob("*.npz")) == []


def halt(pids):
    """Stop processes; returns when none of their threads runs any more."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    for thread in threads:
        while (thread / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            """It is in a system call."""


def test_a_damaged_file_is_passed_over_by_a_fit_that_lost_all_workers(client, tmp_path, caplog):
    folder, usable = f"{tmp_path}/run-0000", []

    def strike(ranks):
        wait_until(lambda: len(CheckpointFolder(folder).names()) > 1, "two checkpoints")
        pids = [PIDS[address] for address in ranks]
        halt(pids)  # from here on the files stay what they are
        found = [manifest.clock for manifest in CheckpointFolder(folder).usable(print)]
        usable.append(found[-1])
        for part in tmp_path.rglob("part-0000.npz"):
            if int(part.parent.name.split("-")[1]) > usable[0]:
                damage(part)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    result = run(client, at(client, (1, strike)), Place(str(tmp_path)))
    assert f"goes on from the checkpoint at clock {usable[0]}" in caplog.text
    assert_same(result)
    assert list(tmp_path.rglob("manifest.json")) == []


def damage(part):
    data = bytearray(part.read_bytes())
    if data:
        data[len(data) // 2] ^= 4
        part.write_bytes(bytes(data))


def test_without_files_the_loss_of_all_workers_says_what_was_lost(client):
    with pytest.raises(RankLostError, match=r"checkpoint at clock \d+ was lost .* 0 .*, 1 .*, 2 "):
        run(client, at(client, (14, lambda ranks: kill(*ranks))))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_part_that_cannot_be_saved_costs_that_checkpoint_only(client, rank):
    """Nobody waits for it, whoever it is that cannot; later ones are complete."""
    arm(client)
    address_of_rank: list[str] = []
    seen: list[int] = []

    def monitor(record):
        _, ranks, saved = client.run_on_scheduler(newest_run)
        if not address_of_rank:
            address_of_rank.append(ranks[rank])
            client.run(fail_once, workers=address_of_rank)
        elif client.run(n_failed, workers=address_of_rank) == {ranks[rank]: 1}:
            seen.append(saved)
        return len(set(seen)) > 2

    result = run(client, monitor)
    assert result.stopped_by == "callback", f"checkpoints after the failure: {set(seen)}"


def fail_once(dask_worker):
    kept = dask_worker.plugins["petuum"].kept
    copy, dask_worker.n_failed = kept.copy_to, 0

    def fail(*arguments):
        kept.copy_to = copy
        dask_worker.n_failed += 1
        raise OSError("there is no room")

    kept.copy_to = fail


def n_failed(dask_worker):
    return dask_worker.n_failed


def test_recovery_can_be_turned_off(client):
    with (
        dask.config.set({"petuum.recovery.attempts": 0}),
        pytest.raises(RankLostError, match="rank 1 of run"),
    ):
        run(client, at(client, (12, lambda ranks: kill(ranks[1]))))


@pytest.fixture
def stop(client):
    """Stops a worker's process, which is silent then; a scheduler that gives it up soon.

    A process that wakes up later finds that nobody knows it.
    """
    stopped: list[int] = []

    def stop_one(address):
        stopped.append(PIDS[address])
        os.kill(PIDS[address], signal.SIGSTOP)

    client.run_on_scheduler(set_lease, "6s")
    yield stop_one
    client.run_on_scheduler(set_lease, "60s")
    for pid in stopped:
        wake(pid)


def set_lease(text):
    dask.config.set({"petuum.recovery.lease": text})


def wake(pid):
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # its nanny has ended it


def test_a_worker_that_stops_answering_is_given_up(client, stop):
    assert_same(run(client, at(client, (12, lambda ranks: stop(ranks[1])))))


def kill_and_stop(stop):
    """Kill a rank, and stop the one that keeps its copy: who is there to ask is not known yet."""

    def strike(ranks):
        stop(ranks[2])
        kill(ranks[1])

    return 14, strike


def test_a_part_whose_copy_is_silent_is_an_error_that_names_both(client, stop):
    with pytest.raises(RankLostError, match=r"lost with the workers that kept .* checkpoint=URL"):
        run(client, at(client, kill_and_stop(stop)))


def test_with_files_a_part_whose_copy_is_silent_is_read_from_there(client, stop, tmp_path):
    assert_same(run(client, at(client, kill_and_stop(stop)), Place(str(tmp_path))))


def test_data_that_is_placed_does_not_wait_for_a_silent_worker(client, stop):
    """No run has begun yet; Dask would wait for five minutes, and here for an hour."""
    arm(client)
    pids = client.run(os.getpid)
    PIDS.update(pids)
    silent = min(pids)
    stop(silent)
    assert_same(run(client, at(client)))


def newest_manifest(folder):
    """Clock of the newest checkpoint in files; 0: there is none."""
    names = CheckpointFolder(f"{folder}/run-0000").names()
    return int(names[0].split("-")[1]) if names else 0


def stop_in_files(folder, end):
    """A monitor that calls a function when there is a checkpoint in files."""

    def monitor(record):
        if newest_manifest(folder):
            end()

    return monitor


def fail():
    raise ZeroDivisionError


def go_on(client, folder):
    """Go on from the files, for some more clocks."""
    newest, told, resume = newest_manifest(folder), [], Place(None, str(folder))

    def monitor(record):
        told.append(record["clock"])
        return told[-1] > newest + EVERY

    assert newest > 0
    result = run(client, monitor, resume)
    assert resume.has_resumed
    assert told == list(range(1, result.n_clocks + 1))
    assert_same(result)
    assert list(folder.rglob("*.npz")) == []


def test_a_run_whose_caller_is_gone_goes_on_from_files(client, tmp_path):
    """The error of a callback ends the run as the caller's end does; its files stay."""
    with pytest.raises(ZeroDivisionError):
        run(client, stop_in_files(tmp_path, fail), Place(str(tmp_path)))
    go_on(client, tmp_path)


FIT = """
import os, signal, sys

sys.path[:0] = {path!r}
from distributed import Client
from test_recovery import Place, run, stop_in_files


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with Client({address!r}) as client:
        run(client, stop_in_files({folder!r}, die), Place({folder!r}))
"""


def test_a_fit_whose_client_was_killed_goes_on_elsewhere(client, mortals, tmp_path):
    """Kill -9 of the client's process; in BSP the end is that of an undisturbed fit."""
    script, folder = tmp_path / "fit.py", tmp_path / "checkpoints"
    address = mortals.scheduler_address
    script.write_text(FIT.format(path=sys.path, address=address, folder=str(folder)))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    go_on(client, folder)


def test_a_new_fit_does_not_begin_where_another_ones_checkpoints_are(client, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(client, stop_in_files(tmp_path, fail), Place(str(tmp_path)))
    with pytest.raises(CheckpointError, match="go on from them with"):
        run(client, None, Place(str(tmp_path)))
