"""Random numbers that modules draw while they are built or compute: seeded, and left as before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["own_random_numbers", "seed_all"]


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Leave the global random states of torch (and of GPUs in use), numpy and Python as before."""
    cuda: Any = torch.cuda
    devices = range(cuda.device_count()) if cuda.is_initialized() else ()
    plain, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(of_numpy)


def seed_all(seed: int, device: str | None = None) -> None:
    """Seed the global random states: modules draw from any of them.

    Python's is shared with the event loop of a Dask worker, whose timers draw from it.

    Parameters
    ----------
    device
        The only one, besides the CPU, that numbers will be drawn on; None: any. For that
        ``torch.manual_seed`` asks every kind of device to seed itself, sooner or later, and keeps a
        traceback each time: 1 ms (torch 2.13), as long as a step of a small network.
    """
    if device is None:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
        if torch.device(device).type != "cpu":
            module: Any = torch.get_device_module(device)
            getattr(module, "manual_seed_all", module.manual_seed)(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
