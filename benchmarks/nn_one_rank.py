"""One rank by itself: rows a second, beside a plain PyTorch loop.

What the estimator costs where nothing is to be sent. On a GPU where this process sees one, else on
its cores. The peer is a loop that draws the same kind of batches from the same array in memory. In
turn, several times; of each the median pass, without the first two.

- ResNet-8 (He and others, 2016, the one of CIFAR-10 with n = 1) on random images of 3 x 32 x 32,
  batches of 128, SGD with momentum.
- A perceptron of 64-100-50-50-10, batches of 32, the same: steps are so short that what comes on
  top of torch's own work shows.

    python -m benchmarks.run nn_one_rank [--quick]
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.ddp import perceptron
from benchmarks.nn_over_link import seconds_of_passes
from benchmarks.report import Row
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

SHAPE, N_CLASSES, RATE, MOMENTUM = (3, 32, 32), 10, 0.05, 0.9
WIDTHS = (64, 100, 50, 50, N_CLASSES)
N_REPEATS = 5
#: Steps of a clock, which is a pass where that has no more.
CLOCK = 100


@dataclass(frozen=True)
class Work:
    """What is trained.

    Parameters
    ----------
    name
        For people.
    build
        Makes the module.
    n_columns, batch
        Numbers of a row, rows of a step.
    n_steps
        Of a pass.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    n_columns: int
    batch: int
    n_steps: int


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


def small_perceptron() -> torch.nn.Module:
    """Of `WIDTHS`: 14 thousand weights."""
    return perceptron(WIDTHS)


def seconds_of_ours(work: Work, X: Any, y: Any, device: str, n_passes: int) -> float:
    """Seconds of a pass of the estimator's."""
    model = NeuralNetClassifier(
        work.build,
        optimizer="SGD",
        optimizer__momentum=MOMENTUM,
        lr=RATE,
        batch_size=work.batch,
        max_epochs=n_passes,
        device=device,
        random_state=0,
        scheduler="local",
    )
    return statistics.median(seconds_of_passes(model.fit(X, y)))


def seconds_of_torch(work: Work, X: Any, y: Any, device: str, n_passes: int) -> float:
    """Seconds of a pass of a plain loop."""
    torch.manual_seed(0)
    module = work.build().to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    loss_of = torch.nn.CrossEntropyLoss()
    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    seconds = []
    for _ in range(n_passes):
        began = time.perf_counter()
        total = torch.zeros((), device=device)
        for chosen in torch.randperm(len(labels)).split(work.batch):
            optimizer.zero_grad()
            loss = loss_of(module(rows[chosen].to(device)), labels[chosen].to(device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def measure(work: Work, device: str, n_passes: int, n_repeats: int, target: str) -> Row:
    """Both in turn."""
    n_rows = work.batch * work.n_steps
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, work.n_columns), np.float32)
    y = rng.integers(N_CLASSES, size=n_rows)
    ours, theirs = [], []
    for _ in range(n_repeats):
        ours.append(n_rows / seconds_of_ours(work, X, y, device, n_passes))
        theirs.append(n_rows / seconds_of_torch(work, X, y, device, n_passes))
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    return Row(
        f"{work.name}, batch {work.batch}, one rank on {where}",
        f"torch {torch.__version__}, a plain loop",
        ours,
        theirs,
        target,
        "rows/s",
        ratio=statistics.median(ratios),
        note=f"ratios {', '.join(f'{each:.3f}' for each in ratios)}",
    )


def run(quick: bool) -> list[Row]:
    """Measure."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n_columns = int(np.prod(SHAPE))
    n_steps = 10 if quick else CLOCK if device == "cuda" else 40
    images = Work("ResNet-8 on images of 3 x 32 x 32", resnet, n_columns, 128, n_steps)
    name = f"perceptron of {'-'.join(map(str, WIDTHS))}"
    short = Work(name, small_perceptron, WIDTHS[0], 32, CLOCK)
    n_passes, n_repeats = (4, 1) if quick else (5, N_REPEATS)
    return [
        measure(images, device, n_passes, n_repeats, ">= 0.95"),
        measure(short, device, 4 * n_passes, n_repeats, ""),
    ]
