"""Random numbers that modules draw while they compute: their seeds, and what they leave."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["seed_device"]


def seed_device(device: str, seed: int) -> None:
    """Seed the random numbers of the CPU and of the device that a module is on.

    They are those after ``torch.manual_seed``, which also asks every other kind of device to seed
    itself, sooner or later, and for that keeps a traceback each time: 1 ms (torch 2.13), where a
    step of a small network takes 1 ms.
    """
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type != "cpu":
        module: Any = torch.get_device_module(device)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)
