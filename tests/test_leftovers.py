"""After many fits there is as much of us as after two: in the client, the scheduler, the workers.

Counted, not weighed: objects of our types, handlers, plugins, callbacks, tasks, futures, threads,
files, shared memory. Memory itself is left out: Dask keeps logs of what it sent, so what is counted
here may live in them; this cluster has none.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE
from distributed import Client, LocalCluster
from test_lda_rotation import corpus
from test_matrix_factorization_cluster import lazy

from dask_petuum import LDA
from dask_petuum.algorithms.lasso import Lasso
from dask_petuum.algorithms.matrix_factorization import MatrixFactorization
from dask_petuum.algorithms.softmax_regression import SoftmaxRegression
from dask_petuum.store.consistency import Consistency

N_FITS = 4
N_WORKERS = 2
#: Looks at the counts, 0.1 s apart, until there is no more than before.
N_LOOKS = 600
#: Threads of executors that Python and Dask keep: one more begins whenever all others are busy.
POOLED = ("asyncio_", "ThreadPoolExecutor-", "Dask-Offload")
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((240, 5))
LABELS = (ROWS[:, 0] > 0).astype(int)


def in_chunks(values):
    return da.from_array(values, chunks=(-(-len(values) // 4), *values.shape[1:]))


FITS = {
    "softmax": lambda: (SoftmaxRegression(max_iter=4, tol=0), in_chunks(ROWS), in_chunks(LABELS)),
    "given rows": lambda: (SoftmaxRegression(max_iter=4, tol=0), ROWS, LABELS),
    "lda": lambda: (LDA(3, max_iter=4, evaluate_every=0), in_chunks(corpus())),
    "lda by blocks": lambda: (
        LDA(3, max_iter=4, evaluate_every=0, parallelism="model"),
        in_chunks(corpus()),
    ),
    "lasso": lambda: (Lasso(alpha=0.1, max_iter=4), in_chunks(ROWS), in_chunks(ROWS[:, 1])),
    "mf": lambda: (MatrixFactorization(2, max_iter=4, tol=0), lazy(parts=(50,) * 4)),
}


@pytest.fixture(scope="module")
def quiet():
    """A cluster that keeps no logs of messages, transitions and computations.

    What other tests have left in this process is not looked at again and again: only what is made
    from here on is counted.
    """
    gc.collect()
    gc.freeze()
    with (
        dask.config.set(
            {
                "distributed.admin.low-level-log-length": 0,
                "distributed.diagnostics.computations.max-history": 1,
                "petuum.checkpoint.clocks": 2,
            }
        ),
        LocalCluster(
            n_workers=N_WORKERS,
            threads_per_worker=1,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(N_WORKERS, timeout=PATIENCE)
        yield client
    gc.unfreeze()


def objects():
    """How many of our objects there are, by type, classes and constants of modules included."""
    gc.collect()
    types = Counter(map(type, gc.get_objects()))
    ours = {cls: n for cls, n in types.items() if str(cls.__module__).startswith("dask_petuum.")}
    return Counter({f"{cls.__module__}.{cls.__qualname__}": n for cls, n in ours.items()})


def of_server(server):
    """What a scheduler or a worker has of handlers, plugins, callbacks and tasks."""
    plugin = server.plugins["petuum"]
    state = getattr(server, "state", server)
    return Counter(
        {
            "handlers": len(server.handlers),
            "stream handlers": len(server.stream_handlers),
            "plugins": len(server.plugins),
            "callbacks": len(server.periodic_callbacks),
            "tasks": len(state.tasks),
            "runs": len(plugin._runs if hasattr(plugin, "_runs") else plugin._boards),
        }
    )


def of_process():
    """Threads, open files and shared memory of this process."""
    files = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, by other threads
            files.append(os.readlink(f"/proc/self/fd/{number}"))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return Counter(
        {
            "threads": sum(not t.name.startswith(POOLED) for t in threading.enumerate()),
            "pipes": sum(name.startswith("pipe:") for name in files),
            "memory files": sum("memfd" in name or "/dev/shm" in name for name in files),
            "shared maps": sum("memfd" in line or "/dev/shm" in line for line in maps),
        }
    )


def on_worker(dask_worker):
    return objects() + of_server(dask_worker) + of_process()


def count(client):
    """Everything, by place."""
    workers = client.run(on_worker)
    scheduler = client.cluster.scheduler
    here = objects() + of_server(scheduler) + of_process()
    here["futures"] = len(client.futures)
    here["references to futures"] = len(client.refcount)
    here["stream handlers of the client"] = len(client._stream_handlers)
    return {"client and scheduler": here, **workers}


def growth(before, after):
    """What there is more of, by place; empty where nothing is."""
    grown = {place: after[place] - before[place] for place in before}
    return {place: dict(more) for place, more in grown.items() if more}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FITS)
def test_after_many_fits_there_is_as_much_as_after_two(quiet, name):
    def fit():
        model, *data = FITS[name]()
        model.client = quiet
        model.fit(*data)

    for _ in range(2):
        fit()
    before = settled(quiet)
    for _ in range(N_FITS):
        fit()
    assert grown(quiet, before) == {}


def settled(client):
    """The counts once they change no more."""
    last, found = None, count(client)
    for _ in range(N_LOOKS):
        if last == found:
            break
        client.sync(asyncio.sleep, 0.1)
        last, found = found, count(client)
    return found


def grown(client, before):
    """What there is more of, once there is nothing: some ends come late."""
    for _ in range(N_LOOKS):
        more = growth(before, count(client))
        if not more:
            break
        client.sync(asyncio.sleep, 0.1)
    return more


def test_what_is_left_is_found(quiet):
    """The counts see a run that is kept, and a thread, on either side."""
    model, *data = FITS["softmax"]()
    model.client = quiet
    model.fit(*data)
    before = settled(quiet)
    kept = [Consistency.parse("bsp", 0) for _ in range(3)]
    quiet.run(keep_a_run)
    try:
        found = growth(before, count(quiet))
    finally:
        quiet.run(drop_the_run)
    assert len(kept) == 3
    assert found.pop("client and scheduler") == {"dask_petuum.store.consistency.Consistency": 3}
    assert all(more == {"runs": 1} for more in found.values())
    assert len(found) == N_WORKERS
    assert growth(before, count(quiet)) != {}
    del kept
    assert grown(quiet, before) == {}


def keep_a_run(dask_worker):
    dask_worker.plugins["petuum"]._runs["kept"] = None


def drop_the_run(dask_worker):
    del dask_worker.plugins["petuum"]._runs["kept"]
