"""What a rank's core asks to be sent: plain messages, each to one owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Open", "Pull", "Push"]

Message = dict[str, Any]


@dataclass(frozen=True)
class Push:
    """Send a batch of increments to an owner; its reply goes to ``on_pushed``."""

    owner: int
    message: Message


@dataclass(frozen=True)
class Pull:
    """Ask an owner for rows; its reply goes to ``on_answer``."""

    owner: int
    message: Message


@dataclass(frozen=True)
class Open:
    """Tell an owner of an access plan; its reply goes to ``on_opened``."""

    owner: int
    message: Message
