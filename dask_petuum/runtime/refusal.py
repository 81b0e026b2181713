"""Handlers that refuse what cannot be: the message is logged, nothing changes, the server lives on.

Dask calls a handler with whatever fields a message has. A handler behind `refusing` gets those that
its signature names, and says itself (ProtocolError) what their values cannot be.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from dask_petuum.exceptions import ProtocolError

__all__ = ["refusing", "refusing_casts"]

logger = logging.getLogger(__name__)


def refusing(calls: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Let handlers of calls answer ``{"status": "refused", "text": ...}`` to what cannot be."""
    return {name: _refusing(name, handler) for name, handler in calls.items()}


def refusing_casts(casts: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Let handlers of one-way messages log what cannot be, and leave it at that."""
    return {name: _ignoring(name, handler) for name, handler in casts.items()}


def _refusing(name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(handler)

    @functools.wraps(handler)
    async def handle(**message: Any) -> Any:
        try:
            _check(signature, message)
            return await handler(**message)
        except ProtocolError as error:
            logger.warning("A message %s is refused: %s", name, error)
            return {"status": "refused", "text": str(error)}

    return handle


def _ignoring(name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(handler)

    @functools.wraps(handler)
    def handle(**message: Any) -> None:
        try:
            _check(signature, message)
            handler(**message)
        except ProtocolError as error:
            logger.warning("A message %s is refused: %s", name, error)

    return handle


def _check(signature: inspect.Signature, message: Mapping[str, Any]) -> None:
    """Refuse fields that are missing, or that nobody knows; names are texts, everywhere."""
    try:
        signature.bind(**message)
    except TypeError as error:
        raise ProtocolError(f"its fields do not fit: {error}") from error
    for name in ("run_id", "fit_id", "address", "client"):
        if not isinstance(message.get(name, ""), str) and message[name] is not None:
            raise ProtocolError(f"{name!r} must be a text, got {message[name]!r:.80}")
