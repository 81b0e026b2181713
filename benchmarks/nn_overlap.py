"""What share of the time that gradients take on a link is hidden behind the backward pass.

On two hosts as in ``benchmarks/two_hosts.py``, one core each, joined by 200 Mbit/s. A perceptron of
8 layers of 512, whole gradients, trained with overlap, without (the same code, ``overlap=False``),
and with no exchange at all: both ranks at once, each by itself. In turn, five times; of each, the
median pass. Hidden is ``1 - (with - alone) / (without - alone)``.

Settings, and why:

- *link*: the kernel holds frames back, without a delay: with one, a process has to carry them,
  and takes its time from the two cores that compute.
- *batch*: all gradients, 8.4 MB, take 0.34 s on the link. The backward pass must take longer, and
  that of the first layer, half as long as another's since nothing comes before it, no less than one
  gradient on the link (42 ms): then the link is free when the last gradient is made. 8192 rows.
- *bound*: that last gradient is an eighth of all, and the next forward pass begins with its layer;
  nothing can hide it: at most 87.5 %. What sending and receiving takes of the cores is not hidden
  either, and is not left out.

    python -m benchmarks.run nn_overlap [--quick]
"""

from __future__ import annotations

import statistics
from typing import Any

from distributed import Client

from benchmarks.ddp import N_RANKS, Task, fit
from benchmarks.nn_over_link import random_rows, seconds_of_passes
from benchmarks.report import Row
from benchmarks.two_hosts import RATE, be, connect, measure_ours
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

TASK = Task((512,) * 9, 8192, 4, 3, settings={"sufficient_factors": False})
QUICK = Task((512,) * 9, 512, 4, 2, settings={"sufficient_factors": False})
N_REPEATS = 5

Measured = dict[str, Any]


def fit_alone(task: Task, X: Any, y: Any) -> list[float]:
    """Train in this process by itself; seconds of its passes."""
    model = NeuralNetClassifier(
        hidden_layer_sizes=task.widths[1:-1],
        optimizer=task.optimizer,
        lr=task.rate,
        batch_size=task.batch,
        max_epochs=task.n_passes,
        random_state=0,
        n_jobs=1,
        scheduler="local",
    )
    return seconds_of_passes(model.fit(X, y))


def seconds_alone(client: Client, task: Task, X: Any, y: Any) -> float:
    """Seconds of a pass on both workers at once, of the slower one."""
    chunks = [client.compute(list(each.to_delayed().ravel())) for each in (X, y)]
    homes = client.who_has(chunks[0])
    fits = [
        client.submit(fit_alone, task, rows, labels, workers=homes[rows.key], pure=False)
        for rows, labels in zip(*chunks, strict=True)
    ]
    return max(statistics.median(seconds) for seconds in client.gather(fits))


def measure_all(quick: bool) -> Measured:
    """Be the client."""
    task = QUICK if quick else TASK
    out: Measured = {"on": [], "off": [], "alone": [], "waits on": [], "waits off": []}
    with connect() as client:
        X, y = random_rows(client, task)
        for _ in range(1 if quick else N_REPEATS):
            for name, overlap in (("on", True), ("off", False)):
                model = fit(client, task, X, y, overlap=overlap)
                out[name].append(statistics.median(seconds_of_passes(model)))
                waits = [record["waited"] / N_RANKS for record in model.history_[2:]]
                out[f"waits {name}"].append(statistics.median(waits))
            out["alone"].append(seconds_alone(client, task, X, y))
    return out


def run(quick: bool) -> list[Row]:
    """Measure."""
    found = measure_ours("benchmarks.nn_overlap", quick, delay=0.0)
    task = QUICK if quick else TASK
    triples = list(zip(found["on"], found["off"], found["alone"], strict=True))
    hidden = [100 * (off - on) / (off - alone) for on, off, alone in triples]
    link = f"over {RATE / 1e6:.0f} Mbit/s"
    net = f"perceptron of 8 layers of 512, {task.batch} rows a rank, {link}"
    on, off, alone = (statistics.median(found[name]) for name in ("on", "off", "alone"))
    return [
        Row(
            f"{net}: time on the link that overlap hides",
            "the same without overlap",
            hidden,
            target=">= 70 %",
            unit="%",
            note=f"seconds of a pass of {task.n_steps} steps: {on:.2f} with overlap, {off:.2f} "
            f"without, {alone:.2f} with no exchange; at most 87.5 % can be hidden",
        ),
        Row(
            f"{net}: seconds that a rank waits for gradients in a pass",
            "the same without overlap",
            found["waits on"],
            found["waits off"],
            unit="s",
        ),
    ]


if __name__ == "__main__":
    be(measure_all)
