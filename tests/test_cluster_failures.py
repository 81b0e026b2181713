"""What goes wrong in a rank, a worker or the client ends the run with its cause, never with a hang.

After each of them the same cluster does the next run, and holds nothing of the last one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE, wait_until
from programs import LeastSquares, make_data

import dask_petuum as petuum
from dask_petuum.data import open_dataset
from dask_petuum.exceptions import (
    RankError,
    RankLostError,
    RunError,
    RunInterruptedError,
)
from dask_petuum.runtime import adapter
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.cluster_run import ClusterRun
from dask_petuum.runtime.job import RunOptions

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def mortals():
    """Two workers that tests may kill; their nannies start others."""
    import dask
    from distributed import LocalCluster

    # LocalCluster closes the nanny of a worker that is missing that long after it was killed
    # once: of one, too, that came back and has been killed again.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture
def client(mortals):
    """A client of two living workers; afterwards the cluster must be free and do a run."""
    from distributed import Client

    with Client(mortals, set_as_default=False) as connected:
        connected.wait_for_workers(2, timeout=PATIENCE)
        yield connected
        connected.wait_for_workers(2, timeout=PATIENCE)
        assert_next_run_works(connected)
        assert_free(connected)


def assert_next_run_works(client):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1), dtype="int64")
        ps.run(count_to_three, [0, 1])
        assert ps.table("w").to_numpy().ravel().tolist() == [6, 6]


def count_to_three(ctx, number):
    view = ctx.table("w").view()
    for _ in range(3):
        view.inc([[1], [1]])
        ctx.clock()


def runs_of(client):
    return client.sync(adapter.call_scheduler, client, "petuum_status")["runs"]


def runs_held(dask_worker):
    return sorted(dask_worker.plugins["petuum"]._runs)


def assert_free(client):
    """Nothing of any run is held; ranks that compute get to their next clock first."""

    def is_free():
        held = [run for runs in client.run(runs_held).values() for run in runs]
        return not runs_of(client) and not held and not client.run_on_scheduler(rank_tasks)

    wait_until(is_free, "a cluster that holds nothing of any run")


def rank_tasks(dask_scheduler):
    return [key for key in dask_scheduler.tasks if str(key).startswith("petuum-rank")]


def kill_worker(client, index=0):
    """Kill a worker's process and wait until the scheduler knows."""
    address = sorted(client.scheduler_info(n_workers=-1)["workers"])[index]
    pid = client.run(os.getpid, workers=[address])[address]
    os.kill(pid, signal.SIGKILL)
    while address in client.scheduler_info(n_workers=-1)["workers"]:
        pass
    return address


class Mine(Exception):
    """An error of a user's function."""


def fail_in_rank_one(ctx, number):
    view = ctx.table("w").view()
    for clock in range(1_000_000):
        if ctx.rank == 1 and clock == 5:
            raise Mine("five is enough")
        view.inc([[1], [1]])
        ctx.clock()


@pytest.mark.parametrize("consistency", ["bsp", "ssp", "essp", "asp"])
def test_an_error_in_a_rank_reaches_the_caller(client, consistency):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1), dtype="int64", init=4)
        with pytest.raises(RankError, match=r"rank 1 raised .*Mine: five is enough") as caught:
            ps.run(fail_in_rank_one, [0, 1], consistency=consistency)
        assert caught.value.rank == 1
        assert "in fail_in_rank_one" in str(caught.value), "the traceback is in the text"
        assert isinstance(caught.value.__cause__, Mine)
        assert ps.table("w").to_numpy().ravel().tolist() == [4, 4], "as before the run"


def wait_for_ever_at_a_barrier(ctx, number):
    if ctx.rank == 0:
        raise Mine("never comes")
    ctx.barrier()


def test_an_error_before_the_first_clock_ends_the_others(client):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1))
        with pytest.raises(RankError, match="never comes"):
            ps.run(wait_for_ever_at_a_barrier, [0, 1])


class Unloadable:
    """Pickles, but cannot be loaded: as a function whose module a worker lacks."""

    def __call__(self, ctx, number):
        return None

    def __reduce__(self):
        return _refuse_to_load, ()


def _refuse_to_load():
    raise ModuleNotFoundError("No module named 'mine'")


