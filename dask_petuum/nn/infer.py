"""Outputs of a trained module, or of a layer inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from dask_petuum.nn.recipe import Recipe, load_weights

__all__ = ["outputs", "trained_module"]


def trained_module(recipe: Recipe, weights: Mapping[str, NDArray[Any]]) -> Any:
    """Build the module with trained weights, to be used (``eval``)."""
    module = recipe.build_module()
    load_weights(module, weights)
    return module.eval()


def outputs(
    recipe: Recipe,
    weights: Mapping[str, NDArray[Any]],
    layer: str | None = None,
    device: str = "cpu",
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Build the module once; give what it, or one of its layers, makes of float32 rows, as float32.

    Of several outputs (an LSTM's), the first; a row that comes alone keeps its axis. A model that
    was trained on a GPU computes on the CPU where there is none.

    Raises
    ------
    ValueError
        For a layer that there is not; when called, for one that the module does not call.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        device = "cpu"
    module = trained_module(recipe, weights).to(device)
    seen: list[Any] = []
    if layer is not None:
        parts = dict(module.named_modules())
        if layer not in parts:
            raise ValueError(f"layer must be one of {sorted(filter(None, parts))}, got {layer!r}")
        parts[layer].register_forward_hook(lambda part, given, out: seen.append(out))

    def of(rows: NDArray[Any]) -> NDArray[Any]:
        seen.clear()
        with torch.no_grad():
            # torch takes no array that may not be written to
            given = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
            out = module(given.to(device))
        if layer is not None:
            if not seen:
                raise ValueError(f"the module does not call its layer {layer!r}")
            out = seen[-1]
        while isinstance(out, tuple | list) and out:
            out = out[0]
        if len(rows) == 1 and (out.ndim == 0 or len(out) != 1):
            out = out[None]  # the module has squeezed it
        result: NDArray[Any] = out.float().cpu().numpy()
        return result

    return of
