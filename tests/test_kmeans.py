"""KMeans: what it finds, that partitions and threads do not matter, what it refuses."""

from __future__ import annotations

from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.callback import ProgressBar
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from dask_petuum.algorithms.kmeans import KMeans

ROWS, TRUTH = make_blobs(2000, 6, centers=8, cluster_std=0.7, random_state=3)


def local(**parameters):
    return KMeans(n_clusters=8, random_state=0, scheduler="local", **parameters)


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_finds_planted_clusters(init, algorithm):
    model = local(init=init, algorithm=algorithm, batch_size=200).fit(ROWS)
    assert adjusted_rand_score(TRUTH, model.labels_) == 1.0
    np.testing.assert_array_equal(model.predict(ROWS), model.labels_)
    assert -model.score(ROWS) == pytest.approx(model.inertia_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_partitions_and_threads_change_nothing(dtype, sparse, weighted):
    """To the bit, from the same first centres: sums are exact and labels depend on rows alone."""
    rows = (ROWS * (np.abs(ROWS) > 3 if sparse else 1)).astype(dtype)
    weights = np.random.default_rng(1).uniform(0, 2, len(rows)) if weighted else None
    init = rows[::250]
    found = []
    for n_rows, n_jobs in ((2000, 1), (2000, 2), (700, 1), (123, 2)):
        lazy = da.from_array(rows, chunks=(n_rows, -1))
        lazy = lazy.map_blocks(sp.csr_array, meta=sp.csr_array(rows[:0])) if sparse else lazy
        model = local(init=init, n_jobs=n_jobs, tol=0).fit(lazy, sample_weight=weights)
        found.append((model.cluster_centers_, model.labels_, len(model.history_)))
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_same_seed_and_partitions_give_the_same_result(init, algorithm):
    lazy = da.from_array(ROWS, chunks=(600, -1))
    models = [
        local(init=init, algorithm=algorithm, max_iter=4, n_jobs=n_jobs).fit(lazy)
        for n_jobs in (1, 2)
    ]
    np.testing.assert_array_equal(models[0].cluster_centers_, models[1].cluster_centers_)
    assert [r["inertia"] for r in models[0].history_] == [r["inertia"] for r in models[1].history_]


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_history_shows_the_inertia_of_every_pass(shift):
    rows = ROWS + shift
    model = local(init=rows[:8], max_iter=5, tol=0).fit(rows)
    centers, shown = rows[:8], [record["inertia"] for record in model.history_]
    for value in shown:
        squares = ((rows[:, None] - centers[None]) ** 2).sum(2)
        assert value == pytest.approx(squares.min(1).sum(), rel=1e-6)
        labels = squares.argmin(1)
        centers = np.array([rows[labels == j].mean(0) for j in range(8)])
    assert all(a >= b for a, b in pairwise(shown))
    assert model.inertia_ <= shown[-1] * (1 + 1e-9)
    np.testing.assert_allclose(model.cluster_centers_, centers, rtol=1e-9)


def test_a_cluster_without_rows_gets_the_farthest_row():
    rows = np.array([[0.0], [0.1], [0.2], [5.0], [9.0]])
    model = KMeans(3, init=np.array([[0.1], [7.0], [1e3]]), scheduler="local").fit(rows)
    np.testing.assert_allclose(np.sort(model.cluster_centers_.ravel()), [0.1, 5.0, 9.0])
    assert [record["clock"] for record in model.history_] == list(range(1, len(model.history_) + 1))


def test_fewer_distinct_rows_than_clusters_warn():
    rows = np.repeat([[1.0, 2.0], [3.0, 4.0]], 10, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller"):
        model = KMeans(4, random_state=0, scheduler="local").fit(rows)
    assert model.inertia_ == 0


def test_weights_count_as_repeated_rows():
    weights = np.random.default_rng(0).integers(0, 4, len(ROWS))
    init = ROWS[::250]
    weighted = local(init=init, tol=0).fit(ROWS, sample_weight=weights)
    repeated = local(init=init, tol=0).fit(np.repeat(ROWS, weights, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-9)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_)
    np.testing.assert_allclose(weighted.counts_, repeated.counts_)


def test_partial_fit_averages_all_rows_of_a_centre():
    model = local(init=ROWS[:8])
    centers, counts = ROWS[:8].copy(), np.zeros(8)
    for low in range(0, 2000, 500):
        batch = ROWS[low : low + 500]
        model.partial_fit(batch)
        labels = ((batch[:, None] - centers[None]) ** 2).sum(2).argmin(1)
        for j in range(8):
            mine = batch[labels == j]
            total = counts[j] + len(mine)
            if len(mine):
                centers[j] = (counts[j] * centers[j] + mine.sum(0)) / total
            counts[j] = total
    np.testing.assert_allclose(model.cluster_centers_, centers, rtol=1e-9)
    np.testing.assert_array_equal(model.counts_, counts)
    assert model.n_steps_ == 4
    assert len(model.labels_) == 500


def test_partial_fit_goes_on_after_fit():
    model = local().fit(ROWS)
    before = model.cluster_centers_.copy()
    model.partial_fit(ROWS[:10])
    assert model.counts_.sum() == 2010
    assert 0 < np.abs(model.cluster_centers_ - before).max() < 0.1


def test_more_starts_are_never_worse():
    one = local(init="random", n_init=1).fit(ROWS)
    many = local(init="random", n_init=5).fit(ROWS)
    assert many.inertia_ <= one.inertia_


def test_scores_lazy_rows_with_weights():
    model = local().fit(ROWS)
    lazy = da.from_array(ROWS, chunks=(300, -1))
    weights = np.linspace(0, 1, 2000)
    expected = model.score(ROWS, sample_weight=weights)
    assert model.score(lazy, sample_weight=da.from_array(weights, chunks=300)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_lazy_rows_are_read_in_chunks_of_columns_too(method):
    model = local().fit(ROWS)
    lazy = getattr(model, method)(da.from_array(ROWS, chunks=(300, 4)))
    now = getattr(model, method)(ROWS)
    assert lazy.dtype == now.dtype
    assert lazy.shape == now.shape
    assert np.array_equal(lazy.compute(), now)


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_values_of_lazy_rows_are_refused_when_they_are_read(method):
    model = local().fit(ROWS)
    bad = ROWS.copy()
    bad[1500, 2] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        np.asarray(getattr(model, method)(da.from_array(bad, chunks=(300, -1))))


def test_callbacks_hear_of_every_clock(capsys):
    local(init=ROWS[:8], max_iter=3, tol=0).set_callbacks(ProgressBar()).fit(ROWS)
    local(init=ROWS[:8], max_iter=2, tol=0, verbose=1).fit(ROWS)
    assert capsys.readouterr().out.count("[KMeans] clock") == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1"),
        ({"n_clusters": 3000}, "n_samples=2000 should be >= n_clusters=3000"),
        ({"tol": -1}, "tol must be a number >= 0"),
        ({"init": "best"}, "init must be one of"),
        ({"init": np.zeros((2, 6))}, r"n_features\) = \(8, 6\), got shape \(2, 6\)"),
        ({"algorithm": "elkan"}, "algorithm must be 'lloyd' or 'minibatch'"),
        ({"staleness": 2}, 'has staleness 0, got 2; use "ssp"'),
        ({"consistency": "ssp", "staleness": (4, 2)}, "0 <= low <= high"),
        ({"n_init": 0}, "n_init must be an integer >= 1"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
        ({"batch_size": 0.5}, "batch_size must be an integer >= 1"),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        local().set_params(**parameters).fit(ROWS)


def test_refuses_values_where_they_lie():
    bad = ROWS.copy()
    bad[1500, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        local().fit(da.from_array(bad, chunks=(500, -1)))
    weights = np.ones(2000)
    weights[7] = -1
    with pytest.raises(
        ValueError, match=r"sample_weight must be finite and >= 0, got -1\.0 in row 7"
    ):
        local().fit(ROWS, sample_weight=weights)
