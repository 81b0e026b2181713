"""Neural networks on two hosts joined by a slow link, against torch's DistributedDataParallel.

The link (``benchmarks/links.py``, needs root) has 200 Mbit/s and 5 ms each way; memory is not
shared. Both hosts are this machine, so the carrier of frames takes a part of its cores, of either
side's. Rows: samples a second of the perceptron of ``nn_vs_ddp`` and its bytes, with sufficient
factors; seconds of training until a perceptron on the tf-idf of 20 Newsgroups labels 80 % of the
test part rightly, with 50 local steps; and how much of the time that gradients take on the link is
hidden behind computing, 8 layers.

    python -m benchmarks.run nn_over_link [--quick]
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
from distributed import Client

from benchmarks.corpora import newsgroups_tfidf
from benchmarks.ddp import N_RANKS, PEER, Task, train
from benchmarks.links import ADDRESSES, DEVICE, Link
from benchmarks.report import Row
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

RATE, DELAY = 200e6, 0.005
PORTS = (8786, 29500)
#: What every process gets: cores are shared by two ranks, memory is not.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": DEVICE,
    "DASK_PETUUM__SHARED_MEMORY": "false",
}
SPEED = Task((784, 1024, 1024, 10), 128, 5)
NEWS = Task((17_507, 64, 20), 64, 12, 0, "Adam", 1e-3, {"local_steps": 50})
#: Its backward pass takes about as long as its gradients take on the link.
OVERLAP = Task((512,) * 9, 8192, 5, 4, settings={"sufficient_factors": False})
#: Share of test documents to be labelled rightly.
AIM = 0.80


def random_rows(client: Client, task: Task) -> tuple[Any, Any]:
    """Random rows on the workers, one chunk each."""
    chunk, rng = task.batch * task.n_steps, da.random.default_rng(0)
    shape = (N_RANKS * chunk, task.widths[0])
    X = rng.standard_normal(shape, chunks=(chunk, shape[1]), dtype="f4")
    y = rng.integers(task.widths[-1], size=shape[0], chunks=chunk)
    persisted: tuple[Any, Any] = client.persist([X, y])
    return persisted


def fit(client: Client, task: Task, X: Any, y: Any, **more: Any) -> Any:
    """Train on two ranks; the model, whose history has the seconds of every clock."""
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


def share_memory(is_on: bool) -> None:
    """Let the ranks of a worker share memory, past the link, or not."""
    dask.config.set({"petuum.shared-memory": is_on})


def seconds_of_passes(model: Any) -> list[float]:
    """Seconds of each pass, without the first two."""
    pairs = itertools.pairwise(model.history_[1:])
    return [after["seconds"] - before["seconds"] for before, after in pairs]


def seconds_to_aim(client: Client, task: Task) -> float:
    """Seconds of the shortest training that reaches the aim; each is made anew, to the bit."""
    X, y, X_test, y_test = newsgroups_tfidf()
    for n_passes in range(3, task.n_passes + 1):
        model = fit(client, task, X, y, max_epochs=n_passes)
        if model.score(X_test, y_test) >= AIM:
            return float(model.history_[-1]["seconds"])
    raise RuntimeError(f"{AIM} of the test documents is not reached in {task.n_passes} passes")


def measure_ours(quick: bool) -> dict[str, Any]:
    """Be the client, on the first host."""
    repeats = 1 if quick else 2
    with Client(f"tcp://{ADDRESSES[0]}:{PORTS[0]}") as client:
        client.wait_for_workers(N_RANKS, timeout=60)
        model = fit(client, SPEED, *random_rows(client, SPEED))
        out: dict[str, Any] = {"speed": seconds_of_passes(model)}
        out["bytes"] = [model.history_[-1][key] for key in ("gradient_bytes", "bytes_saved")]
        half = fit(client, SPEED, *random_rows(client, SPEED), wire_dtype="bfloat16")
        out["half"] = seconds_of_passes(half)
        rows = random_rows(client, OVERLAP)
        for name, more in (("on", {}), ("off", {"overlap": False})):
            out[name] = seconds_of_passes(fit(client, OVERLAP, *rows, **more))
        client.run(share_memory, True)
        out["none"] = seconds_of_passes(fit(client, OVERLAP, *rows))
        client.run(share_memory, False)
        if not quick:
            out["news"] = [seconds_to_aim(client, NEWS) for _ in range(repeats)]
    return out


def measure_ddp(rank: int, quick: bool) -> dict[str, Any]:
    """Be a rank of the peer."""
    rng = np.random.default_rng(rank)
    n_rows = SPEED.batch * SPEED.n_steps
    rows = rng.standard_normal((n_rows, SPEED.widths[0]), np.float32)
    labels = rng.integers(SPEED.widths[-1], size=n_rows)
    meet = f"tcp://{ADDRESSES[0]}:{PORTS[1]}"
    out: dict[str, Any] = {"speed": train(rank, meet, rows, labels, SPEED)[2:]}
    if not quick:
        X, y, X_test, y_test = newsgroups_tfidf()
        part = slice(rank * X.shape[0] // N_RANKS, (rank + 1) * X.shape[0] // N_RANKS)
        rows_test = torch.from_numpy(X_test.toarray())

        def reached(module: torch.nn.Module) -> bool:
            with torch.no_grad():
                right = module(rows_test).argmax(dim=1).numpy() == y_test
            return bool(right.mean() >= AIM)

        out["news"] = [sum(train(rank, meet, X[part], y[part], NEWS, reached))]
    return out


def run_ours(link: Link, folder: Path, quick: bool) -> dict[str, Any]:
    """Start a cluster of a worker on each host, and its client."""
    cluster, where = "distributed.cli.dask_", f"tcp://{ADDRESSES[0]}:{PORTS[0]}"
    scheduler = ["scheduler", "--host", ADDRESSES[0], "--port", str(PORTS[0]), "--no-dashboard"]
    start(link, 0, f"{cluster}{scheduler[0]}", *scheduler[1:])
    for host, address in enumerate(ADDRESSES):
        options = ("--host", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        start(link, host, f"{cluster}worker", where, *options)
    target = folder / "ours"
    return result(start(link, 0, __spec__.name, "ours", str(target), str(int(quick))), target)


def run_ddp(link: Link, folder: Path, quick: bool) -> dict[str, Any]:
    """Start the two ranks of the peer."""
    processes = [
        start(link, rank, __spec__.name, str(rank), str(folder / str(rank)), str(int(quick)))
        for rank in range(N_RANKS)
    ]
    return result(processes[0], folder / "0")


def start(link: Link, host: int, module: str, *words: str) -> Any:
    """Start a Python module on a host."""
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    env = {**ENVIRONMENT, "PYTHONPATH": paths}
    return link.start(host, [sys.executable, "-W", "ignore", "-m", module, *words], env)


def result(process: Any, target: Path) -> dict[str, Any]:
    """Wait for a process; what it has written."""
    if process.wait() != 0:
        raise RuntimeError(f"it ended with {process.returncode}: see above")
    out: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return out


def on_link(measure: Callable[[Link, Path, bool], dict[str, Any]], quick: bool) -> dict[str, Any]:
    """Measure over a new link."""
    with Link(RATE, DELAY) as link, tempfile.TemporaryDirectory() as folder:
        return measure(link, Path(folder), quick)


def run(quick: bool) -> list[Row]:
    """Measure."""
    ours, theirs = on_link(run_ours, quick), on_link(run_ddp, quick)
    return rows_of(ours, theirs)


def rows_of(ours: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    """Make rows of what both sides measured."""
    link = f"{RATE / 1e6:.0f} Mbit/s and {1000 * DELAY:.0f} ms"
    net = f"perceptron {'-'.join(map(str, SPEED.widths))}, {SPEED.batch} rows a rank, 2 ranks"
    n_rows = N_RANKS * SPEED.batch * SPEED.n_steps

    def rates(seconds: list[float]) -> list[float]:
        return [n_rows / each for each in seconds]

    sent, saved = ours["bytes"]
    out = [
        Row(
            f"{net}, over {link}, BSP with factors: samples a second",
            PEER,
            rates(ours["speed"]),
            rates(theirs["speed"]),
            ">= 3",
            "samples/s",
        ),
        Row(
            f"{net}, over {link}, BSP with factors in bfloat16: samples a second",
            PEER,
            rates(ours["half"]),
            rates(theirs["speed"]),
            "",
            "samples/s",
        ),
        Row(f"{net}: bytes a pass", "full gradients", [sent], [sent + saved], "<= 0.35", "bytes"),
        overlap_row(ours, link),
    ]
    if "news" in ours:
        out.append(
            Row(
                f"20 Newsgroups, perceptron {'-'.join(map(str, NEWS.widths))} on tf-idf, over "
                f"{link}, 50 local steps: to {AIM:.0%} of the test documents",
                PEER,
                ours["news"],
                theirs["news"],
                "<= 0.2",
                "s",
            )
        )
    return out


def overlap_row(ours: dict[str, Any], link: str) -> Row:
    """Say what share of the time on the link is hidden."""
    on, off, none = (statistics.median(ours[name]) for name in ("on", "off", "none"))
    return Row(
        f"perceptron of 8 layers of 512, {OVERLAP.batch} rows a rank, over {link}: "
        "time on the link that overlap hides",
        "the same without overlap",
        [100 * (off - on) / (off - none)],
        target=">= 70 %",
        unit="%",
        note=f"seconds of a pass of {OVERLAP.n_steps} steps: {on:.2f} with overlap, {off:.2f} "
        f"without, {none:.2f} where gradients pass the link by through shared memory",
    )


def main() -> None:
    """Be one of the processes."""
    role, target, quick = sys.argv[1], Path(sys.argv[2]), bool(int(sys.argv[3]))
    out = measure_ours(quick) if role == "ours" else measure_ddp(int(role), quick)
    target.write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main()
