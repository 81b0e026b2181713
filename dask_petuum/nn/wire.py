"""Numbers as they go over the wire: float32, or half as wide with the error kept and sent later.

Error feedback: what rounding took from a vector is added to the next one of the same name, so that
nothing is lost over time (Seide et al., "1-bit stochastic gradient descent", Interspeech 2014).
float16 has few exponents: its numbers are divided by the largest one, which goes with them. What
was lost stays as it is where a vector is not finite: no step is made with such a one. Factors have
no such feedback: what rounding took from them is lost.

Zeros need not be sent: behind a ReLU about half of the activations and of the gradients are. Then
one bit says for each number whether it is zero, and only the others follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dask_petuum.nn.kernels import leave_zeros_out, put_zeros_in

__all__ = ["WIRES", "Wire"]

WIRES = ("float32", "float16", "bfloat16")
#: Share of numbers that are not zero below which zeros are left out: less would not pay.
DENSE = 0.9


class Wire:
    """Packs float32 tensors, and remembers what was lost of each name.

    The mutable state is `lost`: float32 tensors by name.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.lost: dict[str, Any] = {}

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return 4 if self.is_exact else 2

    @property
    def is_exact(self) -> bool:
        """Whether receivers see just what was packed."""
        return self.kind == "float32"

    def pack(self, values: Any, name: str | None = None) -> dict[str, Any]:
        """Turn a tensor into arrays to send; with a name, what is lost is added to its next one."""
        if self.is_exact:
            return {"v": values.numpy()}
        if name is not None and name in self.lost:
            values = values + self.lost[name]
        packed = self._narrow(values)
        if name is not None:
            lost = values - self.unpack(packed)
            if math.isfinite(float(lost.sum())):
                self.lost[name] = lost
        return packed

    def rescale(self, factor: float) -> None:
        """Let what was lost be in the unit of the vectors to come, ``factor`` times as large."""
        self.lost = {name: lost * factor for name, lost in self.lost.items()}

    def pack_sparse(self, values: Any) -> dict[str, Any]:
        """Turn a tensor into arrays to send, without its zeros where there are many."""
        flat = values.contiguous().numpy().reshape(-1)
        bits, kept = np.empty(-(-len(flat) // 8), np.uint8), np.empty(len(flat) + 1, np.float32)
        n_kept = leave_zeros_out(flat, bits, kept)
        if n_kept >= DENSE * len(flat):
            return self.pack(values)
        packed = self.pack(torch.from_numpy(kept[:n_kept]))
        return {**packed, "b": bits, "n": np.array(values.shape, np.int32)}

    def unpack(self, arrays: Mapping[str, Any]) -> Any:
        """Make the tensor that the receivers of a pack see, and its sender has to use as well."""
        values = self._widen(arrays)
        if "b" not in arrays:
            return values
        out = torch.zeros(arrays["n"].tolist())
        if values.numel():
            put_zeros_in(arrays["b"], values.contiguous().numpy(), out.numpy().reshape(-1))
        return out

    def _widen(self, arrays: Mapping[str, Any]) -> Any:
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
