"""What travels together: buckets of small tensors, factors of a Linear layer, rows of embeddings.

The rule of sufficient factors (SACP; Xie et al., UAI 2016; Zhang et al., USENIX ATC 2017): with
B rows a step and a weight of M x N, its gradient is the product of the output gradients (B x M)
and the activations (B x N). To the other P - 1 ranks that is ``(P - 1) B (M + N)`` numbers from
each rank; a gradient that is cut among P owners and comes back summed is ``2 (P - 1) / P M N``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["BUCKET_BYTES", "Unit", "factor_numbers", "gradient_numbers", "plan_units"]

#: Small tensors are sent together up to this size; a larger one goes alone.
BUCKET_BYTES = 2**20


@dataclass
class Unit:
    """Parameters whose gradients are sent and applied together.

    Parameters
    ----------
    kind
        "gradient" (a bucket), "factors" or "rows" (of a sparse embedding).
    names, parameters
        Which parameters, in the order in which they are packed.
    factors
        (output gradients, activations) of this step so far, of a "factors" unit.
    """

    kind: str
    names: list[str]
    parameters: list[Any]
    factors: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Numbers of all its parameters."""
        return sum(p.numel() for p in self.parameters)


def factor_numbers(n_rows: int, shape: tuple[int, int], n_ranks: int) -> int:
    """Numbers that a rank sends of a weight (M, N) as factors of ``n_rows`` rows."""
    return (n_ranks - 1) * n_rows * sum(shape)


def gradient_numbers(size: int, n_ranks: int) -> int:
    """Numbers that a rank sends of a gradient of so many, summed by owners."""
    return 2 * (n_ranks - 1) * size // n_ranks


def plan_units(module: Any, n_ranks: int, batch_size: int, use_factors: bool) -> list[Unit]:
    """Cut a module's trainable parameters into units, last layers first: autograd makes them so.

    Parameters that several modules share are sent as gradients.
    """
    owners: dict[int, list[tuple[Any, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((part, name))
    units: list[Unit] = []
    bucket: Unit | None = None
    n_bytes = 0
    for name, parameter in reversed(list(module.named_parameters())):
        if not parameter.requires_grad:
            continue
        kind = _kind(owners[id(parameter)], parameter, n_ranks, batch_size if use_factors else None)
        if kind != "gradient":
            units.append(Unit(kind, [name], [parameter]))
            continue
        own = parameter.numel() * 4
        if bucket is None or n_bytes + own > BUCKET_BYTES:
            bucket, n_bytes = Unit("gradient", [], []), 0
            units.append(bucket)
        bucket.names.append(name)
        bucket.parameters.append(parameter)
        n_bytes += own
    return units


def _kind(owners: list[tuple[Any, str]], parameter: Any, n_ranks: int, n_rows: int | None) -> str:
    if len(owners) > 1 or n_ranks == 1:
        return "gradient"
    part, name = owners[0]
    if isinstance(part, torch.nn.Embedding) and part.sparse:
        return "rows"
    # a subclass may do otherwise in its forward
    if type(part) is not torch.nn.Linear or name != "weight" or n_rows is None:
        return "gradient"
    shape = (parameter.shape[0], parameter.shape[1])
    cheaper = factor_numbers(n_rows, shape, n_ranks) < gradient_numbers(parameter.numel(), n_ranks)
    return "factors" if cheaper else "gradient"
