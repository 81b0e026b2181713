"""Steps of neural networks over a slow link, against torch's DistributedDataParallel.

On two hosts as in ``benchmarks/two_hosts.py``. Samples a second of the perceptron of
``nn_vs_ddp`` and its bytes, with sufficient factors. What overlap hides: ``nn_overlap``.

    python -m benchmarks.run nn_over_link [--quick]
"""

from __future__ import annotations

import itertools
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client

from benchmarks.ddp import N_RANKS, PEER, Task, fit, train
from benchmarks.report import Row
from benchmarks.two_hosts import LINK, MEET, be, connect, measure

__all__ = ["random_rows", "run", "seconds_of_passes"]

SPEED = Task((784, 1024, 1024, 10), 128, 6)


def random_rows(client: Client, task: Task) -> tuple[Any, Any]:
    """Random rows on the workers, one chunk each."""
    chunk, rng = task.batch * task.n_steps, da.random.default_rng(0)
    shape = (N_RANKS * chunk, task.widths[0])
    X = rng.standard_normal(shape, chunks=(chunk, shape[1]), dtype="f4")
    y = rng.integers(task.widths[-1], size=shape[0], chunks=chunk)
    persisted: tuple[Any, Any] = client.persist([X, y])
    return persisted


def seconds_of_passes(model: Any) -> list[float]:
    """Seconds of each pass, without the first two."""
    pairs = itertools.pairwise(model.history_[1:])
    return [after["seconds"] - before["seconds"] for before, after in pairs]


def measure_ours(quick: bool) -> dict[str, Any]:
    """Be the client."""
    out: dict[str, Any] = {}
    with connect() as client:
        rows = random_rows(client, SPEED)
        model = fit(client, SPEED, *rows)
        out["speed"] = seconds_of_passes(model)
        out["bytes"] = [model.history_[-1][key] for key in ("gradient_bytes", "bytes_saved")]
        out["half"] = seconds_of_passes(fit(client, SPEED, *rows, wire_dtype="bfloat16"))
    return out


def measure_ddp(rank: int, quick: bool) -> dict[str, Any]:
    """Be a rank of the peer."""
    rng = np.random.default_rng(rank)
    n_rows = SPEED.batch * SPEED.n_steps
    rows = rng.standard_normal((n_rows, SPEED.widths[0]), np.float32)
    labels = rng.integers(SPEED.widths[-1], size=n_rows)
    return {"speed": train(rank, MEET, rows, labels, SPEED)[2:]}


def run(quick: bool) -> list[Row]:
    """Measure."""
    ours, theirs = measure("benchmarks.nn_over_link", quick)
    net = f"perceptron {'-'.join(map(str, SPEED.widths))}, {SPEED.batch} rows a rank, 2 ranks"
    n_rows = N_RANKS * SPEED.batch * SPEED.n_steps
    full, half, peer = (
        [n_rows / seconds for seconds in each]
        for each in (ours["speed"], ours["half"], theirs["speed"])
    )
    work = f"{net}, over {LINK}, BSP with factors"
    sent, saved = ours["bytes"]
    return [
        Row(f"{work}: samples a second", PEER, full, peer, ">= 3", "samples/s"),
        Row(f"{work} in bfloat16: samples a second", PEER, half, peer, "", "samples/s"),
        Row(f"{net}: bytes a pass", "full gradients", [sent], [sent + saved], "<= 0.35", "bytes"),
    ]


if __name__ == "__main__":
    be(measure_ours, measure_ddp)
