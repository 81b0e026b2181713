"""Which parameters a forward pass uses before their layer is called, or while gradients are off.

The first is a weight that a parent's hook looks at, or a penalty at the beginning of ``forward``;
the second what is computed again in the backward pass. Calls of layers are seen by hooks; this sees
every call of torch, so it is on for one step only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["EarlyUses"]

#: Attributes of a tensor that hold its numbers; of others a use is none.
NUMBERS = {"T", "H", "mT", "mH", "data", "real", "imag"}
#: How deep parameters may lie in lists of arguments: LSTM gives a list of its weights.
DEPTH = 2


class EarlyUses(TorchFunctionMode):
    """A context that notes early uses.

    Parameters
    ----------
    units
        Number of the unit of each parameter, by its id.
    called
        Ids of the parameters whose layers have been called; it grows meanwhile.

    The mutable state is `found`, the units of parameters that were used early, and
    `without_gradients`, of those that were used while gradients are off.
    """

    def __init__(self, units: Mapping[int, int], called: Collection[int]) -> None:
        super().__init__()
        self._units = units
        self._called = called
        self.found: set[int] = set()
        self.without_gradients: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note the parameters among the arguments of a function, and call it."""
        kwargs = kwargs or {}
        if _uses_numbers(func):
            for value in _flat((*args, *kwargs.values()), DEPTH):
                if id(value) in self._units:
                    self._note(id(value))
        return func(*args, **kwargs)

    def _note(self, parameter: int) -> None:
        if parameter not in self._called:
            self.found.add(self._units[parameter])
        if not torch.is_grad_enabled():
            self.without_gradients.add(self._units[parameter])


def _uses_numbers(func: Any) -> bool:
    """Whether a function is more than a look at a property, such as a shape."""
    if getattr(func, "__name__", "") != "__get__":
        return True
    return getattr(getattr(func, "__self__", None), "__name__", "") in NUMBERS


def _flat(values: Iterable[Any], depth: int) -> Iterator[Any]:
    for value in values:
        if depth and isinstance(value, list | tuple):
            yield from _flat(value, depth - 1)
        else:
            yield value
