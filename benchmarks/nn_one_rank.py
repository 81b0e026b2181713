"""One rank by itself: images a second of a small residual network, beside a plain PyTorch loop.

What the estimator costs where nothing is to be sent: ResNet-8 (He and others, 2016, the one of
CIFAR-10 with n = 1) on random images of 3 x 32 x 32, batches of 128, SGD with momentum. On a GPU
where this process sees one, else on its cores. The peer is a loop that draws the same kind of
batches from the same array in memory. In turn, several times; of each the median pass, without the
first.

    python -m benchmarks.run nn_one_rank [--quick]
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.nn_over_link import seconds_of_passes
from benchmarks.report import Row
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

SHAPE, N_CLASSES, BATCH, RATE, MOMENTUM = (3, 32, 32), 10, 128, 0.05, 0.9
N_REPEATS = 5


class Block(torch.nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = torch.nn.BatchNorm2d(outputs)
        self.second = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = torch.nn.BatchNorm2d(outputs)
        self.past: torch.nn.Module = torch.nn.Identity()
        if stride != 1 or inputs != outputs:
            self.past = torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Of (n, inputs, height, width)."""
        inner = torch.relu(self.first_norm(self.first(X)))
        return torch.relu(self.second_norm(self.second(inner)) + self.past(X))


def resnet() -> torch.nn.Module:
    """ResNet-8, of rows of 3072: 78 thousand weights."""
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, SHAPE),
        torch.nn.Conv2d(SHAPE[0], 16, 3, 1, 1, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(64, N_CLASSES),
    )


def seconds_of_ours(X: Any, y: Any, device: str, n_passes: int) -> float:
    """Seconds of a pass of the estimator's."""
    model = NeuralNetClassifier(
        resnet,
        optimizer="SGD",
        optimizer__momentum=MOMENTUM,
        lr=RATE,
        batch_size=BATCH,
        max_epochs=n_passes,
        device=device,
        random_state=0,
        scheduler="local",
    )
    return statistics.median(seconds_of_passes(model.fit(X, y)))


def seconds_of_torch(X: Any, y: Any, device: str, n_passes: int) -> float:
    """Seconds of a pass of a plain loop."""
    torch.manual_seed(0)
    module = resnet().to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    loss_of = torch.nn.CrossEntropyLoss()
    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    seconds = []
    for _ in range(n_passes):
        began = time.perf_counter()
        total = torch.zeros((), device=device)
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            loss = loss_of(module(rows[chosen].to(device)), labels[chosen].to(device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def run(quick: bool) -> list[Row]:
    """Measure."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n_rows = BATCH * (10 if quick else 200 if device == "cuda" else 40)
    n_passes, n_repeats = (3, 1) if quick else (4, N_REPEATS)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, int(np.prod(SHAPE))), np.float32)
    y = rng.integers(N_CLASSES, size=n_rows)
    ours, theirs = [], []
    for _ in range(n_repeats):
        ours.append(n_rows / seconds_of_ours(X, y, device, n_passes))
        theirs.append(n_rows / seconds_of_torch(X, y, device, n_passes))
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    return [
        Row(
            f"ResNet-8 on images of 3 x 32 x 32, batch {BATCH}, one rank on {where}",
            f"torch {torch.__version__}, a plain loop",
            ours,
            theirs,
            ">= 0.95",
            "images/s",
            ratio=statistics.median(ratios),
            note=f"ratios {', '.join(f'{each:.3f}' for each in ratios)}",
        )
    ]
