"""One call arms a cluster, with workers that join later; ``disarm`` leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import PATIENCE, wait_until

import dask_petuum as petuum
from dask_petuum.exceptions import RunError, VersionMismatchError
from dask_petuum.runtime.arm import arm, cluster_versions
from dask_petuum.runtime.version import version

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def spare():
    """A cluster of its own, since it is armed and disarmed."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(spare):
    from distributed import Client

    with Client(spare, set_as_default=False) as connected:
        connected.wait_for_workers(2, timeout=PATIENCE)
        yield connected
        petuum.disarm(connected)


def rank_of(ctx, partition):
    return ctx.rank


def worker_snapshot(dask_worker):
    return {
        "handlers": sorted(dask_worker.handlers),
        "stream handlers": sorted(dask_worker.stream_handlers),
        "plugins": sorted(dask_worker.plugins),
        "SIGINT": str(signal.getsignal(signal.SIGINT)).split(" at ")[0],
        "threads": sorted({t.name for t in threading.enumerate() if "petuum" in t.name}),
    }


def scheduler_snapshot(dask_scheduler):
    return {
        "handlers": sorted(dask_scheduler.handlers),
        "stream handlers": sorted(dask_scheduler.stream_handlers),
        "plugins": sorted(dask_scheduler.plugins),
        "worker plugins": sorted(dask_scheduler.worker_plugins),
        "extensions": sorted(dask_scheduler.extensions),
    }


def snapshot(client):
    return client.run(worker_snapshot), client.run_on_scheduler(scheduler_snapshot)


def bare(client):
    """The same of a cluster that is not armed; threads of what there was may end a moment later."""
    wait_until(
        lambda: not any(found["threads"] for found in client.run(worker_snapshot).values()),
        "end of threads",
    )
    return snapshot(client)


def test_disarming_leaves_all_as_it_was(client):
    before = bare(client)
    for _ in range(2):
        with petuum.connect(client) as ps:
            ps.create_table("w", shape=(2, 2))
            assert ps.run(rank_of) == [0, 1]
        armed = snapshot(client)
        assert "petuum" in armed[1]["plugins"]
        assert all("petuum_push" in worker["handlers"] for worker in armed[0].values())
        petuum.disarm(client)
        assert bare(client) == before
        petuum.disarm(client)


def test_disarming_ends_the_runs_under_way(client):
    from concurrent.futures import ThreadPoolExecutor

    from test_cluster_failures import run_for_ever

    before = snapshot(client)
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_for_ever, client, started)
        assert started.wait(PATIENCE)
        petuum.disarm(client)
        with pytest.raises(RunError):
            running.result(PATIENCE)
    assert snapshot(client)[1] == before[1]
    with petuum.connect(client) as ps:
        assert ps.run(rank_of) == [0, 1]


def identity_of_plugin(dask_worker):
    return id(dask_worker.plugins["petuum"])


def test_arming_twice_keeps_the_plugins(client):
    arm(client)
    first = client.run(identity_of_plugin)
    assert arm(client) == dict.fromkeys(first, version())
    assert client.run(identity_of_plugin) == first


def test_two_clients_arm_the_same_cluster(client, spare):
    from concurrent.futures import ThreadPoolExecutor

    from distributed import Client

    with Client(spare, set_as_default=False) as other, ThreadPoolExecutor(2) as pool:
        armed = list(pool.map(arm, [client, other]))
    assert armed[0] == armed[1]
    assert len(armed[0]) == 2


def test_half_a_disarm_can_be_finished(client):
    before = bare(client)
    arm(client)
    client.unregister_worker_plugin("petuum")
    petuum.disarm(client)
    assert bare(client) == before
    with petuum.connect(client) as ps:
        assert ps.run(rank_of) == [0, 1]


def test_workers_that_join_later_take_part(client, spare):
    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(5, 1), dtype="int64")
        assert ps.run(rank_of) == [0, 1]
        spare.scale(3)
        client.wait_for_workers(3, timeout=PATIENCE)
        assert ps.run(rank_of) == [0, 1, 2]
    spare.scale(2)
    while len(client.scheduler_info(n_workers=-1)["workers"]) > 2:
        pass


def test_disarm_needs_a_client():
    with pytest.raises(ValueError, match="no active Dask client"):
        petuum.disarm()


def test_an_empty_cluster_is_named():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(RunError, match="no workers"),
    ):
        petuum.connect(client)


PRETEND = """
from importlib import metadata

real = metadata.version


def version(name):
    if name == "dask_petuum":
        {what}
    return real(name)


metadata.version = version
"""


def process(kind, *arguments):
    command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("return '0.0.7'", "has dask_petuum 0.0.7"),
        ("raise metadata.PackageNotFoundError(name)", "has no dask_petuum"),
    ],
    ids=["other version", "missing"],
)
def test_a_worker_that_differs_is_named(client, spare, tmp_path, what, text):
    arm(client)
    preload = tmp_path / "pretend.py"
    preload.write_text(PRETEND.format(what=what))
    options = ("--no-nanny", "--no-dashboard", "--preload", str(preload), "--name", "old")
    old = process("worker", spare.scheduler_address, *options)
    try:
        client.wait_for_workers(3, timeout=PATIENCE)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        (address,) = [a for a, info in workers.items() if info["name"] == "old"]
        assert set(cluster_versions(client).values()) != {version()}
        with pytest.raises(VersionMismatchError, match=f"{address} {text}"):
            petuum.connect(client)
    finally:
        old.kill()
        old.wait()
    while len(client.scheduler_info(n_workers=-1)["workers"]) > 2:
        pass
    with petuum.connect(client) as ps:
        assert ps.run(rank_of) == [0, 1]


@pytest.mark.slow
def test_a_scheduler_that_lacks_the_package_is_named(tmp_path):
    from distributed import Client

    preload, address = tmp_path / "pretend.py", tmp_path / "scheduler.json"
    preload.write_text(PRETEND.format(what="raise metadata.PackageNotFoundError(name)"))
    options = ("--port", "0", "--no-dashboard", "--preload", str(preload))
    processes = [process("scheduler", *options, "--scheduler-file", str(address))]
    try:
        processes.append(process("worker", "--scheduler-file", str(address), "--no-dashboard"))
        with Client(scheduler_file=str(address), set_as_default=False, timeout=PATIENCE) as client:
            client.wait_for_workers(1, timeout=PATIENCE)
            with pytest.raises(VersionMismatchError, match="scheduler has no dask_petuum"):
                petuum.connect(client)
            assert "petuum" not in client.run_on_scheduler(scheduler_snapshot)["plugins"]
    finally:
        for started in reversed(processes):
            started.terminate()
            started.wait(PATIENCE)


def test_a_client_that_is_asynchronous_is_refused(spare):
    from distributed import Client

    async def fit():
        async with Client(spare.scheduler_address, asynchronous=True, set_as_default=False) as one:
            model = petuum.KMeans(2)
            model.client = one
            model.fit(np.ones((4, 2)))

    with pytest.raises(ValueError, match=r"is asynchronous.*to_thread"):
        asyncio.run(fit())
