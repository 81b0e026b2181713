"""LogisticRegression as a scikit-learn estimator: checks, the peer's solution, lazy input."""

from __future__ import annotations

import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression as Peer
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.logistic_regression import LogisticRegression

CHECKED = {"n_jobs": 1, "scheduler": "local", "tol": 1e-12}


@parametrize_with_checks(
    [
        LogisticRegression(**CHECKED),
        LogisticRegression(**CHECKED, l1_ratio=0.5),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


DATA = {"iris": load_iris(return_X_y=True), "cancer": load_breast_cancer(return_X_y=True)}


def scaled(name):
    rows, labels = DATA[name]
    return StandardScaler().fit_transform(rows), labels


def primal(model, rows, labels, weights=None):
    """scikit-learn's objective, from its definition."""
    loss = log_loss(labels, model.predict_proba(rows), normalize=False, sample_weight=weights)
    l1, l2 = np.abs(model.coef_).sum(), (model.coef_.astype(float) ** 2).sum()
    return model.C * loss + model.l1_ratio * l1 + 0.5 * (1 - model.l1_ratio) * l2


def solvers(name, l1_ratio):
    yield from ("newton", "lbfgs")
    if name == "cancer" and l1_ratio > 0:
        yield "working-set"


CASES = [
    (name, l1_ratio, solver)
    for name in DATA
    for l1_ratio in (0.0, 0.3, 1.0)
    for solver in solvers(name, l1_ratio)
]


@pytest.mark.parametrize(("name", "l1_ratio", "solver"), CASES)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_reaches_the_optimum_and_bounds_it(name, l1_ratio, solver, sparse, fit_intercept):
    rows, labels = scaled(name)
    given = sp.csr_array(rows) if sparse else rows
    parameters = {"C": 0.2, "l1_ratio": l1_ratio, "fit_intercept": fit_intercept}
    model = LogisticRegression(**parameters, solver=solver, tol=1e-6).fit(given, labels)
    np.testing.assert_allclose(primal(model, rows, labels), model.objective_, rtol=1e-9)
    assert 0 <= model.dual_gap_ <= 1e-6 * model.objective_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # saga is slow
        kind = "newton-cg" if l1_ratio == 0 else "saga"
        peer = Peer(**parameters, solver=kind, tol=1e-6, max_iter=300).fit(rows, labels)
    theirs = primal(peer, rows, labels)
    assert model.objective_ - model.dual_gap_ <= theirs * (1 + 1e-9)  # a lower bound
    assert model.objective_ <= theirs * (1 + 1e-6)
    if l1_ratio == 0:
        np.testing.assert_allclose(model.coef_, peer.coef_, atol=2e-3)
        np.testing.assert_allclose(model.intercept_, peer.intercept_, atol=2e-3)
        proba = model.predict_proba(rows)
        np.testing.assert_allclose(proba, peer.predict_proba(rows), atol=1e-3)


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "working-set"])
def test_weights_are_those_of_scikit_learn(solver):
    rows, labels = scaled("cancer")
    weights = np.random.default_rng(0).uniform(0, 2, len(rows))
    weights[:20] = 0
    l1 = 1.0 if solver == "working-set" else 0.0
    parameters = {"C": 0.05, "class_weight": {0: 3.0, 1: 0.5}, "l1_ratio": l1}
    kind = "newton-cholesky" if l1 == 0 else "saga"
    peer = Peer(**parameters, solver=kind, tol=1e-9, max_iter=20_000)
    peer.fit(rows, labels, sample_weight=weights)
    model = LogisticRegression(**parameters, solver=solver, tol=1e-10)
    model.fit(rows, labels, sample_weight=weights)
    np.testing.assert_allclose(model.coef_, peer.coef_, atol=2e-5)
    np.testing.assert_allclose(model.intercept_, peer.intercept_, atol=2e-5)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_a_penalty(solver, n_classes):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 4))
    labels = (
        rows @ rng.standard_normal((4, n_classes)) + rng.gumbel(size=(300, n_classes))
    ).argmax(1)
    peer = Peer(C=np.inf, tol=1e-8, max_iter=1000).fit(rows, labels)
    model = LogisticRegression(C=np.inf, solver=solver, tol=1e-7).fit(rows, labels)
    np.testing.assert_allclose(model.predict_proba(rows), peer.predict_proba(rows), atol=1e-4)
    assert np.isnan(model.dual_gap_)


def test_works_in_pipelines_and_searches():
    rows, labels = DATA["iris"]
    model = LogisticRegression(scheduler="local")
    pipeline = make_pipeline(StandardScaler(), model)
    assert cross_val_score(pipeline, rows, labels, cv=3).min() > 0.9
    grid = {"logisticregression__C": [1e-5, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(rows, labels)
    assert search.best_params_ == {"logisticregression__C": 1.0}
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_on_dask_input_are_lazy_and_survive_a_pickle(n_classes):
    rows, labels = DATA["iris"]
    names = np.array(["setosa", "versicolor", "virginica"])[labels % n_classes]
    model = LogisticRegression(scheduler="local").fit(rows, names)
    model = pickle.loads(pickle.dumps(model))
    computed = []

    def block(part):
        computed.append(len(part))
        return part

    lazy = da.from_array(rows, chunks=(40, 4)).map_blocks(block, meta=rows[:0])
    methods = ("predict_proba", "predict_log_proba", "decision_function", "predict")
    results = {name: getattr(model, name)(lazy) for name in methods}
    assert not computed
    for name, result in results.items():
        expected = getattr(model, name)(rows)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        found = result.compute(scheduler="sync")
        if name == "predict":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(model.predict_proba(rows).sum(1), 1)
    assert model.score(lazy, da.from_array(names, chunks=40)) == model.score(rows, names)
