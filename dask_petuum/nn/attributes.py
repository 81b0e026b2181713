"""Plain attributes of a module's parts, such as a counter of calls, put back for a second forward.

A forward pass that is made again must find what the first one found. Buffers are put back apart;
a list or a dict that was changed in place is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["Attributes"]


class Attributes:
    """What the attributes of a module's parts are now.

    Parameters
    ----------
    parts
        Of a module; scripted ones are left alone.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self._kept = [
            (part, vars(part).copy())
            for part in parts
            if not isinstance(part, torch.jit.ScriptModule)
        ]

    def put_back(self) -> None:
        """Undo what was set, or deleted, since."""
        for part, before in self._kept:
            now = vars(part)
            for name in [name for name in now if name not in before]:
                del now[name]
            now.update(before)
