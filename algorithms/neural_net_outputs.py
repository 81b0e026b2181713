"""What a trained module gives for rows: a picklable function that builds the module where it runs.

Rows of any kind go through in pieces, so that activations of few rows are held at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.special import softmax

__all__ = ["OfModule", "best", "flat", "probabilities", "single"]

#: Rows that go through the module at a time.
ROWS = 4096


class OfModule:
    """A function of the outputs of a module, or of one of its layers.

    Parameters
    ----------
    recipe, weights
        The module, and its parameters and buffers by name.
    function
        Picklable; gets the outputs (n_rows, ...) as float32.
    layer
        Name of the layer whose outputs are wanted, as in ``named_modules``; None: the module.
    device
        Where to compute; the CPU, where a GPU is wanted and there is none.
    """

    def __init__(
        self,
        recipe: Any,
        weights: Mapping[str, NDArray[Any]],
        function: Any,
        layer: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.recipe = recipe
        self.weights = weights
        self.function = function
        self.layer = layer
        self.device = device

    def __call__(self, rows: Any) -> NDArray[Any]:
        from dask_petuum.nn.infer import outputs

        of = outputs(self.recipe, self.weights, self.layer, self.device)
        pieces = [
            of(_dense(rows[first : first + ROWS]))
            for first in range(0, max(rows.shape[0], 1), ROWS)
        ]
        result: NDArray[Any] = self.function(np.concatenate(pieces))
        return result


def best(classes: NDArray[Any], outputs: NDArray[Any]) -> NDArray[Any]:
    """Labels of the largest outputs."""
    labels: NDArray[Any] = classes[outputs.argmax(axis=1)]
    return labels


def probabilities(logarithms: bool, outputs: NDArray[Any]) -> NDArray[Any]:
    """Probabilities from logits, or from their own logarithms."""
    wide = outputs.astype(np.float64)
    return np.asarray(np.exp(wide) if logarithms else softmax(wide, axis=1), np.float32)


def single(outputs: NDArray[Any]) -> NDArray[Any]:
    """The only output of each row.

    Raises
    ------
    ValueError
        Where there are several.
    """
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        return outputs[:, 0]
    if outputs.ndim != 1:
        raise ValueError(f"module must give one output a row, it gives {outputs.shape[1:]}")
    return outputs


def flat(outputs: NDArray[Any]) -> NDArray[Any]:
    """Outputs of a layer, (n_rows, n)."""
    return outputs.reshape(len(outputs), -1)


def _dense(rows: Any) -> NDArray[np.float32]:
    sparse: bool = bool(issparse(rows))
    return np.ascontiguousarray(rows.toarray() if sparse else rows, np.float32)
