"""How a module, its loss and its optimiser are made: plain data that every rank builds from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dask_petuum.nn.seeds import own_random_numbers, seed_all

__all__ = ["Recipe", "check_shapes", "first_values", "load_weights", "shapes_of"]


@dataclass(frozen=True)
class Recipe:
    """What is trained.

    Parameters
    ----------
    module
        Class of the module or a function that makes it; None: a perceptron, see `hidden`.
    criterion
        Class of the loss, or its name in ``torch.nn``; it must know ``reduction="none"``.
    optimizer
        Class of the optimiser, or its name in ``torch.optim``.
    lr
        Its step size.
    schedule
        Class of the learning-rate schedule or its name in ``torch.optim.lr_scheduler``, or None.
    arguments
        Keywords of each of the four, by its name.
    hidden
        Widths of the hidden layers of the perceptron.
    n_inputs, n_outputs
        Columns of the rows; outputs of the perceptron.
    seed
        Of the first weights.
    """

    module: Any
    criterion: Any
    optimizer: Any
    lr: float
    schedule: Any = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()
    n_inputs: int = 0
    n_outputs: int = 0
    seed: int = 0

    def build_module(self) -> Any:
        """Make the module with its first weights; leaves the global random states alone.

        Raises
        ------
        TypeError, ValueError
            Where none is made, or its state is not tensors whose shapes are known.
        """
        with own_random_numbers():
            seed_all(self.seed)
            if self.module is None:
                return _perceptron((self.n_inputs, *self.hidden, self.n_outputs))
            if isinstance(self.module, torch.nn.Module):
                raise ValueError(
                    f"module must be a class or a function, got a {type(self.module).__name__}: "
                    "give its class, and its arguments as module__NAME"
                )
            module = self.module(**self._of("module"))
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module must make a torch.nn.Module, it made {type(module).__name__}")
        _check_state(module)
        return module

    def build_loss(self) -> Any:
        """Make the loss of each row.

        Raises
        ------
        ValueError
            Where it is none, cannot give one loss a row, or would have to be trained.
        """
        kind = _class(self.criterion, torch.nn, "criterion")
        if "reduction" not in inspect.signature(kind).parameters:
            raise ValueError(
                f'criterion must know reduction="none", which {kind.__name__} does not'
            )
        if "reduction" in self._of("criterion"):
            raise ValueError("criterion__reduction cannot be set: the mean is over a step's rows")
        loss = kind(**self._of("criterion"), reduction="none")
        for name, _ in getattr(loss, "named_parameters", list)():
            raise ValueError(f"criterion cannot be trained, it has {name!r}: put it in the module")
        return loss

    def build_optimizer(self, parameters: Iterable[Any]) -> Any:
        """Make an optimiser of some parameters.

        Raises
        ------
        ValueError
            Where there is none of the name, or it needs to evaluate the loss by itself.
        """
        kind = _class(self.optimizer, torch.optim, "optimizer")
        if issubclass(kind, torch.optim.LBFGS):
            raise ValueError("optimizer cannot be LBFGS, which evaluates the loss by itself")
        return kind(list(parameters), **{"lr": self.lr, **self._of("optimizer")})

    def build_schedule(self, optimizer: Any) -> Any:
        """Make the learning-rate schedule of an optimiser, or None."""
        if self.schedule is None:
            return None
        kind = _class(self.schedule, torch.optim.lr_scheduler, "lr_scheduler")
        if issubclass(kind, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ValueError("lr_scheduler cannot be ReduceLROnPlateau: it needs to see the loss")
        return kind(optimizer, **self._of("lr_scheduler"))

    @property
    def gives_log_probabilities(self) -> bool:
        """Whether the module's outputs are logarithms of probabilities, not logits."""
        return bool(_class(self.criterion, torch.nn, "criterion") is torch.nn.NLLLoss)

    def _of(self, name: str) -> dict[str, Any]:
        return dict(self.arguments.get(name, {}))


def load_weights(module: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    """Put arrays by name into a module's parameters and buffers; all must be there.

    Raises
    ------
    ValueError
        Where names or shapes are not those of the module.
    """
    own = module.state_dict()
    if set(own) != set(weights):
        different = sorted(set(own) ^ set(weights))
        raise ValueError(f"the weights are of another module: {different[0]!r} is in one only")
    with torch.no_grad():
        for name, tensor in own.items():
            if tuple(tensor.shape) != np.shape(weights[name]):
                raise ValueError(
                    f"the weights are of another module: {name!r} has shape "
                    f"{np.shape(weights[name])}, expected {tuple(tensor.shape)}"
                )
            tensor.copy_(torch.from_numpy(np.array(weights[name])))


def _class(given: Any, home: Any, what: str) -> Any:
    found = getattr(home, given, None) if isinstance(given, str) else given
    if not inspect.isclass(found):
        raise ValueError(
            f"{what} must be a class, or the name of one in {home.__name__}, got {given!r}"
        )
    return found


def _perceptron(widths: tuple[int, ...]) -> Any:
    layers: list[Any] = []
    for n_in, n_out in pairwise(widths):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _check_state(module: Any) -> None:
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise ValueError(f"module has {name!r} in its state_dict, a {kind}: it must be tensors")
        if torch.nn.parameter.is_lazy(value):
            raise ValueError(
                f"module is lazy, the shape of {name!r} is not known: call it once in the function "
                "that makes it"
            )


def shapes_of(module: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's parameters and buffers, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def check_shapes(module: Any, first: Mapping[str, tuple[int, ...]]) -> None:
    """See that a module still has the parameters and buffers that it was built with.

    Raises
    ------
    ValueError
        For one that was made, or got another shape, in the forward pass: a new module could not
        take the weights.
    """
    now = shapes_of(module)
    for name in sorted({**first, **now}):
        if first.get(name) != now.get(name):
            raise ValueError(
                f"module has {name!r} of shape {now.get(name)} after its first steps, it was built "
                f"with {first.get(name)}: make it so when it is built, or a buffer with "
                "persistent=False"
            )


def first_values(recipe: Recipe, weights: Mapping[str, NDArray[Any]] | None) -> NDArray[Any]:
    """Trained parameters and averaged buffers as one float32 array, in the trainer's order.

    Raises
    ------
    ValueError
        Where the module, the loss, the optimiser or the schedule cannot be made.
    """
    from dask_petuum.nn.buffers import is_averaged
    from dask_petuum.nn.outer import flatten
    from dask_petuum.nn.units import plan_units

    module = recipe.build_module()
    recipe.build_loss()
    if weights is not None:
        load_weights(module, weights)
    parameters = [p for unit in plan_units(module, 1, 1, False) for p in unit.parameters]
    if not parameters:
        raise ValueError("module has no parameter that could be trained")
    recipe.build_schedule(recipe.build_optimizer(parameters))
    buffers = [b for _, b in module.named_buffers() if is_averaged(b)]
    values: NDArray[Any] = flatten([*parameters, *buffers]).numpy()
    return values
