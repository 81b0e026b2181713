"""Many faults in few fits, on real processes: nothing is lost, nothing counts twice.

Schedules (what, when in clocks, whom) come from hypothesis, the same ones in each run of the suite;
each is printed, and the number of faults at the end of the run: workers that were taken, at least
FEWEST_FAULTS by the schedules, and each fit asserts its share. Most fits run a program whose
increments are fingerprints, and whose reads the store's own checker sees: see there.
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import FAULTS
from crew import Crew
from fits import EVERY, N_PARTITIONS, fit_fingerprints
from hypothesis import HealthCheck, Phase, example, given, settings
from injector import Fault, Injector, least_strikes, schedules
from programs import LeastSquares, make_data
from sklearn.datasets import make_blobs
from test_lda_rotation import corpus
from test_matrix_factorization_cluster import lazy

from dask_petuum import LDA
from dask_petuum.algorithms.kmeans import KMeans
from dask_petuum.algorithms.matrix_factorization import MatrixFactorization
from dask_petuum.algorithms.softmax_regression import SoftmaxRegression
from dask_petuum.data import open_dataset
from dask_petuum.exceptions import RankLostError
from dask_petuum.runtime.arm import cluster_versions
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.cluster_data import scatter_to
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions
from dask_petuum.runtime.version import version

pytestmark = [pytest.mark.timeout(600), pytest.mark.battery]

#: Workers that all schedules together take, at least.
FEWEST_FAULTS = 50
#: The same of each test with schedules, filled as they are defined.
PLANNED: list[int] = []

QUICK = ("kill", "retire", "kill", "join", "vanish", "kill", "join", "kill", "kill")


def few(n):
    """So many schedules, the same in each run; none is tried again in a smaller form."""
    return settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def scheduled(kinds, n, fits=1, longest=20):
    """Give a test so many schedules, for each of so many sets of parameters."""
    PLANNED.append(n * fits * least_strikes([Fault(kind, 0, 0) for kind in kinds]))

    def decorate(test):
        return few(n)(given(schedule=schedules(kinds, longest))(test))

    return decorate


@pytest.fixture(scope="module")
def crew():
    with Crew(3) as started:
        yield started


@pytest.fixture(autouse=True)
def _count(crew, record_property):
    """Report how many faults a test has executed: see the end of pytest's output."""
    before = crew.n_faults
    yield
    record_property(FAULTS, crew.n_faults - before)


@scheduled(QUICK, 2, fits=3, longest=6)  # the first is the simplest, as always with hypothesis
@pytest.mark.parametrize("consistency", ["bsp", "essp", "asp"])
def test_workers_that_come_and_go(crew, consistency, schedule):
    fit_fingerprints(crew, schedule, consistency)


@scheduled(("pair", "kill", "join", "pair"), 2)
@example(schedule=[Fault("all", 12, 0), Fault("kill", 8, 1)])
def test_with_files_any_two_may_be_lost_at_once(crew, tmp_path_factory, schedule):
    place = Place(str(tmp_path_factory.mktemp("checkpoints")))
    fit_fingerprints(crew, schedule, "bsp", place)


@scheduled(("stop",), 1, fits=2)
@pytest.mark.parametrize("consistency", ["bsp", "asp"])
def test_a_process_that_stops_is_given_up(crew, consistency, schedule):
    fit_fingerprints(crew, schedule, consistency)


def test_a_worker_that_dies_unnoticed_does_not_spoil_the_arming_of_others(crew):
    """The scheduler still knows it; a connection to it breaks when its version is asked for."""
    crew.refill()
    dead, *alive = crew.addresses
    crew.kill(dead)
    found = cluster_versions(crew.client)
    assert {found[address] for address in [*alive, "scheduler"]} == {version()}
    crew.assert_free()


@pytest.mark.parametrize("is_noticed", [False, True])
def test_data_for_a_worker_that_is_gone_are_a_loss(crew, is_noticed):
    crew.refill()
    dead = crew.addresses[0]
    crew.kill(dead)
    if is_noticed:
        crew.wait_for(lambda: dead not in crew.addresses, "loss")
    with pytest.raises(RankLostError, match="could not be sent to worker"):
        scatter_to(crew.client, np.zeros(3), dead)
    crew.assert_free()


# Algorithms: as good as without faults


