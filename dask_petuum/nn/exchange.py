"""Gradients on their way: each unit leaves as soon as it is made, and is waited for by itself.

Wait-free backpropagation (Zhang et al., "Poseidon", USENIX ATC 2017, section 3.1). A bucket is a
:class:`~dask_petuum.nn.vector_sum.VectorSum`; factors and embedding rows go to every rank as they
are, and every rank makes the same sum of them, in the order of ranks. A rank that has no gradient
of a parameter says so, so that nobody waits for it; where none has one, there is none.

A layer that may send factors is summed by owners in its first step, in which ranks measure the
bytes of their factors and vote: it sends factors from then on where they are less in all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dask_petuum.nn.mesh import Mesh
from dask_petuum.nn.real_numbers import n_numbers, numbers_of, tensor_like
from dask_petuum.nn.units import Unit, gradient_numbers
from dask_petuum.nn.vector_sum import BLOCKS_EACH, VectorSum
from dask_petuum.nn.wire import Wire

__all__ = ["GradientExchange"]

#: What a rank sends that has nothing to send.
NOTHING = {"n": np.zeros(1, np.int8)}
#: What it sends besides where factors should not be sent any more.
SUM_IT = {"w": np.zeros(1, np.int8)}
#: How a unit is sent: see `GradientExchange.ways`.
PLANNED, OPEN, WHOLE = 0, 1, 2


class GradientExchange:
    """The exchange of a step's gradients, step after step.

    Parameters
    ----------
    mesh, wire
        Where and how to send.
    units
        What travels together.

    The mutable state is the step's `stamp`, which units have left, and what this rank sent of
    those that go to everybody (`_own`), with the products of its factors (`_products`); and units
    of factors that are not decided yet (`_open`), or travel as gradients after all (`_whole`), the
    same ones in all ranks.
    """

    def __init__(self, mesh: Mesh, units: Sequence[Unit], wire: Wire) -> None:
        self._mesh = mesh
        self._wire = wire
        self._units = units
        self._sums = [VectorSum(mesh, wire, number) for number in range(len(units))]
        self._others = [r for r in range(mesh.n_ranks) if r != mesh.rank]
        self._own: dict[int, dict[str, Any]] = {}
        self._products: dict[int, Any] = {}
        self._left: set[int] = set()
        self._open = {n for n, unit in enumerate(units) if unit.kind == "factors"}
        self._whole: set[int] = set()
        self._direct_bytes = 0
        self.stamp = 0
        #: Bytes that factors have saved so far, by the name of their weight.
        self.saved: dict[str, int] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes sent so far."""
        return self._direct_bytes + sum(part.n_bytes for part in self._sums)

    @property
    def gradient_bytes(self) -> int:
        """Bytes that a step would send as whole float32 gradients."""
        return 4 * sum(gradient_numbers(unit.size, self._mesh.n_ranks) for unit in self._units)

    @property
    def ways(self) -> Any:
        """How each unit is sent, (n_units,) int8: as planned, not decided yet, or whole."""
        out = np.full(len(self._units), PLANNED, np.int8)
        out[sorted(self._open)] = OPEN
        out[sorted(self._whole)] = WHOLE
        return out

    @ways.setter
    def ways(self, told: Any) -> None:
        self._open = set(np.flatnonzero(told == OPEN).tolist())
        self._whole = set(np.flatnonzero(told == WHOLE).tolist())

    def rescale(self, factor: float) -> None:
        """From the next step on, gradients are ``factor`` times as large as so far."""
        self._wire.rescale(factor)

    def begin(self) -> None:
        """Begin a step; all units of the last one have arrived."""
        self.stamp += 1
        self._left.clear()
        self._own.clear()

    def leave(self, number: int) -> None:
        """Send a unit's gradients, once a step."""
        if number in self._left:
            return
        self._left.add(number)
        unit = self._units[number]
        if self._is_summed(number):
            against = number in self._open and not self._would_save(unit)
            vector, used = _packed(unit)
            if number in self._open:
                used = np.append(used, np.int32(against))
            self._sums[number].leave(vector, used, self.stamp)
            return
        arrays = self._factors(unit) if unit.kind == "factors" else _rows(unit)
        self._own[number] = arrays
        block = number * BLOCKS_EACH * self._mesh.n_ranks + self._mesh.rank
        n_bytes = len(self._others) * _n_bytes(arrays)
        self._direct_bytes += n_bytes
        if unit.kind == "factors":
            full, name = 4 * gradient_numbers(unit.size, self._mesh.n_ranks), unit.names[0]
            self.saved[name] = self.saved.get(name, 0) + full - n_bytes
        self._mesh.send(self._others, block, self.stamp, arrays)

    def leave_rest(self) -> None:
        """Send what has not left by the end of the backward pass; owners send their sums back.

        What can be computed while nothing but waiting is left to do is computed here.
        """
        for number in range(len(self._units)):
            self.leave(number)
        for number in range(len(self._units)):
            if self._is_summed(number):
                self._sums[number].reduce(self.stamp)
        for number, unit in enumerate(self._units):
            if unit.kind == "factors" and "n" not in self._own.get(number, NOTHING):
                # while the others' factors are under way
                self._products[number] = self._own_product(number)

    def arrive(self, number: int) -> None:
        """Wait for a unit; its parameters then have the sums of all ranks as their gradients."""
        unit = self._units[number]
        if self._is_summed(number):
            vector, used = self._sums[number].arrive(self.stamp)
            if number in self._open:
                used, n_against = used[:-1], int(used[-1])
                self._decide(number, bool(used.any()), n_against > 0)
            _unpack(unit, vector, used)
            return
        parameter = unit.parameters[0]
        total = self._sum_of_factors(number) if unit.kind == "factors" else self._rows_of(number)
        parameter.grad = None if total is None else total.to(parameter.device, parameter.dtype)

    def _is_summed(self, number: int) -> bool:
        """Whether owners sum a unit's gradient; else what ranks send goes to all as it is."""
        is_gradient = self._units[number].kind == "gradient"
        return is_gradient or number in self._open or number in self._whole

    def _decide(self, number: int, is_used: bool, stays_whole: bool) -> None:
        """Let a unit go as factors or not from the next step on; all ranks see the same votes."""
        if not is_used:
            return
        self._open.discard(number)
        if stays_whole:
            self._whole.add(number)
        else:
            self._sums[number].forget()

    def _take(self, number: int, rank: int) -> dict[str, Any]:
        """What a rank sent of a unit; nothing, if it has no gradient of it."""
        block = number * BLOCKS_EACH * self._mesh.n_ranks + rank
        part = self._mesh.take(rank, block, self.stamp)
        return {} if "n" in part else part

    def _sum_of_factors(self, number: int) -> Any:
        """The sum of all ranks' products, in the order of ranks; None: there is none.

        All ranks see the same parts: where one says so, owners sum the gradient from the next step
        on.
        """
        total = None
        for rank in range(self._mesh.n_ranks):
            if rank == self._mesh.rank:
                part, product = self._own[number], self._products.pop(number, None)
            else:
                part = self._take(number, rank)
                product = self._product(part) if part else None
            if "w" in part:
                self._whole.add(number)
            if product is not None:
                total = product if total is None else total.add_(product)
        return total

    def _rows_of(self, number: int) -> Any:
        """All ranks' rows of an embedding; None: there are none."""
        parts = [
            self._own[number] if rank == self._mesh.rank else self._take(number, rank)
            for rank in range(self._mesh.n_ranks)
        ]
        parts = [part for part in parts if part and "n" not in part]
        return _joined_rows(self._units[number].parameters[0], parts) if parts else None

    def _factors(self, unit: Unit) -> dict[str, Any]:
        """Send factors; the gradient, where that is less or the factors are not all.

        What the weight's uses without a call of its layer gave is in its ``grad``. With more rows
        than in the step in which ranks voted, or fewer zeros, owners' sums may be less than either:
        this rank says so (``w``).
        """
        if not unit.factors and unit.parameters[0].grad is None:
            return NOTHING
        packed = None if unit.parameters[0].grad is not None else self._packed_factors(unit)
        if packed is None or _n_bytes(packed) >= self._wire.width * unit.size:
            packed = self._wire.pack(_product_of_all(unit))  # once: no later one to add the loss to
            return SUM_IT | {f"g{k}": v for k, v in packed.items()}
        if not self._wire.is_exact:
            unit.factors = []  # the product is made of what is sent
        return packed if self._is_less(packed, unit) else packed | SUM_IT

    def _packed_factors(self, unit: Unit) -> dict[str, Any]:
        """Factors as they are sent; they stay in the unit, as one pair."""
        d = torch.cat([pair[0] for pair in unit.factors]).cpu()
        a = torch.cat([pair[1] for pair in unit.factors]).cpu()
        unit.factors = [(d, a)]
        packed = {f"d{k}": v for k, v in self._wire.pack_sparse(d).items()}
        return packed | {f"a{k}": v for k, v in self._wire.pack_sparse(a).items()}

    def _would_save(self, unit: Unit) -> bool:
        """Whether a unit's gradient could go as factors for less; one that there is not, could."""
        if unit.parameters[0].grad is not None:
            return False
        return not unit.factors or self._is_less(self._packed_factors(unit), unit)

    def _is_less(self, packed: dict[str, Any], unit: Unit) -> bool:
        """Whether factors are fewer bytes to all others than the gradient to and from owners."""
        n_ranks = self._mesh.n_ranks
        summed = self._wire.width * gradient_numbers(unit.size, n_ranks)
        return (n_ranks - 1) * _n_bytes(packed) < summed

    def _own_product(self, number: int) -> Any:
        """As the others make it of what was sent, which is here already if nothing was rounded."""
        factors, self._units[number].factors = self._units[number].factors, []
        return factors[0][0].T @ factors[0][1] if factors else self._product(self._own[number])

    def _product(self, part: dict[str, Any]) -> Any:
        """The gradient that a rank's factors are of, as a tensor of its own."""
        if "gv" in part:
            return self._wire.unpack(_of(part, "g")).clone()  # it is added to
        return self._wire.unpack(_of(part, "d")).T @ self._wire.unpack(_of(part, "a"))


