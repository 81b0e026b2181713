"""Modules, data and a torch DistributedDataParallel peer for the tests of `dask_petuum.nn`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import torch

from dask_petuum.nn.plan import Plan


def make_rows(n_rows: int = 640, n_features: int = 20, n_classes: int = 4) -> tuple[Any, Any]:
    """Rows around a centre for each class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(n_classes, size=n_rows)
    centres = rng.normal(0, 1, (n_classes, n_features))
    rows = centres[labels] + rng.normal(0, 1, (n_rows, n_features))
    return rows.astype(np.float32), labels


def in_chunks(rows: Any, labels: Any, n_chunks: int) -> tuple[Any, Any]:
    """Dask arrays of equal chunks: one partition each."""
    n = len(rows) // n_chunks
    return da.from_array(rows, chunks=(n, rows.shape[1])), da.from_array(labels, chunks=n)


class Perceptron(torch.nn.Module):
    """Wide enough that its middle layer is cheaper as factors with 16 rows."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(20, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, width),
            torch.nn.Tanh(),
        )
        self.head = torch.nn.Linear(width, 4)

    def forward(self, rows: Any) -> Any:
        return self.head(self.body(rows))


def ddp_rank(rank: int, n_ranks: int, folder: str, n_steps: int, setup: dict[str, Any]) -> None:
    """Train with DistributedDataParallel in one process; rank 0 writes the weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n_ranks
    )
    rows, labels = make_rows()
    n = len(rows) // n_ranks
    module = Perceptron()
    module.load_state_dict(torch.load(f"{folder}/first.pt"))
    parallel = torch.nn.parallel.DistributedDataParallel(module)
    optimizer = getattr(torch.optim, setup["optimizer"])(module.parameters(), **setup["arguments"])
    plan = Plan((n,) * n_ranks, setup["batch_size"], 1000, setup["seed"])
    for step in range(n_steps):
        low, high = plan.bounds(rank, step)
        chosen = rank * n + plan.training_rows(rank, step)[low:high]
        optimizer.zero_grad()
        out = parallel(torch.from_numpy(rows[chosen]))
        torch.nn.functional.cross_entropy(out, torch.from_numpy(labels[chosen])).backward()
        optimizer.step()
    if rank == 0:
        weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        np.savez(f"{folder}/trained.npz", **weights)
    torch.distributed.destroy_process_group()


def train_with_ddp(
    folder: Path, first: Any, n_ranks: int, n_steps: int, setup: dict[str, Any]
) -> dict[str, Any]:
    """Train a `Perceptron` in real processes from the weights of ``first``."""
    torch.save(first.state_dict(), folder / "first.pt")
    torch.multiprocessing.spawn(
        ddp_rank, (n_ranks, str(folder), n_steps, setup), nprocs=n_ranks, join=True
    )
    with np.load(folder / "trained.npz") as file:
        return dict(file)
