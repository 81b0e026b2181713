"""The number of workers changes during a fit, and its result does not.

Real worker processes that the cluster ends and starts. What happens when depends on the machine, so
a fit goes on until the test has seen what it waits for; it is compared with an undisturbed fit of
as many clocks.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE, wait_until
from programs import LeastSquares, make_data

from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions

pytestmark = pytest.mark.timeout(600)

N_PARTITIONS = 6
N_WORKERS = 4
#: Far more than a fit needs to see workers come and go; a lone rank makes 1,000 in a second while
#: others start (2026-11-27).
MAX_CLOCKS = 100_000
#: Longest wait for all of that, seconds.
WHOLE = 3 * PATIENCE
#: Clocks that a fit goes on when it has seen what it waits for.
MORE_CLOCKS = 10


@pytest.fixture(scope="module")
def elastic():
    """Four workers; a test leaves as many behind."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(elastic):
    """A client of four workers; afterwards they must hold nothing."""
    from distributed import Client

    elastic.scale(N_WORKERS)
    with Client(elastic, set_as_default=False) as connected:
        connected.wait_for_workers(N_WORKERS, timeout=PATIENCE)
        yield connected
        wait_until(
            lambda: set(connected.run(n_held, on_error="return").values()) <= {0},
            "workers that hold nothing",
        )


def n_held(dask_worker):
    plugin = dask_worker.plugins.get("petuum")
    return 0 if plugin is None else len(plugin.kept.vault.keys) + len(plugin._runs)


