"""What share of the time that gradients take on a link is hidden behind the backward pass.

On two hosts as in ``benchmarks/two_hosts.py``, one core each. A perceptron of 8 layers of 512,
whole gradients, trained with overlap, without (the same code, ``overlap=False``), and with no
exchange at all: both ranks at once, each by itself. In turn, several times; of each, the median
pass. Communication time is what a rank waits for gradients, and what it still waits with overlap is
not hidden: ``1 - waits with / waits without``.

A second row says what of that arrives in the end, in seconds of a pass: ``1 - (with - alone) /
(without - alone)``. It has the same target and is less, since sending and receiving takes each
rank's only core, which without overlap has nothing else to do.

Settings, and why:

- *link*: 100 Mbit/s. To send and receive 8.4 MB of gradients takes each rank 40 to 70 ms of its
  only core, at any rate, so the link's own time must be long beside it: 0.67 s. The kernel holds
  frames back, without a delay: with one, a process has to carry them, and takes its time from the
  two cores that compute.
- *batch*: the backward pass must take longer than all gradients take on the link: 8192 rows, 0.9 s.
- *bound*: the last gradient, an eighth of all, leaves when the backward pass ends, and the next
  forward pass begins with its layer; nothing can hide it. 84 ms, and up to 30 more where the
  gradient before it is still on the link, since the first layer's backward pass is half as long as
  another's: of 0.67 s, 83 to 87 % can be hidden.

    python -m benchmarks.run nn_overlap [--quick]
"""

from __future__ import annotations

import statistics
from typing import Any

from distributed import Client

from benchmarks.ddp import N_RANKS, Task, fit
from benchmarks.nn_over_link import random_rows, seconds_of_passes
from benchmarks.pair import Pair
from benchmarks.report import Row
from benchmarks.two_hosts import be, connect, measure_ours
from dask_petuum.nn import NeuralNetClassifier

__all__ = ["run"]

TASK = Task((512,) * 9, 8192, 4, 3, settings={"sufficient_factors": False})
QUICK = Task((512,) * 9, 512, 4, 2, settings={"sufficient_factors": False})
N_REPEATS = 5
#: Of the link, bits a second.
RATE = 100e6

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
    found = measure_ours("benchmarks.nn_overlap", quick, Pair(RATE))
    task = QUICK if quick else TASK
    triples = list(zip(found["on"], found["off"], found["alone"], strict=True))
    arrives = [100 * (off - on) / (off - alone) for on, off, alone in triples]
    waits = list(zip(found["waits on"], found["waits off"], strict=True))
    hidden = [100 * (1 - on / off) for on, off in waits]
    link = f"over {RATE / 1e6:.0f} Mbit/s"
    net = f"perceptron of 8 layers of 512, {task.batch} rows a rank, {link}"
    on, off, alone = (statistics.median(found[name]) for name in ("on", "off", "alone"))
    return [
        Row(
            f"{net}: waiting for gradients that overlap hides",
            "the same without overlap",
            hidden,
            target=">= 70 %",
            unit="%",
            note="seconds that a rank waits in a pass, with overlap and without: "
            + ", ".join(f"{on:.2f} {off:.2f}" for on, off in waits)
            + "; at most 87 % can be hidden",
        ),
        Row(
            f"{net}: of the seconds that communication adds to a pass, those that overlap saves",
            "the same without overlap",
            arrives,
            target=">= 70 %",
            unit="%",
            note=f"seconds of a pass of {task.n_steps} steps: {on:.2f} with overlap, {off:.2f} "
            f"without, {alone:.2f} with no exchange",
        ),
    ]


if __name__ == "__main__":
    be(measure_all)