class Fit:
    """An estimator's fit on the crew, with faults and without."""

    def __init__(self, make, *data):
        self._make, self._data = make, data
        self._calm = None

    def calm(self, crew):
        """Without faults; once."""
        if self._calm is None:
            self._calm = self.run(crew)
        return self._calm

    def struck(self, crew, schedule, caplog):
        """With faults. An epoch may have no record that was not told before: losses are counted by
        what is said of them.
        """
        caplog.clear()
        model = self.run(crew, schedule)
        assert "the fit goes on from" in caplog.text
        return model

    def run(self, crew, schedule=()):
        crew.refill()
        model = self._make()
        model.client = crew.client
        injector = Injector(crew, schedule, ends=False)
        model._print = injector  # told of every clock
        model.fit(*self._data)
        if schedule:
            print(f"{type(model).__name__}: {schedule} -> {injector.done}")
            assert injector.n_struck >= least_strikes(schedule)
        crew.assert_free()
        return model


@pytest.fixture
def frequent():
    """Checkpoints so often that few clocks are done twice."""
    with dask.config.set({"petuum.checkpoint.clocks": 4}):
        yield


def chunked(values):
    return da.from_array(values, chunks=(-(-len(values) // N_PARTITIONS), *values.shape[1:]))


FEW_FAULTS = ("kill", "vanish")


@pytest.mark.usefixtures("frequent")
@scheduled(FEW_FAULTS, 1, fits=2, longest=3)
@pytest.mark.parametrize("parallelism", ["data", "model"])
def test_lda_counts_to_the_last_token(crew, caplog, parallelism, schedule):
    counts = chunked(corpus())
    fit = Fit(
        lambda: LDA(
            4, max_iter=20, evaluate_every=0, random_state=0, n_jobs=1, parallelism=parallelism
        ),
        counts,
    )
    calm, disturbed = fit.run(crew), fit.struck(crew, schedule, caplog)
    np.testing.assert_array_equal(disturbed.word_topic_counts_, calm.word_topic_counts_)
    np.testing.assert_allclose(disturbed.word_topic_mean_, calm.word_topic_mean_, rtol=1e-5)
    assert disturbed.n_iter_ == calm.n_iter_


ROWS, LABELS = make_blobs(1500, 6, centers=8, cluster_std=5.0, random_state=3)
RATINGS = lazy(parts=(50,) * N_PARTITIONS)
ESTIMATORS = {
    "softmax": (
        "loss",
        Fit(
            lambda: SoftmaxRegression(max_iter=25, tol=0, random_state=0),
            chunked(ROWS),
            chunked(LABELS),
        ),
    ),
    "kmeans": (
        "inertia",
        Fit(lambda: KMeans(8, init=ROWS[:8], tol=0, max_iter=40), chunked(ROWS)),
    ),
    "ccd": (
        "rmse",
        Fit(lambda: MatrixFactorization(6, max_iter=25, tol=0, random_state=0), RATINGS),
    ),
    "sgd": (
        "rmse",
        Fit(
            lambda: MatrixFactorization(6, solver="sgd", max_iter=25, tol=0, random_state=0),
            RATINGS,
        ),
    ),
}


@pytest.mark.usefixtures("frequent")
@scheduled(FEW_FAULTS, 2, fits=len(ESTIMATORS), longest=3)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_objectives_are_those_of_an_undisturbed_fit(crew, caplog, name, schedule):
    metric, fit = ESTIMATORS[name]
    calm, disturbed = fit.calm(crew), fit.struck(crew, schedule, caplog)
    assert disturbed.history_[-1][metric] == pytest.approx(calm.history_[-1][metric], rel=0.01)
    assert len(disturbed.history_) == pytest.approx(len(calm.history_), abs=2)


@scheduled(FEW_FAULTS, 1, longest=3)
def test_a_program_of_floats_sums_the_same(crew, schedule):
    crew.refill()
    X, y = make_data()
    rows = open_dataset(chunked(X), chunked(y))
    results = []
    for faults in ([], schedule):
        injector = Injector(crew, faults, ends=False)
        options = RunOptions(60, monitor=injector, save_clocks=EVERY)
        with ClusterJob(crew.client, rows, dtype="float64") as job:
            results.append(job.run(LeastSquares(5, 400), options))
    assert injector.n_struck >= least_strikes(schedule)
    calm, disturbed = results
    np.testing.assert_array_equal(disturbed.tables["seen"], calm.tables["seen"])
    np.testing.assert_allclose(disturbed.tables["w"], calm.tables["w"], atol=1e-12)
    for found, wanted in zip(disturbed.outputs, calm.outputs, strict=True):
        np.testing.assert_array_equal(found["draws"], wanted["draws"])
    crew.assert_free()


def test_the_schedules_take_fifty_workers_at_least():
    """By what is planned: how much of the module runs in this process is no matter."""
    assert sum(PLANNED) >= FEWEST_FAULTS, PLANNED
