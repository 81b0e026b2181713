"""Lasso and ElasticNet as scikit-learn estimators: checks, the same answers, lazy input."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.lasso import ElasticNet, Lasso

HERE = {"scheduler": "local", "n_jobs": 1}
ROWS, TARGET = load_diabetes(return_X_y=True)


@parametrize_with_checks([Lasso(**HERE), ElasticNet(**HERE)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.7])
@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_finds_scikit_learn_s_coefficients(sparse, weighted, positive, center, ratio, alpha):
    rows = sp.csc_array(ROWS) if sparse else ROWS
    weights = np.random.default_rng(0).uniform(0.1, 2, len(TARGET)) if weighted else None
    shared = {"l1_ratio": ratio, "fit_intercept": center, "positive": positive}
    peer = linear_model.ElasticNet(alpha, tol=1e-14, max_iter=100_000, **shared)
    peer.fit(rows, TARGET, sample_weight=weights)
    model = ElasticNet(alpha, tol=1e-14, **shared, **HERE)
    model.fit(rows, TARGET, sample_weight=weights)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-6, atol=1e-6)
    assert model.intercept_ == pytest.approx(peer.intercept_, rel=1e-6)
    np.testing.assert_array_equal(model.sparse_coef_.toarray()[0], model.coef_)
    assert model.score(rows, TARGET) == pytest.approx(peer.score(rows, TARGET))


def test_path_is_scikit_learn_s():
    centred = ROWS - ROWS.mean(axis=0)
    alphas, coefs, _ = linear_model.lasso_path(
        centred, TARGET - TARGET.mean(), eps=1e-3, alphas=20, tol=1e-12, max_iter=100_000
    )
    path = Lasso(tol=1e-12, **HERE).path(ROWS, TARGET, eps=1e-3, n_alphas=20)
    np.testing.assert_allclose(path.alphas, alphas)
    np.testing.assert_allclose(path.coefs, coefs, atol=1e-4)


def test_works_in_pipelines_and_searches():
    pipeline = make_pipeline(StandardScaler(), Lasso(**HERE))
    search = GridSearchCV(pipeline, {"lasso__alpha": [0.1, 1.0, 1e4]}, cv=3).fit(ROWS, TARGET)
    assert search.best_params_["lasso__alpha"] < 1e4


def test_clones_and_pickles():
    model = Lasso(0.1, **HERE).fit(ROWS, TARGET)
    assert clone(model).get_params() == model.get_params()
    assert "l1_ratio" not in model.get_params()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(ROWS), model.predict(ROWS))


@pytest.mark.parametrize("sparse", [False, True])
def test_predictions_on_dask_input_are_lazy(sparse):
    model = Lasso(0.1, **HERE).fit(ROWS, TARGET)
    computed = []

    def block(part):
        computed.append(len(part))
        return sp.csr_array(part) if sparse else part

    lazy = da.from_array(ROWS, chunks=(150, 10)).map_blocks(block, meta=block(ROWS[:0]))
    computed.clear()
    predicted = model.predict(lazy)
    assert not computed
    np.testing.assert_allclose(predicted.compute(scheduler="sync"), model.predict(ROWS))
    target = da.from_array(TARGET, chunks=150)
    assert model.score(lazy, target) == pytest.approx(model.score(ROWS, TARGET))
    weights = np.linspace(0, 1, len(TARGET))
    expected = model.score(ROWS, TARGET, weights)
    given = da.from_array(weights, chunks=150)
    assert model.score(lazy, target, given) == pytest.approx(expected)


def test_dask_and_pandas_frames():
    frame, target = load_diabetes(return_X_y=True, as_frame=True)
    import dask.dataframe as dd

    expected = Lasso(0.1, tol=1e-10, **HERE).fit(frame, target)
    assert list(expected.feature_names_in_) == list(frame.columns)
    model = Lasso(0.1, tol=1e-10, **HERE)
    model.fit(dd.from_pandas(frame, npartitions=3), dd.from_pandas(target, npartitions=3))
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-6)
