"""A shard applies every kind of chunk alike, whatever rows the plan has, and marks what changed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.store.codec import encode_delta
from dask_petuum.store.rules import apply_dense
from dask_petuum.store.shard import Shard
from dask_petuum.store.spec import DTYPES, TableSpec, UpdateRule

RULES = [
    UpdateRule(),
    UpdateRule("clip", low=-2, high=3),
    UpdateRule("soft_threshold", threshold=1),
]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    rule=st.sampled_from(RULES),
    density=st.sampled_from([0.05, 0.4, 1.0]),
    plan=st.sampled_from(["all", "some", "a stretch"]),
)
def test_increments_are_applied_as_the_rule_says(seed, dtype, rule, density, plan):
    rng = np.random.default_rng(seed)
    n_rows, n_cols = rng.integers(1, 20, 2)
    init = rng.integers(-4, 5, (n_rows + 3, n_cols)).astype(dtype)
    spec = TableSpec("w", init.shape, dtype, init=init, rule=rule)
    shard = Shard(spec, 2, 2 + int(n_rows))
    rows = np.arange(n_rows, dtype=np.int32)
    if plan == "some":
        rows = rows[rng.random(n_rows) < 0.5]
    elif plan == "a stretch":
        rows = rows[n_rows // 3 :]
    delta = rng.integers(-3, 4, (len(rows), n_cols)) * (rng.random((len(rows), n_cols)) < density)
    delta = delta.astype(dtype)
    expected = init[2 : 2 + n_rows].copy()
    block = expected[rows]
    apply_dense(rule, block, delta)
    expected[rows] = block
    for chunk in encode_delta(delta, 0, 0):
        shard.apply(chunk, None if plan == "all" else rows, 5)
    np.testing.assert_array_equal(shard.values, expected)
    changed = np.zeros(n_rows, dtype=bool)
    changed[rows[(delta != 0).any(axis=1)]] = True
    assert (shard.versions[changed] == 5).all()
    assert set(shard.versions) <= {0, 5}


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(DTYPES), partial=st.booleans())
def test_sparse_increments_are_added(seed, dtype, partial):
    rng = np.random.default_rng(seed)
    n_rows, n_cols = rng.integers(1, 12, 2)
    init = rng.integers(0, 2, (n_rows, n_cols)).astype(dtype)
    shard = Shard(TableSpec("w", init.shape, dtype, init=init, sparse=True), 0, int(n_rows))
    rows = np.arange(n_rows, dtype=np.int32)
    if partial:
        rows = rows[rng.random(n_rows) < 0.5]
    delta = rng.integers(-1, 2, (len(rows), n_cols)).astype(dtype)
    expected = init.copy()
    expected[rows] += delta
    for chunk in encode_delta(sp.csr_array(delta), 0, 0):
        shard.apply(chunk, rows if partial else None, 2)
    np.testing.assert_array_equal(shard.values.toarray(), expected)
    assert shard.values.nnz == np.count_nonzero(expected)
    assert shard.values.dtype == dtype


def test_only_rows_with_a_changed_cell_are_marked():
    shard = Shard(TableSpec("w", (50, 20)), 0, 50)
    delta = np.zeros((50, 20), dtype=np.float32)
    delta[[3, 30], 5] = 1
    [chunk] = encode_delta(delta, 0, 0)
    assert chunk["kind"] == "cells"
    shard.apply(chunk, None, 9)
    assert np.flatnonzero(shard.versions).tolist() == [3, 30]


@pytest.mark.parametrize("sparse", [True, False])
def test_a_shard_knows_its_size(sparse):
    shard = Shard(TableSpec("w", (9, 4), "float64", init=1, sparse=sparse), 2, 7)
    values = shard.values.data if sparse else shard.values
    assert values.nbytes == 5 * 4 * 8
    assert shard.nbytes >= values.nbytes
    assert "rows 2..6" in repr(shard)


def test_only_sparse_rows_with_a_change_are_sent_and_marked():
    shard = Shard(TableSpec("w", (50, 20), sparse=True), 0, 50)
    delta = sp.csr_array(([1.0, 2.0], ([3, 30], [5, 5])), shape=(50, 20), dtype=np.float32)
    [chunk] = encode_delta(delta, 0, 0)
    assert chunk["rows"].tolist() == [3, 30]
    shard.apply(chunk, None, 9)
    assert np.flatnonzero(shard.versions).tolist() == [3, 30]
