"""Gradients cut to a largest norm, dense and sparse ones alike.

As ``torch.nn.utils.clip_grad_norm_``, which takes no sparse ones (Pascanu et al., "On the
difficulty of training recurrent neural networks", ICML 2013, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dask_petuum.nn.real_numbers import real_view

__all__ = ["clip_gradients", "values_of"]

#: As in torch: what is added to a norm that is divided by.
SMALL = 1e-6


def values_of(gradient: Any) -> Any:
    """The numbers of a gradient that may not be zero, each once."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def clip_gradients(parameters: Sequence[Any], largest: float) -> None:
    """Scale gradients in place, so that the norm of all together is at most ``largest``."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norms = [torch.linalg.vector_norm(real_view(values_of(grad)).float()) for grad in gradients]
    norm = torch.linalg.vector_norm(torch.stack([each.to(norms[0].device) for each in norms]))
    factor = (largest / (norm + SMALL)).clamp(max=1.0)  # stays on the device: no wait for it
    for grad in gradients:
        values = grad._values() if grad.is_sparse else grad
        values.mul_(factor.to(values.device))
