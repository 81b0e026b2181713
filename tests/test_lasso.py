"""Lasso and ElasticNet: certificates, optimality, edge cases, paths, partitions."""

from __future__ import annotations

import warnings
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from dask_petuum.algorithms import lasso_columns
from dask_petuum.algorithms.lasso import ElasticNet, Lasso
from dask_petuum.algorithms.lasso_certificate import Norms, Penalty, certify
from dask_petuum.algorithms.lasso_columns import columns_of
from dask_petuum.algorithms.lasso_sets import GramSet, solve_by_residual
from dask_petuum.runtime.threads import Threads

HERE = {"scheduler": "local", "n_jobs": 1}


def make(n_rows, n_cols, seed=0, share=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_rows, n_cols)) * (rng.random((n_rows, n_cols)) < share)
    x[:, : n_cols // 2] += rng.choice([0.0, 1.5], n_cols // 2)
    w = rng.standard_normal(n_cols) * (rng.random(n_cols) < 0.2)
    return x, x @ w + 0.2 * rng.standard_normal(n_rows) + 1.0, rng


def objective(model, x, y, weights=None):
    """scikit-learn's objective, from its definition."""
    s = np.ones(len(y)) if weights is None else weights * len(y) / weights.sum()
    rest = y - x @ model.coef_.astype(float) - model.intercept_
    l1, ratio = np.abs(model.coef_).sum(), model.l1_ratio
    l2 = float(model.coef_.astype(float) @ model.coef_)
    loss = 0.5 * (s * rest**2).mean()
    return loss + model.alpha * (ratio * l1 + 0.5 * (1 - ratio) * l2)


def assert_optimal(model, x, y, weights=None, atol=1e-5):
    """The optimality (KKT) conditions, from their definition."""
    n = len(y)
    s = np.ones(n) if weights is None else weights * n / weights.sum()
    force = s * (y - x @ model.coef_ - model.intercept_)
    lam = model.alpha * model.l1_ratio
    slope = x.T @ force / n - model.alpha * (1 - model.l1_ratio) * model.coef_
    moved = model.coef_ != 0
    np.testing.assert_allclose(slope[moved], lam * np.sign(model.coef_[moved]), atol=atol)
    bound = slope if model.positive else np.abs(slope)
    assert (bound <= lam + atol).all()
    if model.fit_intercept:
        assert force.sum() == pytest.approx(0, abs=1e-8 * n)
    if model.positive:
        assert (model.coef_ >= 0).all()


# From 8 rows and a hundredth of the largest penalty on: below, columns of fewer rows than there are
# columns in the support are exactly dependent, and descent among them is slow (docs/lasso.md).
@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 30),
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.floats(1e-2, 1.5),
    st.sampled_from([1.0, 0.9, 0.3, 0.0]),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
)
def test_any_small_problem(n_rows, n_cols, seed, part, ratio, flags):
    center, positive, sparse, weighted = flags
    x, y, rng = make(n_rows, n_cols, seed, 0.6)
    weights = rng.uniform(0.1, 2, n_rows) if weighted else None
    alpha = part * (np.abs(x.T @ (y - y.mean())).max() / n_rows + 1e-3)
    model = ElasticNet(
        alpha, l1_ratio=ratio, fit_intercept=center, positive=positive, tol=1e-12, **HERE
    )
    model.fit(sp.csr_array(x) if sparse else x, y, sample_weight=weights)
    assert_optimal(model, x, y, weights, atol=1e-5 * (1 + np.abs(y).max()) * (1 + alpha))


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_the_gap_bounds_the_distance_to_the_minimum(ratio, positive, max_iter):
    x, y, _ = make(60, 150)
    settings_ = {"l1_ratio": ratio, "positive": positive, **HERE}
    best = objective(ElasticNet(0.02, tol=1e-13, **settings_).fit(x, y), x, y)
    model = ElasticNet(0.02, tol=0.0, max_iter=max_iter, **settings_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    for record in model.history_:
        assert record["objective"] - best <= record["dual_gap"] + 1e-12
    assert model.history_[-1]["objective"] == pytest.approx(objective(model, x, y), rel=1e-9)
    assert model.dual_gap_ == model.history_[-1]["dual_gap"]


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("positive", [False, True])
def test_the_certificate_is_below_every_objective(ridge, positive):
    x, y, rng = make(20, 30)
    y = y - y.mean()
    penalty = Penalty(2.0, ridge, positive)

    def value(w):
        rest = y - x @ w
        return 0.5 * rest @ rest + 2.0 * np.abs(w).sum() + 0.5 * ridge * w @ w

    points = [rng.standard_normal(30) * (rng.random(30) < 0.3) * size for size in (0, 0.1, 1, 9)]
    points = [np.abs(w) for w in points] if positive else points
    for w in points:
        r = y - x @ w
        found = certify(penalty, Norms.of(r, y, float(y @ y), w), x.T @ r - ridge * w, w)
        assert found.primal == pytest.approx(value(w))
        assert all(found.dual <= value(other) + 1e-9 for other in points)


def test_a_fit_that_is_cut_short_says_so():
    x, y, _ = make(60, 150)
    with pytest.warns(ConvergenceWarning, match="dual gap is .* after 1 rounds"):
        Lasso(0.01, tol=1e-10, max_iter=1, **HERE).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="dual gap is .* after 1 rounds"):
        Lasso(0.01, tol=1e-10, max_iter=1, **HERE).fit(da.from_array(x), da.from_array(y))


