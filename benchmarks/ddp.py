"""The peer of neural networks: torch's DistributedDataParallel over gloo, one process a rank."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from distributed import Client

from dask_petuum.nn import NeuralNetClassifier

__all__ = ["N_RANKS", "PEER", "Task", "fit", "perceptron", "train"]

N_RANKS = 2
PEER = f"torch {torch.__version__}, DistributedDataParallel (gloo)"


@dataclass(frozen=True)
class Task:
    """What is trained.

    Parameters
    ----------
    widths
        Of the layers, inputs and outputs too.
    batch
        Rows of a rank in a step.
    n_passes
        Passes over the rows.
    n_steps
        Steps of a pass over random rows.
    optimizer, rate
        Name in ``torch.optim``, and its step size.
    settings
        What else our estimator gets.
    """

    widths: Sequence[int]
    batch: int
    n_passes: int
    n_steps: int = 20
    optimizer: str = "SGD"
    rate: float = 0.01
    settings: dict[str, Any] = field(default_factory=dict)


def perceptron(widths: Sequence[int]) -> torch.nn.Module:
    """Linear layers with ReLU between them."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def fit(client: Client, task: Task, X: Any, y: Any, **more: Any) -> Any:
    """Train ours on the workers; the model, whose history has the seconds of every clock."""
    settings = {"max_epochs": task.n_passes, **task.settings, **more}
    model = NeuralNetClassifier(
        hidden_layer_sizes=task.widths[1:-1],
        optimizer=task.optimizer,
        lr=task.rate,
        batch_size=task.batch,
        random_state=0,
        **settings,
    )
    model.client = client
    return model.fit(X, y)


def train(
    rank: int,
    meet: str,
    rows: Any,
    labels: Any,
    task: Task,
    after_pass: Callable[[torch.nn.Module], bool] = lambda module: False,
) -> list[float]:
    """Be one rank of a training; the seconds of its passes.

    Parameters
    ----------
    meet
        URL at which ranks meet.
    rows, labels
        This rank's, an array or a CSR array of float32, and int64.
    after_pass
        Called with the module, outside of the seconds; True: all ranks stop.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=N_RANKS)
    torch.manual_seed(0)
    module = torch.nn.parallel.DistributedDataParallel(perceptron(task.widths))
    optimizer = getattr(torch.optim, task.optimizer)(module.parameters(), lr=task.rate)
    seconds = []
    for number in range(task.n_passes):
        began = time.perf_counter()
        order = np.random.default_rng((rank, number)).permutation(len(labels))
        for first in range(0, len(order), task.batch):
            chosen = order[first : first + task.batch]
            data = rows[chosen]
            batch = torch.from_numpy(data.toarray() if hasattr(data, "toarray") else data)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                module(batch), torch.from_numpy(labels[chosen])
            )
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - began)
        stop = torch.tensor([after_pass(module.module) if rank == 0 else False], dtype=torch.int8)
        torch.distributed.broadcast(stop, 0)
        if stop.item():
            break
    torch.distributed.destroy_process_group()
    return seconds
