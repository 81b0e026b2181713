"""Accuracy of a perceptron on 20 Newsgroups (tf-idf, by date) against a plain PyTorch loop.

The same module, optimiser, batch size and number of passes, in this process; first weights and
orders of rows are drawn anew for each seed.

    python -m benchmarks.run nn_accuracy [--quick]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.corpora import newsgroups_tfidf
from benchmarks.ddp import perceptron
from benchmarks.report import Row
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

WIDTHS, BATCH, RATE = (17_507, 64, 20), 128, 1e-3


def accuracy_of_ours(data: Any, seed: int, n_passes: int) -> float:
    """Share of test documents with the right label."""
    X, y, X_test, y_test = data
    model = NeuralNetClassifier(
        perceptron,
        module__widths=WIDTHS,
        lr=RATE,
        batch_size=BATCH,
        max_epochs=n_passes,
        random_state=seed,
        scheduler="local",
    )
    return float(model.fit(X, y).score(X_test, y_test))


def accuracy_of_torch(data: Any, seed: int, n_passes: int) -> float:
    """The same by a plain loop."""
    X, y, X_test, y_test = data
    torch.manual_seed(seed)
    module = perceptron(WIDTHS)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    for _ in range(n_passes):
        for chosen in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            out = module(torch.from_numpy(X[chosen.numpy()].toarray()))
            torch.nn.functional.cross_entropy(out, torch.from_numpy(y)[chosen]).backward()
            optimizer.step()
    with torch.no_grad():
        found = module(torch.from_numpy(X_test.toarray())).argmax(dim=1).numpy()
    return float(np.mean(found == y_test))


def run(quick: bool) -> list[Row]:
    """Measure."""
    n_passes, seeds = (1, range(1)) if quick else (8, range(3))
    data = newsgroups_tfidf()
    ours = [accuracy_of_ours(data, seed, n_passes) for seed in seeds]
    theirs = [accuracy_of_torch(data, seed, n_passes) for seed in seeds]
    return [
        Row(
            f"20 Newsgroups, perceptron {'-'.join(map(str, WIDTHS))} on tf-idf, {n_passes} passes: "
            "accuracy on the test part",
            f"torch {torch.__version__}, a plain loop",
            ours,
            theirs,
            ">= 0.995",
            "share",
        )
    ]
