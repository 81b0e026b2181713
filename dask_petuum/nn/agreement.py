"""Tensors that must be the same in all ranks: checksums show it; where not, rank 0's stand.

They differ where a module's first weights come from a generator that nobody has seeded, or where
processors of different kinds round differently. (DistributedDataParallel sends rank 0's at first.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import torch

from dask_petuum.nn.mesh import Mesh
from dask_petuum.nn.outer import flatten

__all__ = ["all_agree", "bytes_of", "own_sums", "put_bytes", "values_of_rank_0"]

#: Numbers of a checksum.
CHECKSUM_PARTS = 2


def own_sums(mesh: Mesh, tensors: Sequence[Any]) -> Any:
    """Checksums (n_ranks, CHECKSUM_PARTS) to be summed over ranks: this rank's, and zeros."""
    sums = torch.zeros(mesh.n_ranks, CHECKSUM_PARTS)
    sums[mesh.rank] = _checksum(tensors)
    return sums


def all_agree(sums: Any) -> bool:
    """Whether all ranks have the same, by the sum over ranks."""
    return bool((sums == sums[0]).all())


def values_of_rank_0(mesh: Mesh, tensors: Sequence[Any]) -> Any:
    """One float32 vector to be summed over ranks: rank 0's numbers, zeros in others."""
    own = flatten(list(tensors))
    return own if mesh.rank == 0 else torch.zeros_like(own)


def bytes_of(tensors: Sequence[Any]) -> Any:
    """The bytes of tensors of any kind as one float32 vector, which holds each without rounding."""
    return torch.cat([_raw(tensor) for tensor in tensors]).float()


def put_bytes(vector: Any, tensors: Sequence[Any]) -> list[Any]:
    """Make tensors of the same kinds of what `bytes_of` gave."""
    numbers, out = vector.to(torch.uint8), []
    for tensor in tensors:
        own, numbers = numbers.tensor_split([_raw(tensor).numel()])
        whole = own.clone().view(tensor.dtype).view(tensor.shape)
        out.append(whole.to(tensor.device))
    return out


def _raw(tensor: Any) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _checksum(tensors: Sequence[Any]) -> Any:
    """A checksum of tensors, in parts that float32 holds without rounding."""
    number = 0
    for tensor in tensors:
        number = crc32(_raw(tensor).numpy(), number)
    return torch.tensor([number >> 16, number & 0xFFFF], dtype=torch.float32)
