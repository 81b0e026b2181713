"""An owner's core behind a lock: the same calls from the rank's own thread and from the network.

Answers go to callbacks, which are called after the lock is released: they take other locks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask_petuum.exceptions import ProtocolError
from dask_petuum.store.messages import field_of
from dask_petuum.store.owner import Cut, Owner, Release

__all__ = ["OwnerService"]

Reply = Mapping[str, Any]
Answer = Callable[[Reply], None]


class OwnerService:
    """One rank's owner, safe to call from any thread."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        #: Called with each copy that is made at a cut, in the thread that brought the batch.
        self.on_cut: Callable[[Cut], None] | None = None

    def __repr__(self) -> str:
        return f"<OwnerService of {self._owner!r}>"

    @property
    def nbytes(self) -> int:
        """Bytes of the values held."""
        return self._owner.nbytes

    def push(self, message: Mapping[str, Any], answer: Answer) -> None:
        """Apply a batch; answered at once."""
        try:
            with self._lock:
                reply, releases = self._owner.push(message)
                cuts = self._owner.take_cuts()
        except ProtocolError as error:
            answer(_refusal(error))
            return
        answer(reply)
        _release(releases)
        if self.on_cut is not None:
            for cut in cuts:
                self.on_cut(cut)

    def open(self, message: Mapping[str, Any], answer: Answer) -> None:
        """Take an access plan; answered when the values are fresh enough."""
        self._request(self._owner.open, message, answer)

    def pull(self, message: Mapping[str, Any], answer: Answer) -> None:
        """Give the rows that changed; answered when they are fresh enough."""
        self._request(self._owner.pull, message, answer)

    def step(self, message: Mapping[str, Any], answer: Answer) -> None:
        """Apply a batch, then answer a read as :meth:`pull`; ``pushed`` is the batch's reply."""
        acknowledged: list[Reply] = []
        try:
            push, pull = (field_of(message, name, Mapping) for name in ("push", "pull"))
        except ProtocolError as error:
            answer(_refusal(error))
            return
        self.push(push, acknowledged.append)
        reply = acknowledged[0]
        if reply["status"] == "OK":
            self.pull(pull, lambda read: answer({**read, "pushed": reply}))
        else:
            answer({**reply, "pushed": reply})

    def interrupt(self, cause: str) -> None:
        """Answer everybody who waits with the cause."""
        with self._lock:
            releases = self._owner.interrupt(cause)
        _release(releases)

    def block_values(self, table: str) -> list[tuple[int, Any]]:
        """Copies of the blocks of a table, each with its first row."""
        with self._lock:
            return [(start, values.copy()) for start, values in self._owner.block_values(table)]

    def _request(
        self,
        handle: Callable[[Mapping[str, Any], Answer], list[Release]],
        message: Mapping[str, Any],
        answer: Answer,
    ) -> None:
        try:
            with self._lock:
                releases = handle(message, answer)
        except ProtocolError as error:
            answer(_refusal(error))
            return
        _release(releases)


def _release(releases: Sequence[Release]) -> None:
    for release in releases:
        release.token(release.reply)


def _refusal(error: ProtocolError) -> Reply:
    return {"status": "refused", "text": str(error)}
