"""Calls of a peer that owes an answer: waited for while it lives, ended where it does not."""

from __future__ import annotations

import asyncio

import dask
import pytest

from dask_petuum.exceptions import TransportError
from dask_petuum.runtime.reach import Reach

LEASE = 6.0


class Peer:
    """A peer, and a clock that the test turns."""

    def __init__(self, lives):
        self.lives = lives
        self.n_asked = 0
        self.now = 100.0
        self.reach = Reach(self._ask, pause=2.0, clock=lambda: self.now)
        self.answer = None

    async def owe(self):
        """A call whose answer the test gives."""
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer

    async def pass_seconds(self, seconds):
        """Let time pass, in steps of one second."""
        for _ in range(seconds):
            self.now += 1.0
            await self.reach.look()
            await settle()

    async def _ask(self, address):
        self.n_asked += 1
        if self.lives is None:
            raise TransportError("no connection")
        if not self.lives:
            await asyncio.get_running_loop().create_future()


async def settle():
    """Let all that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def lease():
    with dask.config.set({"petuum.recovery.lease": LEASE}):
        yield


def test_an_answer_and_an_error_are_passed_on():
    async def fail():
        raise ZeroDivisionError

    async def main():
        peer = Peer(lives=True)
        assert await peer.reach.call("a", asyncio.sleep(0, "answer")) == "answer"
        with pytest.raises(ZeroDivisionError):
            await peer.reach.call("a", fail())
        assert repr(peer.reach) == "<Reach: {} under way>"

    asyncio.run(main())


def test_a_peer_that_lives_may_take_as_long_as_it_likes():
    async def main():
        peer = Peer(lives=True)
        call = asyncio.ensure_future(peer.reach.call("a", peer.owe()))
        await settle()
        await peer.pass_seconds(100)
        assert peer.n_asked > 10
        peer.answer.set_result("late")
        assert await call == "late"

    asyncio.run(main())


@pytest.mark.parametrize("lives", [False, None], ids=["takes and is silent", "takes nothing"])
def test_calls_of_a_peer_without_a_sign_of_life_end_with_their_cause(lives):
    async def main():
        peer = Peer(lives)
        calls = [asyncio.ensure_future(peer.reach.call("a", peer.owe())) for _ in range(3)]
        await settle()
        await peer.pass_seconds(int(LEASE))
        assert not any(call.done() for call in calls)
        await peer.pass_seconds(2)
        for call in calls:
            with pytest.raises(TransportError, match="worker a takes messages") as caught:
                await call
            assert caught.value.final
        await settle()
        assert peer.answer.cancelled(), "nothing is left behind"
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_calls_of_a_worker_that_is_gone_end_until_it_is_back():
    async def main():
        peer = Peer(lives=True)
        call = asyncio.ensure_future(peer.reach.call("a", peer.owe()))
        other = asyncio.ensure_future(peer.reach.call("b", asyncio.sleep(0, "answer")))
        await asyncio.sleep(0)
        peer.reach.lose("a")
        with pytest.raises(TransportError, match="worker a is gone") as caught:
            await call
        assert caught.value.final
        assert await other == "answer"
        with pytest.raises(TransportError, match="worker a is gone"):
            await peer.reach.call("a", peer.owe())
        peer.reach.find("a")
        assert await peer.reach.call("a", asyncio.sleep(0, "back")) == "back"
        assert len(asyncio.all_tasks()) == 1, "nothing is left behind"

    asyncio.run(main())


def test_calls_of_a_run_that_is_over_end():
    async def main():
        peer = Peer(lives=True)
        over = asyncio.ensure_future(peer.reach.call("a", peer.owe(), "run 1"))
        await settle()
        first = peer.answer
        others = asyncio.ensure_future(peer.reach.call("a", peer.owe(), "run 2"))
        await settle()
        peer.reach.end("run 1")
        with pytest.raises(TransportError, match="run 1 is over") as caught:
            await over
        assert caught.value.final
        await settle()
        assert first.cancelled()
        peer.answer.set_result("answer")
        assert await others == "answer"

    asyncio.run(main())


def test_a_machine_that_slept_ends_no_call():
    async def main():
        peer = Peer(lives=False)
        call = asyncio.ensure_future(peer.reach.call("a", peer.owe()))
        await settle()
        await peer.pass_seconds(1)
        peer.now += 3600.0
        await peer.pass_seconds(1)
        assert not call.done()
        peer.answer.set_result("after all")
        assert await call == "after all"

    asyncio.run(main())


def test_who_gives_a_call_up_ends_it():
    async def main():
        peer = Peer(lives=True)
        call = asyncio.ensure_future(peer.reach.call("a", peer.owe()))
        await settle()
        call.cancel()
        await settle()
        assert peer.answer.cancelled()

    asyncio.run(main())
