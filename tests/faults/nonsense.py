"""Answers that say nothing: None, and what is no answer of ours; put in place by a call on workers.

The message has arrived and counts; whoever sent it cannot know.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["install", "n_spoilt", "uninstall"]

#: Every so many-th call is answered so.
EVERY = 7
ANSWERS = (None, "yes", 5, [], {"text": "no status"}, b"\x00\xff")
#: What ranks call at each other.
CALLS = ("petuum_push", "petuum_pull", "petuum_open", "petuum_keep")


class Spoiler:
    """Stands before a worker's handlers."""

    def __init__(self, handlers: dict[str, Callable[..., Any]]) -> None:
        self.plain = {name: handlers[name] for name in CALLS}
        self.n_calls = 0
        self.n_spoilt = 0

    def before(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """The handler, some of whose answers are lost and others given."""

        @functools.wraps(handler)
        async def spoilt(*args: Any, **keywords: Any) -> Any:
            reply = handler(*args, **keywords)
            if inspect.isawaitable(reply):
                reply = await reply
            self.n_calls += 1
            if self.n_calls % EVERY:
                return reply
            self.n_spoilt += 1
            return ANSWERS[self.n_spoilt % len(ANSWERS)]

        return spoilt


def install(dask_worker: Any) -> None:
    """Spoil a worker's answers from now on."""
    spoiler = dask_worker.petuum_test_spoiler = Spoiler(dask_worker.handlers)
    spoilt = {name: spoiler.before(handler) for name, handler in spoiler.plain.items()}
    dask_worker.handlers.update(spoilt)


def uninstall(dask_worker: Any) -> None:
    """Undo `install`."""
    dask_worker.handlers.update(dask_worker.petuum_test_spoiler.plain)


def n_spoilt(dask_worker: Any) -> int:
    """Calls that were answered so."""
    n: int = dask_worker.petuum_test_spoiler.n_spoilt
    return n
