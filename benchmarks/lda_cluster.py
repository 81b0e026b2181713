"""LDA on two worker processes: against one process, and against local mode's quality.

Both sides use one thread per process, on one machine: what two ranks cost is what is measured.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import dask.array as da
import scipy.sparse as sp
from dask import delayed
from distributed import Client, LocalCluster

from benchmarks.corpora import split_documents, synthetic
from benchmarks.report import Row
from dask_petuum import LDA


def blocks(counts: Any, n_blocks: int) -> Any:
    """The rows as a Dask array of CSR blocks."""
    n_rows = counts.shape[0] // n_blocks
    parts = [
        da.from_delayed(
            delayed(sp.csr_matrix)(counts[i * n_rows : (i + 1) * n_rows]),
            shape=(n_rows, counts.shape[1]),
            dtype=counts.dtype,
            meta=sp.csr_matrix((0, 0), dtype=counts.dtype),
        )
        for i in range(n_blocks)
    ]
    return da.concatenate(parts)


def fit(X: Any, client: Client | None, passes: int, seed: int = 0, **options: Any) -> LDA:
    """Fit with 100 topics, one thread a process."""
    model = LDA(
        100,
        max_iter=passes,
        doc_topic_prior=0.1,
        topic_word_prior=0.01,
        evaluate_every=0,
        random_state=seed,
        n_jobs=1,
        scheduler="local" if client is None else None,
        **options,
    )
    model.client = client
    return model.fit(X)


def rate(model: LDA, skip: int) -> float:
    """Tokens a second over the passes after the first few, as the median pass."""
    records = model.history_[skip:]
    seconds = [
        after["seconds"] - before["seconds"] for before, after in itertools.pairwise(records)
    ]
    return max(record["tokens"] for record in records) / statistics.median(seconds)


def run(quick: bool) -> list[Row]:
    """Measure speed-up and quality."""
    passes, repeats = (8, 1) if quick else (40, 3)
    counts, _ = synthetic(*(2000, 2000) if quick else (20_000, 10_000))
    train, test = split_documents(counts, counts.shape[0] // 20)
    X = blocks(train, 2)
    one, two = [], []
    for _ in range(repeats):
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            one.append(rate(fit(X, client, passes, consistency="essp", staleness=1), 3))
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            essp = fit(X, client, passes, consistency="essp", staleness=1)
            two.append(rate(essp, 3))
    longer = 20 if quick else 100
    local = [fit(train, None, longer, seed).perplexity(test) for seed in range(repeats)]
    clustered = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for seed in range(repeats):
            model = fit(X, client, longer, seed, consistency="essp", staleness=1)
            clustered.append(model.perplexity(test))
    return [
        Row(
            "LDA, K=100, two worker processes of 1 thread: tokens a second",
            "itself, one process of 1 thread",
            two,
            one,
            ">= 1.7",
            "tokens/s",
        ),
        Row(
            f"LDA on two ranks, ESSP s=1: held-out perplexity after {longer} passes",
            "itself, local",
            clustered,
            local,
            "<= 1.01",
            "perplexity",
        ),
    ]
