"""Fits on clusters of dask-cloudprovider: as anywhere, and when a machine is taken away."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE, wait_until
from distributed import Client
from vms import LocalVMCluster

import dask_petuum as petuum

N_MACHINES = 3
COUNTS = np.random.default_rng(0).poisson(0.3, (300, 40)).astype(np.int32)

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # machines have no tests installed

pytestmark = [
    pytest.mark.timeout(600),
    # dask-cloudprovider looks for its scheduler with sockets that it leaves to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[LocalVMCluster]:
    """The cluster; it sets Dask's own settings for good, so these are put back."""
    with dask.config.set({"petuum.recovery.wait": "1s", "petuum.checkpoint.clocks": 2}):
        before = copy.deepcopy(dask.config.config)
        try:
            with LocalVMCluster(tmp_path, N_MACHINES, env_vars={"WORDS": "two words"}) as cluster:
                yield cluster
        finally:
            dask.config.config.clear()
            dask.config.config.update(before)
            gc.collect()  # what is left to the collector is no error here, but in another test


class Kill:
    """A callback of scikit-learn that takes a machine away when a checkpoint is there."""

    max_propagation_depth = 0

    def __init__(self, client: Client, machine: Any) -> None:
        self.client, self.machine, self.done = client, machine, False

    def setup(self, estimator: Any, context: Any) -> None:
        pass

    def teardown(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_begin(self, estimator: Any, context: Any, **more: Any) -> None:
        pass

    def on_fit_task_end(self, estimator: Any, context: Any, **more: Any) -> bool:
        if not self.done:
            # the fit goes on meanwhile, for far longer than its first checkpoint takes
            wait_until(lambda: self.client.run_on_scheduler(is_saved), "a checkpoint")
            self.machine.kill()
            self.done = True
        return False


def is_saved(dask_scheduler: Any) -> bool:
    boards = dask_scheduler.plugins["petuum"]._boards
    return any(board.saved_clock >= 0 for board in boards.values())


def settings(dask_worker: Any) -> tuple[str, str]:
    import os

    return dask.config.get("petuum.recovery.wait"), os.environ["WORDS"]


def test_a_fit_goes_on_when_a_machine_is_taken_away(machines: LocalVMCluster) -> None:
    """Over TLS, with settings and environment of the client's; the model is the undisturbed one."""
    with Client(machines, set_as_default=False) as client:
        client.wait_for_workers(N_MACHINES, timeout=2 * PATIENCE)
        assert all(address.startswith("tls://") for address in client.nthreads())
        assert set(client.run(settings).values()) == {("1s", "two words")}
        X = da.from_array(COUNTS, chunks=(50, 40))
        models = [petuum.LDA(4, max_iter=300, random_state=0) for _ in range(2)]
        killer = Kill(client, next(iter(machines.workers.values())))
        models[1].set_callbacks(killer)
        for model in models:
            model.client = client
            model.fit(X)
        assert killer.done
        assert len(client.nthreads()) == N_MACHINES - 1
        np.testing.assert_array_equal(models[1].components_, models[0].components_)
        assert models[1].transform(X).compute().shape == (300, 4)
