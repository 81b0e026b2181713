"""A Linear layer that leaves its weight's gradient as two factors, instead of multiplying them.

Autograd sees no gradient of the weight from calls of the layer in a step's backward pass; other
uses of the weight, by its name, still give one, and so do backward passes that the module makes by
itself (``torch.autograd.grad`` in its forward). Under ``torch.func`` the layer is a plain one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

__all__ = ["keep_factors"]


class _FactorLinear(torch.autograd.Function):
    """``x W' + b``; in the backward pass, x and the output's gradient go to ``record``.

    Where that does not take them, the weight has its gradient as usual.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, record: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.record = record
        with torch._C.DisableTorchFunction():  # gradients are off here, but it is a plain use
            return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        d = grad.reshape(-1, weight.shape[0]).float()
        a = x.reshape(-1, weight.shape[1]).float()
        takes = not ctx.needs_input_grad[1] or ctx.record(d, a)
        for_weight = None if takes else (d.T @ a).to(weight.dtype)
        # under autocast the gradient is narrower than the weight
        for_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        for_bias = d.sum(0) if ctx.needs_input_grad[2] else None
        return for_x, for_weight, for_bias, None


def keep_factors(layer: Any, record: Any) -> None:
    """Let a layer call ``record(output gradients, activations)`` in each backward pass.

    That says whether it takes them: they are of a step's loss.
    """
    layer.forward = partial(_forward, layer, layer.weight, record)


def _forward(layer: Any, own: Any, record: Any, input: Any) -> Any:  # torch's name for the rows
    weight = layer.weight  # another one within torch.func.functional_call
    transforms = torch._C._are_functorch_transforms_active()
    if weight is not own or transforms or not torch.is_grad_enabled():
        return torch.nn.functional.linear(input, weight, layer.bias)
    apply: Any = _FactorLinear.apply
    return apply(input, weight, layer.bias, record)
