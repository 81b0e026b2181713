"""Programs over partitions: equal results everywhere in BSP, the stop rule, callbacks, history."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from programs import LeastSquares, LeastSquaresRegressor, downhill, make_data, residuals
from sklearn.base import clone
from sklearn.callback import ProgressBar

from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions
from dask_petuum.store.consistency import Consistency


@pytest.fixture(scope="module")
def data():
    return make_data()


def cut(data, n_pieces):
    """Dask arrays of unequal chunks: the same partitions wherever they run."""
    X, y = data
    bounds = np.linspace(0, np.sqrt(len(X)), n_pieces + 1) ** 2
    chunks = tuple(int(n) for n in np.diff(np.round(bounds)))
    return da.from_array(X, chunks=(chunks, X.shape[1])), da.from_array(y, chunks=(chunks,))


def outcome(job, program, **options):
    with job:
        return job.run(program, RunOptions(**{"max_clocks": 12, "seed": 7, **options}))


def test_bsp_is_equal_on_every_number_of_ranks(data, place):
    dataset = open_dataset(*cut(data, 8))
    program = LeastSquares(5, 400)
    expected = outcome(LocalJob(dataset), program)
    found = outcome(place.job(open_dataset(*cut(data, 8))), program)
    np.testing.assert_array_equal(found.tables["seen"], expected.tables["seen"])
    assert found.tables["seen"].dtype == np.int64
    # the order of summation: partitions of a rank one by one, then ranks in order
    np.testing.assert_allclose(found.tables["w"], expected.tables["w"], rtol=1e-13, atol=1e-15)
    assert found.n_clocks == expected.n_clocks == 12
    assert len(found.outputs) == len(expected.outputs) == 8
    for one, other in zip(found.outputs, expected.outputs, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    for one, other in zip(found.history, expected.history, strict=True):
        assert one["clock"] == other["clock"]
        assert one["n"] == other["n"] == 400
        assert one["mse"] == pytest.approx(other["mse"], rel=1e-12)


@pytest.mark.parametrize("n_pieces", [1, 2, 4])
def test_bsp_is_repeatable_and_sums_floats_in_the_order_of_partitions(data, client, n_pieces):
    """With one partition a rank, wherever Dask put it, a clock's sum is ((w + d0) + d1) + ..."""
    X, y = data
    size = 400 // n_pieces
    lazy = da.from_array(X, chunks=(size, 5)), da.from_array(y, chunks=size)
    expected = np.zeros(5)
    for _ in range(12):
        start = expected.copy()
        for first in range(0, 400, size):
            rows, targets = X[first : first + size], y[first : first + size]
            expected += downhill(rows, residuals(rows, targets, start), 400)
    for _ in range(2):
        job = ClusterJob(client, open_dataset(*lazy))
        found = outcome(job, LeastSquares(5, 400)).tables["w"][:, 0]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("consistency", "staleness"),
    [("bsp", 0), ("ssp", 2), ("essp", 3), ("essp", "auto"), ("essp", (1, 3))],
    ids=str,
)
def test_all_ranks_stop_at_the_same_clock(data, client, consistency, staleness):
    program = LeastSquares(5, 400, tol=1e-3)
    options = {"max_clocks": 200, "consistency": consistency, "staleness": staleness}
    result = outcome(ClusterJob(client, open_dataset(*cut(data, 4))), program, **options)
    assert result.stopped_by == "converged"
    assert {int(out["clocks"][0]) for out in result.outputs} == {result.n_clocks}
    assert len(result.history) == result.n_clocks < 200
    first = next(r["clock"] for r in result.history if r["mse"] < 1e-3)
    high = Consistency.parse(consistency, staleness).high
    assert result.n_clocks == first + high
    assert all(record["n"] == 400 for record in result.history), "every clock is complete"


@pytest.mark.parametrize("consistency", ["bsp", "essp", "asp"])
def test_a_monitor_hears_of_every_clock_once_and_in_order(data, place, consistency):
    heard = []
    result = outcome(
        place.job(open_dataset(*cut(data, 4))),
        LeastSquares(5, 400),
        monitor=lambda record: heard.append(record["clock"]),
        consistency=consistency,
        staleness=2 if consistency == "essp" else 0,
        max_clocks=30,
    )
    assert heard == list(range(1, 31))
    assert [record["clock"] for record in result.history] == heard


