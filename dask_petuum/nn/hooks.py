"""Calls that hang on a module's layers, and that copies of the layers do not make.

A module may deep-copy a layer in its forward pass, as meta-learning does. The copy's parameters are
no replica's: nobody waits for them, and their gradients are not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Hook"]


class Hook:
    """A function with its first arguments; a deep copy of it does nothing, and returns None."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function = function
        self._arguments = arguments

    def __call__(self, *more: Any) -> Any:
        return self._function(*self._arguments, *more)

    def __deepcopy__(self, memo: Any) -> Any:
        return _nothing


def _nothing(*_: Any) -> None:
    """Do nothing."""