def test_a_function_that_workers_cannot_load_is_an_error_not_a_hang(client):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1))
        with pytest.raises(RankError, match="No module named 'mine'") as caught:
            ps.run(Unloadable(), [0, 1])
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_function_of_a_module_that_workers_lack_leaves_them_alive(client, monkeypatch):
    module = types.ModuleType("not_on_workers")
    exec("def train(ctx, partition): return 1", module.__dict__)
    monkeypatch.setitem(sys.modules, "not_on_workers", module)
    workers = set(client.scheduler_info(n_workers=-1)["workers"])
    with (
        petuum.connect(client) as ps,
        pytest.raises(RankError, match="No module named 'not_on_workers'"),
    ):
        ps.run(module.train)
    with (
        ClusterJob(client, open_dataset(*make_data())) as job,
        pytest.raises(ModuleNotFoundError, match="not_on_workers"),
    ):
        job.map(module.train)
    assert set(client.scheduler_info(n_workers=-1)["workers"]) == workers


def test_a_rank_that_fails_before_it_begins_is_an_error(client, monkeypatch):
    """Dask's own failure to load a task; as where a worker's dask_petuum is broken."""
    monkeypatch.setattr("dask_petuum.runtime.cluster_run.Sent", lambda function: function)
    with petuum.connect(client) as ps, pytest.raises(RankError, match="could not begin"):
        ps.run(Unloadable(), [0, 1])


def interrupt_oneself(ctx, number):
    if ctx.rank == 1:
        raise RunInterruptedError("by hand")
    ctx.barrier()


def test_a_rank_that_ends_itself_ends_the_run(client):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1))
        with pytest.raises(RunError, match="by hand"):
            ps.run(interrupt_oneself, [0, 1])


def return_what_cannot_be_sent(ctx, number):
    return threading.Lock()


def test_a_result_that_cannot_be_sent_is_an_error(client):
    with petuum.connect(client) as ps, pytest.raises(Exception, match=r"pickle|serialize"):
        ps.run(return_what_cannot_be_sent, [0, 1])


def die_in_clock_five(ctx, number):
    view = ctx.table("w").view()
    for clock in range(1_000_000):
        if ctx.rank == 1 and clock == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        view.inc([[1], [1]])
        ctx.clock()


@pytest.mark.parametrize("consistency", ["bsp", "essp", "asp"])
def test_a_lost_worker_ends_the_run_with_its_name(client, consistency):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1), dtype="int64")
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        with pytest.raises(RankLostError, match=f"rank 1 .*{workers[1]}"):
            ps.run(die_in_clock_five, [0, 1], consistency=consistency)


OPTIONS = ("--no-nanny", "--nthreads", "1", "--no-dashboard")


def lease_worker(address):
    """A worker process without a nanny."""
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, *OPTIONS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )


def test_a_lost_worker_without_a_nanny():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        processes = [lease_worker(cluster.scheduler_address) for _ in range(2)]
        try:
            client.wait_for_workers(2, timeout=PATIENCE)
            with petuum.connect(client) as ps:
                ps.create_table("w", shape=(2, 1), dtype="int64")
                with pytest.raises(RankLostError, match="rank 1 "):
                    ps.run(die_in_clock_five, [0, 1])
                assert ps.run(numbers, [5]) == [5], "on the worker that is left"
        finally:
            for process in processes:
                process.kill()
                process.wait()


def numbers(ctx, number):
    return number


def test_a_worker_that_dies_between_data_and_run(client):
    X, y = make_data()
    with ClusterJob(client, open_dataset(X, y)) as job:
        kill_worker(client)
        assert job.run(LeastSquares(5, 400), RunOptions(max_clocks=3)).n_clocks == 3
        kill_worker(client)
        assert sum(job.map(n_rows_of)) == 400


def n_rows_of(partition):
    return partition.n_rows


def test_a_worker_that_dies_before_its_rank_is_there(client, monkeypatch):
    submit = ClusterRun._submit

    def submit_late(self, function, pieces):
        kill_worker(client)
        return submit(self, function, pieces)

    monkeypatch.setattr(ClusterRun, "_submit", submit_late)
    with petuum.connect(client) as ps, pytest.raises(RankLostError, match="rank 0 "):
        ps.run(numbers)


def test_a_worker_that_dies_while_its_data_come(client):
    lazy = da.from_array(np.ones((4, 2)), chunks=2).map_blocks(die_once, meta=np.zeros((0, 0)))
    with dask.config.set({"petuum.recovery.attempts": 0}), pytest.raises(RankLostError) as kept:
        ClusterJob(client, open_dataset(lazy))
    while client.run_on_scheduler(n_tasks):
        """The error keeps its frames; what they hold must not be computed again."""
    assert kept.tb is not None


def n_tasks(dask_scheduler):
    return len(dask_scheduler.tasks)


def die_once(block):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_after_the_last_clock(client, monkeypatch):
    follow = ClusterRun._follow

    def follow_and_kill(self, *arguments):
        follow(self, *arguments)
        kill_worker(client)

    monkeypatch.setattr(ClusterRun, "_follow", follow_and_kill)
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1), dtype="int64")
        with pytest.raises(RankLostError, match="rank 0 with tcp"):
            ps.run(count_to_three, [0, 1])


