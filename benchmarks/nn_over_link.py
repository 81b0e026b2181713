"""Steps of neural networks over a slow link, against torch's DistributedDataParallel.

On two hosts as in ``benchmarks/two_hosts.py``. Samples a second of the perceptron of
``nn_vs_ddp`` and its bytes, with sufficient factors; and how much of the time that gradients take
on the link is hidden behind computing, 8 layers.

    python -m benchmarks.run nn_over_link [--quick]
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client

from benchmarks.ddp import N_RANKS, PEER, Task, fit, train
from benchmarks.report import Row
from benchmarks.two_hosts import LINK, MEET, be, connect, measure

__all__ = ["run"]

SPEED = Task((784, 1024, 1024, 10), 128, 6)
#: Its backward pass takes longer than its gradients take on the link.
OVERLAP = Task((512,) * 9, 8192, 5, 4, settings={"sufficient_factors": False})


def random_rows(client: Client, task: Task) -> tuple[Any, Any]:
    """Random rows on the workers, one chunk each."""
    chunk, rng = task.batch * task.n_steps, da.random.default_rng(0)
    shape = (N_RANKS * chunk, task.widths[0])
    X = rng.standard_normal(shape, chunks=(chunk, shape[1]), dtype="f4")
    y = rng.integers(task.widths[-1], size=shape[0], chunks=chunk)
    persisted: tuple[Any, Any] = client.persist([X, y])
    return persisted


def share_memory(is_on: bool) -> None:
    """Let the ranks of a worker share memory, past the link, or not."""
    dask.config.set({"petuum.shared-memory": is_on})


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
        if not quick:
            rows = random_rows(client, OVERLAP)
            for name, more in (("on", {}), ("off", {"overlap": False})):
                model = fit(client, OVERLAP, *rows, **more)
                out[name] = seconds_of_passes(model)
                waits = [record["waited"] / N_RANKS for record in model.history_[2:]]
                out[f"waits {name}"] = statistics.median(waits)
            client.run(share_memory, True)
            out["none"] = seconds_of_passes(fit(client, OVERLAP, *rows))
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
    out = [
        Row(f"{work}: samples a second", PEER, full, peer, ">= 3", "samples/s"),
        Row(f"{work} in bfloat16: samples a second", PEER, half, peer, "", "samples/s"),
        Row(f"{net}: bytes a pass", "full gradients", [sent], [sent + saved], "<= 0.35", "bytes"),
    ]
    return out if quick else [*out, *overlap_rows(ours)]


def overlap_rows(ours: dict[str, Any]) -> list[Row]:
    """Say what share of the time on the link is hidden."""
    on, off, none = (statistics.median(ours[name]) for name in ("on", "off", "none"))
    waits = ours["waits on"], ours["waits off"]
    net = f"perceptron of 8 layers of 512, {OVERLAP.batch} rows a rank, over {LINK}"
    return [
        Row(
            f"{net}: time on the link that overlap hides",
            "the same without overlap",
            [100 * (off - on) / (off - none)],
            target=">= 70 %",
            unit="%",
            note=f"seconds of a pass of {OVERLAP.n_steps} steps: {on:.2f} with overlap, {off:.2f} "
            f"without, {none:.2f} where gradients pass the link by through shared memory; what "
            "sending takes of the two cores counts as not hidden",
        ),
        Row(
            f"{net}: seconds that a rank waits for gradients in a pass",
            "the same without overlap",
            [waits[0]],
            [waits[1]],
        ),
    ]


if __name__ == "__main__":
    be(measure_ours, measure_ddp)
