"""Which GPU a rank takes where its process sees several. Pure; no torch.

Dask-CUDA lets each worker see all GPUs in an order of its own (``CUDA_VISIBLE_DEVICES`` is turned
by one from worker to worker): the first one is its own. Workers that see the same GPUs in the same
order take them by their place on the host.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Place", "choose_device", "problem_of", "sees_the_same"]


@dataclass(frozen=True)
class Place:
    """Where a rank would train.

    Parameters
    ----------
    worker
        Address of the Dask worker; "" in this process.
    host, process
        Name of its host, and number of its process.
    n_gpus
        GPUs that torch sees there.
    visible
        CUDA_VISIBLE_DEVICES there, or "".
    """

    worker: str
    host: str
    process: int
    n_gpus: int
    visible: str = ""


def choose_device(device: str, position: int, n_gpus: int) -> str:
    """The device of the rank that is so many-th on its host, from 0, where it sees ``n_gpus``."""
    return f"{device}:{position % n_gpus}" if device == "cuda" and n_gpus > 1 else device


def sees_the_same(places: Sequence[Place]) -> bool:
    """Whether workers of a host see its GPUs in the same order, so that each has to choose."""
    of_hosts: dict[str, set[str]] = defaultdict(set)
    for place in places:
        of_hosts[place.host].add(place.visible)
    return all(len(orders) == 1 for orders in of_hosts.values())


def problem_of(device: str, places: Sequence[Place]) -> str | None:
    """Why ranks cannot train on a CUDA device, or None."""
    _, _, index = device.partition(":")
    least = int(index) + 1 if index else 1
    workers: dict[tuple[str, int], str] = {}
    for place in places:
        where = f"worker {place.worker}" if place.worker else "this process"
        if place.n_gpus < least:
            return f"device={device!r} needs {least} GPU(s), {where} sees {place.n_gpus}"
        first = workers.setdefault((place.host, place.process), place.worker)
        if first != place.worker:
            return (
                f"device={device!r} needs a process for each rank, workers {first} and "
                f"{place.worker} are threads of one: use LocalCluster(processes=True)"
            )
    return None
