"""A network whose worker is killed in the middle ends with the weights of an undisturbed fit."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress

import cloudpickle
import dask
import numpy as np
import pytest
import torch
from conftest import PATIENCE
from distributed import get_worker
from nn_modules import in_chunks, make_rows

from dask_petuum.nn import NeuralNetClassifier

pytestmark = pytest.mark.timeout(600)

N_PASSES = 20
#: Forward passes of a rank's module before it kills its worker: it does in the fifth pass.
AFTER = 90
#: Seconds for a worker to come back that imports torch, on a busy machine: with one rank less some
#: of the numbers would be others.
WAIT = 200.0


class Deadly(torch.nn.Module):
    """A perceptron with dropout; the first copy that comes so far kills its process, once.

    It waits for a checkpoint first, without which the fit would begin again. ``flag`` is a file
    that says that it has been done.
    """

    def __init__(self, flag):
        super().__init__()
        # no bias: behind BatchNorm its gradient is rounding, which AdamW makes as large as others
        self.body = torch.nn.Sequential(
            torch.nn.Linear(20, 32, bias=False),
            torch.nn.BatchNorm1d(32),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
        )
        self.head = torch.nn.Linear(32, 4)
        self.flag = flag
        self.n_calls = 0

    def forward(self, rows):
        self.n_calls += self.training
        if self.n_calls >= AFTER and not os.path.exists(self.flag):
            wait_for_checkpoint()
            with suppress(FileExistsError):  # both ranks may come here at once
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        return self.head(self.body(rows))


def wait_for_checkpoint():
    """Return when a checkpoint of the run on this worker is complete."""
    runs, until = get_worker().plugins["petuum"]._runs, time.monotonic() + PATIENCE
    while not any(run.kept_clock > 1 for run in list(runs.values())):
        assert time.monotonic() < until, "no checkpoint is complete"
        threading.Event().wait(0.01)


@pytest.fixture(scope="module")
def client():
    """A client of two workers that a test may kill; their nannies start others."""
    from distributed import Client, LocalCluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with (
        dask.config.set(
            {
                "distributed.deploy.lost-worker-timeout": "1 hour",
                "petuum.recovery.wait": WAIT,
            }
        ),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def fit(client, flag, n_partitions, **more):
    client.wait_for_workers(2, timeout=PATIENCE)
    model = NeuralNetClassifier(
        Deadly,
        module__flag=str(flag),
        optimizer="AdamW",
        lr=0.01,
        lr_scheduler="ExponentialLR",
        lr_scheduler__gamma=0.9,
        batch_size=16,
        max_epochs=N_PASSES,
        random_state=0,
        **more,
    )
    model.client = client
    with dask.config.set({"petuum.checkpoint.clocks": 2}):
        return model.fit(*in_chunks(*make_rows(), n_partitions))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"early_stopping": True, "n_iter_no_change": N_PASSES, "sufficient_factors": True},
        {"local_steps": 5, "outer_lr": 0.7, "outer_momentum": 0.9},
    ],
    ids=str,
)
def test_a_fit_goes_on_after_kill_9(client, tmp_path, caplog, more):
    """With its optimiser, its learning rate, its place in the data, its seeds and best weights."""
    (tmp_path / "never").touch()
    # ranks that step apart have a model for the partitions that they happen to have: one each
    n_partitions = 2 if "local_steps" in more else 4
    undisturbed = fit(client, tmp_path / "never", n_partitions, **more)
    before = client.run(os.getpid)
    model = fit(client, tmp_path / "killed", n_partitions, **more)
    client.wait_for_workers(2, timeout=PATIENCE)
    assert len(set(before.values()) - set(client.run(os.getpid).values())) == 1
    assert "the fit goes on from the checkpoint at clock" in caplog.text
    assert len(model.history_) == len(undisturbed.history_)
    for one, other in zip(model.history_, undisturbed.history_, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for name, values in undisturbed.weights_.items():
        np.testing.assert_allclose(model.weights_[name], values, atol=1e-5, err_msg=name)
