"""Messages by pipes between two ranks, both in this process."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE

from dask_petuum.exceptions import TransportError
from dask_petuum.transport.ends import FRAME_BYTES, PIPE_BYTES
from dask_petuum.transport.pipes import Pipes
from dask_petuum.transport.shared import Arena, PeerArena


class Rank:
    """One end: answers what it is sent with `answer_with`."""

    def __init__(self, rank: int) -> None:
        self.arena = Arena()
        self.got: list[tuple[str, Any]] = []
        self.answer_with: Callable[[Any], Any] = lambda message: {"status": "OK"}
        self.pipes = Pipes(rank, self.arena, self.serve)

    def serve(self, operation: str, message: Any, answer: Any) -> None:
        self.got.append((operation, message))
        answer(self.answer_with(message))

    def connect(self, rank: int, other: Rank) -> bool:
        description = {**other.arena.describe(), **other.pipes.describe()}
        arena = PeerArena.open(description)
        assert arena is not None
        return self.pipes.connect(rank, description, arena)


@pytest.fixture
def ranks() -> Iterator[tuple[Rank, Rank]]:
    first, second = Rank(0), Rank(1)
    assert first.connect(1, second)
    assert second.connect(0, first)
    yield first, second
    first.pipes.close()
    second.pipes.close()


def pump(ranks: tuple[Rank, ...], done: Callable[[], bool]) -> None:
    """Read what comes, as event loops would, until something is so."""
    sources = {rank.pipes.source: rank for rank in ranks}
    while not done():
        ready, _, _ = select.select(list(sources), [], [], PATIENCE)
        assert ready, "nothing comes any more"
        for source in ready:
            sources[source].pipes.read()


def call(ranks: tuple[Rank, Rank], message: Any) -> Any:
    heard: list[Any] = []
    ranks[0].pipes.call(1, "petuum_push", message, heard.append)
    pump(ranks, lambda: bool(heard))
    return heard[0]


@pytest.mark.parametrize("n", [0, 3, 2000, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_arrays_arrive_as_they_are(ranks: tuple[Rank, Rank], n: int, dtype: str) -> None:
    """In the message, in a letter, and where they lie in the arena."""
    sent = ranks[0].arena.empty((n, 2), dtype)
    sent[:] = np.arange(2 * n).reshape(n, 2) % 5
    ranks[1].answer_with = lambda message: {"status": "OK", "back": message["x"] + message["x"]}
    reply = call(ranks, {"x": sent, "names": ["a", None], "deep": {"y": sent[:1, 0].copy()}})
    operation, message = ranks[1].got[0]
    assert operation == "petuum_push"
    assert (message["names"], message["x"].dtype, message["x"].shape) == (
        ["a", None],
        dtype,
        (n, 2),
    )
    np.testing.assert_array_equal(message["x"], sent)
    np.testing.assert_array_equal(message["deep"]["y"], sent[:1, 0])
    np.testing.assert_array_equal(reply["back"], sent + sent)


def test_a_letter_is_freed_when_it_is_read(ranks: tuple[Rank, Rank]) -> None:
    before = repr(ranks[0].arena)
    assert call(ranks, {"text": "x" * 3 * FRAME_BYTES}) == {"status": "OK"}
    assert len(ranks[1].got[0][1]["text"]) == 3 * FRAME_BYTES
    pump(ranks, lambda: repr(ranks[0].arena) == before)


def test_a_full_pipe_is_written_to_when_there_is_room(ranks: tuple[Rank, Rank]) -> None:
    """In order; a call does not wait for it."""
    n, heard = 3 * PIPE_BYTES // 1000, []
    for number in range(n):
        ranks[0].pipes.call(1, "petuum_push", {"n": number, "text": "x" * 1000}, heard.append)
    assert f"{n} calls not answered" in repr(ranks[0].pipes)
    pump(ranks, lambda: len(heard) == n)
    assert [message["n"] for _, message in ranks[1].got] == list(range(n))


def test_a_peer_that_has_gone_is_an_error_at_once(ranks: tuple[Rank, Rank]) -> None:
    ranks[1].pipes.close()
    heard: list[Any] = []
    for _ in range(2):
        ranks[0].pipes.call(1, "petuum_push", {}, heard.append)
    assert len(heard) == 2
    with pytest.raises(TransportError, match="rank 1 has gone"):
        raise heard[1]


def test_who_is_closed_sends_nothing_and_hears_nothing(ranks: tuple[Rank, Rank]) -> None:
    heard: list[Any] = []
    ranks[0].pipes.call(1, "petuum_push", {"n": 1}, heard.append)
    ranks[0].pipes.close()
    ranks[0].pipes.call(1, "petuum_push", {"n": 2}, heard.append)
    pump(ranks[1:], lambda: bool(ranks[1].got))
    assert ranks[1].got == [("petuum_push", {"n": 1})]
    assert heard == []
    ranks[0].pipes.close()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({"__shared__": 2**50, "shape": [3], "dtype": "<f4"}, "no array of shape"),
        ({"__inline__": b"abc", "shape": [1], "dtype": "<f4"}, "carries no array"),
        ({"__inline__": b"abcdefgh", "shape": [1], "dtype": "|O"}, "an array of object"),
    ],
)
def test_arrays_that_cannot_be_are_refused(ranks: tuple[Rank, Rank], place: Any, text: str) -> None:
    reply = call(ranks, {"x": place})
    assert reply["status"] == "refused"
    assert text in reply["text"]
    assert ranks[1].got == []
    ranks[1].answer_with = lambda message: {"x": place}
    with pytest.raises(TransportError, match=text):
        raise call(ranks, {})


def test_an_error_in_one_message_does_not_stop_the_next(
    ranks: tuple[Rank, Rank], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(reply: Any) -> None:
        raise ValueError("who waits has an error")

    ranks[0].pipes.call(1, "petuum_push", {}, fail)
    assert call(ranks, {}) == {"status": "OK"}
    assert "who waits has an error" in caplog.text


def test_a_pipe_that_cannot_be_opened_is_not_used(ranks: tuple[Rank, Rank]) -> None:
    description = {**ranks[1].arena.describe(), "pipe": 10**6}
    arena = PeerArena.open(description)
    assert arena is not None
    assert not ranks[0].pipes.connect(1, description, arena)
