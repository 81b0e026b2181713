"""One rank's copy of the module: gradients of batches, and optimisers that step unit by unit.

Each unit has an optimiser of its own, so that a layer's next forward pass waits for that layer's
gradients only. For optimisers that treat every number by itself, as those of ``torch.optim`` do
but LBFGS, this is the same as one for all. Clipping by the norm of the whole gradient needs all of
it: then everything is waited for at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dask_petuum.nn.attributes import Attributes
from dask_petuum.nn.buffers import PartitionBuffers, is_averaged
from dask_petuum.nn.clip import clip_gradients
from dask_petuum.nn.early_uses import EarlyUses
from dask_petuum.nn.exchange import GradientExchange
from dask_petuum.nn.hooks import Hook
from dask_petuum.nn.linear import keep_factors
from dask_petuum.nn.loss_scale import LossScale
from dask_petuum.nn.recipe import Recipe
from dask_petuum.nn.seeds import seed_all
from dask_petuum.nn.units import Unit

__all__ = ["Batch", "Replica"]


@dataclass(frozen=True)
class Batch:
    """Rows of one partition for one step.

    Parameters
    ----------
    rows, target, weights
        Tensors; weights may be None.
    seed
        Of the random numbers of this batch (dropout).
    partition
        Whose buffers (BatchNorm's running means) it moves.
    """

    rows: Any
    target: Any
    weights: Any
    seed: int = 0
    partition: int = 0

    @property
    def weight(self) -> float:
        """Of all its rows."""
        return float(len(self.rows) if self.weights is None else self.weights.sum())


class Replica:
    """A module that is trained.

    Parameters
    ----------
    recipe, device
        How to build it, and where.
    units
        Called with the module; cuts its parameters.
    exchange
        Called with the units; None: this rank is alone.
    clip
        Largest norm of a step's gradient; None: any.
    early
        Whether gradients leave while the backward pass goes on, and layers wait one by one.
    autocast
        Type of what may be computed less exactly, "bfloat16" or "float16"; None: float32.

    The mutable state is the module's and the optimisers', the units that are `_due` (their
    gradients are under way and not applied) and those that are `_raw` (not waited for layer by
    layer), the ids of parameters whose layers a forward pass has called (`_seen`), whether this is
    the `_first` step, which shows how the module uses its parameters, the units that leave `_late`,
    after the backward pass (layers called while gradients are off may be called again in it, as
    under reentrant checkpoints, and each time make a part of the gradient), and within that
    (`_in_backward`), whether gradients leave (`_leaves`) and which parameters of each unit are
    `_done`.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str,
        units: Callable[[Any], list[Unit]],
        exchange: Callable[[list[Unit]], GradientExchange | None],
        clip: float | None = None,
        early: bool = True,
        autocast: str | None = None,
    ) -> None:
        self._device = device
        self.module = recipe.build_module().to(device)
        self._parts = list(self.module.modules())
        self.buffers = PartitionBuffers(self.module)
        self.loss = recipe.build_loss().to(device)
        self.units = units(self.module)
        if not self.units:
            raise ValueError("module has no parameter that could be trained")
        self.exchange = exchange(self.units)
        self.optimizers = [recipe.build_optimizer(unit.parameters) for unit in self.units]
        self.schedules = [recipe.build_schedule(each) for each in self.optimizers]
        self._clip = clip
        self._autocast = None if autocast is None else getattr(torch, autocast)
        self.scaling = LossScale() if autocast == "float16" else None
        needs_all = clip is not None or self.scaling is not None
        self._early = early and not needs_all and self.exchange is not None
        self._due: set[int] = set()
        self._raw: set[int] = set()
        self._seen: set[int] = set()
        self._trains = False
        self._first = True
        self._late: set[int] = set()
        self._in_backward = self._leaves = False
        self._done: list[set[int]] = [set() for _ in self.units]
        self._numbers = {id(p): n for n, unit in enumerate(self.units) for p in unit.parameters}
        #: Nodes of autograd that hooks are on; they live as long as somebody has them.
        self._nodes: list[Any] = []
        if self.exchange is not None:
            self._hook()

    @property
    def parameters(self) -> list[tuple[str, Any]]:
        """Parameters that are trained, by name, in the order of units."""
        return [
            pair for unit in self.units for pair in zip(unit.names, unit.parameters, strict=True)
        ]

    @property
    def averaged_buffers(self) -> list[tuple[str, Any]]:
        """Buffers of floating or complex numbers, such as the running means of BatchNorm."""
        return [(n, b) for n, b in self.module.named_buffers() if is_averaged(b)]

    def step(self, batches: Sequence[Batch], n_rows: int) -> list[Any]:
        """Make the gradients of a step; they are on their way, or applied, when it returns.

        Parameters
        ----------
        batches
            Of this rank.
        n_rows
            Rows of the step in all ranks.

        Returns
        -------
        The sums of the weighted losses of the batches, where they were computed: to look at them
        waits for the device.
        """
        if not self._early:
            self.settle()
        if not self._trains:  # walks through all parts of the module
            self.module.train()
            self._trains = True
        losses = []
        for place, batch in enumerate(batches):
            is_last = place == len(batches) - 1
            self.buffers.switch(batch.partition)
            loss = self._forward(batch)
            if is_last:
                self._begin()
            self._leaves = is_last and self._early
            scale = 1.0 if self.scaling is None else self.scaling.scale
            self._in_backward = True
            self._backward(loss, torch.full_like(loss, scale / n_rows))
            self._in_backward = self._leaves = False
            self._first = self._first and not is_last
            losses.append(loss.detach())
        if not batches:
            self.settle()
            self._begin()
        self._due = set(range(len(self.units)))
        if self.exchange is not None:
            self.exchange.leave_rest()
        else:
            self.settle()
        return losses

    def settle(self) -> None:
        """Wait for all gradients that are under way, and apply them."""
        due = sorted(self._due)
        if self.exchange is not None:
            for number in due:
                self.exchange.arrive(number)
        self._due.clear()
        if self._are_finite(due) and self._clip is not None and due:
            clip_gradients([p for _, p in self.parameters], self._clip)
        for number in due:
            self._apply(number)

    def end_pass(self) -> None:
        """Move the learning-rate schedules on, once all is applied."""
        self.settle()
        with warnings.catch_warnings():
            # the schedule looks whether its optimiser has stepped: a rank that resumes has not
            warnings.simplefilter("ignore", UserWarning)
            for schedule in self.schedules:
                if schedule is not None:
                    schedule.step()

    def losses(self, batch: Batch) -> float:
        """The sum of the weighted losses of rows that are not trained on."""
        self.settle()
        self.module.eval()
        self._trains = False
        seed_all(batch.seed, self._device)
        with torch.no_grad():
            return float(self._losses(batch).sum())

    def _are_finite(self, due: Sequence[int]) -> bool:
        """Undo the scale of the loss; drop gradients of which one is not finite."""
        if self.scaling is None or not due:
            return True
        gradients = [p.grad for _, p in self.parameters if p.grad is not None]
        before = self.scaling.scale
        is_finite = self.scaling.unscale(gradients)
        if self.exchange is not None and self.scaling.scale != before:
            self.exchange.rescale(self.scaling.scale / before)
        if is_finite:
            return True
        for _, parameter in self.parameters:
            parameter.grad = None
        return False

    def _losses(self, batch: Batch, autocast: Any = None) -> Any:
        rows = batch.rows.to(self._device)
        if autocast is None:
            out = self.module(rows)
        else:
            with torch.autocast(rows.device.type, autocast):
                out = self.module(rows)
            out = out.float()
        losses = self.loss(_shaped(out, batch.target), batch.target.to(self._device))
        if losses.ndim != 1:
            losses = losses.reshape(len(batch.target), -1).mean(dim=1)
        return losses if batch.weights is None else losses * batch.weights.to(self._device)

    def _forward(self, batch: Batch) -> Any:
        """The loss of a batch, of parameters to which everything due has been applied."""
        if self._first:
            self.settle()  # of steps in which this rank had no rows: what is early is not known yet
        while True:
            for number in sorted(self._due & self._raw):
                self._settle_one(number)
            due = set(self._due)
            buffers = self.buffers.copy() if due else []
            attributes = Attributes(self._parts if due else [])
            self._seen.clear()
            seed_all(batch.seed, self._device)
            with self._looks():
                loss = self._losses(batch, self._autocast).sum()
            late = {
                n for n in due if any(id(p) not in self._seen for p in self.units[n].parameters)
            }
            if not late:
                return loss
            # used (if at all) without a call of the layer that has it: from now on not waited for
            # layer by layer, and this pass has to be made again
            self._raw |= late
            attributes.put_back()
            self.buffers.restore(buffers)

    @contextmanager
    def _looks(self) -> Iterator[None]:
        """See in the first step which parameters are used before their layers are called."""
        if not (self._first and self._early):
            yield
            return
        with EarlyUses(self._numbers, self._seen) as uses:
            yield
        self._raw |= uses.found
        self._late |= uses.without_gradients

    def _begin(self) -> None:
        self._done = [set() for _ in self.units]
        if self.exchange is not None:
            self.exchange.begin()

    def _backward(self, loss: Any, scale: Any) -> None:
        try:
            loss.backward(scale)
        except RuntimeError as error:
            if not self._early or "modified by an inplace operation" not in str(error):
                raise
            raise RuntimeError(
                f"{error} If it is a parameter that the module uses before it calls the layer that "
                "has it, but not in its first step: the fit needs overlap=False"
            ) from error

    def _settle_one(self, number: int) -> None:
        if number in self._due:
            self._due.discard(number)
            if self.exchange is not None:
                self.exchange.arrive(number)
            self._apply(number)

    def _apply(self, number: int) -> None:
        self.optimizers[number].step()
        for parameter in self.units[number].parameters:
            parameter.grad = None

    def _hook(self) -> None:
        """Let gradients leave when they are made, and layers wait before they compute."""
        numbers = self._numbers
        for number, unit in enumerate(self.units):
            for parameter in unit.parameters:
                if unit.kind == "factors":
                    # it comes when all uses of the weight are done, also where no gradient is made
                    node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
                    node.register_hook(Hook(self._made, number, id(parameter)))
                    self._nodes.append(node)
                else:
                    made = Hook(self._made, number, id(parameter))
                    parameter.register_post_accumulate_grad_hook(made)
        for part in self._parts:
            if isinstance(part, torch.jit.ScriptModule):
                continue  # has no hooks: waited for before the forward pass
            own = {
                id(p): numbers[id(p)] for p in part.parameters(recurse=False) if id(p) in numbers
            }
            if own:
                # before its own ones, which may use its parameters
                part.register_forward_pre_hook(Hook(self._called, own), prepend=True)
            for number in own.values():
                if self.units[number].kind == "factors":
                    keep_factors(part, Hook(self._record, number))

    def _called(self, numbers: Mapping[int, int], part: Any, *_: Any) -> None:
        self._seen.update(numbers)
        if part.training and not torch.is_grad_enabled():
            self._late.update(numbers.values())
        for number in numbers.values():
            if self._early:
                self._settle_one(number)

    def _made(self, number: int, parameter: int, *_: Any) -> None:
        """Let a unit leave with the last of its parameters.

        Raises
        ------
        RuntimeError
            Where one comes again in the same backward pass.
        """
        if not self._leaves or self.exchange is None or number in self._late:
            return
        unit, done = self.units[number], self._done[number]
        if parameter in done:
            raise RuntimeError(
                f"a gradient of {' or '.join(unit.names)} was made twice in a backward pass: "
                "torch.utils.checkpoint needs use_reentrant=False here, or the fit overlap=False"
            )
        done.add(parameter)
        if len(done) == len(unit.parameters):
            self.exchange.leave(number)

    def _record(self, number: int, d: Any, a: Any) -> bool:
        if self._in_backward:
            self.units[number].factors.append((d.detach().clone(), a.detach()))
        return self._in_backward


def _shaped(out: Any, target: Any) -> Any:
    """One output a row, as a vector where the targets are one number each.

    Raises
    ------
    ValueError
        For several outputs a row where each has one target.
    """
    if target.ndim != 1 or not target.is_floating_point():
        return out
    if out.numel() != len(target) or out.ndim > 2:
        raise ValueError(f"module must give one output a row, it gives {tuple(out.shape[1:])}")
    return out.reshape(len(target))
