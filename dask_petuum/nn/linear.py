"""A Linear layer that leaves its weight's gradient as two factors, instead of multiplying them.

Autograd sees no gradient of the weight from calls of the layer; other uses of the weight, by its
name, still give one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

__all__ = ["keep_factors"]


class _FactorLinear(torch.autograd.Function):
    """``x W' + b``; in the backward pass, x and the output's gradient go to ``record``."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, record: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.record = record
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, weight.shape[0])
        ctx.record(rows.float(), x.reshape(-1, weight.shape[1]).float())
        # under autocast the gradient is narrower than the weight
        for_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        for_bias = rows.float().sum(0) if ctx.needs_input_grad[2] else None
        return for_x, None, for_bias, None


def keep_factors(layer: Any, record: Any) -> None:
    """Let a layer call ``record(output gradients, activations)`` in each backward pass."""
    layer.forward = partial(_forward, layer, record)


def _forward(layer: Any, record: Any, x: Any) -> Any:
    if not torch.is_grad_enabled():
        return torch.nn.functional.linear(x, layer.weight, layer.bias)
    apply: Any = _FactorLinear.apply
    return apply(x, layer.weight, layer.bias, record)
