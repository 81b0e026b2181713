"""SoftmaxRegression: partitions, threads, partial_fit, warm start, weights, what it refuses."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_digits, make_classification

from dask_petuum.algorithms.softmax_program import Schedule, clocks_per_pass
from dask_petuum.algorithms.softmax_regression import SoftmaxRegression

ROWS, LABELS = make_classification(
    1200, 12, n_informative=8, n_classes=4, class_sep=1.5, random_state=0
)


def local(**parameters):
    return SoftmaxRegression(**{"random_state": 0, "scheduler": "local", **parameters})


def lazy(rows, size, sparse=False):
    out = da.from_array(rows, chunks=(size, -1))
    return out.map_blocks(sp.csr_array, meta=sp.csr_array(rows[:0])) if sparse else out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
@pytest.mark.parametrize("sparse", [False, True])
def test_threads_change_nothing(dtype, solver, sparse):
    rows = ROWS.astype(dtype)
    models = []
    for n_jobs in (1, 2):
        model = local(solver=solver, max_iter=3, n_jobs=n_jobs, batch_size=1)  # several lanes
        models.append(model.fit(lazy(rows, 700, sparse), da.from_array(LABELS, chunks=700)))
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)
    np.testing.assert_array_equal(models[0].intercept_, models[1].intercept_)
    assert models[0].coef_.dtype == dtype
    assert [r["loss"] for r in models[0].history_] == [r["loss"] for r in models[1].history_]


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
def test_partitions_reach_the_same_objective(solver):
    losses = []
    for size in (1200, 500, 100):
        model = local(solver=solver, max_iter=40, tol=0)
        model.fit(lazy(ROWS, size), da.from_array(LABELS, chunks=size))
        proba = model.predict_proba(ROWS)
        losses.append(-np.log(proba[np.arange(1200), LABELS]).mean())
    assert max(losses) < min(losses) * 1.05


def test_history_falls_and_ends_when_it_does_no_more():
    model = local(max_iter=200, tol=1e-3).fit(ROWS, LABELS)
    losses = [record["loss"] for record in model.history_]
    assert model.n_iter_ < 200
    assert losses[-1] < 0.8 * losses[0]
    assert [record["clock"] for record in model.history_] == list(range(1, len(losses) + 1))


def test_partial_fit_learns_from_a_stream():
    digits = load_digits()
    rows, labels = digits.data / 16, digits.target
    model = local()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(rows, labels)
    for low in range(0, 1500, 100):
        classes = np.arange(10) if low == 0 else None
        model.partial_fit(rows[low : low + 100], labels[low : low + 100], classes=classes)
    assert model.score(rows[1500:], labels[1500:]) > 0.85
    assert len(model.history_) == 15
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(rows, labels, classes=[0, 1])
    with pytest.raises(ValueError, match="holds the label"):
        model.partial_fit(rows, labels + 1)


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
def test_warm_start_goes_on(solver):
    long = local(solver=solver, max_iter=10).fit(ROWS, LABELS)
    warm = local(solver=solver, max_iter=1, warm_start=True).fit(ROWS, LABELS)
    first = warm.history_[0]["loss"]
    warm.set_params(max_iter=9).fit(ROWS, LABELS)
    assert warm.history_[0]["loss"] < first
    assert warm.history_[-1]["loss"] == pytest.approx(long.history_[-1]["loss"], rel=0.05)
    cold = local(solver=solver, max_iter=1).fit(ROWS, LABELS)
    cold.fit(ROWS, LABELS)
    assert cold.history_[0]["loss"] == first


def test_without_an_intercept_there_is_none():
    model = local(fit_intercept=False, max_iter=5).fit(ROWS, LABELS)
    np.testing.assert_array_equal(model.intercept_, 0)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 5.0, 2: 0.5}])
def test_class_weights_are_weights_of_rows(class_weight):
    if class_weight == "balanced":
        factors = 1200 / (4 * np.bincount(LABELS))
    else:
        factors = np.array([5.0, 1.0, 0.5, 1.0])
    by_class = local(class_weight=class_weight, max_iter=5).fit(ROWS, LABELS)
    by_row = local(max_iter=5).fit(ROWS, LABELS, sample_weight=factors[LABELS])
    np.testing.assert_allclose(by_class.coef_, by_row.coef_, rtol=1e-9)


def test_weights_of_zero_drop_rows_and_their_scale_does_not_matter():
    weights = np.where(LABELS == 3, 0.0, 1.0)
    model = local(C=np.inf, max_iter=20).fit(ROWS, LABELS, sample_weight=weights)
    assert (model.predict(ROWS) == 3).mean() < 0.01
    scaled = local(C=np.inf, max_iter=20).fit(ROWS, LABELS, sample_weight=weights * 1024)
    np.testing.assert_allclose(model.coef_, scaled.coef_, rtol=1e-6)


def test_order_of_rows_is_kept_without_shuffle():
    one = local(shuffle=False, max_iter=2, random_state=1).fit(ROWS, LABELS)
    two = local(shuffle=False, max_iter=2, random_state=2).fit(ROWS, LABELS)
    np.testing.assert_array_equal(one.coef_, two.coef_)


def test_schedule_of_lanes_clocks_and_rates():
    given = Schedule("sgd", 0.5, 1.0, 0.0, 32, 10, 0, 0.0, True)
    assert [given.n_lanes(n) for n in (1, 32768, 65536, 200_000, 10**9)] == [1, 1, 2, 4, 8]
    assert given.rate_at(0, 200_000) == 0.5
    n_steps = given.steps_per_pass(200_000)
    assert given.rate_at(10, 200_000) == pytest.approx(0.5 / (1 + n_steps / max(n_steps, 1000)))
    assert clocks_per_pass(200_000, 4, 32) == 10
    assert clocks_per_pass(100, 1, 32) == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"C": 0}, "C must be a number > 0"),
        ({"solver": "lbfgs"}, "solver must be 'sgd' or 'adagrad'"),
        ({"momentum": 0.9}, "momentum must be below 1, and 0 unless"),
        ({"learning_rate": -1}, "learning_rate must be a number > 0"),
        ({"decay": -1}, "decay must be a number >= 0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"consistency": "essp", "staleness": -1}, "staleness must be >= 0"),
        ({"consistency": "essp", "staleness": (0,)}, "two integers"),
        ({"max_iter": 1.5}, "max_iter must be an integer >= 1"),
        ({"clocks_per_pass": 0}, "clocks_per_pass must be an integer >= 1"),
        ({"class_weight": "equal"}, "class_weight must be a dict, 'balanced' or None"),
        ({"class_weight": {7: 1.0}}, "class_weight names 7, which is not among"),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        local(**parameters).fit(ROWS, LABELS)


def test_refuses_rows_and_labels():
    with pytest.raises(ValueError, match="at least 2 classes"):
        local().fit(ROWS, np.zeros(1200))
    with pytest.raises(ValueError, match="at least one non-zero"):
        local().fit(ROWS, LABELS, sample_weight=np.zeros(1200))
    bad = ROWS.copy()
    bad[900, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        local().fit(lazy(bad, 500), da.from_array(LABELS, chunks=500))


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_log_proba", "decision_function"]
)
def test_values_of_lazy_rows_are_refused_when_they_are_read(method):
    model = local(max_iter=2).fit(ROWS, LABELS)
    bad = ROWS.copy()
    bad[17, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        np.asarray(getattr(model, method)(lazy(bad, 500)))
