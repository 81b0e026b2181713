"""Chunks: what goes in comes out, in the smallest form, never more than a frame."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.exceptions import ProtocolError
from dask_petuum.store import codec
from dask_petuum.store.codec import (
    MAX_FRAME_BYTES,
    chunk_bytes,
    chunk_rows,
    decode_csr,
    encode_delta,
    encode_rows,
    n_chunk_rows,
)
from dask_petuum.store.messages import check_chunk
from dask_petuum.store.spec import DTYPES, TableSpec


def decode(chunks, shape, dtype):
    """Naive twin of what an owner does with increments."""
    out = np.zeros(shape, dtype=dtype)
    for chunk in chunks:
        first, kind = chunk["first"], chunk["kind"]
        if kind == "dense":
            out[first : first + len(chunk["values"])] += chunk["values"]
        elif kind == "rows":
            for row, values in zip(chunk["rows"], chunk["values"], strict=True):
                out[first + row] += values
        elif kind == "cells":
            for cell, value in zip(chunk["cells"], chunk["values"], strict=True):
                out.reshape(-1)[first * shape[1] + cell] += value
        else:
            part = decode_csr(chunk, shape[1]).toarray()
            rows = chunk.get("rows", np.arange(len(part)))
            for row, values in zip(rows, part, strict=True):
                out[first + row] += values
    return out


def matrix(seed, shape, density, dtype):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, shape) * (rng.random(shape) < density)
    return values.astype(dtype)


CASES = st.tuples(
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 90), st.integers(1, 9)),
    st.sampled_from([0.0, 0.02, 0.2, 0.9, 1.0]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([32, 200, MAX_FRAME_BYTES]),
)


@settings(deadline=None)
@given(CASES)
def test_increments_survive(case):
    seed, shape, density, dtype, sparse, frame = case
    delta = matrix(seed, shape, density, dtype)
    spec = TableSpec("w", shape, dtype, sparse=sparse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "MAX_FRAME_BYTES", frame)
        chunks = list(encode_delta(sp.csr_array(delta) if sparse else delta, 3, 7))
    for chunk in chunks:
        assert (chunk["plan"], chunk["block"]) == (3, 7)
        check_chunk(chunk, spec, shape[0])
        assert chunk_bytes(chunk) <= frame or n_chunk_rows(chunk, shape[1]) == 1
    np.testing.assert_array_equal(decode(chunks, shape, dtype), delta)
    assert bool(chunks) == bool(delta.any())


@settings(deadline=None)
@given(CASES, st.booleans())
def test_changed_rows_survive(case, partial):
    seed, shape, density, dtype, sparse, frame = case
    values = matrix(seed, shape, density, dtype)
    rng = np.random.default_rng(seed)
    plan_rows = None
    if partial:
        plan_rows = np.flatnonzero(rng.random(shape[0]) < 0.6).astype(np.int32)
    in_plan = values if plan_rows is None else values[plan_rows]
    changed = rng.random(len(in_plan)) < rng.choice([0.0, 0.5, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "MAX_FRAME_BYTES", frame)
        stored = sp.csr_array(values) if sparse else values
        chunks = list(encode_rows(stored, plan_rows, changed, 3, 7))
    seen = np.zeros(len(in_plan), dtype=int)
    for chunk in chunks:
        seen[chunk_rows(chunk, len(in_plan))] += 1
        arrays = chunk_bytes(chunk) - chunk.get("rows", np.empty(0)).nbytes
        assert arrays <= frame or n_chunk_rows(chunk, shape[1]) == 1
    np.testing.assert_array_equal(seen, changed)
    expected = np.where(changed[:, None], in_plan, 0)
    np.testing.assert_array_equal(decode(chunks, in_plan.shape, dtype), expected)


@pytest.mark.parametrize(
    ("changed", "kind"), [("everything", "dense"), ("some rows", "rows"), ("some cells", "cells")]
)
def test_the_smallest_form_is_sent(changed, kind):
    delta = np.zeros((100, 50), dtype=np.float32)
    if changed == "everything":
        delta[:] = 1
    elif changed == "some rows":
        delta[::10] = 1
    else:
        delta[::10, 3] = 1
    [chunk] = encode_delta(delta, 0, 0)
    assert chunk["kind"] == kind
    n_rows = int((delta != 0).any(axis=1).sum())
    n_cells = int((delta != 0).sum())
    assert chunk_bytes(chunk) == min(delta.nbytes, n_rows * (4 + 200), n_cells * (8 + 4))
    assert n_chunk_rows(chunk, 50) == n_rows


@pytest.mark.parametrize(
    ("density", "kind"), [(0.02, "cells"), (0.06, "dense"), (0.3, "dense"), ("a tenth", "rows")]
)
def test_single_cells_are_listed_where_they_lie_only_if_few(density, kind):
    rng = np.random.default_rng(0)
    delta = np.zeros((400, 50), dtype=np.float32)
    if density == "a tenth":
        delta[::10] = 1
    else:
        delta[rng.random(delta.shape) < density] = 1
    [chunk] = encode_delta(delta, 0, 0, in_place=True)
    assert chunk["kind"] == kind
    np.testing.assert_array_equal(decode([chunk], delta.shape, np.float32), delta)
    assert list(encode_delta(np.zeros_like(delta), 0, 0, in_place=True)) == []


def test_dense_chunks_are_not_copied():
    delta = np.ones((3, 4))
    [chunk] = encode_delta(delta, 0, 0)
    assert np.shares_memory(chunk["values"], delta)


def test_rows_are_copied():
    values = np.ones((3, 4))
    [chunk] = encode_rows(values, None, np.ones(3, dtype=bool), 0, 0)
    assert not np.shares_memory(chunk["values"], values)


def test_a_large_table_is_cut_into_frames():
    delta = np.ones((5, 2**18))  # 10 MB
    chunks = list(encode_delta(delta, 0, 0))
    assert [(chunk["first"], len(chunk["values"])) for chunk in chunks] == [(0, 2), (2, 2), (4, 1)]
    assert max(chunk_bytes(chunk) for chunk in chunks) <= MAX_FRAME_BYTES


def test_a_large_sparse_table_is_cut_into_frames():
    dense = sp.csr_array(np.ones((40, 2**15), dtype=np.float32))
    chunks = list(encode_delta(dense, 0, 0))
    assert len(chunks) == 3
    assert max(chunk_bytes(chunk) for chunk in chunks) <= MAX_FRAME_BYTES
    assert sum(n_chunk_rows(chunk, 2**15) for chunk in chunks) == 40


def test_the_caller_gives_the_memory():
    given_out = []

    def empty(shape, dtype):
        given_out.append(np.empty(shape, dtype))
        return given_out[-1]

    delta = np.zeros((100, 50))
    delta[7] = 1
    [increments] = encode_delta(delta, 0, 0, empty)
    [answer] = encode_rows(delta, None, np.ones(100, dtype=bool), 0, 0, empty)
    assert any(increments["values"] is array for array in given_out)
    assert any(answer["values"] is array for array in given_out)


@pytest.mark.parametrize(
    "chunk",
    [
        {"kind": "dense", "first": 2, "values": np.ones((3, 1))},
        {"kind": "rows", "first": 0, "rows": np.array([4], np.int32), "values": np.ones((1, 1))},
        {"kind": "rows", "first": 0, "rows": np.array([-1], np.int32), "values": np.ones((1, 1))},
        {"kind": "rows", "first": 0, "rows": np.array([1]), "values": np.ones((1, 1))},
    ],
)
def test_rows_outside_the_block_are_refused(chunk):
    with pytest.raises(ProtocolError):
        chunk_rows(chunk, 4)


def test_the_rows_of_a_chunk_are_counted():
    cells = {"kind": "cells", "cells": np.array([0, 1, 7, 8, 9]), "values": np.ones(5)}
    assert n_chunk_rows(cells, 4) == 3
    nothing = {"kind": "cells", "cells": np.array([], dtype=np.int64), "values": np.ones(0)}
    assert n_chunk_rows(nothing, 4) == 0