def _n_bytes(arrays: dict[str, Any]) -> int:
    return sum(values.nbytes for values in arrays.values())


def _of(part: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[1:]: values for name, values in part.items() if name[0] == prefix}


def _dense(gradient: Any) -> Any:
    """The numbers of a gradient, zeros too; they may be the gradient's own."""
    return numbers_of(gradient.to_dense() if gradient.is_sparse else gradient)


def _product_of_all(unit: Unit) -> Any:
    """The gradient of a unit of factors, float32 on the CPU; takes it out of the unit."""
    parameter, factors, unit.factors = unit.parameters[0], unit.factors, []
    total = None if parameter.grad is None else _dense(parameter.grad).view(parameter.shape)
    parameter.grad = None
    if factors:
        d, a = (torch.cat([pair[place] for pair in factors]) for place in (0, 1))
        product = (d.T @ a).cpu()  # made where the rows are
        total = product if total is None else total + product
    return total


def _packed(unit: Unit) -> tuple[Any, Any]:
    """A bucket's gradients as one float32 vector, and which parameters have one.

    The vector may be the gradient itself.
    """
    parts, used = [], np.zeros(len(unit.parameters), np.int32)
    if unit.factors:
        return _product_of_all(unit).reshape(-1), np.ones(1, np.int32)
    for place, parameter in enumerate(unit.parameters):
        if parameter.grad is None:
            parts.append(torch.zeros(n_numbers(parameter)))
        else:
            used[place] = 1
            parts.append(_dense(parameter.grad))
    return parts[0] if len(parts) == 1 else torch.cat(parts), used


def _unpack(unit: Unit, vector: Any, used: Any) -> None:
    place = 0
    for parameter, count in zip(unit.parameters, used, strict=True):
        n = n_numbers(parameter)
        numbers = vector[place : place + n]
        parameter.grad = tensor_like(parameter, numbers) if count else None
        place += n


def _rows(unit: Unit) -> dict[str, Any]:
    grad = unit.parameters[0].grad
    if grad is None:
        return NOTHING
    # dense, where the table is also used by name
    grad = (grad if grad.is_sparse else grad.to_sparse(1)).coalesce().cpu()
    values = grad.values()
    values = values.float() if values.dtype is torch.bfloat16 else values  # which numpy has not
    return {"i": grad.indices()[0].numpy(), "r": values.numpy()}


def _joined_rows(parameter: Any, parts: Sequence[dict[str, Any]]) -> Any:
    where = torch.cat([torch.from_numpy(part["i"]) for part in parts])
    values = torch.cat([torch.from_numpy(part["r"]) for part in parts])
    return torch.sparse_coo_tensor(
        where[None], values, parameter.shape, check_invariants=False
    ).coalesce()
