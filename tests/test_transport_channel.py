"""Blocks from one rank's thread to another's, both in this process."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from conftest import PATIENCE

from dask_petuum.exceptions import ProtocolError, TransportError
from dask_petuum.transport.channel import Channel
from dask_petuum.transport.frames import PIPE_BYTES, frame_of
from dask_petuum.transport.shared import Arena, PeerArena


class Rank:
    """One end."""

    def __init__(self, rank: int) -> None:
        self.arena = Arena()
        self.channel = Channel(rank, self.arena)

    def connect(self, rank: int, other: Rank) -> bool:
        description = {**other.arena.describe(), **other.channel.describe()}
        arena = PeerArena.open(description)
        assert arena is not None
        return self.channel.connect(rank, description, arena)

    def send(self, peer: int, block: int, stamp: int, **arrays: Any) -> None:
        self.channel.send(peer, block, stamp, self.channel.place(arrays))


@pytest.fixture
def ranks() -> Iterator[tuple[Rank, Rank]]:
    first, second = Rank(0), Rank(1)
    assert first.connect(1, second)
    assert second.connect(0, first)
    yield first, second
    for rank in (first, second):
        rank.channel.interrupt(TimeoutError("the test is over"))


@pytest.mark.parametrize("n", [0, 3, 500, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_arrays_arrive_as_they_are(ranks: tuple[Rank, Rank], n: int, dtype: str) -> None:
    """In the frame, copied into the arena, and where they lie in it."""
    placed = ranks[0].arena.empty((n, 2), dtype)
    placed[:] = np.arange(2 * n).reshape(n, 2) % 5
    ranks[0].send(1, 7, 1, here=placed, copied=placed[:, ::-1])
    arrays = ranks[1].channel.take(0, 7, 1)
    np.testing.assert_array_equal(arrays["here"], placed)
    np.testing.assert_array_equal(arrays["copied"], placed[:, ::-1])
    assert {values.dtype for values in arrays.values()} == {np.dtype(dtype)}


def test_blocks_are_taken_in_any_order_and_stay_until_the_next(ranks: tuple[Rank, Rank]) -> None:
    for stamp in (1, 2):
        ranks[0].send(1, 3, stamp, x=np.full(10_000, stamp))
        ranks[0].send(1, 4, stamp, x=np.full(10_000, 10 * stamp))
    later = ranks[1].channel.take(0, 4, 1)["x"]
    first = ranks[1].channel.take(0, 3, 1)["x"]
    for number in range(20):  # would lie in the memory of what is still read
        ranks[0].send(1, 5 + number, 1, x=np.zeros(10_000))
    assert (later == 10).all()
    assert (first == 1).all()


def test_memory_is_used_again_when_a_block_has_been_read(ranks: tuple[Rank, Rank]) -> None:
    sizes = set()
    for stamp in range(6):
        ranks[0].send(1, 0, stamp, x=np.zeros(100_000))
        ranks[1].send(0, 0, stamp, x=np.zeros(100_000))
        for rank, peer in ((0, 1), (1, 0)):
            ranks[rank].channel.take(peer, 0, stamp)
        if stamp >= 3:
            sizes.add(repr(ranks[0].arena))
    assert len(sizes) == 1


def test_two_that_fill_each_other_s_pipes_both_go_on(ranks: tuple[Rank, Rank]) -> None:
    n = 2 * PIPE_BYTES // 100
    done: list[Any] = []

    def exchange(rank: int, peer: int) -> None:
        for stamp in range(n):
            ranks[rank].send(peer, stamp, stamp, x=np.array([stamp] * 12))
        done.append([int(ranks[rank].channel.take(peer, k, k)["x"][0]) for k in range(n)])

    threads = [threading.Thread(target=exchange, args=pair) for pair in ((0, 1), (1, 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert done == [list(range(n))] * 2


def test_an_interruption_ends_a_wait_with_its_cause(ranks: tuple[Rank, Rank]) -> None:
    caught: list[Exception] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            ranks[0].channel.take(1, 0, 0)
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(PATIENCE)
    ranks[0].channel.interrupt(ValueError("first"))
    ranks[0].channel.interrupt(ValueError("second"))
    thread.join(PATIENCE)
    assert [str(error) for error in caught] == ["first"]
    with pytest.raises(ValueError, match="first"):
        ranks[0].channel.take(1, 0, 1)


def test_a_peer_that_has_gone_is_an_error(ranks: tuple[Rank, Rank]) -> None:
    other = Rank(2)
    assert ranks[0].connect(2, other)
    del other
    gc.collect()
    with pytest.raises(TransportError, match="rank 2 has gone"):
        ranks[0].send(2, 0, 0, x=np.zeros(3))


def test_a_block_of_many_arrays_comes_in_several_frames(ranks: tuple[Rank, Rank]) -> None:
    arrays = {f"x{number}": np.full(20, number) for number in range(400)}
    ranks[0].send(1, 0, 0, **arrays)
    taken = ranks[1].channel.take(0, 0, 0)
    assert list(taken) == list(arrays)
    assert [int(values[0]) for values in taken.values()] == list(range(400))


def test_a_name_that_is_too_long_for_a_frame_is_refused(ranks: tuple[Rank, Rank]) -> None:
    with pytest.raises(ProtocolError, match="too long for a frame: xxx"):
        ranks[0].send(1, 0, 0, **{"x" * 5000: np.zeros(20)})


def test_a_fetched_block_is_its_reader_s_and_free_at_once(ranks: tuple[Rank, Rank]) -> None:
    first, second = (rank.channel for rank in ranks)
    ranks[0].send(1, 0, 0, x=np.arange(50_000), y=np.arange(3))
    assert first.lent_bytes == 8 * 50_003
    got = second.fetch(0, 0, 0, limit=0)
    ranks[1].send(0, 9, 0)
    first.take(1, 9, 0)  # behind the word that the block has been read
    assert first.lent_bytes == 0
    ranks[0].send(1, 0, 1, x=np.zeros(50_000))  # lies where the other one did
    got["x"] += 1
    np.testing.assert_array_equal(got["x"], np.arange(1, 50_001))
    np.testing.assert_array_equal(got["y"], np.arange(3))
    assert ranks[1].arena.locate(got["x"]) is not None


def test_who_has_sent_too_many_blocks_waits_until_some_are_read(ranks: tuple[Rank, Rank]) -> None:
    unread: list[int] = []

    def work() -> None:
        for number in range(3):
            ranks[0].send(1, number, 0, x=np.zeros(3))
        ranks[0].channel.fetch(1, 7, 0, limit=1)
        unread.append(ranks[0].channel.lent_bytes)

    thread = threading.Thread(target=work)
    thread.start()
    ranks[1].send(0, 7, 0, x=np.zeros(3))  # it is there long before there is room
    for number in range(2):
        ranks[1].channel.fetch(0, number, 0, limit=1)
    thread.join(PATIENCE)
    assert unread == [24]


def test_a_channel_that_is_dropped_closes_its_files() -> None:
    rank, other = Rank(0), Rank(1)
    ours = {rank.channel.describe()["channel"], rank.arena.describe()["fd"]}
    theirs = {other.channel.describe()["channel"], other.arena.describe()["fd"]}
    # files, not their number: other threads of this process open and close some, too
    before = {os.fstat(fd)[1:3] for fd in ours | theirs}
    assert rank.connect(1, other)
    del rank, other
    gc.collect()
    assert not before & _files()


def _files() -> set[Any]:
    """Inode and device of each file that this process has open."""
    out = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of the list itself, and others meanwhile
            out.add(os.fstat(int(fd))[1:3])
    return out


def test_what_strangers_write_is_passed_over(
    ranks: tuple[Rank, Rank], caplog: pytest.LogCaptureFixture
) -> None:
    sent, read, woken = range(3)
    frames = [
        [],
        5,
        [sent, 9, 0, 0, {}],  # of nobody
        [sent, 0, 0, 0],
        [sent, 0, 0, 0, [1]],
        [sent, 0, [1], 0, {}],
        [read, 0, 0, "x"],
        [woken, 0],
        [17, 0, 0, 0],
    ]
    pieces = [b"\x00" * 9, b"\xdd\xff\xff\xff\xff", *(frame_of(msgpack.packb(f)) for f in frames)]
    with open(f"/proc/self/fd/{ranks[1].channel.describe()['channel']}", "wb", 0) as pipe:
        for stamp, piece in enumerate(pieces):
            caplog.clear()
            pipe.write(piece)
            ranks[0].send(1, 7, stamp, x=np.array([stamp]))
            assert ranks[1].channel.take(0, 7, stamp)["x"] == [stamp]
            assert caplog.records, piece
