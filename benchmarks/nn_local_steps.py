"""Local steps over a slow link: seconds of training until 20 Newsgroups are told apart.

On two hosts as in ``benchmarks/two_hosts.py``: a perceptron on the tf-idf of 20 Newsgroups, by
date, until it labels 80 % of the test part rightly. Ours makes 50 steps between two exchanges, the
peer is torch's DistributedDataParallel. Seconds are those of training, without the tests. Each side
twice, in turn.

    python -m benchmarks.run nn_local_steps [--quick]
"""

from __future__ import annotations

from typing import Any

import torch
from distributed import Client

from benchmarks.corpora import newsgroups_tfidf
from benchmarks.ddp import N_RANKS, PEER, Task, fit, train
from benchmarks.report import Row
from benchmarks.two_hosts import LINK, MEET, be, connect, measure

__all__ = ["run"]

TASK = Task((17_507, 64, 20), 64, 12, 0, "Adam", 1e-3, {"local_steps": 50})
#: Share of test documents to be labelled rightly; and with --quick.
AIM, QUICK_AIM = 0.80, 0.5
N_REPEATS = 2


def seconds_to(aim: float, client: Client) -> tuple[float, int]:
    """Seconds, and passes, of the shortest training that reaches an aim.

    Each is made anew: the same, to the bit, as far as it goes.
    """
    X, y, X_test, y_test = newsgroups_tfidf()
    for n_passes in range(1, TASK.n_passes + 1):
        model = fit(client, TASK, X, y, max_epochs=n_passes)
        if model.score(X_test, y_test) >= aim:
            return float(model.history_[-1]["seconds"]), n_passes
    raise RuntimeError(f"{aim} of the test documents is not reached in {TASK.n_passes} passes")


def measure_ours(quick: bool) -> dict[str, Any]:
    """Be the client."""
    with connect() as client:
        seconds, n_passes = seconds_to(QUICK_AIM if quick else AIM, client)
    return {"seconds": seconds, "passes": n_passes}


def measure_ddp(rank: int, quick: bool) -> dict[str, Any]:
    """Be a rank of the peer."""
    aim = QUICK_AIM if quick else AIM
    X, y, X_test, y_test = newsgroups_tfidf()
    n = X.shape[0]
    part = slice(rank * n // N_RANKS, (rank + 1) * n // N_RANKS)
    rows = torch.from_numpy(X_test.toarray())

    def reached(module: torch.nn.Module) -> bool:
        with torch.no_grad():
            right = module(rows).argmax(dim=1).numpy() == y_test
        return bool(right.mean() >= aim)

    seconds = train(rank, MEET, X[part], y[part], TASK, reached)
    return {"seconds": sum(seconds), "passes": len(seconds)}


def run(quick: bool) -> list[Row]:
    """Measure."""
    found = [measure("benchmarks.nn_local_steps", quick) for _ in range(1 if quick else N_REPEATS)]
    seconds, passes = (
        [[each[key] for each in side] for side in zip(*found, strict=True)]
        for key in ("seconds", "passes")
    )
    return [
        Row(
            f"20 Newsgroups, perceptron {'-'.join(map(str, TASK.widths))} on tf-idf, over {LINK}, "
            f"50 local steps: to {QUICK_AIM if quick else AIM:.0%} of the test documents",
            PEER,
            *seconds,
            target="<= 0.2",
            unit="s",
            note=f"passes: {passes[0]}, of the peer {passes[1]}",
        )
    ]


if __name__ == "__main__":
    be(measure_ours, measure_ddp)
