"""What torch says of devices here."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["count_gpus", "is_device"]


def is_device(name: Any) -> bool:
    """Whether torch knows a kind of device by that name."""
    try:
        torch.device(name)
    except (RuntimeError, TypeError):
        return False
    return True


def count_gpus() -> int:
    """CUDA devices that this process sees; starts none of them."""
    return torch.cuda.device_count()
