"""Tensors as flat float32 numbers, and back; a complex number is two of them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["n_numbers", "numbers_of", "real_view", "tensor_like"]


def n_numbers(tensor: Any) -> int:
    """How many numbers a tensor is."""
    return int(tensor.numel()) * (2 if tensor.is_complex() else 1)


def real_view(tensor: Any) -> Any:
    """A dense tensor, or its real and imaginary parts along a last axis of two; not a copy."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def numbers_of(tensor: Any) -> Any:
    """The numbers (n,) of a dense tensor, on the CPU; a copy only where that is needed."""
    return real_view(tensor.detach()).cpu().float().reshape(-1)


def tensor_like(tensor: Any, numbers: Any) -> Any:
    """Make a tensor of a like kind (shape, type, device) of its numbers."""
    if tensor.is_complex():
        pairs = numbers.to(tensor.real.dtype).view(*tensor.shape, 2)
        # not a view of the pairs, which would have to begin at an even place
        return torch.complex(pairs[..., 0], pairs[..., 1]).to(tensor.device)
    return numbers.view(tensor.shape).to(tensor.device, tensor.dtype)
