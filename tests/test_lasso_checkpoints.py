"""A lasso over ranks goes on from any of its clocks, and ends with the very same numbers."""

from __future__ import annotations

import os

import dask
import numpy as np
import pytest

from dask_petuum.algorithms import lasso_program
from dask_petuum.algorithms.lasso import ElasticNet
from dask_petuum.algorithms.lasso_program import LassoProgram
from dask_petuum.algorithms.lasso_ranks import _task
from dask_petuum.data import open_dataset
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.job import LocalJob, RunOptions

RNG = np.random.default_rng(5)
WIDE = RNG.standard_normal((80, 200)) + 2.0
TARGET = WIDE[:, :20] @ RNG.standard_normal(20) + 0.3 * RNG.standard_normal(80) + 7.0


class Interrupted(Exception):
    """Ends a run after a clock."""


def run(model, folder=None, resume=None, stop_at=None, first=None):
    clocks = []

    def monitor(record):
        clocks.append(int(record["clock"]))
        if record["clock"] == stop_at:
            raise Interrupted
        return False

    place = Place(folder, resume)
    with (
        dask.config.set({"petuum.checkpoint.interval": None}),
        LocalJob(open_dataset(WIDE, TARGET), place=place) as job,
    ):
        first = np.zeros(job.n_features) if first is None else first
        program = LassoProgram(_task(model, job), first)
        result = job.run(program, RunOptions(400, monitor=monitor, save_clocks=1))
    assert place.has_resumed == (resume is not None)
    return result, clocks


@pytest.mark.timeout(400)
@pytest.mark.parametrize("starts", ["cold", "warm"])
@pytest.mark.parametrize("alpha", [0.02, 0.0])
def test_goes_on_from_any_clock(tmp_path, monkeypatch, starts, alpha):
    monkeypatch.setattr(lasso_program, "FIRST", 8)
    monkeypatch.setattr(lasso_program, "SQUARE_PER_FEATURE", 0.5)
    model = ElasticNet(alpha=alpha, l1_ratio=0.95, tol=1e-9, max_iter=30)
    first = None if starts == "cold" else np.linspace(-1, 1, 200) * (np.arange(200) % 7 == 0)
    whole, clocks = run(model, first=first)
    n_clocks = clocks[-1]
    assert whole.history[-1]["finished"]
    assert len({record["n_set"] for record in whole.history}) > 2, "the set grows several times"
    for clock in range(3, n_clocks + 1):  # the first is saved after clock 1 or 2
        folder = os.fspath(tmp_path / str(clock))
        with pytest.raises(Interrupted):
            run(model, folder, stop_at=clock, first=first)
        with monkeypatch.context() as patch:
            patch.setattr(LassoProgram, "start", None)
            found, later = run(model, resume=folder, first=first)
        assert later[-1] == n_clocks
        np.testing.assert_array_equal(found.tables["model"], whole.tables["model"])
        np.testing.assert_array_equal(found.outputs[0]["means"], whole.outputs[0]["means"])
