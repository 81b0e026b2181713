"""A user's function on its way to the workers: pickled here, unpickled where it is called.

Dask unpickles a task's function while it reads the message that brings it, and a function whose
module a worker lacks closes that worker (measured with distributed 2026.8). Wrapped so, it is an
ordinary error of the task.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["Sent"]


class Sent:
    """Calls a function that travels as bytes.

    Parameters
    ----------
    function
        By reference where it can be imported, else by value (cloudpickle).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._payload: bytes = cloudpickle.dumps(function)

    def __repr__(self) -> str:
        return f"<Sent: {len(self._payload)} bytes>"

    def __call__(self, *arguments: Any) -> Any:
        """Unpickle the function and call it."""
        return pickle.loads(self._payload)(*arguments)
