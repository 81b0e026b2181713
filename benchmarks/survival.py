"""What surviving costs: checkpoints, a death at half way, a rank at half speed.

LDA on worker processes of one thread each. The fit with a death has a checkpoint every tenth of the
run and loses a worker by kill -9 at its middle; nannies start another. The slow rank computes
everything twice; the ideal is the time of a split by speed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from benchmarks.corpora import split_documents, synthetic
from benchmarks.lda_cluster import blocks
from benchmarks.report import Row
from dask_petuum import LDA
from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions
from dask_petuum.runtime.program import DataParallelProgram
from dask_petuum.store.spec import TableSpec

CLUSTER = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
N_PARTITIONS = 4


class Kills:
    """A callback that kills a worker after a clock, once."""

    def __init__(self, client: Client, clock: int) -> None:
        self._client = client
        self._clock = clock
        self._n_clocks = 0

    def __call__(self, record: Mapping[str, float]) -> bool:
        """Count clocks; kill when it is time."""
        self._n_clocks += 1
        if self._n_clocks == self._clock:
            os.kill(max(self._client.run(os.getpid).values()), signal.SIGKILL)
        return False


def fit_lda(client: Client, X: Any, passes: int, kill_at: int = 0) -> tuple[float, LDA]:
    """Fit; seconds and the model."""
    model = LDA(
        100,
        max_iter=passes,
        doc_topic_prior=0.1,
        topic_word_prior=0.01,
        evaluate_every=0,
        random_state=0,
        consistency="bsp",
    )
    model.client = client
    if kill_at:
        kills = Kills(client, kill_at)
        print_record = model._print
        model._print = lambda record: kills(record) or print_record(record)  # type: ignore[method-assign]
    client.wait_for_workers(CLUSTER["n_workers"])
    began = time.perf_counter()
    model.fit(X)
    return time.perf_counter() - began, model


class Busy(DataParallelProgram):
    """Multiplies matrices, as many as the partition has rows; in one process twice as many."""

    def __init__(self, slow: int) -> None:
        self.slow = slow  # process that is slow

    def tables(self) -> list[TableSpec]:
        """A small table, so that ranks wait for each other."""
        return [TableSpec("t", (10, 10))]

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        """Two matrices."""
        ctx.table("t").view()
        return {"a": np.random.default_rng(0).random((160, 160))}

    def step(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        """Work in proportion to the rows."""
        n = partition.n_rows * (2 if os.getpid() == self.slow else 1)
        for _ in range(n):
            state["a"] @ state["a"]
        ctx.table("t").view().inc(np.ones((10, 10)))
        return {}


def seconds_per_clock(client: Client, slow: int, n_clocks: int, n_partitions: int = 12) -> float:
    """Mean of the last third of the run's clocks."""
    rows = np.zeros((48, 2))
    X = da.from_array(rows, chunks=(48 // n_partitions, 2))
    with ClusterJob(client, open_dataset(X)) as job:
        history = job.run(Busy(slow), RunOptions(n_clocks, consistency="bsp")).history
    third = n_clocks // 3
    return float((history[-1]["seconds"] - history[-third - 1]["seconds"]) / third)


def run(quick: bool) -> list[Row]:
    """Measure."""
    passes, repeats = (20, 1) if quick else (200, 3)
    counts, _ = synthetic(*(2000, 2000) if quick else (20_000, 10_000))
    train, test = split_documents(counts, counts.shape[0] // 20)
    X = blocks(train[: train.shape[0] // N_PARTITIONS * N_PARTITIONS], N_PARTITIONS)
    calm: list[float] = []
    without: list[float] = []
    killed: list[float] = []
    every: list[float] = []
    quality: list[tuple[float, float]] = []
    settings = {"distributed.deploy.lost-worker-timeout": "1 hour"}
    for _ in range(repeats):
        with (
            dask.config.set(settings),
            LocalCluster(**CLUSTER) as cluster,
            Client(cluster) as client,
        ):
            fit_lda(client, X, 3)  # compile
            with dask.config.set({"petuum.checkpoint.interval": None}):
                without.append(fit_lda(client, X, passes)[0])
            with dask.config.set({"petuum.checkpoint.interval": "5s"}):
                calm.append(fit_lda(client, X, passes)[0])
            with dask.config.set({"petuum.checkpoint.clocks": passes // 10}):
                seconds, model = fit_lda(client, X, passes)
                every.append(seconds)
                seconds, other = fit_lda(client, X, passes, kill_at=passes // 2)
                killed.append(seconds)
            quality.append((other.perplexity(test), model.perplexity(test)))
    with LocalCluster(**CLUSTER) as cluster, Client(cluster) as client:
        n_clocks = 60 if quick else 240
        pids = sorted(client.run(os.getpid).values())
        even = seconds_per_clock(client, 0, n_clocks)
        slow = [seconds_per_clock(client, pids[0], n_clocks) for _ in range(repeats)]
    return [
        Row(
            f"LDA, K=100, {passes} passes on 2 workers, a checkpoint every 5 s: seconds",
            "itself without checkpoints",
            calm,
            without,
            "<= 1.05",
            note="the default is one every 30 s",
        ),
        Row(
            "the same, a checkpoint every tenth of the run: seconds",
            "itself without checkpoints",
            every,
            without,
            "",
        ),
        Row(
            "the same with kill -9 of a worker at half way: seconds",
            "itself undisturbed, with the same checkpoints",
            killed,
            every,
            "<= 1.3",
        ),
        Row(
            "held-out perplexity after that death",
            "itself undisturbed",
            [a for a, _ in quality],
            [b for _, b in quality],
            "<= 1.01",
            "perplexity",
        ),
        Row(
            "12 partitions on 2 workers, one at half speed: seconds a clock at the end",
            "the ideal split, 4/3 of two equal workers",
            slow,
            [even * 4 / 3],
            "<= 1.2",
        ),
    ]
