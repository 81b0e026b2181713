"""Blocks on their way to a rank: each is taken once, and what is no block is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_petuum.exceptions import ProtocolError, RunInterruptedError
from dask_petuum.runtime.mailbox import Mailbox, decode_arrays, encode_arrays
from dask_petuum.store.codec import MAX_FRAME_BYTES


class Calls:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> None:
        self.n += 1


def arrays(value: float) -> dict[str, Any]:
    return {"w": np.full(3, value)}


def test_a_block_is_taken_with_its_stamp() -> None:
    box = Mailbox()
    box.put(4, 1, arrays(1.0))
    box.put(4, 2, arrays(2.0))
    box.put(5, 1, arrays(3.0))
    assert box.nbytes == 9 * 8
    assert repr(box) == "<Mailbox with blocks [(4, 1), (4, 2), (5, 1)]>"
    for block, stamp, value in ((4, 2, 2.0), (5, 1, 3.0), (4, 1, 1.0)):
        np.testing.assert_array_equal(box.take(block, stamp)["w"], np.full(3, value))
    assert box.nbytes == 0


def test_a_block_that_comes_again_is_dropped() -> None:
    """Before it is taken and after; whoever sent it is told in both cases."""
    box, first, second, third = Mailbox(), Calls(), Calls(), Calls()
    box.put(4, 1, arrays(1.0), first)
    box.put(4, 1, arrays(9.0), second)
    assert (first.n, second.n) == (0, 0)
    assert box.take(4, 1)["w"][0] == 1.0
    assert (first.n, second.n) == (1, 1)
    box.put(4, 1, arrays(9.0), third)
    assert third.n == 1, "answered at once"
    assert box.nbytes == 0
    assert (first.n, second.n) == (1, 1)


def test_a_take_waits_for_its_block() -> None:
    box = Mailbox()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(box.take, 4, 1)
        box.put(3, 1, arrays(9.0))
        box.put(4, 0, arrays(9.0))
        box.put(4, 1, arrays(1.0))
        assert taken.result(PATIENCE)["w"][0] == 1.0


def test_an_interrupt_ends_a_wait_with_its_cause() -> None:
    box, told, late = Mailbox(), Calls(), Calls()
    box.put(3, 1, arrays(1.0), told)
    cause = RunInterruptedError("rank 1 is lost")
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(box.take, 4, 1)
        box.interrupt(cause)
        with pytest.raises(RunInterruptedError, match="rank 1 is lost"):
            taken.result(PATIENCE)
    assert told.n == 1, "nobody waits for an answer from a run that has ended"
    box.put(4, 1, arrays(1.0), late)
    assert late.n == 1
    box.interrupt(RunInterruptedError("a later one"))
    with pytest.raises(RunInterruptedError, match="rank 1 is lost"):
        box.take(4, 1)
    assert box.take(3, 1)["w"][0] == 1.0, "what had come is still there"


def test_threads_take_every_block_once() -> None:
    box, ready = Mailbox(), threading.Barrier(5, timeout=PATIENCE)

    def give(first: int) -> list[float]:
        ready.wait()
        for stamp in range(50):
            box.put(first, stamp, arrays(100 * first + stamp))
            box.put(first, stamp, arrays(-1.0))
        return []

    def take(first: int) -> list[float]:
        ready.wait()
        return [float(box.take(first, stamp)["w"][0]) for stamp in range(50)]

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(kind, first) for first in (0, 1) for kind in (give, take)]
        ready.wait()
        results = [each.result(PATIENCE) for each in running]
    assert results[1] == list(range(50))
    assert results[3] == list(range(100, 150))


def message_of(arrays: dict[str, Any], empty: Any = None) -> dict[str, Any]:
    return {"run": "r", "rank": 0, "block": 7, "stamp": 9, "arrays": encode_arrays(arrays, empty)}


def assert_round_trip(arrays: dict[str, Any], empty: Any = None) -> None:
    message = message_of(arrays, empty)
    block, stamp, got = decode_arrays(message)
    assert (block, stamp) == (7, 9)
    assert list(got) == list(arrays)
    sent = [part for item in message["arrays"] for part in item["parts"]]
    assert all(part.nbytes <= MAX_FRAME_BYTES for part in sent)
    for name, values in arrays.items():
        assert (got[name].shape, got[name].dtype) == (values.shape, values.dtype)
        np.testing.assert_array_equal(got[name], values)
        assert got[name].flags.c_contiguous
        assert got[name].flags.writeable
        assert not any(np.shares_memory(got[name], part) for part in sent)


DTYPES = st.sampled_from(["f4", "f8", "i2", "i8", "u1", "?", "c16"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.dictionaries(st.text(max_size=5), DTYPES.flatmap(lambda d: hnp.arrays(d, SHAPES))))
def test_what_is_encoded_is_decoded(arrays: dict[str, Any]) -> None:
    assert_round_trip(arrays)
    assert_round_trip(arrays, np.empty)


@pytest.mark.parametrize("empty", [None, np.empty])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_arrays_over_a_frame_are_cut(empty: Any, extra: int) -> None:
    n = 2 * MAX_FRAME_BYTES // 8 + extra
    large = {"w": np.arange(n, dtype=float), "n": np.zeros((0, 3)), "k": np.array(5)}
    assert_round_trip(large, empty)
    parts = message_of(large, empty)["arrays"][0]["parts"]
    assert len(parts) == (3 if extra == 1 else 2)


def test_slices_and_fortran_order_are_encoded_by_value() -> None:
    X = np.arange(60.0).reshape(6, 10)
    assert_round_trip({"f": np.asfortranarray(X), "s": X[::2, ::3], "t": X.T})


def test_an_array_that_is_copied_may_change() -> None:
    values = np.ones(5)
    message = message_of({"w": values}, np.empty)
    values[:] = 2
    np.testing.assert_array_equal(decode_arrays(message)[2]["w"], np.ones(5))


def item(**changes: Any) -> dict[str, Any]:
    return {"name": "w", "shape": [4], "parts": [np.zeros(4)], **changes}


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({"stamp": 1, "arrays": []}, "lacks 'block'"),
        ({"block": 1, "arrays": []}, "lacks 'stamp'"),
        ({"block": 1, "stamp": 1}, "lacks 'arrays'"),
        ({"block": True, "stamp": 1, "arrays": []}, "'block' must be"),
        ({"block": -1, "stamp": 1, "arrays": []}, "'block' must be"),
        ({"block": 1, "stamp": 1.0, "arrays": []}, "'stamp' of a message"),
        ({"block": 1, "stamp": 2**63, "arrays": []}, "'stamp' must be"),
        ({"block": 1, "stamp": 1, "arrays": {}}, "'arrays' of a message"),
        ({"block": 1, "stamp": 1, "arrays": [None]}, "must be mappings"),
        ({"block": 1, "stamp": 1, "arrays": [{"name": "w"}]}, "lacks 'shape'"),
        ({"block": 1, "stamp": 1, "arrays": [item(name=3)]}, "'name' of a message"),
        ({"block": 1, "stamp": 1, "arrays": [item(shape=[5])]}, r"does not fit its shape \[5\]"),
        ({"block": 1, "stamp": 1, "arrays": [item(shape=[-4])]}, "does not fit its shape"),
        ({"block": 1, "stamp": 1, "arrays": [item(shape=[-2, -2])]}, "does not fit its shape"),
        ({"block": 1, "stamp": 1, "arrays": [item(shape=[4.0])]}, "does not fit its shape"),
        ({"block": 1, "stamp": 1, "arrays": [item(shape=[4, True])]}, "does not fit its shape"),
        ({"block": 1, "stamp": 1, "arrays": [item(shape=[4] + [1] * 99)]}, "does not fit"),
        ({"block": 1, "stamp": 1, "arrays": [item(parts=[])]}, "is empty"),
        ({"block": 1, "stamp": 1, "arrays": [item(parts=[[0.0] * 4])]}, "no plain arrays"),
        (
            {"block": 1, "stamp": 1, "arrays": [item(parts=[np.array([None] * 4)])]},
            "no plain arrays",
        ),
        (
            {"block": 1, "stamp": 1, "arrays": [item(parts=[np.zeros(2), np.zeros(2, "f4")])]},
            "different dtypes",
        ),
        # products that an int64 would wrap to nothing, as many numbers as there are
        (
            {"block": 1, "stamp": 1, "arrays": [item(shape=[2**32] * 2, parts=[np.zeros(0)])]},
            "does not fit its shape",
        ),
        (
            {"block": 1, "stamp": 1, "arrays": [item(shape=[0, 2**70], parts=[np.zeros(0)])]},
            "does not fit its shape",
        ),
        ({"block": 1, "stamp": 1, "arrays": [item(), item()]}, "comes twice"),
    ],
)
def test_what_is_no_block_is_refused(message: dict[str, Any], match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        decode_arrays(message)


NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
PARTS = hnp.arrays(DTYPES | st.just("O"), SHAPES) | NUMBERS
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "name": NUMBERS,
        "shape": st.lists(NUMBERS | st.integers(0, 5), max_size=4) | NUMBERS,
        "parts": st.lists(PARTS, max_size=3) | NUMBERS,
    },
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "block": st.integers(0, 9) | NUMBERS,
        "stamp": st.integers(0, 9) | NUMBERS,
        "arrays": st.lists(ITEMS | NUMBERS, max_size=3) | NUMBERS,
    },
)


@given(MESSAGES | NUMBERS)
def test_any_message_is_decoded_or_refused(message: Any) -> None:
    """With the one error that a worker answers, never another."""
    try:
        block, stamp, arrays = decode_arrays(message)
    except ProtocolError:
        return
    assert (block, stamp) == (message["block"], message["stamp"])
    for each in message["arrays"]:
        assert list(arrays[each["name"]].shape) == each["shape"]


@given(st.data())
def test_a_message_with_one_change_is_decoded_or_refused(data: Any) -> None:
    message = message_of({"w": np.arange(6.0).reshape(2, 3), "n": np.zeros((0, 2), "i4")})
    part: Any = data.draw(st.sampled_from([message, *message["arrays"]]))
    key = data.draw(st.sampled_from(sorted(part)))
    if data.draw(st.booleans()):
        del part[key]
    else:
        part[key] = data.draw(NUMBERS | st.lists(PARTS, max_size=2) | st.lists(NUMBERS, max_size=3))
    try:
        decode_arrays(message)
    except ProtocolError:
        return
    assert all(isinstance(each["name"], str) for each in message["arrays"])
