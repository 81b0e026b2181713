"""What a replica remembers, as arrays by name, for checkpoints.

=============  ==================================================
``p.NAME``     a parameter or buffer of the module
``b.NAME``     a buffer that is not persistent
``o.NAME/KEY`` an array of the optimiser's state of a parameter
``s.NAME/KEY`` row numbers of one that is sparse; its values are as above
``scaling``    scale of the loss and good steps, with float16
``w.NAME``     what rounding took on the wire; this rank's own
``wire``       what these are of: see :func:`load_lost`
``ways``       how each unit is sent, as ranks have agreed so far
=============  ==================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np
import torch

from dask_petuum.nn.mesh import Mesh
from dask_petuum.nn.recipe import load_weights
from dask_petuum.nn.replica import Replica
from dask_petuum.nn.vector_sum import OF_OWNER
from dask_petuum.nn.wire import Wire

__all__ = ["load_lost", "load_replica", "lost_arrays", "module_arrays", "replica_arrays"]

Arrays = dict[str, Any]


def module_arrays(module: Any) -> Arrays:
    """A module's parameters and buffers, as copies; bfloat16, which numpy has not, as float32."""
    return {name: _array(tensor) for name, tensor in module.state_dict().items()}


def replica_arrays(replica: Replica) -> Arrays:
    """All that a replica remembers."""
    replica.settle()
    arrays = {f"p.{name}": values for name, values in module_arrays(replica.module).items()}
    arrays |= {f"b.{name}": _array(buffer) for name, buffer in _passing(replica.module).items()}
    for unit, optimizer in zip(replica.units, replica.optimizers, strict=True):
        for name, parameter in zip(unit.names, unit.parameters, strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    arrays |= _kept_arrays(f"{name}/{key}", torch.as_tensor(value))
    if replica.scaling is not None:
        arrays["scaling"] = np.array([replica.scaling.scale, replica.scaling.n_good])
    return arrays


def lost_arrays(replica: Replica, wire: Wire, mesh: Mesh) -> Arrays:
    """What rounding took on a rank's wire, and what that is of; how units are sent."""
    arrays = {f"w.{name}": lost.numpy() for name, lost in wire.lost.items()}
    if replica.exchange is not None:
        arrays["ways"] = replica.exchange.ways
    return arrays | {"wire": _layout(replica, mesh)}


def load_replica(replica: Replica, arrays: Mapping[str, Any], n_passes: int) -> None:
    """Let a new replica remember what another one did, ``n_passes`` passes into its schedule."""
    load_weights(replica.module, _under("p.", arrays))
    passing = _passing(replica.module)
    for name, values in _under("b.", arrays).items():
        if name in passing and passing[name].shape == values.shape:
            passing[name].copy_(torch.from_numpy(np.array(values)))
    for _ in range(n_passes):
        replica.end_pass()
    kept: dict[str, dict[str, Any]] = {}
    for path, values in _under("o.", arrays).items():
        name, key = path.rsplit("/", 1)
        kept.setdefault(name, {})[key] = values
    for unit, optimizer in zip(replica.units, replica.optimizers, strict=True):
        whole = optimizer.state_dict()
        whole["state"] = {
            place: {
                key: _tensor(values, arrays.get(f"s.{name}/{key}"), unit.parameters[place])
                for key, values in kept[name].items()
            }
            for place, name in enumerate(unit.names)
            if name in kept
        }
        optimizer.load_state_dict(whole)
    if replica.scaling is not None:
        scale, n_good = arrays["scaling"].tolist()
        replica.scaling.scale, replica.scaling.n_good = scale, int(n_good)


def load_lost(replica: Replica, wire: Wire, mesh: Mesh, arrays: Mapping[str, Any]) -> None:
    """Take what rounding took, where it is of vectors that this rank will send.

    Vectors are named by their place among what travels together, and cut by the number of ranks:
    where these are others now, what was lost is lost, and how units are sent is decided anew. An
    owner's sums are its own.
    """
    layout = _layout(replica, mesh)
    kept = _under("w.", arrays)
    is_same = "wire" in arrays and arrays["wire"][0] == layout[0]
    if is_same and replica.exchange is not None and "ways" in arrays:
        replica.exchange.ways = arrays["ways"]
    if not is_same:
        kept = {}
    elif arrays["wire"][1] != layout[1]:
        kept = {name: values for name, values in kept.items() if not name.endswith(OF_OWNER)}
    wire.lost = {name: torch.from_numpy(np.array(values)) for name, values in kept.items()}


def _array(tensor: Any) -> Any:
    own = tensor.detach().cpu()
    return (own.float() if own.dtype is torch.bfloat16 else own).numpy().copy()


def _passing(module: Any) -> Arrays:
    """Buffers that are not persistent, by name: they are in no ``state_dict``."""
    own = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name not in own}


def _kept_arrays(path: str, value: Any) -> Arrays:
    """Of an optimiser's state: a momentum of sparse gradients is sparse, a row may come twice."""
    if not value.is_sparse:
        return {f"o.{path}": _array(value)}
    return {f"o.{path}": _array(value._values()), f"s.{path}": _array(value._indices())}


def _tensor(values: Any, places: Any, parameter: Any) -> Any:
    tensor = torch.from_numpy(np.array(values))
    if places is None:
        return tensor
    where = torch.from_numpy(np.array(places))
    return torch.sparse_coo_tensor(where, tensor, parameter.shape, check_invariants=False)


def _layout(replica: Replica, mesh: Mesh) -> Any:
    """What names on a wire mean, as a checksum; and this rank."""
    told = [mesh.n_ranks, *((unit.kind, unit.names) for unit in replica.units)]
    return np.array([crc32(repr(told).encode()), mesh.rank])


def _under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
