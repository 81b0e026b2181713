"""Local steps and an outer optimiser: what ranks do with the changes that they made apart.

Each rank makes H steps of its own; the mean of their changes is a step of an outer optimiser, SGD
with Nesterov's momentum (Douillard et al., "DiLoCo", 2023, algorithm 1). Rate 1 without momentum is
the plain average of the models (local SGD, Stich 2019). Buffers are averaged plainly.
"""

from __future__ import annotations

from typing import Any

import torch

from dask_petuum.nn.real_numbers import n_numbers, numbers_of, tensor_like

__all__ = ["Outer", "flatten", "unflatten"]


class Outer:
    """The outer optimiser; each rank has the same one.

    Parameters
    ----------
    rate, momentum
        Its step size and momentum.
    n_parameters
        Numbers at the head of the vector that are parameters; the rest are buffers.

    The mutable state is `velocity`.
    """

    def __init__(self, rate: float, momentum: float, n_parameters: int) -> None:
        self.rate = rate
        self.momentum = momentum
        self.velocity: Any = torch.zeros(n_parameters)

    def move(self, start: Any, change: Any) -> Any:
        """Where the next local steps start, from where these did and their mean change."""
        n = len(self.velocity)
        self.velocity = self.momentum * self.velocity + change[:n]
        step = self.momentum * self.velocity + change[:n] if self.momentum else change[:n]
        out = start + change
        out[:n] = start[:n] + self.rate * step
        return out


def flatten(tensors: list[Any]) -> Any:
    """Copy tensors into one float32 vector."""
    return torch.cat([numbers_of(tensor) for tensor in tensors])


def unflatten(vector: Any, tensors: list[Any]) -> None:
    """Write a vector back into the tensors that it was made of."""
    place = 0
    with torch.no_grad():
        for tensor in tensors:
            n = n_numbers(tensor)
            tensor.copy_(tensor_like(tensor, vector[place : place + n]))
            place += n
