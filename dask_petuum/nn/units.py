"""What travels together: buckets of small tensors, factors of a Linear layer, rows of embeddings.

The rule of sufficient factors (SACP; Xie et al., UAI 2016; Zhang et al., USENIX ATC 2017): with
B rows a step and a weight of M x N, its gradient is the product of the output gradients (B x M)
and the activations (B x N). To the other P - 1 ranks that is ``(P - 1) B (M + N)`` numbers from
each rank; a gradient that is cut among P owners and comes back summed is ``2 (P - 1) / P M N``.
Zeros are not sent, but a bit for each number says where they are. So large weights may send
factors of rows that would be too many otherwise, as of bags of words: what ranks measure in the
first step decides. The price is that every rank multiplies the rows of all: between ranks of one
host, which read a gradient where it lies, the gradient is cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from dask_petuum.nn.real_numbers import n_numbers

__all__ = [
    "BUCKET_BYTES",
    "Unit",
    "factor_layers",
    "factor_numbers",
    "gradient_numbers",
    "plan_units",
]

#: Small tensors are sent together up to this size; a larger one goes alone.
BUCKET_BYTES = 2**20
#: What is smaller goes with whatever comes next, however large that is: a bias with its weight. A
#: message over a network costs each rank 2 ms of a core (2026-11), a copy of the weight 0.1 ms.
SMALL_BYTES = 2**16
EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)
#: What a number of a factor costs that is zero.
BITS_OF_ZERO = 1


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
        (output gradients, activations) of this step so far, of a "factors" unit; what uses of its
        weight without a call of the layer gave is in the weight's ``grad``.
    """

    kind: str
    names: list[str]
    parameters: list[Any]
    factors: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Numbers of all its parameters."""
        return sum(map(n_numbers, self.parameters))


def factor_numbers(n_rows: int, shape: tuple[int, int], n_ranks: int) -> int:
    """Numbers that a rank sends of a weight (M, N) as factors of ``n_rows`` rows."""
    return (n_ranks - 1) * n_rows * sum(shape)


def gradient_numbers(size: int, n_ranks: int) -> int:
    """Numbers that a rank sends of a gradient of so many, summed by owners."""
    return 2 * (n_ranks - 1) * size // n_ranks


def plan_units(
    module: Any, n_ranks: int, batch_size: int, use_factors: bool, is_near: bool = True
) -> list[Unit]:
    """Cut a module's trainable parameters into units, last layers first: autograd makes them so.

    Parameters that several modules share are sent as gradients.

    Parameters
    ----------
    module, n_ranks
        What is trained, and how many have the same parameters of it.
    batch_size
        Rows of a partition in a step, for the rule of sufficient factors. A rank may have several
        partitions, and a layer several rows for each of theirs: that shows in the first step, and
        so does how many numbers are zero.
    use_factors
        Whether Linear layers may send them.
    is_near
        Whether all ranks share memory: there messages cost nothing, and what goes alone is not
        copied into a bucket.

    Raises
    ------
    ValueError
        For an embedding that changes its table in the forward pass, which several ranks cannot.
    """
    if n_ranks > 1:
        _refuse_norms(module)
    small = 0 if is_near else SMALL_BYTES
    large = BUCKET_BYTES if n_ranks > 1 else math.inf  # nothing is sent: all are applied together
    owners = _owners(module)
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
        own = 4 * n_numbers(parameter)
        if bucket is None or (n_bytes + own > large and n_bytes >= small):
            bucket, n_bytes = Unit("gradient", [], []), 0
            units.append(bucket)
        bucket.names.append(name)
        bucket.parameters.append(parameter)
        n_bytes += own
    return units


def factor_layers(module: Any) -> list[str]:
    """Names of the weights that may be sent as factors, whatever that costs."""
    owners = _owners(module)
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and _is_plain_linear(owners[id(parameter)], parameter)
    ]


def _refuse_norms(module: Any) -> None:
    for name, part in module.named_modules():
        if isinstance(part, EMBEDDINGS) and part.max_norm is not None:
            raise ValueError(
                f"{name} has max_norm={part.max_norm}: it changes rows of its table when they are "
                "looked up, each rank its own; it needs one rank, or local_steps > 1"
            )


def _owners(module: Any) -> dict[int, list[tuple[Any, str]]]:
    """Who has each parameter, by its id: (module, name in it)."""
    owners: dict[int, list[tuple[Any, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((part, name))
    return owners


def _is_plain_linear(owners: list[tuple[Any, str]], parameter: Any) -> bool:
    if len(owners) > 1 or parameter.is_complex():
        return False
    part, name = owners[0]
    # a subclass may do otherwise in its forward; hooks of the weight want to see its gradient
    is_own = type(part) is torch.nn.Linear and name == "weight" and "forward" not in vars(part)
    return is_own and not (parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _kind(owners: list[tuple[Any, str]], parameter: Any, n_ranks: int, n_rows: int | None) -> str:
    if n_ranks == 1:
        return "gradient"
    if all(isinstance(part, EMBEDDINGS) and part.sparse for part, _ in owners):
        return "rows"
    if n_rows is None or not _is_plain_linear(owners, parameter):
        return "gradient"
    shape = (parameter.shape[0], parameter.shape[1])
    # small ones share a message: only where factors are less in any case
    least = BITS_OF_ZERO / 32 if 4 * parameter.numel() >= SMALL_BYTES else 1
    cost = least * factor_numbers(n_rows, shape, n_ranks)
    return "factors" if cost < gradient_numbers(parameter.numel(), n_ranks) else "gradient"
