"""What a rank does with the messages of the others, whatever way they came.

Small messages are handled at once, on the event loop; large ones in the worker's one thread for
that, in kernels that release the GIL, so that the loop only moves messages.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol

from dask_petuum.exceptions import ProtocolError
from dask_petuum.runtime.mailbox import Mailbox, decode_arrays
from dask_petuum.runtime.owner_service import OwnerService
from dask_petuum.runtime.shelf import Shelf
from dask_petuum.store.codec import chunk_bytes
from dask_petuum.store.messages import number_of

__all__ = ["Reception"]

logger = logging.getLogger(__name__)

#: Messages, blocks and shards up to this size are handled on the event loop, bytes: 0.1 ms of a
#: memcpy, less than the way to another thread and back.
INLINE_BYTES = 2**20

Message = Mapping[str, Any]
Answer = Callable[[Message], None]
Handler = Callable[["Receiver", Message, Answer], None]


class Receiver(Protocol):
    """What messages act on: a rank's part of a run."""

    service: OwnerService
    mailbox: Mailbox
    shelf: Shelf

    def give_block(self, message: Message) -> Any:
        """Answer another rank's fetch."""

    def keep(self, message: Message, reply: Message) -> None:
        """Keep an answer's arrays until its reader says that they are installed."""


class Reception:
    """Takes messages for one rank of a run, with their arrays.

    It does not keep the run alive: who listens for messages must not keep its memory.
    """

    def __init__(self, run: Receiver, pool: Executor) -> None:
        self._run = weakref.ref(run)
        self._pool = pool

    def take(self, operation: str, message: Message, answer: Answer) -> None:
        """Do what a message says; ``answer`` is called once, now or later, in any thread.

        A block is answered when this rank's thread has taken it: the sender then sends the next.
        """
        run, handle = self._run(), _HANDLERS.get(operation)
        answer = partial(_answer_and_log, operation, answer)
        if run is None:
            answer({"status": "gone", "text": "the run is over on this worker"})
        elif handle is None:
            answer({"status": "refused", "text": f"{operation!r} is no message between ranks"})
        elif _is_small(run, operation, message):
            _handle(handle, run, message, answer)
        else:
            self._pool.submit(_handle, handle, run, message, answer)


def _answer_and_log(operation: str, answer: Answer, reply: Message) -> None:
    if reply.get("status") in ("refused", "error"):
        logger.warning("A message %s is refused: %s", operation, reply.get("text"))
    answer(reply)


def _handle(handle: Handler, run: Receiver, message: Message, answer: Answer) -> None:
    try:
        handle(run, message, answer)
    except ProtocolError as error:
        answer({"status": "refused", "text": str(error)})
    except Exception as error:  # noqa: BLE001 - who sent it waits for an answer
        answer({"status": "error", "text": repr(error)})


def _is_small(run: Receiver, operation: str, message: Message) -> bool:
    """Whether what is copied or summed is so little that the event loop may do it."""
    try:
        return _size_of(run, operation, message) <= INLINE_BYTES
    except (TypeError, AttributeError, ValueError, RecursionError):
        return False  # what cannot be measured is refused where it is handled


def _size_of(run: Receiver, operation: str, message: Message) -> int:
    if operation == "petuum_push":
        chunks = message.get("chunks", ())
        return sum(chunk_bytes(chunk) for chunk in chunks if isinstance(chunk, dict))
    if operation == "petuum_block":
        return _bytes_of(message.get("arrays"))
    if operation == "petuum_fetch":
        return run.shelf.nbytes_of(message.get("block"))
    return 0 if operation == "petuum_fetched" else run.service.nbytes


def _bytes_of(value: Any) -> int:
    """Bytes of the arrays in a message."""
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes_of, value))
    return int(getattr(value, "nbytes", 0))


def _take_block(run: Receiver, message: Message, answer: Answer) -> None:
    block, stamp, arrays = decode_arrays(message)
    run.mailbox.put(block, stamp, arrays, taken=lambda: answer({"status": "OK"}))


def _give_block(run: Receiver, message: Message, answer: Answer) -> None:
    answer(run.give_block(message))


def _forget_block(run: Receiver, message: Message, answer: Answer) -> None:
    run.shelf.forget(number_of(message, "stamp"))
    answer({"status": "OK"})


def _push(run: Receiver, message: Message, answer: Answer) -> None:
    run.service.push(message, answer)


def _serve(name: str, run: Receiver, message: Message, answer: Answer) -> None:
    def answered(reply: Message) -> None:
        if reply["status"] == "OK":
            run.keep(message.get("pull", message), reply)
        answer(reply)

    getattr(run.service, name)(message, answered)


_HANDLERS: Mapping[str, Handler] = {
    "petuum_block": _take_block,
    "petuum_fetch": _give_block,
    "petuum_fetched": _forget_block,
    "petuum_push": _push,
    **{f"petuum_{name}": partial(_serve, name) for name in ("pull", "open", "step")},
}
