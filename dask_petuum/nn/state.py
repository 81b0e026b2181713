"""What a replica remembers, as arrays by name, for checkpoints.

=============  ==================================================
``p.NAME``     a parameter or buffer of the module
``o.NAME/KEY`` an array of the optimiser's state of a parameter
``scaling``    scale of the loss and good steps, with float16
``w.NAME``     what rounding took on the wire; this rank's own
=============  ==================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dask_petuum.nn.recipe import load_weights
from dask_petuum.nn.replica import Replica
from dask_petuum.nn.wire import Wire

__all__ = ["load_replica", "module_arrays", "replica_arrays"]

Arrays = dict[str, Any]


def module_arrays(module: Any) -> Arrays:
    """A module's parameters and buffers, as copies."""
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()
    }


def replica_arrays(replica: Replica, wire: Wire) -> Arrays:
    """All that a replica remembers."""
    replica.settle()
    arrays = {f"p.{name}": values for name, values in module_arrays(replica.module).items()}
    for unit, optimizer in zip(replica.units, replica.optimizers, strict=True):
        for name, parameter in zip(unit.names, unit.parameters, strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    arrays[f"o.{name}/{key}"] = torch.as_tensor(value).cpu().numpy().copy()
    if replica.scaling is not None:
        arrays["scaling"] = np.array([replica.scaling.scale, replica.scaling.n_good])
    for name, lost in wire.lost.items():
        arrays[f"w.{name}"] = lost.numpy()
    return arrays


def load_replica(replica: Replica, wire: Wire, arrays: Mapping[str, Any], n_passes: int) -> None:
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
    wire.lost = {name: torch.from_numpy(np.array(v)) for name, v in _under("w.", arrays).items()}


def _under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
