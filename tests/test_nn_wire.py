"""Numbers on the wire: narrow ones, and those without their zeros, beside naive twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.nn import kernels
from dask_petuum.nn.wire import Wire

NARROW = ["float16", "bfloat16"]


def naive_leave_zeros_out(values, bits, out):
    kept = values[values != 0]
    bits[:] = np.packbits(values != 0)
    out[: len(kept)] = kept
    return len(kept)


def naive_put_zeros_in(bits, kept, out):
    mask = np.unpackbits(bits, count=len(out)).view(bool)
    out[:] = 0
    out[mask] = kept


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, np.inf]), max_size=40))
def test_kernels_are_their_twins(numbers):
    values = np.array(numbers, np.float32)
    made = []
    for leave_out in (kernels.leave_zeros_out, naive_leave_zeros_out):
        bits = np.full(-(-len(values) // 8), 77, np.uint8)
        out = np.full(len(values) + 1, 7, np.float32)
        n_kept = leave_out(values, bits, out)
        made.append((bits.tobytes(), out[:n_kept].tobytes()))
    assert made[0] == made[1]
    if not n_kept:
        return
    backs = [np.full(len(values), 7, np.float32) for _ in range(2)]
    kernels.put_zeros_in(bits, out[:n_kept], backs[0])
    naive_put_zeros_in(bits, out[:n_kept], backs[1])
    for back in backs:
        np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_zeros_are_not_sent_where_there_are_many(kind, share):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 50)) * (rng.random((30, 50)) < share)
    values = torch.from_numpy(values.astype(np.float32))
    wire = Wire(kind)
    dense, packed = wire.pack(values), wire.pack_sparse(values)
    torch.testing.assert_close(wire.unpack(packed), wire.unpack(dense), rtol=0, atol=0)
    n_bytes = [sum(each.nbytes for each in arrays.values()) for arrays in (dense, packed)]
    assert n_bytes[1] <= n_bytes[0]
    assert ("b" in packed) == (share < 0.5)
    assert wire.unpack(packed).shape == values.shape


def assert_nothing_is_lost(given, arrived, lost):
    """The sums of what was given, and of what arrived with what is still to come."""
    np.testing.assert_allclose(arrived + lost, given, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", NARROW)
def test_what_rounding_took_arrives_later(kind):
    rng = np.random.default_rng(0)
    wire, given, arrived = Wire(kind), 0.0, 0.0
    for _ in range(50):
        values = torch.from_numpy(rng.normal(size=200).astype(np.float32))
        given = given + values.double()
        arrived = arrived + wire.unpack(wire.pack(values, "a")).double()
    assert (given - arrived).abs().max() > 0
    assert_nothing_is_lost(given, arrived, wire.lost["a"])


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_what_was_lost_outlives_numbers_that_are_not_finite(kind, number):
    wire = Wire(kind)
    wire.pack(torch.full((5,), 1 / 3) + torch.arange(5), "a")
    before = wire.lost["a"].clone()
    assert before.abs().max() > 0
    packed = wire.pack(torch.tensor([1.0, number, 2.0, 3.0, 4.0]), "a")
    assert not torch.isfinite(wire.unpack(packed)).all()
    np.testing.assert_array_equal(wire.lost["a"], before)
