"""SoftmaxRegression as a scikit-learn estimator: checks, peers, pipelines, pickles, lazy input."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.softmax_regression import SoftmaxRegression

#: Steps on random batches: repeated rows fall into other batches than rows that weigh more, so the
#: two reach the same optimum, but not the same weights to seven digits (as scikit-learn's own
#: SGDClassifier).
RANDOM_BATCHES = "sample_weight is not equivalent to repeating rows: other random batches"
EXCUSED = {
    "check_sample_weight_equivalence_on_dense_data": RANDOM_BATCHES,
    "check_sample_weight_equivalence_on_sparse_data": RANDOM_BATCHES,
}

#: All rows but one class's weigh 1e-7 there: the answer is an endless intercept, which the steps
#: of plain SGD approach by their logarithm.
SGD = {**EXCUSED, "check_class_weight_classifiers": "SGD does not get there"}


@parametrize_with_checks(
    [
        SoftmaxRegression(n_jobs=1, scheduler="local"),
        SoftmaxRegression(n_jobs=1, scheduler="local", solver="sgd", momentum=0.5),
    ],
    expected_failed_checks=lambda estimator: EXCUSED if estimator.solver == "adagrad" else SGD,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def objective(model, rows, labels, weights, C):
    """scikit-learn's objective, divided by C and the sum of the weights."""
    loss = log_loss(labels, model.predict_proba(rows), sample_weight=weights)
    total = len(labels) if weights is None else weights.sum()
    return loss + (model.coef_.astype(float) ** 2).sum() / (2 * C * total)


DATA = {
    "iris": load_iris(return_X_y=True),
    "digits": load_digits(return_X_y=True),
    "cancer": load_breast_cancer(return_X_y=True),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
@pytest.mark.parametrize("C", [0.1, 1.0])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_reaches_scikit_learn_s_objective(name, solver, C, sparse, weighted):
    rows, labels = DATA[name]
    rows = rows / 16 if name == "digits" else StandardScaler().fit_transform(rows)
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 2.0, len(rows)) if weighted else None
    peer = LogisticRegression(C=C, max_iter=5000).fit(rows, labels, sample_weight=weights)
    model = SoftmaxRegression(C=C, solver=solver, random_state=0, max_iter=200, tol=1e-6)
    model.fit(sp.csr_array(rows) if sparse else rows, labels, sample_weight=weights)
    best = objective(peer, rows, labels, weights, C)
    assert objective(model, rows, labels, weights, C) <= best * 1.1
    assert model.coef_.shape == peer.coef_.shape
    assert np.mean(model.predict(rows) == peer.predict(rows)) > 0.9


def test_predictions_are_those_of_the_scores():
    rows, labels = DATA["iris"]
    names = np.array(["setosa", "versicolor", "virginica"])[labels]
    model = SoftmaxRegression(random_state=0).fit(rows, names)
    proba = model.predict_proba(rows)
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_allclose(np.log(proba), model.predict_log_proba(rows), atol=1e-9)
    np.testing.assert_array_equal(model.predict(rows), model.classes_[proba.argmax(1)])
    np.testing.assert_array_equal(model.decision_function(rows).argmax(1), proba.argmax(1))


def test_works_in_pipelines_searches_and_cross_validation():
    rows, labels = DATA["iris"]
    model = SoftmaxRegression(random_state=0, max_iter=20, scheduler="local")
    pipeline = make_pipeline(StandardScaler(), model)
    assert cross_val_score(pipeline, rows, labels, cv=3).min() > 0.9
    grid = {"softmaxregression__C": [1e-5, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(rows, labels)
    assert search.best_params_ == {"softmaxregression__C": 1.0}


def test_clones_and_pickles():
    rows, labels = DATA["iris"]
    model = SoftmaxRegression(random_state=0).fit(rows, labels)
    assert clone(model).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(rows), model.predict_proba(rows))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_predictions_on_dask_input_are_lazy(n_classes, sparse):
    rows, labels = DATA["iris"]
    model = SoftmaxRegression(random_state=0, scheduler="local").fit(rows, labels % n_classes)
    computed = []

    def block(part):
        computed.append(len(part))
        return sp.csr_array(part) if sparse else part

    lazy = da.from_array(rows, chunks=(40, 4)).map_blocks(block, meta=block(rows[:0]))
    computed.clear()
    methods = ("predict", "predict_proba", "predict_log_proba", "decision_function")
    results = [getattr(model, name)(lazy) for name in methods]
    assert not computed
    for name, result in zip(methods, results, strict=True):
        expected = getattr(model, name)(rows)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(result.compute(scheduler="sync"), expected, atol=1e-12)
    expected = model.score(rows, labels % n_classes)
    assert model.score(lazy, da.from_array(labels % n_classes, chunks=40)) == expected
