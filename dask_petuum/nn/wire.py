"""Numbers as they go over the wire: float32, or half as wide with the error kept and sent later.

Error feedback: what rounding took from a vector is added to the next one of the same name, so that
nothing is lost over time (Seide et al., "1-bit stochastic gradient descent", Interspeech 2014).
float16 has few exponents: its numbers are divided by the largest one, which goes with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["WIRES", "Wire"]

WIRES = ("float32", "float16", "bfloat16")


class Wire:
    """Packs float32 tensors, and remembers what was lost of each name.

    The mutable state is `lost`: float32 tensors by name.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.lost: dict[str, Any] = {}

    def pack(self, values: Any, name: str | None = None) -> dict[str, Any]:
        """Turn a tensor into arrays to send; with a name, what is lost is added to its next one."""
        if self.kind == "float32":
            return {"v": values.numpy()}
        if name is not None and name in self.lost:
            values = values + self.lost[name]
        packed = self._narrow(values)
        if name is not None:
            self.lost[name] = values - self.unpack(packed)
        return packed

    def unpack(self, arrays: Mapping[str, Any]) -> Any:
        """Make the tensor that the receivers of a pack see, and its sender has to use as well."""
        values = torch.from_numpy(arrays["v"])
        if self.kind == "bfloat16":
            return values.view(torch.bfloat16).float()
        return values.float() * float(arrays["s"][0]) if self.kind == "float16" else values

    def _narrow(self, values: Any) -> dict[str, Any]:
        if self.kind == "bfloat16":  # numpy has no such type: its bits
            return {"v": values.to(torch.bfloat16).view(torch.int16).numpy()}
        scale = float(values.abs().max()) if values.numel() else 0.0
        scale = scale if scale > 0 else 1.0
        narrow = (values / scale).to(torch.float16).numpy()
        return {"v": narrow, "s": np.array([scale], np.float32)}