@pytest.mark.parametrize("lazy", [False, True])
def test_callbacks_see_every_round_and_may_end_the_fit(lazy, monkeypatch):
    x, y, _ = make(60, 150)
    seen = []

    def stop_at_the_second(self, root):
        return lambda record: seen.append(record) or len(seen) == 2

    monkeypatch.setattr(Lasso, "_monitor", stop_at_the_second)
    data = (da.from_array(x, chunks=(30, 150)), da.from_array(y, chunks=30)) if lazy else (x, y)
    model = Lasso(0.01, tol=1e-12, **HERE).fit(*data)
    assert model.n_iter_ == 1
    assert [record["dual_gap"] for record in model.history_] == [r["dual_gap"] for r in seen]
    assert model.coef_.any()


def test_excluded_columns_are_not_in_the_solution():
    x, y, _ = make(100, 300, share=0.5)
    model = Lasso(0.3, tol=1e-10, **HERE).fit(x, y)
    alive = [record["n_alive"] for record in model.history_]
    assert alive[-1] < 300
    assert all(later <= earlier for earlier, later in pairwise(alive))
    assert alive[-1] >= np.count_nonzero(model.coef_)
    assert_optimal(model, x, y)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 3.0])
@pytest.mark.parametrize("positive", [False, True])
def test_both_solvers_of_a_set_agree(sparse, ridge, positive):
    x, y, _ = make(80, 40, share=0.4)
    ones = np.ones(80)
    y = y - y.mean()
    penalty = Penalty(4.0, ridge, positive)
    with Threads(2) as threads:
        data = sp.csc_array(x) if sparse else np.asfortranarray(x)
        columns = columns_of(data, ones, threads)
        b = columns.look(y)
        cols = np.arange(40)
        known = GramSet()
        known.add(columns, cols[:25])
        known.add(columns, cols[25:])
        plain = x - x.mean(axis=0)
        np.testing.assert_allclose(known.gram, plain.T @ plain, atol=1e-9)
        w, c, yy = np.zeros(40), b.copy(), float(y @ y)
        known.solve(penalty, (w, c), b, yy, 1e-12 * yy)
        other, r = np.zeros(40), y.copy()
        solve_by_residual(columns, cols, penalty, (other, r), (y, yy), 1e-12 * yy)
    np.testing.assert_allclose(other, w, atol=1e-6)
    np.testing.assert_allclose(r, y - plain @ other, atol=1e-9)
    kept = w != 0
    known.keep(kept)
    np.testing.assert_allclose(known.gram, plain[:, kept].T @ plain[:, kept], atol=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_threads_and_a_forbidden_gram_matrix_change_nothing(sparse, monkeypatch):
    x, y, _ = make(300, 1000, share=0.5)
    data = sp.csc_array(x) if sparse else x
    model = Lasso(0.02, tol=1e-12, **HERE).fit(data, y)
    threaded = Lasso(0.02, tol=1e-12, scheduler="local", n_jobs=2).fit(data, y)
    np.testing.assert_allclose(threaded.coef_, model.coef_, atol=1e-9)
    monkeypatch.setattr(lasso_columns, "DENSE_LIMIT", 0.0)
    monkeypatch.setattr(lasso_columns, "SPARSE_SET", 0.0)
    through_columns = Lasso(0.02, tol=1e-12, **HERE).fit(data, y)
    np.testing.assert_allclose(through_columns.coef_, model.coef_, atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_columns_that_say_nothing(sparse, lazy, center):
    x, y, _ = make(60, 12)
    x[:, 2], x[:, 5], x[:, 7] = 0.0, 3.3 if center else 0.0, x[:, 8]
    data = sp.csr_array(x) if sparse else x
    if lazy:
        data = da.from_array(x, chunks=(25, 12))
        data = data.map_blocks(sp.csr_array, meta=sp.csr_array(x[:0])) if sparse else data
    model = Lasso(0.01, fit_intercept=center, tol=1e-12, **HERE)
    model.fit(data, da.from_array(y, chunks=25) if lazy else y)
    assert model.coef_[2] == model.coef_[5] == 0
    assert_optimal(model, x, y)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_the_smallest_alpha_that_gives_zeros(lazy, ratio):
    x, y, _ = make(50, 20)
    alpha = np.abs(x.T @ (y - y.mean())).max() / 50 / ratio
    data = (da.from_array(x, chunks=(20, 20)), da.from_array(y, chunks=20)) if lazy else (x, y)
    model = ElasticNet(alpha * (1 + 1e-9), l1_ratio=ratio, tol=1e-10, **HERE).fit(*data)
    assert not model.coef_.any()
    assert model.n_iter_ == 0
    assert model.intercept_ == pytest.approx(y.mean())
    assert ElasticNet(alpha * 0.99, l1_ratio=ratio, tol=1e-10, **HERE).fit(*data).coef_.any()


@pytest.mark.parametrize("lazy", [False, True])
def test_alpha_zero_is_least_squares(lazy):
    x, y, _ = make(80, 10)
    expected = np.linalg.lstsq(np.column_stack([x, np.ones(80)]), y)[0]
    data = (da.from_array(x, chunks=(30, 10)), da.from_array(y, chunks=30)) if lazy else (x, y)
    model = Lasso(0.0, tol=1e-12, **HERE).fit(*data)
    np.testing.assert_allclose(model.coef_, expected[:-1], atol=1e-6)
    assert model.intercept_ == pytest.approx(expected[-1], abs=1e-6)


def test_alpha_zero_with_more_columns_than_rows_fits_exactly():
    x, y, _ = make(15, 40)
    model = Lasso(0.0, tol=1e-10, **HERE).fit(x, y)
    np.testing.assert_allclose(model.predict(x), y, atol=1e-4)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("y", [[2.0], [2.0, 2.0, 2.0], [0.1, 0.1, 0.1, 0.1]])
def test_targets_that_say_nothing(lazy, y):
    y = np.array(y)
    x = np.random.default_rng(0).standard_normal((len(y), 3))
    data = (da.from_array(x), da.from_array(y)) if lazy else (x, y)
    model = Lasso(0.01, **HERE).fit(*data)
    np.testing.assert_allclose(model.coef_, 0, atol=1e-12)
    assert model.intercept_ == pytest.approx(y[0])
    assert model.dual_gap_ == pytest.approx(0, abs=1e-12)


def test_weights_are_repeated_rows_and_zeros_are_rows_left_out():
    x, y, rng = make(40, 60)
    times = rng.integers(0, 4, 40)
    weighted = Lasso(0.05, tol=1e-12, **HERE).fit(x, y, sample_weight=times)
    repeated = Lasso(0.05, tol=1e-12, **HERE).fit(np.repeat(x, times, 0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-7)
    assert weighted.intercept_ == pytest.approx(repeated.intercept_)
    assert_optimal(weighted, x, y, times)


def test_float32_is_kept_and_large_means_do_no_harm():
    x, y, _ = make(100, 30)
    model = Lasso(0.05, tol=1e-8, **HERE).fit(x.astype(np.float32), y)
    assert model.coef_.dtype == model.predict(x.astype(np.float32)).dtype == np.float32
    expected = Lasso(0.05, tol=1e-12, **HERE).fit(x, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-5)
    far = Lasso(0.05, tol=1e-10, **HERE).fit(x + 1e5, y)
    np.testing.assert_allclose(far.coef_, expected.coef_, atol=1e-7)
    lazy = Lasso(0.05, tol=1e-10, **HERE)
    lazy.fit(da.from_array(x + 1e5, chunks=(30, 30)), da.from_array(y, chunks=30))
    np.testing.assert_allclose(lazy.coef_, expected.coef_, atol=1e-7)


def test_a_warm_start_at_the_solution_ends_at_once():
    x, y, _ = make(100, 200)
    model = Lasso(0.02, tol=1e-10, warm_start=True, **HERE).fit(x, y)
    first, rounds = model.coef_, model.n_iter_
    assert rounds > 0
    model.set_params(tol=1e-9).fit(x, y)
    assert model.n_iter_ == 0
    np.testing.assert_array_equal(model.coef_, first)
    again = model.set_params(alpha=0.018, tol=1e-12).fit(x, y)
    assert_optimal(again, x, y)


@pytest.mark.parametrize("model", [Lasso(), Lasso(positive=True), ElasticNet(l1_ratio=0.5)])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_path_is_its_points(model, sparse):
    x, y, rng = make(60, 150, share=0.7)
    model.set_params(tol=1e-11, **HERE)
    weights = rng.uniform(0.5, 1.5, 60)
    data = sp.csc_array(x) if sparse else x
    path = model.path(data, y, eps=0.01, n_alphas=12, sample_weight=weights)
    assert path.coefs.shape == (150, 12)
    assert not path.coefs[:, 0].any()
    assert path.alphas[-1] == pytest.approx(0.01 * path.alphas[0])
    assert (np.diff(path.alphas) < 0).all()
    for k in (0, 4, 11):
        point = model.set_params(alpha=path.alphas[k]).fit(data, y, sample_weight=weights)
        np.testing.assert_allclose(path.coefs[:, k], point.coef_, atol=1e-5)
        assert path.intercepts[k] == pytest.approx(point.intercept_, abs=1e-5)
        assert path.dual_gaps[k] <= 1e-11 * y.var() * 2
    given_ = model.path(data, y, alphas=[0.1, 0.5], sample_weight=weights)
    assert given_.alphas.tolist() == [0.5, 0.1]


def test_a_path_that_leaves_columns_behind_cuts_its_gram_matrix_back(monkeypatch):
    from dask_petuum.algorithms import lasso_search

    monkeypatch.setattr(lasso_search, "SPARE", 0)
    x, y, _ = make(60, 150)
    model = Lasso(tol=1e-11, **HERE)
    alphas = [0.02, 0.01, 0.005]
    path = model.path(x, y, alphas=[*alphas, 0.8, 0.9])
    for k, alpha in enumerate(path.alphas):
        point = model.set_params(alpha=alpha).fit(x, y)
        np.testing.assert_allclose(path.coefs[:, k], point.coef_, atol=1e-5)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"alpha": -1}, "alpha must be a number >= 0"),
        ({"alpha": np.inf}, "alpha must be finite"),
        ({"l1_ratio": 1.5}, "l1_ratio must be at most 1"),
        ({"tol": -1e-3}, "tol must be a number >= 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
    ],
)
def test_parameters_are_refused_by_name(settings_, message):
    with pytest.raises(ValueError, match=message):
        ElasticNet(**settings_).fit(np.ones((3, 2)), np.ones(3))


def test_bad_input_is_refused():
    x, y, _ = make(10, 3)
    with pytest.raises(ValueError, match="at least one non-zero"):
        Lasso(**HERE).fit(x, y, sample_weight=np.zeros(10))
    with pytest.raises(ValueError, match="must not be 0 everywhere"):
        Lasso(**HERE).fit(da.from_array(x), y, sample_weight=da.zeros(10))
    with pytest.raises(ValueError, match=r"finite and >= 0, got -1\.0 in row 0"):
        Lasso(**HERE).fit(x, y, sample_weight=-np.ones(10))
    with pytest.raises(ValueError, match="alphas must be finite numbers > 0"):
        Lasso(**HERE).path(x, y, alphas=[0.0])
    with pytest.raises(ValueError, match="l1_ratio is 0"):
        ElasticNet(l1_ratio=0, **HERE).path(x, y)
    with pytest.raises(ValueError, match="must be in memory"):
        Lasso(**HERE).path(da.from_array(x), y)
    with pytest.raises(ValueError, match="requires y"):
        Lasso(**HERE).fit(da.from_array(x), None)
