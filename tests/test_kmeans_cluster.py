"""KMeans and SoftmaxRegression on four worker processes give what they give in this process."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import make_blobs

from dask_petuum.algorithms.kmeans import KMeans
from dask_petuum.algorithms.softmax_regression import SoftmaxRegression

ROWS, LABELS = make_blobs(2000, 6, centers=8, cluster_std=4.0, random_state=3)
PARTS = (300, 700, 500, 200, 300)


def lazy(values, sparse=False):
    chunks = (PARTS, -1) if values.ndim == 2 else (PARTS,)
    out = da.from_array(values, chunks=chunks)
    return out.map_blocks(sp.csr_array, meta=sp.csr_array(values[:0])) if sparse else out


def both(make, client, *data, **keywords):
    """The same fit in this process and on the cluster."""
    local, far = make(scheduler="local"), make(scheduler=None)
    far.client = client
    return local.fit(*data, **keywords), far.fit(*data, **keywords)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("sparse", [False, True])
def test_kmeans_is_equal_to_the_bit(client, init, sparse):
    def make(scheduler):
        return KMeans(8, init=init, n_init=1, random_state=0, scheduler=scheduler)

    weights = np.random.default_rng(0).uniform(0, 2, 2000)
    local, far = both(make, client, lazy(ROWS, sparse), sample_weight=lazy(weights))
    np.testing.assert_array_equal(far.cluster_centers_, local.cluster_centers_)
    np.testing.assert_array_equal(far.labels_, local.labels_)
    assert far.inertia_ == local.inertia_
    assert [r["inertia"] for r in far.history_] == [r["inertia"] for r in local.history_]


def test_minibatch_kmeans_is_equal_to_the_bit(client):
    def make(scheduler):
        return KMeans(8, algorithm="minibatch", batch_size=400, random_state=0, scheduler=scheduler)

    local, far = both(make, client, lazy(ROWS))
    np.testing.assert_array_equal(far.cluster_centers_, local.cluster_centers_)
    assert len(far.history_) == len(local.history_)


@pytest.mark.parametrize(("consistency", "staleness"), [("essp", 2), ("ssp", 1), ("asp", 0)])
def test_kmeans_with_stale_sums_ends_as_well(client, consistency, staleness):
    init = ROWS[:8]
    exact = KMeans(8, init=init, scheduler="local", tol=0).fit(ROWS)
    model = KMeans(8, init=init, tol=0, consistency=consistency, staleness=staleness)
    model.client = client
    model.fit(lazy(ROWS))
    assert model.inertia_ == pytest.approx(exact.inertia_, rel=0.05)
    np.testing.assert_array_equal(model.predict(ROWS), model.labels_)


def test_kmeans_of_rows_in_memory_and_partial_fit(client):
    model = KMeans(8, init=ROWS[:8], tol=0)
    model.client = client
    model.fit(ROWS)
    local = KMeans(8, init=ROWS[:8], tol=0, scheduler="local").fit(ROWS)
    np.testing.assert_array_equal(model.cluster_centers_, local.cluster_centers_)
    model.partial_fit(lazy(ROWS))
    assert model.counts_.sum() == 4000


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
@pytest.mark.parametrize("sparse", [False, True])
def test_softmax_is_equal_to_rounding(client, solver, sparse):
    def make(scheduler):
        return SoftmaxRegression(solver=solver, max_iter=5, random_state=0, scheduler=scheduler)

    local, far = both(make, client, lazy(ROWS, sparse), lazy(LABELS))
    np.testing.assert_allclose(far.coef_, local.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(far.intercept_, local.intercept_, rtol=1e-9, atol=1e-12)
    assert len(far.history_) == len(local.history_)


def test_softmax_with_stale_weights_learns_as_well(client):
    data = lazy(ROWS), lazy(LABELS)
    exact = SoftmaxRegression(random_state=0, max_iter=30, scheduler="local").fit(*data)
    model = SoftmaxRegression(random_state=0, max_iter=30, consistency="essp", staleness=2)
    model.client = client
    model.fit(*data)
    assert model.score(ROWS, LABELS) > exact.score(ROWS, LABELS) - 0.02
    model.partial_fit(*data)
    assert model.n_iter_ == 1
