"""A real Ctrl-C to a real process that fits: the fit ends, keeps what it learnt, frees the cluster.

Also the other way round: a scheduler that is killed ends the fit of the process that waits for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE

pytestmark = pytest.mark.timeout(400)

FIT = """
import signal
import sys
import threading

# a shell's background job starts with SIGINT ignored, and hands that on
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = {path!r}
from distributed import Client, LocalCluster
from programs import LeastSquaresRegressor, make_data
from test_cluster_failures import assert_free, assert_next_run_works

import dask.array as da


class Talkative(LeastSquaresRegressor):
    def _print(self, record):
        if record["clock"] == 3:
            print("fitting", flush=True)
            while self.scheduler == "local" and not is_interrupted():
                pause.wait(0.01)  # clocks here are so short that all might be over
        return False


pause = threading.Event()


def is_interrupted():
    return signal.getsignal(signal.SIGINT).__self__.requested  # of the fit's Interruption


def fit(model, client):
    X, y = (da.from_array(part, chunks=(200, *part.shape[1:])) for part in make_data())
    try:
        model.fit(X, y)
    except KeyboardInterrupt as error:
        print("interrupted:", error, flush=True)
    print("clocks", len(model.history_), model.n_iter_, model.coef_.shape == (5,))
    if client is not None:
        assert_next_run_works(client)
        assert_free(client)
        print("free", flush=True)


if __name__ == "__main__":
    model = Talkative(max_iter={max_iter}, scheduler={scheduler!r})
    if model.scheduler == "local":
        fit(model, None)
    else:
        with LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster, Client(cluster) as client:
            fit(model, client)
    print("done", flush=True)
"""


def start(tmp_path, scheduler, max_iter=200_000):
    """Start a process in its own group, as a shell does; return it when it fits."""
    script = tmp_path / "fit.py"
    script.write_text(FIT.format(path=sys.path, scheduler=scheduler, max_iter=max_iter))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    line = process.stdout.readline()
    if line != "fitting\n":
        process.kill()
        raise AssertionError(f"{line!r}: {process.stderr.read()}")
    return process


@pytest.mark.parametrize("scheduler", ["local", None], ids=["local", "cluster"])
def test_one_interrupt_ends_the_fit_and_keeps_what_was_learnt(tmp_path, scheduler):
    with start(tmp_path, scheduler) as process:
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    lines = out.splitlines()
    assert lines, err
    assert lines[0].startswith("interrupted: fit was interrupted after "), err
    n_clocks = int(lines[0].split("after ")[1].split()[0])
    assert lines[1] == f"clocks {n_clocks} {n_clocks} True"
    assert 3 <= n_clocks < 200_000
    assert lines[2:] == (["done"] if scheduler == "local" else ["free", "done"])
    assert process.returncode == 0


PLAIN = """
import signal
import sys

# a shell's background job starts with SIGINT ignored, and hands that on
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = {path!r}
from distributed import Client
import dask_petuum as petuum


def train(ctx, partition):
    for clock in range(1_000_000):
        ctx.clock()
        if ctx.rank == 0 and clock == 3:
            open({started!r}, "w").close()


if __name__ == "__main__":
    client = Client({address!r})
    print("ready", flush=True)
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(2, 1))
        ps.run(train)
"""


def test_an_interrupt_of_a_plain_run_raises_at_once(tmp_path, client, cluster):
    from test_cluster_failures import assert_free, runs_of

    script, started = tmp_path / "plain.py", tmp_path / "started"
    address = cluster.scheduler_address
    script.write_text(PLAIN.format(path=sys.path, address=address, started=str(started)))
    process = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        while not started.exists():
            assert process.poll() is None
            runs_of_any(client, runs_of)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in err
    assert process.returncode != 0
    assert_free(client)


def runs_of_any(client, runs_of):
    """Ask what runs there are, where the cluster is armed."""
    from dask_petuum.runtime.arm import arm

    arm(client)
    return runs_of(client)


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_the_run(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    from distributed import Client
    from test_cluster_arming import process
    from test_cluster_failures import run_for_ever, wait_until_started

    started, address = Event(), tmp_path / "scheduler.json"
    file = ("--scheduler-file", str(address))
    scheduler = process("scheduler", "--port", "0", "--no-dashboard", *file)
    workers = [
        process("worker", "--no-dashboard", "--no-nanny", "--nthreads", "1", *file)
        for _ in range(2)
    ]
    try:
        client = Client(scheduler_file=str(address), set_as_default=False, timeout=PATIENCE)
        with client, ThreadPoolExecutor(1) as pool:
            client.wait_for_workers(2, timeout=PATIENCE)
            running = pool.submit(run_for_ever, client, started)
            wait_until_started(running, started)
            scheduler.kill()
            with pytest.raises(Exception) as caught:
                running.result(PATIENCE)
            assert not isinstance(caught.value, TimeoutError)
            client.close(timeout=1)
        for worker in workers:
            worker.wait(PATIENCE)
    finally:
        for one in (*workers, scheduler):
            one.kill()
            one.wait()