@pytest.mark.parametrize("staleness", [0, 3])
def test_a_monitor_that_asks_for_the_end_gets_it_at_one_clock(data, place, staleness):
    result = outcome(
        place.job(open_dataset(*cut(data, 4))),
        LeastSquares(5, 400),
        monitor=lambda record: record["clock"] >= 5,
        consistency="essp" if staleness else "bsp",
        staleness=staleness,
        max_clocks=100_000,
    )
    assert result.stopped_by == "callback"
    assert 5 <= result.n_clocks < 100_000
    assert {int(out["clocks"][0]) for out in result.outputs} == {result.n_clocks}
    assert result.tables["seen"][0, 0] == 400 * (result.n_clocks + 1)
    assert all(record["n"] == 400 for record in result.history)
    if place.client is None:
        assert result.n_clocks == 5


def test_history_has_time_bytes_and_staleness(data, place):
    result = outcome(
        place.job(open_dataset(*cut(data, 4))),
        LeastSquares(5, 400),
        consistency="essp",
        staleness=2,
    )
    remote = place.client is not None
    for record in result.history:
        assert 0 <= record["staleness"] <= 2
        assert record["waited"] >= 0
    assert (sum(record["bytes_out"] for record in result.history) > 0) is remote
    assert (sum(record["bytes_in"] for record in result.history) > 0) is remote
    seconds = [record["seconds"] for record in result.history]
    assert seconds == sorted(seconds)


def test_metrics_must_be_those_that_were_named(data, place):
    class Wrong(LeastSquares):
        metrics = ("sse", "n", "missing")

    with pytest.raises(Exception, match="missing"):
        outcome(place.job(open_dataset(*cut(data, 2))), Wrong(5, 400))


def test_data_in_this_process_is_cut_and_sent(data, client):
    dataset = open_dataset(*data)
    result = outcome(ClusterJob(client, dataset), LeastSquares(5, 400), max_clocks=80)
    assert len(result.outputs) == 4
    np.testing.assert_allclose(result.tables["w"][:, 0], np.arange(5.0), atol=1e-3)
    np.testing.assert_array_equal(result.tables["seen"], 400 * 81)


def test_a_job_can_look_at_its_data_where_it_lies(data, place):
    with place.job(open_dataset(*cut(data, 8))) as job:
        assert job.n_rows == 400
        assert job.n_features == 5
        rows = job.map(lambda partition: (partition.index, partition.row_start))
        assert [index for index, _ in rows] == list(range(8))
        assert [start for _, start in rows] == sorted(start for _, start in rows)


def test_a_check_that_fails_says_so_before_anything_starts(data, place):
    def refuse(X, y, sample_weight):
        raise ValueError(f"row of {X.shape[1]} refused")

    with pytest.raises(ValueError, match="row of 5 refused"):
        place.job(open_dataset(*cut(data, 3)), check=refuse)


@pytest.fixture
def regressor(place):
    model = LeastSquaresRegressor(scheduler="local" if place.client is None else None)
    model.client = place.client
    return model


class StopAfter:
    """A callback of scikit-learn that ends the fit after some clocks."""

    max_propagation_depth = 0

    def __init__(self, n_clocks):
        self.n_clocks = n_clocks
        self.n_seen = 0

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **more):
        pass

    def on_fit_task_end(self, estimator, context, **more):
        if context.task_name == "clock":
            self.n_seen += 1
        return self.n_seen >= self.n_clocks

    def teardown(self, estimator, context):
        pass


def test_a_callback_can_end_the_fit(data, regressor):
    callback = StopAfter(4)
    regressor.set_params(max_iter=100_000)
    regressor.set_callbacks(callback)
    regressor.fit(*cut(data, 4))
    assert regressor.stopped_by_ == "callback"
    assert 4 <= regressor.n_iter_ < 100_000
    assert callback.n_seen >= 4


def test_the_progress_bar_works(data, regressor, capsys):
    regressor.set_params(max_iter=20)
    regressor.set_callbacks(ProgressBar())
    regressor.fit(*cut(data, 4))
    assert regressor.n_iter_ == 20
    assert "100%" in capsys.readouterr().out


def test_the_client_is_no_parameter(regressor):
    assert "client" not in regressor.get_params()
    copy = clone(regressor)
    assert copy.client is None


def test_verbose_prints_the_clocks(data, regressor, capsys):
    regressor.set_params(max_iter=3, verbose=1)
    regressor.fit(*cut(data, 2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"[LeastSquaresRegressor] clock {clock}" for clock in (1, 2, 3)
    ]
