"""A loss that is scaled, so that small gradients in float16 do not become zero.

Dynamic loss scaling (Micikevicius et al., "Mixed precision training", ICLR 2018, section 3.2): a
step whose gradient is not finite is left out and the scale halved; after many good ones it is
doubled. Ranks that have the same gradients come to the same scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dask_petuum.nn.clip import values_of

__all__ = ["LossScale"]

#: As in torch.amp: the first scale, and good steps after which it is doubled.
FIRST, PATIENCE = 2.0**16, 2000


class LossScale:
    """The scale; its mutable state is `scale` and `n_good`, steps since it last changed."""

    def __init__(self) -> None:
        self.scale = FIRST
        self.n_good = 0

    def unscale(self, gradients: Sequence[Any]) -> bool:
        """Undo the scale in place, and say whether the step may be made."""
        finite = all(bool(torch.isfinite(values_of(grad)).all()) for grad in gradients)
        if not finite:
            self.scale, self.n_good = self.scale / 2, 0
            return False
        for grad in gradients:
            grad.mul_(1 / self.scale)
        self.n_good += 1
        if self.n_good >= PATIENCE:
            self.scale, self.n_good = self.scale * 2, 0
        return True
