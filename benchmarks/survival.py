"""What surviving costs: checkpoints, a death at half way, a rank at half speed.

LDA on worker processes of one thread each. The fit with a death has a checkpoint every tenth of the
run and loses a worker by kill -9 at its middle; nannies start another. The slow rank computes
everything twice; the ideal is the time of a split by speed.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
#: Rows of a matrix that is multiplied by itself: about 1 ms.
N_SIDE = 320
PAIRED = "The median of the ratios of runs that follow each other."


class Kills:
    """A callback that kills a worker after a clock, once; after none if that is 0."""

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


class Watch:
    """A callback that asks now and then how much of checkpoints the workers keep."""

    def __init__(self, client: Client, every: int) -> None:
        self._client = client
        self._every = every
        self._n_clocks = 0
        self.n_bytes = 0

    def __call__(self, record: Mapping[str, float]) -> bool:
        """Count clocks; ask when it is time."""
        self._n_clocks += 1
        if self._n_clocks % self._every == 0:
            self.n_bytes = max(self.n_bytes, *self._client.run(kept_bytes).values())
        return False


def kept_bytes(dask_worker: Any) -> int:
    """Bytes of checkpoints on a worker."""
    return int(dask_worker.plugins["petuum"].kept.vault.nbytes)


class Fitted(NamedTuple):
    """A fit."""

    seconds: float
    model: LDA
    n_kept_bytes: int


def fit_lda(client: Client, X: Any, passes: int, kill_at: int = 0) -> Fitted:
    """Fit, with a death or without."""
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
    watch = Watch(client, max(passes // 3, 1))
    kills = Kills(client, kill_at)
    model._print = lambda record: kills(record) or watch(record)  # type: ignore[method-assign]
    client.wait_for_workers(CLUSTER["n_workers"])
    began = time.perf_counter()
    model.fit(X)
    return Fitted(time.perf_counter() - began, model, watch.n_bytes)


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
        return {"a": np.random.default_rng(0).random((N_SIDE, N_SIDE))}

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


def costs(client: Client, X: Any, quick: bool) -> list[Row]:
    """Measure what checkpoints cost: fits with and without, in turn."""
    passes, repeats = (20, 1) if quick else (100, 4)
    ours: list[Fitted] = []
    theirs: list[Fitted] = []
    for repeat in range(repeats):
        for interval in ("5s", None) if repeat % 2 else (None, "5s"):
            with dask.config.set({"petuum.checkpoint.interval": interval}):
                (ours if interval else theirs).append(fit_lda(client, X, passes))
    n_bytes = max(fitted.n_kept_bytes for fitted in ours)
    ratio = _paired(ours, theirs)
    return [
        Row(
            f"LDA, K=100, {passes} passes on 2 workers, a checkpoint every 5 s",
            "itself without checkpoints",
            [fitted.seconds for fitted in ours],
            [fitted.seconds for fitted in theirs],
            "<= 1.05",
            ratio=ratio,
            note=f"The default is one every 30 s: {100 * (ratio - 1) / 6:.1f} %. Own parts and "
            f"copies of another's take {n_bytes / 2**20:.0f} MiB of each worker, twice that while "
            f"the next ones come. {PAIRED}",
        )
    ]


def disturbed(client: Client, X: Any, test: Any, quick: bool) -> list[Row]:
    """Measure a death: fits with and without, in turn."""
    passes, repeats = (20, 1) if quick else (180, 3)
    ours: list[Fitted] = []
    theirs: list[Fitted] = []
    often = {"petuum.checkpoint.interval": None, "petuum.checkpoint.clocks": passes // 10}
    with dask.config.set(often):
        for _ in range(repeats):
            theirs.append(fit_lda(client, X, passes))
            ours.append(fit_lda(client, X, passes, kill_at=passes // 2))
            fit_lda(client, X, 3)  # the worker that was started again loads its kernels
    return [
        Row(
            f"LDA, {passes} passes, a checkpoint every tenth of them, kill -9 of a worker half way",
            "itself undisturbed, with the same checkpoints",
            [fitted.seconds for fitted in ours],
            [fitted.seconds for fitted in theirs],
            "<= 1.3",
            ratio=_paired(ours, theirs),
            note=f"Its nanny starts another, which takes 2 to 3 s of that. {PAIRED}",
        ),
        Row(
            "held-out perplexity after that death",
            "itself undisturbed",
            [fitted.model.perplexity(test) for fitted in ours],
            [fitted.model.perplexity(test) for fitted in theirs],
            "<= 1.01",
            "perplexity",
        ),
    ]


def slowed(quick: bool) -> list[Row]:
    """Measure what moving partitions away from a slow rank gives, beside two equal ranks."""
    n_clocks, repeats = (60, 1) if quick else (180, 3)
    even, slow = [], []
    with LocalCluster(**CLUSTER) as cluster, Client(cluster) as client:
        pids = sorted(client.run(os.getpid).values())
        for _ in range(repeats):
            with dask.config.set({"petuum.recovery.rebalance": False}):
                even.append(seconds_per_clock(client, 0, n_clocks // 3) * 4 / 3)
            slow.append(seconds_per_clock(client, pids[0], n_clocks))
    ratio = statistics.median(a / b for a, b in zip(slow, even, strict=True))
    return [
        Row(
            "12 partitions on 2 workers, one at half speed: a clock, in the run's last third",
            "the ideal split, 4/3 of two equal workers",
            slow,
            even,
            "<= 1.2",
            ratio=ratio,
            note=PAIRED,
        )
    ]


def run(quick: bool) -> list[Row]:
    """Measure."""
    counts, _ = synthetic(*(2000, 2000) if quick else (20_000, 10_000))
    train, test = split_documents(counts, counts.shape[0] // 20)
    X = blocks(train[: train.shape[0] // N_PARTITIONS * N_PARTITIONS], N_PARTITIONS)
    settings = {"distributed.deploy.lost-worker-timeout": "1 hour"}
    with dask.config.set(settings), LocalCluster(**CLUSTER) as cluster, Client(cluster) as client:
        fit_lda(client, X, 3)  # compile
        rows = [*costs(client, X, quick), *disturbed(client, X, test, quick)]
    return [*rows, *slowed(quick)]


def _paired(ours: Sequence[Fitted], theirs: Sequence[Fitted]) -> float:
    return statistics.median(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True))
