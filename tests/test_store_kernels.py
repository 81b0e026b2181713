"""The store's kernels against naive twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_petuum.store import kernels
from dask_petuum.store.spec import DTYPES


def naive_count_changes(delta, counts):
    counts[:] = (delta != 0).sum(axis=1)
    return int(counts.sum())


def naive_gather_rows(values, rows, out):
    out[:] = values[rows]


def naive_gather_cells(delta, counts, cells, values):
    flat = delta.reshape(-1)
    cells[:] = np.flatnonzero(flat != 0)
    values[:] = flat[cells]


def naive_add_rows(values, rows, delta):
    for row, change in zip(rows, delta, strict=True):
        values[row] += change


def naive_add_rows_where(values, rows, delta, where):
    for row, change in zip(rows, delta, strict=True):
        if where[row]:
            values[row] += change


def naive_add_cells(values, rows, cells, delta, where):
    for cell, change in zip(cells, delta, strict=True):
        row, column = rows[cell // values.shape[1]], cell % values.shape[1]
        if where[row]:
            values[row, column] += change


def naive_put_rows(values, rows, new, mark):
    values[rows] = new
    mark[rows] = True


SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 6))


@st.composite
def matrices(draw, shape=None):
    """Mostly zeros, small whole numbers: sums are exact in every dtype."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = shape or draw(SHAPES)
    elements = st.sampled_from([0, 0, 0, 1, -2, 5])
    return draw(hnp.arrays(np.int64, shape, elements=elements)).astype(dtype)


@st.composite
def targets(draw):
    """Values, some of their rows in any order, a change for each, and a mark for each row."""
    values = draw(matrices())
    n_rows, n_cols = values.shape
    rows = draw(st.lists(st.integers(0, n_rows - 1), unique=True))
    delta = draw(matrices(shape=(len(rows), n_cols))).astype(values.dtype)
    where = draw(hnp.arrays(np.bool_, n_rows))
    return values, np.array(rows, dtype=np.int32), delta, where


@settings(deadline=None)
@given(matrices())
def test_count_changes_and_gather_cells(delta):
    fast, naive = np.full((2, len(delta)), -1, dtype=np.int32)
    n = kernels.count_changes(delta, fast)
    assert n == naive_count_changes(delta, naive)
    np.testing.assert_array_equal(fast, naive)
    cells, values = np.empty((2, n), dtype=np.int64), np.empty((2, n), dtype=delta.dtype)
    kernels.gather_cells(delta, fast, cells[0], values[0])
    naive_gather_cells(delta, naive, cells[1], values[1])
    np.testing.assert_array_equal(cells[0], cells[1])
    np.testing.assert_array_equal(values[0], values[1])


@settings(deadline=None)
@given(targets())
def test_gather_rows(case):
    values, rows, delta, _ = case
    fast, naive = np.empty_like(delta), np.empty_like(delta)
    kernels.gather_rows(values, rows, fast)
    naive_gather_rows(values, rows, naive)
    np.testing.assert_array_equal(fast, naive)


@settings(deadline=None)
@given(targets())
def test_add_rows(case):
    values, rows, delta, _ = case
    naive = values.copy()
    kernels.add_rows(values, rows, delta)
    naive_add_rows(naive, rows, delta)
    np.testing.assert_array_equal(values, naive)


@settings(deadline=None)
@given(targets())
def test_add_rows_where(case):
    values, rows, delta, where = case
    naive = values.copy()
    kernels.add_rows_where(values, rows, delta, where)
    naive_add_rows_where(naive, rows, delta, where)
    np.testing.assert_array_equal(values, naive)


@settings(deadline=None)
@given(targets())
def test_add_cells(case):
    values, rows, delta, where = case
    naive = values.copy()
    cells = np.flatnonzero(delta)
    changes = delta.reshape(-1)[cells]
    kernels.add_cells(values, rows, cells, changes, where)
    naive_add_cells(naive, rows, cells, changes, where)
    np.testing.assert_array_equal(values, naive)


@settings(deadline=None)
@given(targets())
def test_mark_cells_and_count_rows(case):
    values, rows, delta, _ = case
    cells = np.flatnonzero(delta)
    changed = np.flatnonzero(delta.any(axis=1))
    versions = np.arange(len(values), dtype=np.int64)
    expected = versions.copy()
    expected[rows[changed]] = 99
    kernels.mark_cells(versions, rows, cells, values.shape[1], 99)
    np.testing.assert_array_equal(versions, expected)
    assert kernels.count_rows(cells, values.shape[1]) == len(changed)


@settings(deadline=None)
@given(targets())
def test_put_rows(case):
    values, rows, new, mark = case
    naive, naive_mark = values.copy(), mark.copy()
    kernels.put_rows(values, rows, new, mark)
    naive_put_rows(naive, rows, new, naive_mark)
    np.testing.assert_array_equal(values, naive)
    np.testing.assert_array_equal(mark, naive_mark)


def test_nan_is_a_change():
    counts = np.zeros(1, dtype=np.int32)
    assert kernels.count_changes(np.array([[0.0, np.nan, -0.0]]), counts) == 1


@pytest.mark.parametrize("n", [0, 3])
def test_positions(n):
    positions = kernels.positions(n)
    assert positions.dtype == np.int32
    assert positions.tolist() == list(range(n))
