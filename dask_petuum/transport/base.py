"""The interface of a transport. Messages are plain data around numpy arrays; never pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["OnReply", "Reply", "Transport"]

Reply = Mapping[str, Any]
#: Gets the reply, or the error because of which there is none.
OnReply = Callable[[Reply | Exception], None]


class Transport(Protocol):
    """Carries messages between the ranks of a run. Safe to call from any thread."""

    def call(
        self, peer: int, operation: str, message: Mapping[str, Any], on_reply: OnReply
    ) -> None:
        """Send a message to a rank's owner; ``on_reply`` is called later, in any thread."""

    def cast(self, operation: str, message: Mapping[str, Any]) -> None:
        """Send a message to the coordinator of the run; no reply, may be lost with it."""

    def close(self) -> None:
        """Stop sending; no ``on_reply`` is called any more."""
