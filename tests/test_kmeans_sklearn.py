"""KMeans as a scikit-learn estimator: common checks, pipelines, clones, pickles, lazy input."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.cluster import KMeans as Peer
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.kmeans import KMeans

IRIS = load_iris().data


#: scikit-learn's own KMeans and MiniBatchKMeans are excused from these two: the first centres are
#: drawn at random, and another order or number of rows draws others.
RANDOM_START = "sample_weight is not equivalent to removing or repeating rows: other first centres"
EXCUSED = {
    "check_sample_weight_equivalence_on_dense_data": RANDOM_START,
    "check_sample_weight_equivalence_on_sparse_data": RANDOM_START,
}


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@parametrize_with_checks(
    [
        KMeans(n_jobs=1, scheduler="local"),
        KMeans(n_jobs=1, scheduler="local", algorithm="minibatch"),
    ],
    expected_failed_checks=lambda estimator: EXCUSED,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn_from_the_same_centres(dtype, sparse, weighted):
    rows = load_digits().data.astype(dtype)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(rows)) if weighted else None
    init = rows[:10]
    peer = Peer(10, init=init, n_init=1, tol=0).fit(rows, sample_weight=weights)
    given = sp.csr_array(rows) if sparse else rows
    model = KMeans(10, init=init, tol=0).fit(given, sample_weight=weights)
    np.testing.assert_array_equal(model.labels_, peer.labels_)
    np.testing.assert_allclose(model.cluster_centers_, peer.cluster_centers_, rtol=1e-4, atol=1e-4)
    assert model.inertia_ == pytest.approx(peer.inertia_, rel=1e-5)
    assert model.n_iter_ == peer.n_iter_
    assert model.cluster_centers_.dtype == dtype


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_starts_are_as_good_as_scikit_learn_s(init):
    inertia = np.median(
        [KMeans(3, init=init, n_init=3, random_state=seed).fit(IRIS).inertia_ for seed in range(5)]
    )
    assert inertia <= Peer(3, n_init=10, random_state=0).fit(IRIS).inertia_ * 1.0001


def test_works_in_pipelines_searches_and_cross_validation():
    pipeline = make_pipeline(StandardScaler(), KMeans(3, random_state=0, scheduler="local"))
    assert np.isfinite(cross_val_score(pipeline, IRIS, cv=3)).all()
    search = GridSearchCV(pipeline, {"kmeans__n_clusters": [2, 5]}, cv=3).fit(IRIS)
    assert search.best_params_ == {"kmeans__n_clusters": 5}


def test_clones_pickles_and_names_its_output():
    model = KMeans(3, random_state=0).fit(IRIS)
    assert clone(model).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(IRIS), model.labels_)
    frame = model.set_output(transform="pandas").transform(IRIS)
    assert list(frame.columns) == ["kmeans0", "kmeans1", "kmeans2"]


@pytest.mark.parametrize("sparse", [False, True])
def test_predictions_on_dask_input_are_lazy(sparse):
    model = KMeans(3, random_state=0, scheduler="local").fit(IRIS)
    computed = []

    def block(rows):
        computed.append(len(rows))
        return sp.csr_array(rows) if sparse else rows

    lazy = da.from_array(IRIS, chunks=(40, 4)).map_blocks(block, meta=block(IRIS[:0]))
    computed.clear()
    labels, distances = model.predict(lazy), model.transform(lazy)
    assert not computed
    assert (labels.dtype, labels.shape) == (np.int32, (150,))
    assert distances.shape == (150, 3)
    np.testing.assert_array_equal(labels.compute(scheduler="sync"), model.labels_)
    np.testing.assert_allclose(distances.compute(scheduler="sync"), model.transform(IRIS))
    assert computed


def test_lazy_rows_with_other_columns_are_refused():
    model = KMeans(3, random_state=0, scheduler="local").fit(IRIS)
    with pytest.raises(ValueError, match="X has 3 features, but KMeans is expecting 4"):
        model.predict(da.zeros((5, 3)))
