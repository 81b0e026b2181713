"""A rank's view: how rows are cut by owner, how increments collect, how answers are installed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.store.codec import encode_delta, encode_rows
from dask_petuum.store.layout import plan_layout
from dask_petuum.store.spec import DTYPES, TableSpec
from dask_petuum.store.view import StoreView


def make_view(spec, n_ranks=3, rows=None, read_my_writes=True):
    given_rows = None if rows is None else np.array(rows, dtype=np.int64)
    return StoreView(spec, plan_layout([spec], n_ranks)["w"], 0, given_rows, read_my_writes)


def dense(values):
    return values.toarray() if sp.issparse(values) else np.array(values)


@given(st.integers(1, 30), st.integers(1, 6), st.data())
def test_pieces_cover_the_declared_rows(n_rows, n_ranks, data):
    rows = data.draw(st.none() | st.lists(st.integers(0, n_rows - 1), unique=True).map(sorted))
    spec = TableSpec("w", (n_rows, 1))
    blocks = plan_layout([spec], n_ranks)["w"]
    view = make_view(spec, n_ranks, rows)
    covered = []
    for piece in view.pieces:
        block = blocks[piece.block]
        assert piece.owner == block.owner
        own = np.arange(block.n_rows) if piece.rows is None else piece.rows
        assert len(own) == piece.hi - piece.lo
        assert piece.rows is None or piece.rows.dtype == np.int32
        covered += (own + block.start).tolist()
    assert covered == (list(range(n_rows)) if rows is None else rows)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    sparse=st.booleans(),
    mine=st.booleans(),
)
def test_increments_collect(seed, dtype, sparse, mine):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 7, 2))
    view = make_view(TableSpec("w", shape, dtype, sparse=sparse), read_my_writes=mine)
    expected = np.zeros(shape, dtype=dtype)
    for _ in range(rng.integers(1, 4)):
        at = None if rng.random() < 0.5 else np.flatnonzero(rng.random(shape[0]) < 0.5)
        n = shape[0] if at is None else len(at)
        delta = rng.integers(-2, 3, (n, shape[1])).astype(dtype)
        expected[slice(None) if at is None else at] += delta
        view.inc(delta, at=at)
        delta[:] = 99
    np.testing.assert_array_equal(dense(view.values), expected if mine else np.zeros(shape))
    np.testing.assert_array_equal(dense(view.take_pending()), expected)
    assert view.take_pending() is None


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    sparse=st.booleans(),
    partial=st.booleans(),
)
def test_answers_replace_the_rows_that_changed(seed, dtype, sparse, partial):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 12, 2))
    spec = TableSpec("w", shape, dtype, sparse=sparse)
    rows = np.flatnonzero(rng.random(shape[0]) < 0.7) if partial else None
    view = make_view(spec, 3, rows)
    before = rng.integers(0, 4, view.shape).astype(dtype)
    view.inc(before)
    table = rng.integers(0, 4, shape).astype(dtype)
    changed = rng.random(view.shape[0]) < 0.5
    chunks = []
    for piece in view.pieces:
        owned = plan_layout([spec], 3)["w"][piece.block]
        values = table[owned.start : owned.stop]
        values = sp.csr_array(values) if sparse else values
        chunks += encode_rows(values, piece.rows, changed[piece.lo : piece.hi], 0, piece.block)
    replaced = view.install(chunks)
    np.testing.assert_array_equal(replaced, changed)
    wanted = table if rows is None else table[rows]
    np.testing.assert_array_equal(dense(view.values), np.where(changed[:, None], wanted, before))
    view.add_where(np.arange(view.shape[0], dtype=np.int32), view.take_pending(), replaced)
    expected = np.where(changed[:, None], wanted + before, before)
    np.testing.assert_array_equal(dense(view.values), expected)
    assert dense(view.values).dtype == dtype


@pytest.mark.parametrize("sparse", [True, False])
def test_parts_go_to_their_owners(sparse):
    view = make_view(TableSpec("w", (7, 2), "int64", sparse=sparse), n_ranks=3)
    view.inc(np.arange(14).reshape(7, 2))
    rebuilt = np.zeros((7, 2), dtype=np.int64)
    for piece, part in view.parts(view.take_pending()):
        for chunk in encode_delta(part, 0, piece.block):
            assert chunk["block"] == piece.block
        rebuilt[piece.lo : piece.hi] = dense(part)
    assert rebuilt.tolist() == np.arange(14).reshape(7, 2).tolist()


def test_a_view_knows_who_has_answered():
    view = make_view(TableSpec("w", (6, 1)), n_ranks=3, rows=[0, 1, 5])
    assert [view.is_open(owner) for owner in range(3)] == [False, True, False]
    view.opened[0] = 0
    assert [view.is_open(owner) for owner in range(3)] == [True, True, False]


def test_own_increments_are_shown_later():
    view = make_view(TableSpec("w", (2, 1)), read_my_writes=False)
    view.inc([[1.0], [2.0]])
    view.add_own(view.take_pending())
    assert view.values.ravel().tolist() == [1.0, 2.0]
    assert "fresh 0" in repr(view)
