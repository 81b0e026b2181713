"""The k-means kernels against naive twins, and their invariants."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.algorithms.kernels.kmeans import (
    lloyd_dense,
    nearest_dense,
    potentials_dense,
)
from dask_petuum.algorithms.kernels.kmeans_simd import BLOCK, TILE
from dask_petuum.algorithms.kernels.kmeans_sparse import (
    CsrRows,
    lloyd_csr,
    nearest_csr,
    potentials_csr,
)

SCALES = np.array([2.0**30, 2.0**20])
NO_WEIGHTS = np.empty(0)


def distances(rows, centers):
    """Naive twin: squared distances, one pair at a time in float64."""
    return np.array([[((x - c) ** 2).sum() for c in centers.astype(float)] for x in rows])


def sums_of(rows, weights, labels, n_centers):
    """Naive twin of the exact sums."""
    sums = np.zeros((n_centers, rows.shape[1] + 1), np.int64)
    for row, weight, label in zip(rows, weights, labels, strict=True):
        sums[label, -1] += int(np.rint(weight * SCALES[1]))
        sums[label, :-1] += np.rint(weight * SCALES[0] * row).astype(np.int64)
    return sums


def padded(centers):
    n_centers, n_features = centers.shape
    out = np.full((-(-n_centers // BLOCK) * BLOCK, n_features), np.inf, centers.dtype)
    out[:n_centers] = centers
    return out


def csr_rows(rows):
    matrix = sp.csr_array(rows)
    return CsrRows(matrix.data, matrix.indices, matrix.indptr, (rows.astype(float) ** 2).sum(1))


def data(seed, n_rows, n_features, n_centers, dtype=np.float64, density=1.0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features)) * (rng.random((n_rows, n_features)) < density)
    rows = rows.astype(dtype)
    centers = rows[rng.choice(n_rows, n_centers, replace=False)].copy()
    return rows, centers, rng.uniform(0.1, 3.0, n_rows)


SHAPES = [(1, 1, 1), (TILE, 3, 4), (TILE + 5, 4, 5), (2 * TILE + 1, 9, 13)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_dense_equals_naive(shape, dtype):
    rows, centers, _ = data(0, *shape, dtype)
    labels = np.empty(len(rows), np.int32)
    nearest = np.empty(len(rows), dtype)
    nearest_dense(rows, padded(centers), labels, nearest)
    expected = distances(rows, centers)
    np.testing.assert_array_equal(labels, expected.argmin(1))
    np.testing.assert_allclose(nearest, expected.min(1), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_csr_equals_naive(shape, dtype):
    rows, centers, _ = data(1, *shape, dtype, density=0.7)
    labels = np.empty(len(rows), np.int32)
    nearest = np.empty(len(rows))
    columns = np.ascontiguousarray(centers.T.astype(float))
    nearest_csr(csr_rows(rows), columns, (columns**2).sum(0), labels, nearest)
    expected = distances(rows, centers)
    np.testing.assert_allclose(nearest, expected.min(1), rtol=1e-9, atol=1e-12)
    chosen = expected[np.arange(len(rows)), labels]
    np.testing.assert_allclose(chosen, expected.min(1), rtol=1e-9, atol=1e-12)


def test_a_label_does_not_depend_on_the_row_s_place():
    rows, centers, _ = data(2, 150, 7, 9, np.float32)
    labels = np.empty(150, np.int32)
    nearest = np.empty(150, np.float32)
    nearest_dense(rows, padded(centers), labels, nearest)
    for low in (1, 3, 70):
        part = np.ascontiguousarray(rows[low:])
        other = np.empty(len(part), np.int32)
        far = np.empty(len(part), np.float32)
        nearest_dense(part, padded(centers), other, far)
        np.testing.assert_array_equal(other, labels[low:])
        np.testing.assert_array_equal(far, nearest[low:])


def test_ties_go_to_the_lower_number_and_padding_never_wins():
    rows = np.zeros((TILE, 2))
    centers = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]])
    labels = np.empty(TILE, np.int32)
    nearest = np.empty(TILE)
    nearest_dense(rows, padded(centers), labels, nearest)
    assert set(labels) == {1}
    assert set(nearest) == {1.0}


def lloyd(rows, weights, centers, n_passes, sparse, tighten=True):
    """Passes with bounds; yields centres, labels, sums and computed rows of each pass."""
    n_rows, n_centers = len(rows), len(centers)
    labels = np.full(n_rows, -1, np.int32)
    bounds = np.zeros((n_rows, 2), np.float64 if sparse else rows.dtype)
    sums = np.zeros((n_centers, rows.shape[1] + 1), np.int64)
    drift = np.zeros((2, n_centers))
    for _ in range(n_passes):
        if sparse:
            columns = np.ascontiguousarray(centers.T.astype(float))
            norms = (columns**2).sum(0)
            rest = (columns, norms, drift, SCALES, labels, bounds, tighten, sums)
            computed = lloyd_csr(csr_rows(rows), weights, *rest)
        else:
            rest = (padded(centers), drift, SCALES, labels, bounds, tighten, sums)
            computed = lloyd_dense(rows, weights, *rest)
        yield centers, labels.copy(), sums.copy(), computed
        total = np.maximum(sums[:, -1:] / SCALES[1], 1e-9)
        new = (sums[:, :-1] / SCALES[0] / total).astype(rows.dtype)
        moved = np.sqrt(((new.astype(float) - centers) ** 2).sum(1)) * (1 + 1e-9)
        others = [np.delete(moved, j).max(initial=0.0) for j in range(n_centers)]
        drift = np.vstack([moved, others])
        centers = new


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tighten", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounded_passes_equal_unbounded_ones(dtype, tighten, sparse):
    rows, centers, weights = data(3, 400, 5, 7, dtype, density=0.8 if sparse else 1.0)
    skipped = 0
    for center, labels, sums, computed in lloyd(rows, weights, centers, 12, sparse, tighten):
        expected = distances(rows, center)
        own = expected[np.arange(400), labels]
        np.testing.assert_allclose(own, expected.min(1), rtol=1e-5, atol=1e-6)
        unbounded = np.empty(400, np.int32)
        if not sparse:
            nearest_dense(rows, padded(center), unbounded, np.empty(400, dtype))
            np.testing.assert_array_equal(labels, unbounded)
        np.testing.assert_array_equal(sums, sums_of(rows, weights, labels, 7))
        skipped += 400 - computed
    assert skipped > 400  # the bounds do save work


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 99), sparse=st.booleans())
def test_sums_do_not_depend_on_the_partition(seed, cut, sparse):
    rows, centers, weights = data(seed, 100, 3, 4)
    whole = next(lloyd(rows, weights, centers, 1, sparse))[2]
    parts = [
        next(lloyd(rows[part].copy(), weights[part].copy(), centers, 1, sparse))[2]
        for part in (slice(0, cut), slice(cut, None))
    ]
    np.testing.assert_array_equal(whole, parts[0] + parts[1])


def test_equal_weights_may_be_left_out():
    rows, centers, _ = data(4, 90, 3, 4)
    with_ones = [step[2] for step in lloyd(rows, np.ones(90), centers, 3, False)]
    without = [step[2] for step in lloyd(rows, NO_WEIGHTS, centers, 3, False)]
    np.testing.assert_array_equal(with_ones, without)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_potentials_equal_naive(sparse, weighted):
    rows, candidates, weights = data(5, 131, 6, 5)
    nearest = distances(rows, rows[:2]).min(1)
    used = weights if weighted else NO_WEIGHTS
    got = np.zeros(5)
    if sparse:
        columns = np.ascontiguousarray(candidates.T)
        potentials_csr(csr_rows(rows), used, columns, (columns**2).sum(0), nearest, got)
    else:
        potentials_dense(rows, used, padded(candidates), 5, nearest, got)
    factor = weights if weighted else np.ones(131)
    expected = (factor[:, None] * np.minimum(nearest[:, None], distances(rows, candidates))).sum(0)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
