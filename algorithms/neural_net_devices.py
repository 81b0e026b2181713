"""Looks before any work whether the ranks of a fit can have the device that is asked for."""

from __future__ import annotations

import os
import socket
from typing import Any

from dask_petuum.data import Partition
from dask_petuum.nn.devices import Place, problem_of, sees_the_same
from dask_petuum.runtime.job import Job
from dask_petuum.runtime.worker_address import worker_address

__all__ = ["check_device", "chooses_device"]


def check_device(device: Any) -> None:
    """Check that torch knows a device of that name.

    Raises
    ------
    ValueError
        Where it does not.
    """
    from dask_petuum.nn.gpus import is_device

    if not is_device(device):
        raise ValueError(f'device must be one of torch, as "cpu" or "cuda", got {device!r}')


def chooses_device(job: Job, device: str) -> bool:
    """Whether ranks choose among the GPUs that they see.

    Raises
    ------
    ValueError
        Where one has no such GPU, or several are threads of one process.
    """
    if not device.startswith("cuda"):
        return False
    places = job.map(_place)
    problem = problem_of(device, places)
    if problem is not None:
        raise ValueError(problem)
    return sees_the_same(places)


def _place(partition: Partition) -> Place:
    """Where a partition lies."""
    from dask_petuum.nn.gpus import count_gpus

    return Place(
        worker_address(),
        socket.gethostname(),
        os.getpid(),
        count_gpus(),
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    )
