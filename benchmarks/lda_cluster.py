"""LDA on two worker processes: against one process, and against local mode's quality.

Both sides use one thread per process, on one machine: what two ranks cost is what is measured.
"""

from __future__ import annotations

import statistics
from typing import Any

import dask.array as da
import scipy.sparse as sp
from dask import delayed
from distributed import Client, LocalCluster

from benchmarks.corpora import split_documents, synthetic
from benchmarks.report import Row
from benchmarks.two_cores import in_pairs
from dask_petuum import LDA

#: Passes in a row of which one speed is taken.
WINDOW = 5


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
    """Tokens a second over the passes after the first few: the median of five passes in a row.

    Under bounded staleness a rank may learn that two passes are complete at the same time.
    """
    records = model.history_[skip:]
    seconds = [
        (after["seconds"] - before["seconds"]) / WINDOW
        for before, after in zip(records, records[WINDOW:], strict=False)
    ]
    return float(max(record["tokens"] for record in records) / statistics.median(seconds))


def run(quick: bool) -> list[Row]:
    """Measure speed-up and quality."""
    passes, repeats = (12, 1) if quick else (30, 5)
    counts, _ = synthetic(*(2000, 2000) if quick else (20_000, 10_000))
    train, test = split_documents(counts, counts.shape[0] // 20)
    X = blocks(train, 2)
    options = {"threads_per_worker": 1, "dashboard_address": None}
    with (
        LocalCluster(n_workers=1, **options) as single,
        LocalCluster(n_workers=2, **options) as double,
        Client(single, set_as_default=False) as to_single,
        Client(double, set_as_default=False) as to_double,
    ):
        clients = {1: to_single, 2: to_double}

        def measure(n_workers: int) -> float:
            options = {"consistency": "essp", "staleness": 1}
            return rate(fit(X, clients[n_workers], passes, **options), 3)

        pairs = in_pairs(measure, repeats)
    longer = 20 if quick else 100
    local = [fit(train, None, longer, seed).perplexity(test) for seed in range(min(repeats, 3))]
    clustered = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for seed in range(min(repeats, 3)):
            model = fit(X, client, longer, seed, consistency="essp", staleness=1)
            clustered.append(model.perplexity(test))
    return [
        Row(
            "LDA, K=100, two worker processes of 1 thread: tokens a second",
            "itself, one process of 1 thread",
            pairs.two,
            pairs.one,
            ">= 1.7",
            "tokens/s",
            ratio=pairs.ratio,
            note=pairs.note,
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
