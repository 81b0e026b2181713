"""One rank's connection to the store: sends what its core says, waits until the core is ready.

The rank's thread calls ``open_view``, ``clock`` and ``finish``; replies come on the event loop.
Neither may hold up the other: the rank's thread encodes for milliseconds under the core's lock, so
a reply that finds the lock taken is left in a queue, and whoever releases the lock looks there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask_petuum.exceptions import ProtocolError, RunError, RunInterruptedError, TransportError
from dask_petuum.runtime.owner_service import OwnerService
from dask_petuum.store.consistency import AutoStaleness, Consistency
from dask_petuum.store.rank import Open, Pull, Push, RankCore
from dask_petuum.store.view import StoreView
from dask_petuum.transport import Reply, Transport

__all__ = ["Endpoint"]

#: Tries of one message before its run ends; the scheduler mostly knows of a lost worker before.
MAX_TRIES = 8
#: Pause before the second try, seconds; doubled with each further one.
FIRST_PAUSE = 0.05


@dataclass(frozen=True)
class Step:
    """A push and a pull to the same owner in one message: half the messages of a BSP clock."""

    owner: int
    push: Push
    pull: Pull

    @property
    def message(self) -> dict[str, Any]:
        """Both messages, and what an owner is found by."""
        sender = {key: self.push.message[key] for key in ("run", "rank")}
        return {**sender, "push": self.push.message, "pull": self.pull.message}


@dataclass(frozen=True)
class Parcel:
    """A block of variables on its way to another rank."""

    owner: int
    message: dict[str, Any]


@dataclass(frozen=True)
class Fetch:
    """A question for a block of variables that lies at another rank."""

    owner: int
    message: dict[str, Any]


@dataclass(frozen=True)
class Fetched:
    """Word that a block has come: its sender need not keep it."""

    owner: int
    message: dict[str, Any]


Effect = Open | Pull | Push | Step | Parcel | Fetch | Fetched


class Endpoint:
    """A rank's side of the store, with its own shard beside it.

    Parameters
    ----------
    core
        The rank's state machine.
    own
        The owner of this rank's shard: reached by a call, not by a message.
    transport
        To the other ranks.
    consistency
        For the bound, where it moves by itself.
    """

    # The mutable state is `_core` (under `_lock`), `_replies` and `_cause`.

    def __init__(
        self, core: RankCore, own: OwnerService, transport: Transport, consistency: Consistency
    ) -> None:
        self._core = core
        self._own = own
        self._transport = transport
        self._lock = threading.Lock()
        self._replies: deque[tuple[Effect, Reply | Exception]] = deque()
        self._changed = threading.Event()
        self._cause: Exception | None = None
        self._waiting_opens: dict[int, set[int]] = {}
        self._auto = AutoStaleness(consistency.low, consistency.high)
        self._clock_started = time.perf_counter()
        self.stopping = False
        #: Called with the error that ended this rank's part of the run, in any thread.
        self.on_failure: Callable[[Exception], None] = _nothing
        #: Called with a rank and its partition that has taken a block, in any thread.
        self.on_delivered: Callable[[int, int], None] = _nothing
        #: Called with what was asked for and the block that came, in any thread.
        self.on_fetched: Callable[[Mapping[str, Any], Reply], None] = _nothing

    def __repr__(self) -> str:
        return f"<Endpoint of {self._core!r}>"

    @property
    def clock_index(self) -> int:
        """Clocks that this rank has ended."""
        return self._core.clock

    @property
    def statistics(self) -> Any:
        """Counts of this rank's part of the store."""
        return self._core.statistics

    def open_view(self, name: str, rows: Any, read_my_writes: bool) -> StoreView:
        """Declare rows and wait for their values."""
        self._raise_if_interrupted()
        with self._lock:
            view, opens = self._core.open_view(name, rows, read_my_writes)
            self._waiting_opens[view.plan] = {effect.owner for effect in opens}
        self._send(opens)
        self._wait(lambda: not self._waiting_opens[view.plan])
        return view

    def clock(self, barrier: bool = False) -> float:
        """End the clock; wait until the views are fresh enough; return the seconds waited."""
        self._raise_if_interrupted()
        with self._lock:
            effects = self._core.end_clock(barrier=barrier)
        self._send(effects)
        started = time.perf_counter()
        self._wait(self._ready_and_installed)
        now = time.perf_counter()
        waited = now - started
        self._core.statistics.end_clock(waited, now - self._clock_started)
        self._core.bound = self._auto.record(now - self._clock_started, waited)
        self._clock_started = now
        return waited

    def cut(self) -> int:
        """Let the clock under way be the first after a cut; return it."""
        with self._lock:
            self._core.cut()
            return self._core.clock

    def finish(self) -> None:
        """End this rank's last clock and wait until every owner has its increments."""
        self._raise_if_interrupted()
        with self._lock:
            effects = self._core.end_clock(last=True)
        self._send(effects)
        self._wait(lambda: self._core.unacknowledged == 0)

    def send_block(self, rank: int, message: dict[str, Any]) -> None:
        """Send a block to another rank; again, where no answer comes."""
        self._raise_if_interrupted()
        self._call(Parcel(rank, {**self._core.sender, **message}), 1)

    def fetch_block(self, rank: int, message: dict[str, Any]) -> None:
        """Ask another rank for a block; ``on_fetched`` is called with the answer."""
        self._raise_if_interrupted()
        self._call(Fetch(rank, {**self._core.sender, **message}), 1)

    def interrupt(self, cause: Exception) -> None:
        """End every wait with its cause; from any thread."""
        if self._cause is None:
            self._cause = cause
            self.on_failure(cause)
        self._own.interrupt(str(cause))
        self._changed.set()

    def close(self) -> None:
        """Stop sending; forget whom to tell, who else would live as long as this."""
        self._transport.close()
        self.on_failure = _nothing
        self.on_delivered = _nothing
        self.on_fetched = _nothing

    def _ready_and_installed(self) -> bool:
        if not self._core.ready():
            return False
        self._core.install()
        return True

    def _wait(self, done: Any) -> None:
        """Wait until ``done()``, asked under the lock; every wait ends when the run does."""
        while True:
            self._changed.clear()
            with self._lock:
                effects = self._handle_replies()
                finished = done()
            self._send(effects)
            self._drain()
            if finished:
                return
            self._raise_if_interrupted()
            self._changed.wait()

    def _raise_if_interrupted(self) -> None:
        if self._cause is not None:
            raise self._cause

    def _send(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if effect.owner == self._core.rank:
                self._call_own(effect)
        for effect in _joined(effects):
            if effect.owner != self._core.rank:
                self._call(effect, 1)

    def _call_own(self, effect: Effect) -> None:
        handle = getattr(self._own, _OPERATIONS[type(effect)])
        handle(effect.message, lambda reply: self._post(effect, reply))

    def _call(self, effect: Effect, tries: int) -> None:
        def on_reply(reply: Reply | Exception) -> None:
            failed = isinstance(reply, TransportError) and not reply.final
            if failed and tries < MAX_TRIES and self._cause is None:
                pause = FIRST_PAUSE * 2 ** (tries - 1)
                timer = threading.Timer(pause, self._call, (effect, tries + 1))
                timer.daemon = True
                timer.start()
            else:
                self._post(effect, reply)

        operation = "petuum_" + _OPERATIONS[type(effect)]
        self._transport.call(effect.owner, operation, effect.message, on_reply)

    def _post(self, effect: Effect, reply: Reply | Exception) -> None:
        self._replies.append((effect, reply))
        self._drain()

    def _drain(self) -> None:
        while self._replies:
            if not self._lock.acquire(blocking=False):
                return
            try:
                effects = self._handle_replies()
            finally:
                self._lock.release()
            self._changed.set()
            self._send(effects)

    def _handle_replies(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._replies:
            effect, reply = self._replies.popleft()
            try:
                effects += self._handle(effect, reply)
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                self._cause = self._cause or error
                self.on_failure(error)
        return effects

    def _handle(self, effect: Effect, reply: Reply | Exception) -> Sequence[Effect]:
        if isinstance(reply, Exception):
            raise reply
        if isinstance(effect, Step):
            pushed: Sequence[Effect] = []
            if reply.get("pushed") is not None:
                pushed = self._handle(effect.push, reply["pushed"])
            return [*pushed, *self._handle(effect.pull, reply)]
        status = reply["status"]
        if status == "superseded":
            return []
        if status == "interrupted":
            raise RunInterruptedError(reply["cause"])
        if status == "refused":
            raise ProtocolError(f"rank {effect.owner} refused a message: {reply['text']}")
        if status != "OK":
            raise RunError(f"rank {effect.owner} answered {status!r}: {reply.get('text')}")
        return self._accept(effect, reply)

    def _accept(self, effect: Effect, reply: Reply) -> Sequence[Effect]:
        if isinstance(effect, Fetched):
            return []
        if isinstance(effect, Parcel):
            self.on_delivered(effect.owner, effect.message["partition"])
            return []
        if isinstance(effect, Fetch):
            self.on_fetched(effect.message, reply)
            return [Fetched(effect.owner, effect.message)]
        if isinstance(effect, Push):
            self._core.on_pushed(effect.owner, effect.message["clock"], reply["own"])
            return []
        if isinstance(effect, Pull):
            return self._core.on_answer(effect.owner, reply)
        plan: int = effect.message["plan"]
        if effect.owner in self._waiting_opens[plan]:
            self._core.on_opened(effect.owner, self._core.view_of(plan), reply)
            self._waiting_opens[plan].discard(effect.owner)
        return []


def _nothing(*arguments: Any) -> None:
    """Tell nobody."""


def _joined(effects: Sequence[Effect]) -> list[Effect]:
    """Put a push and a pull to the same owner into one message."""
    pulls = {effect.owner: effect for effect in effects if isinstance(effect, Pull)}
    out: list[Effect] = []
    for effect in effects:
        if isinstance(effect, Push) and effect.owner in pulls:
            out.append(Step(effect.owner, effect, pulls.pop(effect.owner)))
        elif not isinstance(effect, Pull) or effect.owner in pulls:
            out.append(effect)
    return out


_OPERATIONS: Mapping[type, str] = {
    Open: "open",
    Pull: "pull",
    Push: "push",
    Step: "step",
    Parcel: "block",
    Fetch: "fetch",
    Fetched: "fetched",
}
