"""A transport in memory that does to messages what a network may do, under a seeded schedule.

For tests: it sends nothing anywhere. Messages lie in a pool until :meth:`MemoryNetwork.step` takes
one of them out, any one, so every order and every delay can happen. A message may be lost, be
delivered twice, or have its answer declared lost and delivered all the same, later. As with any
transport, a sender learns of a loss as a :class:`TransportError` and decides itself to send again.
No thread, no clock: the same seed and the same calls give the same run.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dask_petuum.exceptions import TransportError
from dask_petuum.transport.base import OnReply, Reply

__all__ = ["Faults", "MemoryNetwork", "MemoryTransport"]

Message = Mapping[str, Any]
#: Steps that a slow message takes at most.
SLOWEST = 80

#: Gets operation, message and what to call with the answer, now or later.
Handler = Callable[[str, Message, Callable[[Reply], None]], None]
#: Gets rank, operation and message.
OnCast = Callable[[int, str, Message], None]


@dataclass(frozen=True)
class Faults:
    """How often a network does what to a message, as probabilities.

    Parameters
    ----------
    lose
        A message never arrives; the sender of a call hears of it.
    repeat
        A message arrives, and will arrive again.
    late
        The sender is told that its answer was lost, and gets it later nevertheless.
    slow
        A message is overtaken by up to ``SLOWEST`` others.
    """

    lose: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    slow: float = 0.0


class MemoryNetwork:
    """The messages under way between ranks.

    Parameters
    ----------
    seed
        Of the schedule.
    faults
        What goes wrong.
    on_cast
        The coordinator: gets what ranks cast.
    """

    # The mutable state is `_pool` and `_slow`; only `step` and the transports' calls change it.

    def __init__(self, seed: int, faults: Faults = Faults(), on_cast: OnCast | None = None) -> None:
        self._random = random.Random(seed)
        self._faults = faults
        self._on_cast = on_cast
        self._handlers: dict[int, Handler] = {}
        self._pool: list[Callable[[], None]] = []
        #: (step from which it is in the pool, number, message), a heap.
        self._slow: list[tuple[int, int, Callable[[], None]]] = []
        self._n_slow = 0
        self.n_steps = 0

    def __repr__(self) -> str:
        return f"<MemoryNetwork of {len(self._handlers)} ranks, {self.n_under_way} under way>"

    @property
    def n_under_way(self) -> int:
        """Messages that have not arrived."""
        return len(self._pool) + len(self._slow)

    def serve(self, rank: int, handler: Handler) -> None:
        """Deliver the calls for a rank to ``handler``."""
        self._handlers[rank] = handler

    def connect(self, rank: int) -> MemoryTransport:
        """Make the transport through which a rank sends."""
        return MemoryTransport(self, rank)

    def step(self) -> bool:
        """Take one message, any one, as far as it gets; False where none is under way."""
        self.n_steps += 1
        while self._slow and (not self._pool or self._slow[0][0] <= self.n_steps):
            self._pool.append(heapq.heappop(self._slow)[2])
        if not self._pool:
            return False
        index = self._random.randrange(len(self._pool))
        self._pool[index], self._pool[-1] = self._pool[-1], self._pool[index]
        self._pool.pop()()
        return True

    def _send(self, deliver: Callable[[], None], lost: Callable[[], None]) -> None:
        message: Callable[[], None] = partial(self._arrive, deliver, lost)
        if self._random.random() < self._faults.slow:
            due = self.n_steps + self._random.randint(1, SLOWEST)
            self._n_slow += 1
            heapq.heappush(self._slow, (due, self._n_slow, message))
        else:
            self._pool.append(message)

    def _arrive(self, deliver: Callable[[], None], lost: Callable[[], None]) -> None:
        fate = self._random.random()
        faults = self._faults
        if fate < faults.lose:
            lost()
            return
        if fate < faults.lose + faults.repeat:
            self._send(deliver, _nothing)
        deliver()

    def _request(
        self, peer: int, operation: str, message: Message, transport: MemoryTransport, back: OnReply
    ) -> None:
        def answer(reply: Reply) -> None:
            deliver = partial(transport._hear, back, reply)
            if self._random.random() < self._faults.late:
                self._pool.append(tell_of_loss)
                self._send(deliver, _nothing)
            else:
                self._send(deliver, tell_of_loss)

        def tell_of_loss() -> None:
            transport._hear(back, TransportError(f"{operation} to rank {peer} was lost"))

        def deliver() -> None:
            self._handlers[peer](operation, message, answer)

        self._send(deliver, tell_of_loss)

    def _cast(self, rank: int, operation: str, message: Message) -> None:
        if self._on_cast is not None:
            self._send(partial(self._on_cast, rank, operation, message), _nothing)


class MemoryTransport:
    """One rank's end of a :class:`MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, rank: int) -> None:
        self._network = network
        self._rank = rank
        self._open = True

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<MemoryTransport of rank {self._rank}, {state}>"

    def call(self, peer: int, operation: str, message: Message, on_reply: OnReply) -> None:
        """Send a message to a rank's owner.

        ``on_reply`` is called at least once, with the answer or a :class:`TransportError`, and
        once more for each further answer that arrives.
        """
        if self._open:
            self._network._request(peer, operation, message, self, on_reply)

    def cast(self, operation: str, message: Message) -> None:
        """Send a message to the coordinator; no reply, may be lost."""
        if self._open:
            self._network._cast(self._rank, operation, message)

    def close(self) -> None:
        """Stop sending; no ``on_reply`` is called any more."""
        self._open = False

    def _hear(self, on_reply: OnReply, reply: Reply | Exception) -> None:
        if self._open:
            on_reply(reply)


def _nothing() -> None:
    """What happens when a message is lost that nobody waits for."""
