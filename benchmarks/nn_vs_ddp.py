"""Neural networks on two ranks against torch's DistributedDataParallel: samples and bytes a step.

A perceptron 784-1024-1024-10 on random rows, 128 rows a rank and step, plain SGD, one thread a
process, on one machine. A figure is the median pass of 20 steps, the first ones left out; the two
sides alternate. Ranks of one host read each other's gradients in memory; with factors, which they
would send to another host, they compute more. Other hosts: ``nn_over_link``.

    python -m benchmarks.run nn_vs_ddp [--quick]
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import torch
from distributed import Client, LocalCluster

from benchmarks.ddp import N_RANKS, PEER, Task, train
from benchmarks.report import Row
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

BATCH, N_STEPS, RATE = 128, 20, 0.01
WIDTHS = (784, 1024, 1024, 10)
#: Passes that are not counted.
WARM = 2


def train_ours(client: Client, n_passes: int, **more: Any) -> Any:
    """Fit on two ranks; the model, whose history has the seconds of every pass."""
    chunk = BATCH * N_STEPS
    rng = da.random.default_rng(0)
    X = rng.standard_normal((N_RANKS * chunk, WIDTHS[0]), chunks=(chunk, WIDTHS[0]), dtype="f4")
    y = rng.integers(10, size=N_RANKS * chunk, chunks=chunk)
    X, y = client.persist([X, y])
    model = NeuralNetClassifier(
        hidden_layer_sizes=WIDTHS[1:-1],
        optimizer="SGD",
        lr=RATE,
        batch_size=BATCH,
        max_epochs=n_passes,
        random_state=0,
        **more,
    )
    model.client = client
    return model.fit(X, y)


def rate_of(model: Any) -> float:
    """Samples a second of the median pass."""
    seconds = [
        after["seconds"] - before["seconds"]
        for before, after in itertools.pairwise(model.history_[WARM:])
    ]
    return N_RANKS * BATCH * N_STEPS / statistics.median(seconds)


def ddp_rank(rank: int, folder: str, n_passes: int) -> None:
    """Train in one process; rank 0 writes the seconds of passes."""
    rng = np.random.default_rng(rank)
    n_rows = BATCH * N_STEPS
    rows = rng.standard_normal((n_rows, WIDTHS[0]), np.float32)
    labels = rng.integers(WIDTHS[-1], size=n_rows)
    task = Task(WIDTHS, BATCH, n_passes, rate=RATE)
    seconds = train(rank, f"file://{folder}/meet", rows, labels, task)
    if rank == 0:
        np.save(f"{folder}/seconds.npy", seconds)


def rate_of_ddp(n_passes: int) -> float:
    """Samples a second of the median pass."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(ddp_rank, (folder, n_passes), nprocs=N_RANKS, join=True)
        seconds = np.load(Path(folder) / "seconds.npy")
    return N_RANKS * BATCH * N_STEPS / float(np.median(seconds[WARM:]))


def run(quick: bool) -> list[Row]:
    """Measure."""
    n_passes, repeats = (4, 1) if quick else (8, 3)
    ours, theirs, factors = [], [], []
    with (
        LocalCluster(n_workers=N_RANKS, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        train_ours(client, 1)
        for _ in range(repeats):
            ours.append(rate_of(train_ours(client, n_passes)))
            theirs.append(rate_of_ddp(n_passes))
            model = train_ours(client, n_passes, sufficient_factors=True)
            factors.append(rate_of(model))
    last = model.history_[-1]
    sent = last["gradient_bytes"]
    work = f"perceptron {'-'.join(map(str, WIDTHS))}, {BATCH} rows a rank, 2 ranks, BSP"
    return [
        Row(f"{work}: samples a second", PEER, ours, theirs, ">= 0.9", "samples/s"),
        Row(f"{work}, factors: samples a second", PEER, factors, theirs, "", "samples/s"),
        Row(
            f"{work}, factors: bytes a pass",
            "full gradients",
            [sent],
            [sent + last["bytes_saved"]],
            "<= 0.35",
            "bytes",
        ),
    ]