def test_tables_that_were_lost_say_so(client):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1), dtype="int64")
        ps.run(count_to_three, [0, 1])
        kill_worker(client)
        with pytest.raises(RankLostError):
            ps.table("w").to_numpy()
        with pytest.raises(RankLostError):
            ps.run(count_to_three)


def forget_runs(dask_worker):
    dask_worker.plugins["petuum"]._runs.clear()


def test_a_worker_that_came_back_without_its_tables_says_so(client):
    """As one that was started again at the same address."""
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1), dtype="int64")
        ps.run(count_to_three, [0, 1])
        client.run(forget_runs)
        with pytest.raises(RunError, match="values of the last run are gone"):
            ps.run(count_to_three, [0, 1])


def test_a_worker_that_retires_leaves_the_run_to_the_others():
    from distributed import Client, LocalCluster

    started = threading.Event()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        enough = threading.Event()
        running = pool.submit(run_for_ever, client, started, enough)
        assert started.wait(PATIENCE)
        client.retire_workers(sorted(client.scheduler_info(n_workers=-1)["workers"])[:1])
        enough.set()
        assert running.result(PATIENCE).stopped_by == "callback"
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1


def wait_until_started(running, started):
    """Wait until a run that was submitted has begun; raise what ended it before."""
    while not started.wait(0.1):
        if running.done():
            raise AssertionError(f"the run ended with {running.result()!r} before it began")


def run_for_ever(client, started, enough=None):
    """Run a program until something ends it."""
    X, y = make_data()
    lazy = da.from_array(X, chunks=(200, 5)), da.from_array(y, chunks=200)

    def monitor(record):
        started.set()
        return enough is not None and enough.is_set()

    options = RunOptions(max_clocks=1_000_000, monitor=monitor)
    with ClusterJob(client, open_dataset(*lazy)) as job:
        return job.run(LeastSquares(5, 400), options)


def test_a_restart_of_the_workers_ends_the_run(client):
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_for_ever, client, started)
        assert started.wait(PATIENCE)
        client.restart()
        with pytest.raises(RunError):
            running.result(PATIENCE)


def test_a_client_that_closes_frees_the_cluster(client, mortals):
    from distributed import Client

    started = threading.Event()
    with ThreadPoolExecutor(1) as pool, Client(mortals, set_as_default=False) as other:
        running = pool.submit(run_for_ever, other, started)
        assert started.wait(PATIENCE)
        assert len(runs_of(client)) == 1
        other.close()
        with pytest.raises(Exception):  # noqa: B017 - whatever a closed client raises
            running.result(PATIENCE)


def test_a_client_that_is_killed_frees_the_cluster(client, mortals):
    script = f"""
import sys; sys.path[:0] = {sys.path!r}
from distributed import Client
from test_cluster_failures import run_for_ever
class Started:
    def set(self): print("started", flush=True)
if __name__ == "__main__":
    run_for_ever(Client({mortals.scheduler_address!r}), Started())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "started\n"
        process.kill()


def test_a_task_that_is_cancelled_ends_the_run(client):
    from distributed import Future

    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_for_ever, client, started)
        assert started.wait(PATIENCE)
        (run_id,) = runs_of(client)
        Future(f"petuum-rank-{run_id}-0", client).cancel(force=True)
        with pytest.raises(RunError):
            running.result(PATIENCE)


def die_first(block, marker):
    """Die where nobody has died yet."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return block
    os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.fixture(scope="module")
def lone():
    """A client of a single worker, whose nanny starts another: for a moment there is none."""
    from distributed import Client, LocalCluster

    with (
        dask.config.set(
            {
                "distributed.deploy.lost-worker-timeout": "1 hour",
                "petuum.recovery.wait": "60s",  # a busy machine takes long to start another
            }
        ),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def test_the_only_worker_is_waited_for_when_it_dies_while_its_data_come(lone, tmp_path):
    rows = da.from_array(np.ones((4, 2)), chunks=2)
    lazy = rows.map_blocks(die_first, marker=str(tmp_path / "died"), meta=np.zeros((0, 0)))
    with ClusterJob(lone, open_dataset(lazy)) as job:
        assert [size.n_rows for size in job.sizes] == [2, 2]


def test_the_only_worker_is_waited_for_when_it_dies_while_partitions_are_mapped(lone):
    with ClusterJob(lone, open_dataset(np.ones((4, 2)))) as job:
        kill_worker(lone)
        assert sum(job.map(n_rows_of)) == 4
