"""LDA by rotation on two worker processes: memory of the word-topic table, quality, speed.

The memory is what each rank holds of the table at most: its own blocks, those on their way to it,
and those that wait to be sent.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.corpora import split_documents, synthetic
from benchmarks.lda_cluster import blocks, fit
from benchmarks.report import Row
from dask_petuum.algorithms.lda_fit import make_program
from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import RunOptions


def share_held(model: Any, X: Any, client: Client) -> float:
    """The largest part of the word-topic table that a rank holds in a fit."""
    with ClusterJob(client, open_dataset(X), n_jobs=1) as job:
        program = make_program(model, job, None, drop_seed=True)
        result = job.run(program, RunOptions(5, seed=0))
    whole = sum(block["counts"].nbytes for block in result.blocks)
    return float(max(result.block_bytes) / whole)


def seconds_a_pass(model: Any) -> float:
    """Median seconds of a pass, the first few left out."""
    times = [record["seconds"] for record in model.history_[3:]]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def run(quick: bool) -> list[Row]:
    """Fit both ways and compare."""
    passes, repeats = (10, 1) if quick else (100, 3)
    counts, _ = synthetic(*(2000, 2000) if quick else (20_000, 10_000))
    train, test = split_documents(counts, counts.shape[0] // 20)
    X = blocks(train, 2)
    local = [fit(train, None, passes, seed=seed).perplexity(test) for seed in range(repeats)]
    rotated, held, times, data_times = [], [], [], []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for seed in range(repeats):
            model = fit(X, client, passes, seed=seed, parallelism="model")
            rotated.append(model.perplexity(test))
            held.append(share_held(model, X, client))
            times.append(seconds_a_pass(model))
            data_times.append(seconds_a_pass(fit(X, client, 20, seed=seed)))
    return [
        Row(
            "LDA by rotation, 2 ranks: largest part of the word-topic table at one rank",
            "the whole table",
            held,
            [1.0],
            "<= 0.55",
            "tables",
        ),
        Row(
            f"LDA by rotation, 2 ranks: held-out perplexity after {passes} passes",
            "itself, local",
            rotated,
            local,
            "<= 1.01",
            "perplexity",
        ),
        Row(
            "LDA by rotation, 2 ranks: seconds a pass",
            "itself, parallelism='data'",
            times,
            data_times,
            note="48 blocks, each of them a message a pass",
        ),
    ]
