"""What a replica remembers, as arrays by name, for checkpoints.

=============  ==================================================
``p.NAME``     a parameter or buffer of the module
``o.NAME/KEY`` an array of the optimiser's state of a parameter
``scaling``    scale of the loss and good steps, with float16
``w.NAME``     what rounding took on the wire; this rank's own
``wire``       what these are of: see :func:`load_lost`
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
    for unit, optimizer in zip(replica.units, replica.optimizers, strict=True):
        for name, parameter in zip(unit.names, unit.parameters, strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    arrays[f"o.{name}/{key}"] = _array(torch.as_tensor(value))
    if replica.scaling is not None:
        arrays["scaling"] = np.array([replica.scaling.scale, replica.scaling.n_good])
    return arrays


def lost_arrays(replica: Replica, wire: Wire, mesh: Mesh) -> Arrays:
    """What rounding took on a rank's wire, and what that is of."""
    arrays = {f"w.{name}": lost.numpy() for name, lost in wire.lost.items()}
    return arrays | {"wire": _layout(replica, mesh)}


def load_replica(replica: Replica, arrays: Mapping[str, Any], n_passes: int) -> None:
    """Let a new replica remember what another one did, ``n_passes`` passes into its schedule."""
    load_weights(replica.module, _under("p.", arrays))
    for _ in range(n_passes):
        replica.end_pass()
    kept: dict[str, dict[str, Any]] = {}
    for path, values in _under("o.", arrays).items():
        name, key = path.rsplit("/", 1)
        kept.setdefault(name, {})[key] = values
    for unit, optimizer in zip(replica.units, replica.optimizers, strict=True):
        whole = optimizer.state_dict()
        whole["state"] = {
            place: {key: torch.from_numpy(np.array(v)) for key, v in kept[name].items()}
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
    where these are others now, what was lost is lost. An owner's sums are its own.
    """
    layout = _layout(replica, mesh)
    kept = _under("w.", arrays)
    if "wire" not in arrays or arrays["wire"][0] != layout[0]:
        kept = {}
    elif arrays["wire"][1] != layout[1]:
        kept = {name: values for name, values in kept.items() if not name.endswith(OF_OWNER)}
    wire.lost = {name: torch.from_numpy(np.array(values)) for name, values in kept.items()}


def _array(tensor: Any) -> Any:
    own = tensor.detach().cpu()
    return (own.float() if own.dtype is torch.bfloat16 else own).numpy().copy()


def _layout(replica: Replica, mesh: Mesh) -> Any:
    """What names on a wire mean, as a checksum; and this rank."""
    told = [mesh.n_ranks, *((unit.kind, unit.names) for unit in replica.units)]
    return np.array([crc32(repr(told).encode()), mesh.rank])


def _under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
