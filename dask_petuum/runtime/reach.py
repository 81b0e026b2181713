"""Calls of other workers, and whether those that owe an answer can still be reached.

An answer may take as long as the slowest rank: an owner parks a read until its values are fresh
enough. So a call has no timeout. But a peer may be out of this worker's reach while both reach the
scheduler, over a connection that nobody breaks; then neither Dask nor the lease would end the wait.
So a peer that owes answers is asked for a sign of life, which it can give at once, and where none
comes for a whole lease, the calls to it end.

Calls also end when nobody needs their answers any more: those to a worker that the scheduler has
removed, and those of a run that is over. Dask would try to connect to such a peer for 30 s each.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from dask_petuum.exceptions import TransportError
from dask_petuum.runtime import config
from dask_petuum.runtime.lease import Silence

__all__ = ["Reach"]

#: Share of the lease after which a silent peer is asked.
ASKED_AFTER = 1 / 3
#: Workers that are remembered to be gone: more than a run has on its list.
N_LOST = 1000


class Reach:
    """The calls of a worker that have no answer yet.

    Parameters
    ----------
    ask
        Asks an address for a sign of life; returns when it has come.
    pause
        Longest time between two looks, seconds; what is beyond it this process has slept.
    clock
        Gives seconds.
    """

    # The mutable state is the calls under way and whose they are, when each peer was last heard of,
    # who was asked, and who is gone; only the worker's event loop changes it.

    def __init__(
        self,
        ask: Callable[[str], Coroutine[Any, Any, Any]],
        pause: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._silence = Silence(pause)
        self._calls: dict[str, dict[asyncio.Future[Any], str | None]] = {}
        self._heard: dict[str, float] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._lost: deque[str] = deque(maxlen=N_LOST)

    def __repr__(self) -> str:
        return f"<Reach: { ({a: len(calls) for a, calls in self._calls.items()}) } under way>"

    async def call(
        self, address: str, coroutine: Coroutine[Any, Any, Any], of: str | None = None
    ) -> Any:
        """Await a call of a peer.

        Parameters
        ----------
        of
            Whose call it is: the argument of `end`.

        Raises
        ------
        TransportError
            Where the peer is gone, gives no sign of life for as long as ``petuum.recovery.lease``,
            or the call is ended: there is no use in another try.
        """
        if address in self._lost:
            coroutine.close()
            raise TransportError(_gone(address), final=True)
        loop = asyncio.get_running_loop()
        calls = self._calls.setdefault(address, {})
        if not calls:
            self._heard[address] = self._clock()
        answer = loop.create_future()
        calls[answer] = of
        calling = loop.create_task(coroutine)
        calling.add_done_callback(partial(_pass_on, answer))
        try:
            reply = await answer
            self._heard[address] = self._clock()
            return reply
        finally:
            calling.cancel()
            del calls[answer]
            if not calls:
                self._forget(address, calls)

    async def look(self) -> None:
        """Ask the peers that are silent; end the calls to those that are so for too long."""
        lease = config.lease_seconds()
        now = self._clock()
        heard = {address: self._heard[address] for address in self._calls}
        for address, silent in self._silence.look(heard, now).items():
            if silent > lease:
                self._give_up(address, lease)
            elif silent > ASKED_AFTER * lease and address not in self._asked:
                asked = asyncio.ensure_future(self._ask(address))
                self._asked[address] = asked
                asked.add_done_callback(partial(self._note, address))

    def end(self, of: str) -> None:
        """End the calls of somebody who needs no answers any more."""
        for calls in self._calls.values():
            _end([answer for answer, whose in calls.items() if whose == of], f"{of} is over")

    def lose(self, address: str) -> None:
        """Note that a worker is gone; end the calls to it."""
        if address not in self._lost:
            self._lost.append(address)
        self._end_all(address, _gone(address))

    def find(self, address: str) -> None:
        """Note that there is a worker again where one was lost."""
        if address in self._lost:
            self._lost.remove(address)

    def close(self) -> None:
        """Ask nobody any more."""
        for asked in list(self._asked.values()):
            asked.cancel()

    def _note(self, address: str, asked: asyncio.Future[Any]) -> None:
        """Take in what came of asking; after a failure the peer is asked again."""
        if self._asked.get(address) is asked:
            del self._asked[address]
        if asked.cancelled() or asked.exception() is not None:
            return
        if address in self._heard:
            self._heard[address] = self._clock()

    def _give_up(self, address: str, lease: float) -> None:
        text = f"worker {address} takes messages and does not answer, for {lease:g} s now"
        self._end_all(address, text)

    def _end_all(self, address: str, text: str) -> None:
        _end(self._calls.get(address, ()), text)
        if address in self._asked:
            self._asked[address].cancel()

    def _forget(self, address: str, calls: dict[asyncio.Future[Any], str | None]) -> None:
        if self._calls.get(address) is calls:
            del self._calls[address]
            del self._heard[address]


def _gone(address: str) -> str:
    return f"worker {address} is gone"


def _end(answers: Iterable[asyncio.Future[Any]], text: str) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(TransportError(text, final=True))


def _pass_on(answer: asyncio.Future[Any], calling: asyncio.Task[Any]) -> None:
    """Let who waits have a call's result, or its error."""
    if calling.cancelled():
        answer.cancel()
        return
    error = calling.exception()
    if answer.done():
        return
    if error is None:
        answer.set_result(calling.result())
    else:
        answer.set_exception(error)
