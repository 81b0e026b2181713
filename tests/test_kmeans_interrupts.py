"""A callback or Ctrl-C ends a fit of k-means: all of its starts, and what was learnt is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import dask.array as da
import numpy as np
import pytest
from conftest import PATIENCE

from dask_petuum.algorithms import kmeans_fit
from dask_petuum.algorithms.kmeans import KMeans

ROWS = np.random.default_rng(3).standard_normal((800, 4))


class StopAfter:
    """A callback of scikit-learn that ends the fit after some clocks."""

    max_propagation_depth = 0

    def __init__(self, n_clocks):
        self.n_clocks = n_clocks
        self.n_seen = 0
        self.fits = []

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **more):
        if context.task_name != "clock":
            self.fits.append("begin")

    def on_fit_task_end(self, estimator, context, **more):
        if context.task_name != "clock":
            self.fits.append("end")
            return False
        self.n_seen += 1
        return self.n_seen >= self.n_clocks

    def teardown(self, estimator, context):
        pass


def fit_at(place, callback, **parameters):
    """Fit with a callback, on one partition for each rank."""
    model = KMeans(6, random_state=0, tol=0, **parameters)
    model.set_params(scheduler="local" if place.client is None else None)
    model.client = place.client
    model.set_callbacks(callback)
    return model.fit(da.from_array(ROWS, chunks=(800 // place.n_ranks, -1)))


def assert_whole(model, n_clocks):
    """Everything that a fit leaves is there, and fits together."""
    assert len(model.history_) == model.n_steps_ == n_clocks
    assert [record["clock"] for record in model.history_] == list(range(1, n_clocks + 1))
    assert np.array_equal(model.predict(ROWS), model.labels_)
    assert -model.score(ROWS) == pytest.approx(model.inertia_)


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_a_callback_can_end_the_fit(place, algorithm):
    callback = StopAfter(3)
    model = fit_at(place, callback, algorithm=algorithm, batch_size=100, max_iter=20_000)
    assert_whole(model, callback.n_seen)
    assert callback.n_seen >= 3
    assert callback.fits == ["begin", "end"]


@pytest.mark.parametrize("max_iter", [2, 300])
def test_a_callback_ends_all_starts(place, max_iter):
    """In the last clock of a start the answer comes too late for its run, not for the fit."""
    callback = StopAfter(2)
    model = fit_at(place, callback, init="random", n_init=4, max_iter=max_iter)
    assert_whole(model, callback.n_seen)


def test_a_fit_that_a_callback_ends_does_not_warn_of_few_clusters():
    rows = np.repeat(ROWS[:3], 5, axis=0)
    model = KMeans(6, random_state=0, scheduler="local").set_callbacks(StopAfter(1)).fit(rows)
    assert len(model.history_) == 1


def interrupt_runs(monkeypatch, first, last):
    """Send Ctrl-C to this process as runs begin: numbers ``first`` to ``last`` of a fit's."""
    number = iter(range(1000))
    run = kmeans_fit.KMeansFit._run

    def interrupting(self, program, *arguments):
        class Interrupting(type(program)):
            def step(self, ctx, partition, state):
                if ctx.clock_index == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                return super().step(ctx, partition, state)

        if first <= next(number) <= last:
            program.__class__ = Interrupting
        return run(self, program, *arguments)

    monkeypatch.setattr(kmeans_fit.KMeansFit, "_run", interrupting)


def test_an_interrupt_ends_all_starts_and_keeps_the_best(monkeypatch):
    interrupt_runs(monkeypatch, 3, 3)  # the second start's Lloyd, after two seedings and one Lloyd
    model = KMeans(6, random_state=0, init="random", n_init=9, tol=0, scheduler="local")
    with pytest.raises(KeyboardInterrupt, match=r"interrupted after \d+ clocks"):
        model.fit(ROWS)
    best = KMeans(6, random_state=0, init="random", n_init=1, tol=0, scheduler="local").fit(ROWS)
    assert_whole(model, len(best.history_))
    assert model.inertia_ == best.inertia_


def test_an_interrupt_while_centres_are_drawn_keeps_earlier_starts(monkeypatch):
    interrupt_runs(monkeypatch, 2, 2)
    model = KMeans(6, random_state=0, n_init=5, tol=0, scheduler="local")
    with pytest.raises(KeyboardInterrupt, match="while the first centres were drawn"):
        model.fit(ROWS)
    best = KMeans(6, random_state=0, tol=0, scheduler="local").fit(ROWS)
    assert_whole(model, len(best.history_))
    assert model.inertia_ == best.inertia_


def test_an_interrupt_of_partial_fit_keeps_the_batch_and_goes_on(monkeypatch):
    model = KMeans(6, random_state=0, scheduler="local").fit(ROWS)
    step = kmeans_fit.MiniBatchProgram.step

    def interrupting(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(kmeans_fit.MiniBatchProgram, "step", interrupting)
    before = model.n_steps_
    with pytest.raises(KeyboardInterrupt, match="after 1 clocks"):
        model.partial_fit(ROWS[:10])
    assert model.counts_.sum() == 810
    assert model.n_steps_ == before + 1


FIT = """
import signal
import sys
import threading

sys.path[:0] = {path!r}
import dask.array as da
from dask.distributed import Client, LocalCluster
from test_cluster_failures import assert_free, assert_next_run_works
from test_kmeans_interrupts import ROWS, KMeans, assert_whole, kmeans_fit


class Endless(kmeans_fit.{program}):
    def converged(self, history):
        return False


class Talkative(KMeans):
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
    kmeans_fit.{program} = Endless
    try:
        model.fit(da.from_array(ROWS, chunks=(200, -1)))
    except KeyboardInterrupt as error:
        print("interrupted:", error, flush=True)
    assert_whole(model, len(model.history_))
    print("clocks", len(model.history_), flush=True)
    if client is not None:
        assert_next_run_works(client)
        assert_free(client)
        print("free", flush=True)


if __name__ == "__main__":
    model = Talkative(
        6, init="random", n_init=5, algorithm={algorithm!r}, max_iter=100_000, batch_size=800,
        random_state=0, scheduler={scheduler!r},
    )
    if model.scheduler == "local":
        fit(model, None)
    else:
        with LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster, Client(cluster) as client:
            fit(model, client)
    print("done", flush=True)
"""


def start(tmp_path: Any, **values: Any) -> subprocess.Popen[str]:
    """Start a process in its own group, as a shell does; return it when it fits."""
    script = tmp_path / "fit.py"
    script.write_text(FIT.format(path=sys.path, **values))
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


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("scheduler", "algorithm"), [("local", "lloyd"), ("local", "minibatch"), (None, "lloyd")]
)
def test_one_interrupt_ends_the_fit_and_keeps_what_was_learnt(tmp_path, scheduler, algorithm):
    program = {"lloyd": "LloydProgram", "minibatch": "MiniBatchProgram"}[algorithm]
    values = {"scheduler": scheduler, "algorithm": algorithm, "program": program}
    with start(tmp_path, **values) as process:
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):  # it has ended, unless the test fails
                os.killpg(process.pid, signal.SIGKILL)
    lines = out.splitlines()
    assert lines, err
    assert lines[0].startswith("interrupted: fit was interrupted after "), err
    n_clocks = int(lines[0].split("after ")[1].split()[0])
    assert lines[1] == f"clocks {n_clocks}", err
    assert 3 <= n_clocks < 100_000
    assert lines[2:] == (["done"] if scheduler == "local" else ["free", "done"]), err
    assert process.returncode == 0
