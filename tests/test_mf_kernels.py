"""Kernels of matrix factorisation equal their naive twins, and keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.algorithms.kernels import mf_rows, mf_simd, mf_steps
from dask_petuum.algorithms.kernels.mf_ccd import update_rows
from dask_petuum.algorithms.kernels.mf_sgd import visit_cell
from dask_petuum.algorithms.mf_ccd import padded_rows
from dask_petuum.jit import kernel


@kernel()
def _gather(index, residual, high, before, pack, sums):
    mf_simd.gather_row(index, residual, 0, high, before, pack, sums)


@kernel()
def _spread(index, residual, high, change, pack):
    mf_simd.spread_row(index, residual, 0, high, change, pack)


@kernel()
def _solve(sums, penalty, values, free, change):
    mf_simd.solve(sums, penalty, values, free, change)


@kernel()
def _step(users, items, lanes, u, i, rating, rate):
    return mf_steps.step(users, items, lanes, (u, i), rating, rate)


def row(seed, n_entries=24, n_others=11):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, n_others + 1, n_entries).astype(np.int32)
    pack = rng.standard_normal((n_others + 1, 16), dtype=np.float32)
    residual = rng.standard_normal(n_entries, dtype=np.float32)
    return rng, index, residual, pack


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_gather_and_spread_equal_their_twins(seed, tiles):
    rng, index, residual, pack = row(seed, 8 * tiles)
    own = rng.standard_normal(8, dtype=np.float32)
    fast, naive = residual.copy(), residual.copy()
    sums = [np.full((10, 8), 7, np.float32) for _ in range(2)]
    _gather(index, fast, 8 * tiles, own, pack, sums[0])
    mf_simd.gather_row_python(index, naive, 0, 8 * tiles, own, pack, sums[1])
    np.testing.assert_allclose(fast, naive, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-4, atol=1e-4)
    _spread(index, fast, 8 * tiles, own, pack)
    mf_simd.spread_row_python(index, naive, 0, 8 * tiles, own, pack)
    np.testing.assert_allclose(fast, naive, rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.sampled_from([0.0, 1e-3, 1.0]))
def test_solve_equals_its_twin(seed, mask, ridge):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((20, 8))
    sums = np.zeros((10, 8), np.float32)
    sums[:8], sums[8] = rows.T @ rows, rng.standard_normal(8)
    penalty = np.full(8, ridge, np.float32)
    values = rng.standard_normal(8, dtype=np.float32)
    free = np.array([mask >> k & 1 for k in range(8)], np.float32)
    fast, naive = np.full(8, 7, np.float32), np.empty(8, np.float32)
    _solve(sums, penalty, values, free, fast)
    mf_simd.solve_python(sums, penalty, values, free, naive)
    np.testing.assert_allclose(fast, naive, rtol=2e-3, atol=2e-4)
    assert not fast[free == 0].any()


def test_solve_leaves_what_depends_on_the_lanes_before():
    rows = np.random.default_rng(0).integers(-3, 4, (9, 8)).astype(float)
    rows[:, 5] = rows[:, 2]  # the same column twice, and an empty one
    rows[:, 7] = 0
    sums = np.zeros((10, 8), np.float32)
    sums[:8], sums[8] = rows.T @ rows, rows.T @ np.arange(9.0)
    change = np.empty(8, np.float32)
    _solve(sums, np.zeros(8, np.float32), np.zeros(8, np.float32), np.ones(8, np.float32), change)
    assert change[5] == change[7] == 0
    best = np.linalg.lstsq(rows, np.arange(9.0))[0]
    np.testing.assert_allclose(rows @ change, rows @ best, rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_step_equals_its_twin(seed, n_vectors):
    rng = np.random.default_rng(seed)
    width = 8 * n_vectors

    def side(n_rows):
        speeds = rng.uniform(0.5, 2, (n_rows, 2)).astype(np.float32)
        return rng.standard_normal((n_rows, width), dtype=np.float32), speeds

    users, items = side(3), side(2)
    lanes = rng.uniform(0, 1, (4, width)).astype(np.float32)
    lanes[0::2, 8:] = 1
    lanes[1::2, 8:] = lanes[1::2, -1:]
    copies = [tuple(a.copy() for a in pair) for pair in (users, items)]
    rating, rate = np.float32(rng.normal()), np.float32(0.05)
    fast = _step(users, items, lanes, 2, 1, rating, rate)
    naive = mf_steps.step_python(copies[0], copies[1], lanes, (2, 1), rating, rate)
    assert fast == pytest.approx(naive, rel=1e-4, abs=1e-4)
    for given_arrays, expected in zip((users, items), copies, strict=True):
        for a, b in zip(given_arrays, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def matrix(seed, shape=(13, 9), density=0.4):
    rng = np.random.default_rng(seed)
    found = sp.random_array(shape, density=density, format="csr", rng=rng, dtype=np.float32)
    return rng, found


def padded(csr, by_item=False):
    if by_item:
        rows = padded_rows(np.bincount(csr.indices, minlength=csr.shape[1]), csr.shape[0])
        places = np.empty(csr.shape[1], np.int64)
        mf_rows.pad_columns((csr.data, csr.indices, csr.indptr), rows[0], places, *rows[1:])
    else:
        rows = padded_rows(np.diff(csr.indptr), csr.shape[1])
        mf_rows.pad_rows((csr.data, csr.indices, csr.indptr), *rows)
    return rows


@pytest.mark.parametrize("by_item", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_padding_keeps_every_rating(seed, by_item):
    _, csr = matrix(seed)
    starts, index, values = padded(csr, by_item)
    dense = csr.toarray().T if by_item else csr.toarray()
    for i, expected in enumerate(dense):
        cut = slice(starts[i], starts[i + 1])
        assert (starts[i + 1] - starts[i]) % 8 == 0
        found = np.zeros(len(expected) + 1, np.float32)
        np.add.at(found, index[cut], values[cut])
        np.testing.assert_array_equal(found[:-1], expected)
        assert found[-1] == 0


def test_update_minimises_and_brings_residuals_up_to_date():
    rng, csr = matrix(1)
    rows = padded(csr)
    n_rows = csr.shape[0]
    pack = rng.standard_normal((csr.shape[1] + 1, 16), dtype=np.float32)
    pack[-1] = 0
    before = rng.standard_normal((n_rows, 8), dtype=np.float32)
    counts = np.diff(csr.indptr).astype(np.float32)
    penalties, free = np.full(8, 0.1, np.float32), np.ones(8, np.float32)
    values, change = np.zeros((n_rows, 8), np.float32), np.empty((n_rows, 8), np.float32)
    rest = (before, pack, counts, penalties, free)
    total = update_rows(rows, 0, n_rows, *rest, values, change)
    np.testing.assert_array_equal(change, values)
    squares = 0.0
    for i in range(n_rows):
        own = slice(csr.indptr[i], csr.indptr[i + 1])
        moved, v = np.hsplit(pack[csr.indices[own]].astype(float), 2)
        found = csr.data[own] - moved @ before[i]
        squares += found @ found
        place = slice(rows[0][i], rows[0][i] + len(v))
        np.testing.assert_allclose(rows[2][place], found - v @ values[i], rtol=1e-3, atol=1e-4)
        if len(v):
            best = np.linalg.solve(v.T @ v + 0.1 * counts[i] * np.eye(8), v.T @ found)
            np.testing.assert_allclose(values[i], best, rtol=1e-3, atol=1e-4)
        else:
            assert not values[i].any()
    assert total == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_cells_hold_every_rating_once(n_groups):
    rng, csr = matrix(5, (40, 30))
    n_blocks = 3
    user_group, item_cell = rng.integers(0, n_groups, 40), rng.integers(0, n_blocks * n_groups, 30)
    user_place, item_place = rng.permutation(40), rng.permutation(30)
    arrays = (csr.data, csr.indices, csr.indptr)
    cuts = np.empty(n_blocks * n_groups**2 + 1, np.int64)
    mf_rows.count_cells(arrays, user_group, item_cell, n_groups, cuts)
    entries = (np.empty(csr.nnz, np.int32), np.empty(csr.nnz, np.int32), np.empty_like(csr.data))
    users, items = (user_group, user_place), (item_cell, item_place)
    mf_rows.deal_cells(arrays, users, items, n_groups, cuts[:-1].copy(), entries)
    for cell in range(len(cuts) - 1):
        mf_rows.shuffle_cell(entries, cuts[cell], cuts[cell + 1], 11 + cell)
        for e in range(cuts[cell], cuts[cell + 1]):
            u, i = (
                np.flatnonzero(user_place == entries[0][e]),
                item_place.tolist().index(entries[1][e]),
            )
            block, sub = divmod(item_cell[i], n_groups)
            assert cell == (block * n_groups + user_group[u[0]]) * n_groups + sub
    back = sp.csr_array((entries[2], (entries[0], entries[1])), shape=csr.shape).toarray()
    np.testing.assert_array_equal(back[user_place][:, item_place], csr.toarray())


def test_shuffle_is_random_and_repeatable():
    def shuffled(seed):
        numbers = np.arange(1000)
        entries = (numbers.astype(np.int32), numbers.astype(np.int32), numbers.astype(np.float32))
        mf_rows.shuffle_cell(entries, 100, 900, seed)
        return entries[0]

    once = shuffled(3)
    np.testing.assert_array_equal(once, shuffled(3))
    assert (once != shuffled(4)).any()
    assert sorted(once.tolist()) == list(range(1000))
    np.testing.assert_array_equal(once[:100], np.arange(100))
    assert abs(np.corrcoef(once[100:900], np.arange(800))[0, 1]) < 0.1


@pytest.mark.parametrize("length", [0, 1, 7, 64, 101])
def test_sum_of_squares(length):
    values = np.random.default_rng(0).standard_normal(length + 3, dtype=np.float32)
    expected = float((values[2 : 2 + length].astype(float) ** 2).sum())
    assert mf_rows.sum_squares(values, 2, 2 + length) == pytest.approx(expected, rel=1e-12)


def test_a_cell_is_its_steps_one_by_one():
    rng = np.random.default_rng(2)
    entries = (
        rng.integers(0, 4, 50).astype(np.int32),
        rng.integers(0, 3, 50).astype(np.int32),
        rng.standard_normal(50, dtype=np.float32),
    )
    lanes = np.ones((4, 16), np.float32)
    lanes[1::2] = 0.02

    def sides():
        fresh = np.random.default_rng(9)
        return [
            (0.1 * fresh.standard_normal((n, 16), dtype=np.float32), np.ones((n, 2), np.float32))
            for n in (4, 3)
        ]

    users, items = sides()
    total = visit_cell(entries, 10, 50, users, items, lanes, 0.1)
    slow_users, slow_items = sides()
    expected = 0.0
    for e in range(10, 50):
        where = (int(entries[0][e]), int(entries[1][e]))
        error = mf_steps.step_python(slow_users, slow_items, lanes, where, entries[2][e], 0.1)
        expected += float(error) ** 2
    assert total == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(users[0], slow_users[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(items[1], slow_items[1], rtol=1e-3, atol=1e-4)
