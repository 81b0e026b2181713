"""What bounded staleness is for: four ranks, each pausing at random.

In one clock of five a rank takes six times as long as usual. BSP waits for the slowest rank in
every clock; ESSP with s=5 lets ranks run up to five clocks apart. Two figures: time per clock of a
program that only pauses (its ideal is 0.57: every rank's own mean time by the mean of the slowest),
and time until LDA has the held-out perplexity that BSP has at its end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import dask_petuum as petuum
from benchmarks.corpora import split_documents, synthetic
from benchmarks.report import Row
from dask_petuum.algorithms import lda, lda_fit
from dask_petuum.algorithms.lda_program import LDAProgram

N_RANKS = 4
BASE_SECONDS = 0.03
#: One clock in so many takes PAUSE times as long.
EVERY = 5
PAUSE = 6


def length(rank: int, clock: int) -> float:
    """Seconds of a rank's clock: the same draw in every run."""
    rng = np.random.default_rng([rank, clock])
    return BASE_SECONDS * (PAUSE if rng.integers(EVERY) == 0 else 1)


def pausing(ctx: Any, partition: Any) -> float:
    """Pause, add, clock; return the seconds a clock took."""
    view = ctx.table("t").view()
    ctx.barrier()
    start = time.perf_counter()
    for clock in range(partition):
        time.sleep(length(ctx.rank, clock))
        view.inc(np.ones((10, 10), dtype=np.float32))
        ctx.clock()
    return (time.perf_counter() - start) / partition


def seconds_per_clock(client: Client, consistency: str, staleness: int, n_clocks: int) -> float:
    """Mean over the ranks."""
    with petuum.connect(client) as ps:
        ps.create_table("t", shape=(10, 10), dtype="float32")
        runs = ps.run(pausing, [n_clocks] * N_RANKS, consistency=consistency, staleness=staleness)
    return float(np.mean(runs))


class PausingLDA(LDAProgram):
    """LDA whose ranks pause: every pass lasts as long as the pausing program's clock."""

    def step(self, ctx: Any, partition: Any, state: Any) -> Mapping[str, float]:
        """Sample; then wait for the rest of the clock's length."""
        start = time.perf_counter()
        out = super().step(ctx, partition, state)
        left = length(ctx.rank, ctx.clock_index) * 2 - (time.perf_counter() - start)
        time.sleep(max(left, 0.0))
        return out


def fit(client: Client, X: Any, consistency: str, staleness: int, passes: int) -> Any:
    """Fit on four ranks; the model, with seconds in its history."""
    model = lda.LDA(
        20,
        max_iter=passes,
        doc_topic_prior=0.1,
        topic_word_prior=0.01,
        evaluate_every=0,
        random_state=0,
        consistency=consistency,
        staleness=staleness,
    )
    model.client = client
    return model.fit(X)


def time_to_perplexity(client: Client, quick: bool) -> tuple[float, float, str]:
    """Seconds of BSP's passes, and seconds until ESSP has BSP's held-out perplexity."""
    counts, _ = synthetic(2000, 1000, 20, length=60, seed=1)
    train, test = split_documents(counts, counts.shape[0] // 20)
    rows = train.shape[0] // N_RANKS
    X = da.from_array(train[: rows * N_RANKS].toarray(), chunks=(rows, -1))
    original, lda_fit.LDAProgram = lda_fit.LDAProgram, PausingLDA
    try:
        passes = 10 if quick else 30
        bsp = fit(client, X, "bsp", 0, passes)
        goal = bsp.perplexity(test.toarray())
        for n in range(passes, 3 * passes, 2):
            essp = fit(client, X, "essp", 5, n)
            reached = essp.perplexity(test.toarray())
            if reached <= goal * 1.002:
                break
    finally:
        lda_fit.LDAProgram = original
    note = f"perplexity {goal:.1f} after {passes} passes; ESSP {reached:.1f} after {n}"
    return bsp.history_[-1]["seconds"], essp.history_[-1]["seconds"], note


def run(quick: bool) -> list[Row]:
    """Measure both."""
    n_clocks, repeats = (20, 1) if quick else (100, 3)
    with (
        LocalCluster(n_workers=N_RANKS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        bsp: Sequence[float] = [
            seconds_per_clock(client, "bsp", 0, n_clocks) for _ in range(repeats)
        ]
        essp = [seconds_per_clock(client, "essp", 5, n_clocks) for _ in range(repeats)]
        fits = [time_to_perplexity(client, quick) for _ in range(repeats)]
    return [
        Row(
            "four ranks, each pausing at random: seconds a clock, ESSP s=5",
            "itself, BSP",
            essp,
            list(bsp),
            "<= 0.65",
        ),
        Row(
            "the same with LDA (K=20): seconds to the held-out perplexity of BSP's end",
            "itself, BSP",
            [row[1] for row in fits],
            [row[0] for row in fits],
            "<= 0.75",
            note=fits[0][2],
        ),
    ]
