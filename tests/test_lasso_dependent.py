"""The lasso on columns that depend on each other: fewer of them, the same fit, quickly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.algorithms.lasso import Lasso
from dask_petuum.algorithms.lasso_dependent import drop_dependent

HERE = {"scheduler": "local", "n_jobs": 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 10_000))
def test_independent_columns_make_the_same_fit_with_a_smaller_sum(n_rows, n_cols, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((n_rows, n_cols)), rng.standard_normal(n_cols)
    w[rng.random(n_cols) < 0.2] = 0.0
    x[:, n_cols // 2 :] = x[:, : n_cols - n_cols // 2]  # duplicates
    y = rng.standard_normal(n_rows)
    before, c = w.copy(), x.T @ (y - x @ w)
    rank = np.linalg.matrix_rank(x[:, w != 0]) if w.any() else 0
    dropped = drop_dependent(x.T @ x, 1.0, w, c) if w.any() else False
    assert dropped == (rank < np.count_nonzero(before))
    assert np.count_nonzero(w) == rank
    assert set(np.flatnonzero(w)) <= set(np.flatnonzero(before))
    assert (w * before >= 0).all()
    assert np.abs(w).sum() <= np.abs(before).sum() * (1 + 1e-9)
    np.testing.assert_allclose(x @ w, x @ before, atol=1e-5)
    np.testing.assert_allclose(c, x.T @ (y - x @ w), atol=1e-5)


@pytest.mark.parametrize("n_rows", [1, 3, 20])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_more_columns_than_rows_at_a_tiny_penalty(n_rows, positive, center):
    rng = np.random.default_rng(n_rows)
    x = rng.standard_normal((n_rows, 5 * n_rows))
    x[:, 1], x[:, 2] = x[:, 0], 0.0
    y = rng.standard_normal(n_rows) + 2.0
    alpha = 1e-5 * np.abs(x.T @ y).max() / n_rows
    model = Lasso(alpha, positive=positive, fit_intercept=center, tol=1e-10, max_iter=50, **HERE)
    model.fit(x, y)  # no warning: it converges
    assert model.dual_gap_ <= 1e-10 * (y @ y) / n_rows
    assert model.coef_[2] == 0


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_from_the_largest_alpha_on_all_is_zero(factor):
    rng = np.random.default_rng(0)
    x = np.hstack([rng.standard_normal((12, 3)), np.zeros((12, 1)), np.full((12, 1), 7.0)])
    y = rng.standard_normal(12)
    largest = np.abs((x - x.mean(axis=0)).T @ (y - y.mean())).max() / 12
    model = Lasso(factor * largest, tol=1e-12, **HERE).fit(x, y)
    np.testing.assert_allclose(model.coef_, 0, atol=1e-14)
    np.testing.assert_allclose(model.intercept_, y.mean())
    below = Lasso(0.5 * largest, tol=1e-12, **HERE).fit(x, y)
    assert np.count_nonzero(below.coef_[:3]) >= 1
    np.testing.assert_array_equal(below.coef_[3:], 0)
