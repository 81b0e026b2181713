"""Messages on Dask's comms: arrays are frames of their own, no copy, no pickle, 4 MB at most."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from distributed.protocol import dumps, loads
from distributed.protocol import pickle as protocol_pickle

from dask_petuum.exceptions import TransportError
from dask_petuum.runtime.adapter import wrap_array
from dask_petuum.store.codec import MAX_FRAME_BYTES, encode_delta
from dask_petuum.transport.dask_comms import DaskTransport
from dask_petuum.transport.wire import pack, unpack


@pytest.fixture
def no_pickle(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was pickled")

    monkeypatch.setattr(protocol_pickle, "dumps", refuse)
    monkeypatch.setattr(protocol_pickle, "loads", refuse)


def push_of(delta):
    chunks = list(encode_delta(delta, 0, 0))
    return {"run": "r", "epoch": 0, "rank": 1, "clock": 3, "last": False, "chunks": chunks}


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_a_big_push_is_cut_into_frames_that_are_the_array_itself(no_pickle, dtype):
    delta = np.ones((2600, 1000), dtype=dtype)
    message = push_of(delta)
    frames = dumps({"op": "petuum_push", "message": pack(message, wrap_array)})
    big = [frame for frame in frames if memoryview(frame).nbytes > 10_000]
    assert sum(memoryview(frame).nbytes for frame in big) == delta.nbytes
    assert max(memoryview(frame).nbytes for frame in frames) <= MAX_FRAME_BYTES
    for frame in big:
        assert np.shares_memory(np.frombuffer(frame, dtype=np.uint8), delta)


@pytest.mark.parametrize("kind", ["dense", "rows", "cells", "csr"])
def test_messages_come_out_as_they_went_in(no_pickle, kind):
    delta = np.zeros((300, 40), dtype=np.float32)
    if kind == "dense":
        delta[:] = 1.5
    elif kind == "rows":
        delta[::7] = 2.5
    else:
        delta[::50, 3] = 3.5
    message = push_of(sp.csr_array(delta) if kind == "csr" else delta)
    assert {chunk["kind"] for chunk in message["chunks"]} == {kind}
    frames = dumps({"message": pack(message, wrap_array)})
    received = unpack(loads(frames)["message"], None)
    assert {k: v for k, v in received.items() if k != "chunks"} == {
        k: v for k, v in message.items() if k != "chunks"
    }
    for sent, found in zip(message["chunks"], received["chunks"], strict=True):
        assert sorted(sent) == sorted(found)
        for name, value in sent.items():
            np.testing.assert_array_equal(found[name], value)
            if isinstance(value, np.ndarray):
                assert found[name].dtype == value.dtype


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (2, 3)])
def test_arrays_of_every_size_travel(no_pickle, shape):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    (found,) = loads(dumps([wrap_array(array)]))
    np.testing.assert_array_equal(found, array)
    assert found.shape == shape
    assert found.dtype == np.int32


def test_an_array_of_objects_is_not_taken(no_pickle):
    wrapped = wrap_array(np.zeros(2))
    wrapped.header["dtype"] = "|O"
    with pytest.raises(TypeError, match="not taken"):
        loads(dumps([wrapped]))


class ScriptedNode:
    """Runs what the transport spawns at once; answers, or raises, as told."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def spawn(self, coroutine):
        with pytest.raises(StopIteration):
            coroutine.send(None)

    def soon(self, function, *arguments):
        function(*arguments)

    def cast(self, operation, message):
        self.calls.append((operation, message))

    def wrap(self, array):
        return array

    async def call(self, address, operation, message):
        self.calls.append((address, operation))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (TransportError("not there"), "not there"),
        (ValueError("odd"), r"petuum_push to tcp://b failed: ValueError\('odd'\)"),
    ],
)
def test_whatever_goes_wrong_is_heard_by_who_waits(answer, text):
    node, heard = ScriptedNode(answer), []
    transport = DaskTransport(node, ["tcp://a", "tcp://b"])
    transport.call(1, "petuum_push", {"clock": 1}, heard.append)
    assert node.calls == [("tcp://b", "petuum_push")]
    with pytest.raises(TransportError, match=text):
        raise heard[0]


def test_a_closed_transport_sends_nothing_and_answers_nobody():
    node, heard = ScriptedNode({"status": "OK"}), []
    transport = DaskTransport(node, ["tcp://a", "tcp://b"])
    transport.call(1, "petuum_push", {}, heard.append)
    assert heard == [{"status": "OK"}]
    transport.cast("petuum-clock", {"clock": 1})
    transport.close()
    transport.call(1, "petuum_push", {}, heard.append)
    transport.cast("petuum-clock", {"clock": 2})
    assert len(heard) == 1
    assert node.calls == [("tcp://b", "petuum_push"), ("petuum-clock", {"clock": 1})]