def data(n_partitions=N_PARTITIONS):
    """Dask arrays of more partitions than there are workers: nobody holds them in memory."""
    X, y = make_data()
    chunk = -(-len(X) // n_partitions)
    return open_dataset(da.from_array(X, chunks=(chunk, 5)), da.from_array(y, chunks=chunk))


class Script:
    """A monitor that goes from act to act, each when the one before has been seen to work.

    An act is a function that is called after each clock with the workers of the newest epoch's
    ranks, and whether a checkpoint of that epoch is complete; it returns whether it is over. After
    the last one the fit goes on for some clocks.
    """

    def __init__(self, client, *acts):
        self._client = client
        self._acts = list(acts)
        self._left = MORE_CLOCKS
        self._until = time.monotonic() + WHOLE
        #: Workers of each epoch's ranks that was seen.
        self.epochs: list[list[str]] = []

    def __call__(self, record):
        ranks, saved = self._client.run_on_scheduler(newest_epoch)
        if not self.epochs or self.epochs[-1] != ranks:
            self.epochs.append(ranks)
        assert time.monotonic() < self._until, f"{len(self._acts)} acts left, {self.epochs}"
        if self._acts:
            if self._acts[0](ranks, saved):
                del self._acts[0]
            return False
        self._left -= 1
        return self._left <= 0


def newest_epoch(dask_scheduler):
    board = list(dask_scheduler.plugins["petuum"]._boards.values())[-1]
    return list(board.addresses), board.saved_clock >= 0


def scaling(cluster, client, before, after):
    """The act of going from `before` workers to `after`, when the last such step is over.

    The workers that it ends leave the fit before they leave the cluster, which would spare them
    (and not close them) if it were to grow meanwhile: Dask gives new workers the names of old ones.
    """

    def act(ranks, saved):
        over = len(ranks) == before and set(client.nthreads()) == set(ranks)
        if not (over and (saved or before == 1)):
            return False
        cluster.scale(after)
        return True

    return act


def run(client, script, dataset, consistency="bsp"):
    options = RunOptions(
        max_clocks=MAX_CLOCKS, monitor=script, save_clocks=200, consistency=consistency
    )
    # those that were scaled away stay away; who retires waits for the fit, however long it takes
    with (
        dask.config.set({"petuum.recovery.wait": "1s", "petuum.recovery.handover": "10 minutes"}),
        ClusterJob(client, dataset, dtype="float64") as job,
    ):
        return job.run(LeastSquares(5, 400), options)


def assert_as_undisturbed(result, dataset):
    """To the bit where integers are summed, else to the order of summation."""
    assert result.n_clocks < MAX_CLOCKS
    with LocalJob(dataset, dtype="float64") as job:
        expected = job.run(LeastSquares(5, 400), RunOptions(max_clocks=result.n_clocks))
    assert [record["clock"] for record in result.history] == list(range(1, result.n_clocks + 1))
    np.testing.assert_array_equal(result.tables["seen"], expected.tables["seen"])
    np.testing.assert_allclose(result.tables["w"], expected.tables["w"], atol=1e-12)
    for found, wanted in zip(result.outputs, expected.outputs, strict=True):
        np.testing.assert_array_equal(found["draws"], wanted["draws"])


def test_a_cluster_that_shrinks_to_one_worker_and_grows_again(elastic, client):
    """From four to one, one by one, and back at once: workers that join are given partitions."""
    steps = [(4, 3), (3, 2), (2, 1), (1, 4)]
    script = Script(
        client,
        *(scaling(elastic, client, before, after) for before, after in steps),
        lambda ranks, saved: len(ranks) == N_WORKERS,
    )
    assert_as_undisturbed(run(client, script, data()), data())
    sizes = [len(ranks) for ranks in script.epochs]
    assert set(sizes) == {1, 2, 3, 4}
    alone, last = script.epochs[sizes.index(1)], script.epochs[-1]
    assert set(alone) < set(last)
    assert set(last) - set(script.epochs[0])  # which workers are spared is for Dask to say


def test_a_cluster_that_shrinks_by_several_workers_at_once(elastic, client):
    """From four to one in one step, twice: a part of a checkpoint and its copy would go."""
    acts = [scaling(elastic, client, *step) for step in [(4, 1), (1, 4), (4, 1), (1, 4)]]
    script = Script(client, *acts, lambda ranks, saved: len(ranks) == N_WORKERS)
    with dask.config.set({"petuum.recovery.attempts": 0}):  # nothing is lost that was handed over
        assert_as_undisturbed(run(client, script, data()), data())
    assert [len(ranks) for ranks in script.epochs if len(ranks) in (1, 4)][:2] == [4, 1]


def test_adaptive_scaling_spares_workers_that_have_a_rank(elastic, client):
    """Two of four are idle for it, and it takes those; the fit does not move."""
    adaptive = []

    def adapt(ranks, saved):  # before the fit has begun it would take more
        options = {"interval": "100ms", "wait_count": 1}
        adaptive.append(elastic.adapt(minimum=1, maximum=N_WORKERS, **options))
        return True

    try:
        with dask.config.set({"petuum.recovery.rebalance": False}):
            script = Script(
                client, adapt, lambda ranks, saved: set(client.nthreads()) == set(ranks)
            )
            result = run(client, script, data(2))
    finally:
        adaptive[0].stop()
    assert_as_undisturbed(result, data(2))
    assert len(script.epochs) == 1
    assert len(script.epochs[0]) == 2


def test_a_fit_goes_on_while_scaling_adapts_from_one_to_four_and_back(elastic, client):
    """Bounds that a user moves while it runs; workers that have a rank are spared on the way down.

    So the last step is asked for by name, and the fit goes on with one.
    """
    adaptive = []

    def adapt(minimum, maximum):
        def act(ranks, saved):
            options = {"interval": "100ms", "wait_count": 1}
            adaptive.append(elastic.adapt(minimum=minimum, maximum=maximum, **options))
            return True

        return act

    def has(n):
        return lambda ranks, saved: len(ranks) == n and saved

    def scale_to_one(ranks, saved):
        adaptive[-1].stop()
        elastic.scale(1)
        return True

    elastic.scale(1)
    wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1, "one worker")
    script = Script(
        client,
        lambda ranks, saved: len(ranks) == 1,
        adapt(N_WORKERS, N_WORKERS),
        has(N_WORKERS),
        scale_to_one,
        lambda ranks, saved: len(ranks) == 1,
    )
    try:
        assert_as_undisturbed(run(client, script, data()), data())
    finally:
        for one in adaptive:
            one.stop()


def test_a_fit_goes_on_without_workers_that_retire_together(client):
    """Neighbours in the ring: their ranks go to the others with what they have, and copies of it.

    The last test: a cluster expects them back.
    """
    asked = []

    with ThreadPoolExecutor(1) as thread:

        def retire(ranks, saved):
            if saved:
                asked.append((ranks[1:3], thread.submit(client.retire_workers, ranks[1:3])))
            return saved

        def have_left(ranks, saved):
            return not set(asked[0][0]) & set(ranks)

        script = Script(client, retire, have_left)
        with dask.config.set({"petuum.recovery.attempts": 0}):  # nothing is lost
            assert_as_undisturbed(run(client, script, data()), data())
        assert set(asked[0][1].result(timeout=PATIENCE)) == set(asked[0][0])
    assert len(script.epochs[-1]) == N_WORKERS - 2
