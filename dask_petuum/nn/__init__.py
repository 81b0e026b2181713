"""PyTorch modules trained through the ranks of a run (Poseidon). Importing this needs no torch."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import Any

__all__ = ["NeuralNetClassifier", "NeuralNetRegressor"]

_HOMES = {"NeuralNetClassifier": "neural_net", "NeuralNetRegressor": "neural_net_regressor"}


def __getattr__(name: str) -> Any:
    """Load an estimator when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"dask_petuum.algorithms.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
