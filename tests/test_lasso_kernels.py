"""The lasso's kernels against naive twins, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.algorithms.kernels import lasso as dense
from dask_petuum.algorithms.kernels import lasso_rows as rows
from dask_petuum.algorithms.kernels import lasso_sparse as sparse

SEEDS = range(4)
DTYPES = [np.float32, np.float64]


def design(seed, dtype=np.float64, n_rows=23, n_cols=11, share=0.5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_rows, n_cols)) * (rng.random((n_rows, n_cols)) < share)
    x[:, 3] = 0.0
    return np.asfortranarray(x.astype(dtype)), rng.standard_normal(n_rows), rng


def csc(x):
    stored = sp.csc_array(x)
    return stored.data, stored.indices, stored.indptr


def csr(x):
    stored = sp.csr_array(x)
    return stored.data, stored.indices, stored.indptr


def centred(x, ones):
    """Columns less their weighted means."""
    if not len(ones):
        return x.astype(float), np.zeros(x.shape[1])
    means = x.T.astype(float) @ ones / (ones @ ones)
    return x - np.outer(ones, means), means


def naive_descent(x, cols, penalty, positive, n_cycles, w, r):
    """Coordinate descent, one coordinate after the other, on centred columns."""
    lam, ridge = penalty
    w, r, largest = w.copy(), r.copy(), 0.0
    for _ in range(n_cycles):
        largest = 0.0
        for j in cols:
            square = x[:, j] @ x[:, j]
            if square < 1e-20:
                continue
            target = x[:, j] @ r + square * w[j]
            small = max(target - lam, 0.0) - (0.0 if positive else max(-target - lam, 0.0))
            new = small / (square + ridge)
            r -= (new - w[j]) * x[:, j]
            largest = max(largest, abs(new - w[j]) * np.sqrt(square + ridge))
            w[j] = new
    return w, r, largest


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("center", [False, True])
def test_stats(seed, dtype, center):
    x, y, rng = design(seed, dtype)
    ones = rng.uniform(0.5, 2, len(y)) if center else np.empty(0)
    plain, means = centred(x, ones)
    expected = np.vstack([x.T.astype(float) @ y, (plain**2).sum(axis=0), means])
    for run, given_ in ((dense.stats_dense, x), (sparse.stats_csc, csc(x))):
        out = np.zeros((3, x.shape[1]))
        run(given_, y, ones, 0, 4, out)
        run(given_, y, ones, 4, x.shape[1], out)
        np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_chosen_columns(seed, dtype):
    x, y, rng = design(seed, dtype)
    cols = rng.permutation(x.shape[1])[:9].astype(np.int64)
    weights = rng.standard_normal(9) * (rng.random(9) < 0.7)
    for correlate, combine, given_ in (
        (dense.correlate_dense, dense.combine_dense, x),
        (sparse.correlate_csc, sparse.combine_csc, csc(x)),
    ):
        out = np.zeros(9)
        correlate(given_, y, cols, 1, 8, out)
        np.testing.assert_allclose(out[1:8], (x.T.astype(float) @ y)[cols[1:8]], atol=1e-12)
        assert out[0] == out[8] == 0
        total = np.ones(len(y))
        combine(given_, cols, weights, total)
        np.testing.assert_allclose(total, 1 + x[:, cols].astype(float) @ weights, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_of_sparse_columns(seed):
    x, _, rng = design(seed)
    cols = rng.permutation(x.shape[1])[:8].astype(np.int64)
    work, out = np.zeros(len(x)), np.zeros((8, 5))
    sparse.pair_csc(csc(x), cols, 3, 0, 2, work, out)
    sparse.pair_csc(csc(x), cols, 3, 2, 5, work, out)
    np.testing.assert_allclose(out, x[:, cols].T @ x[:, cols[3:]], atol=1e-12)
    assert not work.any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_descent_through_columns(seed, dtype, center, positive, ridge):
    x, y, rng = design(seed, dtype)
    ones = rng.uniform(0.5, 2, len(y)) if center else np.empty(0)
    plain, means = centred(x, ones)
    if center:
        y = y - ones * (ones @ y) / (ones @ ones)
    cols = rng.permutation(x.shape[1])[:9].astype(np.int64)
    squares = np.where((plain**2).sum(axis=0) > 1e-20, (plain**2).sum(axis=0), 0.0)
    expected = naive_descent(plain, cols, (0.8, ridge), positive, 3, np.zeros(x.shape[1]), y)
    for run, given_ in ((dense.cd_dense, x), (sparse.cd_csc, csc(x))):
        w, r = np.zeros(x.shape[1]), y.copy()
        largest = run(given_, cols, squares, means, ones, (0.8, ridge), positive, (3, 0.0), w, r)
        np.testing.assert_allclose(w, expected[0], atol=1e-10)
        np.testing.assert_allclose(r, expected[1], atol=1e-10)
        assert largest == pytest.approx(expected[2], abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_descent_through_the_gram_matrix(seed, positive, ridge):
    x, y, _ = design(seed)
    cols = np.arange(x.shape[1])
    w, r, largest = naive_descent(x, cols, (0.8, ridge), positive, 4, np.zeros(x.shape[1]), y)
    gram = x.T @ x + ridge * np.eye(len(cols))
    gram[3, 3] = 0.0  # an empty column is left alone
    found, c = np.zeros(len(cols)), x.T @ y
    moved = dense.cd_gram(gram, 0.8, positive, (4, 0.0), found, c)
    np.testing.assert_allclose(found, w, atol=1e-10)
    np.testing.assert_allclose(c, x.T @ r - ridge * w, atol=1e-10)
    assert moved == pytest.approx(largest, abs=1e-10)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_parts_of_the_gram_matrix(n):
    rng = np.random.default_rng(n)
    gram = rng.standard_normal((9, 9))
    gram += gram.T
    at = np.sort(rng.permutation(9)[:n]).astype(np.int64)
    out = np.zeros((n, n))
    dense.gather_gram(gram, at, out)
    np.testing.assert_array_equal(out, np.tril(gram[np.ix_(at, at)]))
    steps, c = rng.standard_normal(n), rng.standard_normal(9)
    expected = c - steps @ gram[at]
    dense.move_gram(gram, at, steps, c)
    np.testing.assert_allclose(c, expected, atol=1e-12)


numbers = st.floats(-4, 4).map(lambda value: round(value, 2))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6),
    numbers,
    st.floats(0.1, 5),
    st.floats(0, 2),
)
def test_the_line_search_finds_the_minimum(pairs, slope, curvature, lam):
    w, d = np.array(pairs).T.copy()
    step = dense.step_length(w, d, slope, curvature, lam, False)

    def value_at(t):
        return slope * t + 0.5 * curvature * t**2 + lam * np.abs(w + t * d).sum()

    assert step >= 0
    grid = np.concatenate([np.linspace(0, 2 * step + 1, 200), [0.99 * step, 1.01 * step]])
    assert value_at(step) <= min(value_at(t) for t in grid) + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 4), numbers), min_size=1, max_size=6), numbers)
def test_the_line_search_stays_positive(pairs, slope):
    w, d = np.array(pairs).T.copy()
    step = dense.step_length(w, d, slope, 1.0, 0.3, True)
    assert step >= 0
    assert (w + step * d >= -1e-12).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_rows(seed, dtype):
    x, y, rng = design(seed, dtype, n_rows=40)
    x = np.ascontiguousarray(x)
    s, means = rng.uniform(0, 2, 40), rng.standard_normal(x.shape[1])
    w = rng.standard_normal(x.shape[1])
    stored = (x != 0).astype(float)
    residual = y - x.astype(float) @ w - 0.3
    force = s * residual
    products = np.concatenate(
        [x.T.astype(float) @ force, [force.sum(), force @ residual, force @ y]]
    )
    kinds = (
        (x, rows.sums_dense, rows.moments_dense, rows.products_dense, np.ones_like(stored)),
        (csr(x), rows.sums_csr, rows.moments_csr, rows.products_csr, stored),
    )
    for given_, sums, moments, residuals, there in kinds:
        out = np.zeros(x.shape[1])
        sums(given_, s, 0, 9, out)
        sums(given_, s, 9, 40, out)
        np.testing.assert_allclose(out, x.T.astype(float) @ s, atol=1e-10)
        both = np.zeros((2, x.shape[1]))
        moments(given_, s, means, 0, 40, both)
        squares = s @ (there * (x - means) ** 2)
        np.testing.assert_allclose(both, [squares, s @ there], atol=1e-10)
        total = np.zeros(x.shape[1] + 3)
        residuals(given_, y, s, w, 0.3, 0, 25, total)
        residuals(given_, y, s, w, 0.3, 25, 40, total)
        np.testing.assert_allclose(total, products, atol=1e-10)
        at_zero = np.zeros(x.shape[1] + 3)
        residuals(given_, y, s, np.empty(0), 0.0, 0, 40, at_zero)
        np.testing.assert_allclose(at_zero[:-3], x.T.astype(float) @ (s * y), atol=1e-10)
