"""LinearSVC as a scikit-learn estimator: checks, the peer's solution, pipelines, lazy input."""

from __future__ import annotations

import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC as Peer
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.linear_svc import LinearSVC

CHECKED = {"n_jobs": 1, "scheduler": "local", "tol": 1e-12, "random_state": 0}
#: Coordinate descent on many rows of few features ends at its tolerance, not at seven digits, and
#: repeated rows are visited in another order than rows that weigh more.
EXCUSED = {
    f"check_sample_weight_equivalence_on_{kind}_data": "other order of rows"
    for kind in ("dense", "sparse")
}


@parametrize_with_checks([LinearSVC(**CHECKED), LinearSVC(loss="hinge", **CHECKED)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:LinearSVC did not converge")  # two features around 100
@parametrize_with_checks(
    [LinearSVC(dual=True, n_jobs=1, scheduler="local", random_state=0)],
    expected_failed_checks=lambda estimator: EXCUSED,
)
def test_scikit_learn_checks_of_the_dual(estimator, check):
    check(estimator)


DATA = {
    "iris": load_iris(return_X_y=True),
    "digits": load_digits(return_X_y=True),
    "cancer": load_breast_cancer(return_X_y=True),
}


def scaled(name):
    rows, labels = DATA[name]
    return (rows / 16 if name == "digits" else StandardScaler().fit_transform(rows)), labels


def primal(model, rows, labels, C, scaling, weights):
    """Objective of each task at fitted weights, from its definition."""
    out = []
    for k in range(len(model.coef_)):
        positive = model.classes_[k if len(model.coef_) > 1 else 1]
        signs = np.where(labels == positive, 1, -1)
        short = np.maximum(0, 1 - signs * (rows @ model.coef_[k] + model.intercept_[k]))
        square = model.coef_[k] @ model.coef_[k] + (model.intercept_[k] / scaling) ** 2
        losses = short if model.loss == "hinge" else short**2
        out.append(0.5 * square + C * (weights * losses).sum())
    return np.array(out)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_equals_scikit_learn_s_solution(name, loss, dual, C):
    rows, labels = scaled(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # liblinear does not reach its tolerance everywhere
        peer = Peer(loss=loss, C=C, dual=True, tol=1e-6, max_iter=3000, random_state=0)
        peer.fit(rows, labels)
    model = LinearSVC(loss=loss, dual=dual, C=C, tol=1e-6, random_state=0).fit(rows, labels)
    one = np.ones(len(rows))
    ours = primal(model, rows, labels, C, 1.0, one)
    np.testing.assert_allclose(ours, model.objective_, rtol=1e-9)
    assert (model.dual_gap_ <= 1e-6 * model.objective_).all()
    theirs = primal(peer, rows, labels, C, 1.0, one)
    assert (model.objective_ - model.dual_gap_ <= theirs * (1 + 1e-9)).all()  # a lower bound
    assert (ours <= theirs * (1 + 1e-6)).all()
    assert np.mean(model.predict(rows) == peer.predict(rows)) > 0.995


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_are_those_of_scikit_learn(dual, n_classes):
    rows, labels = scaled("iris")
    keep = labels < n_classes
    rows, labels = rows[keep], labels[keep]
    weights = np.random.default_rng(0).uniform(0, 2, len(rows))
    parameters = {"C": 0.5, "class_weight": {0: 3.0, 1: 0.5}, "intercept_scaling": 2.0}
    peer = Peer(**parameters, dual=True, tol=1e-8, max_iter=100_000, random_state=0)
    peer.fit(rows, labels, sample_weight=weights)
    model = LinearSVC(**parameters, dual=dual, tol=1e-10, random_state=0)
    model.fit(rows, labels, sample_weight=weights)
    np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-4)
    np.testing.assert_allclose(model.intercept_, peer.intercept_, atol=1e-4)


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_sparse_rows_threads_and_float32_give_the_same(dual, loss, n_classes):
    rows, labels = scaled("digits")
    labels = labels % n_classes
    parameters = {"loss": loss, "dual": dual, "C": 0.1, "tol": 1e-5, "random_state": 0}
    model = LinearSVC(**parameters, n_jobs=1).fit(rows, labels)
    again = LinearSVC(**parameters, n_jobs=2).fit(rows, labels)
    np.testing.assert_array_equal(again.coef_, model.coef_)
    sparse = LinearSVC(**parameters).fit(sp.csr_array(rows), labels)
    np.testing.assert_allclose(sparse.objective_, model.objective_, rtol=2e-5)
    single = LinearSVC(**parameters).fit(rows.astype(np.float32), labels)
    assert single.coef_.dtype == single.intercept_.dtype == np.float32
    np.testing.assert_allclose(single.objective_, model.objective_, rtol=1e-4)


def test_works_in_pipelines_and_searches():
    rows, labels = DATA["iris"]
    model = LinearSVC(scheduler="local", random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    assert cross_val_score(pipeline, rows, labels, cv=3).min() > 0.85
    search = GridSearchCV(pipeline, {"linearsvc__C": [1e-4, 1.0]}, cv=3).fit(rows, labels)
    assert search.best_params_ == {"linearsvc__C": 1.0}
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_on_dask_input_are_lazy_and_survive_a_pickle(n_classes):
    rows, labels = DATA["iris"]
    names = np.array(["setosa", "versicolor", "virginica"])[labels % n_classes]
    model = LinearSVC(scheduler="local", random_state=0).fit(rows, names)
    model = pickle.loads(pickle.dumps(model))
    computed = []

    def block(part):
        computed.append(len(part))
        return part

    lazy = da.from_array(rows, chunks=(40, 4)).map_blocks(block, meta=rows[:0])
    results = {name: getattr(model, name)(lazy) for name in ("predict", "decision_function")}
    assert not computed
    for name, result in results.items():
        expected = getattr(model, name)(rows)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        found = result.compute(scheduler="sync")
        if name == "predict":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, atol=1e-12)
    assert model.score(lazy, da.from_array(names, chunks=40)) == model.score(rows, names)
