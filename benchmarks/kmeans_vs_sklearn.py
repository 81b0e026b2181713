"""K-means against scikit-learn: a Lloyd pass from the same start, and the start itself.

A pass is what 20 passes more cost a fit, divided by 20: checks, summaries and the last labels
are in both fits and drop out. The inertia at the end must be the same.

    python -m benchmarks.run kmeans_vs_sklearn [--quick]
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn.cluster import KMeans as Peer
from sklearn.cluster import kmeans_plusplus
from sklearn.datasets import make_blobs
from threadpoolctl import threadpool_limits

from benchmarks.report import Row
from dask_petuum.algorithms.kmeans import KMeans

__all__ = ["run"]

N_THREADS, N_CLUSTERS, N_FEATURES, N_PASSES, N_REPEATS = 2, 50, 20, 20, 3
#: Largest relative difference of the inertias that counts as equal: float32 sums of the peer.
SAME = 3e-5


def make_rows(name: str, n_rows: int, dtype: Any) -> Any:
    """Rows in overlapping clusters (as many as are sought), or in none at all."""
    if name == "noise":
        return np.random.default_rng(0).standard_normal((n_rows, N_FEATURES)).astype(dtype)
    rows, _ = make_blobs(n_rows, N_FEATURES, centers=N_CLUSTERS, cluster_std=4.0, random_state=0)
    return rows.astype(dtype)


def fit_ours(rows: Any, n_passes: int) -> KMeans:
    """Fit from the first rows as centres."""
    init = rows[:N_CLUSTERS]
    model = KMeans(
        N_CLUSTERS, init=init, tol=0, max_iter=n_passes, n_jobs=N_THREADS, scheduler="local"
    )
    return model.fit(rows)


def fit_theirs(rows: Any, n_passes: int) -> Any:
    """Fit the same with scikit-learn."""
    model = Peer(
        N_CLUSTERS,
        init=rows[:N_CLUSTERS],
        n_init=1,
        tol=0,
        max_iter=n_passes,
        algorithm="lloyd",
    )
    return model.fit(rows)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Call; seconds, and what it returned."""
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def time_passes(name: str, dtype: Any, n_rows: int) -> Row:
    """Time a pass of both, alternating."""
    rows = make_rows(name, n_rows, dtype)
    fit_ours(rows[:2000], 2)  # compile
    ours, theirs = [], []
    difference = 0.0
    for _ in range(N_REPEATS):
        for fit, figures in ((fit_ours, ours), (fit_theirs, theirs)):
            short, _ = timed(fit, rows, 1)
            long, model = timed(fit, rows, 1 + N_PASSES)
            figures.append((long - short) / N_PASSES * 1e3)
            difference = model.inertia_ / difference - 1 if difference else model.inertia_
        if abs(difference) > SAME:
            raise RuntimeError(f"{name}, {dtype.__name__}: inertias differ by {difference:.2e}")
        last, difference = difference, 0.0
    return Row(
        f"KMeans, {n_rows:,} x {N_FEATURES} {dtype.__name__} {name}, k={N_CLUSTERS}: a Lloyd pass "
        f"(mean of {N_PASSES}), same start",
        f"scikit-learn {sklearn.__version__}, lloyd",
        ours,
        theirs,
        target="<= 0.8",
        unit="ms",
        note=f"inertias differ by {abs(last):.0e}",
    )


def time_first_pass(dtype: Any, n_rows: int) -> Row:
    """Time a pass that knows nothing of the rows yet: all distances, all sums."""
    rows = make_rows("noise", n_rows, dtype)
    fit_ours(rows[:2000], 2)
    ours = [fit_ours(rows, 1).history_[0]["seconds"] * 1e3 for _ in range(N_REPEATS)]
    theirs = []
    for _ in range(N_REPEATS):
        short, _ = timed(fit_theirs, rows, 1)
        long, _ = timed(fit_theirs, rows, 6)
        theirs.append((long - short) / 5 * 1e3)
    return Row(
        f"KMeans, {n_rows:,} x {N_FEATURES} {dtype.__name__} noise, k={N_CLUSTERS}: the first pass",
        f"scikit-learn {sklearn.__version__}, lloyd (all its passes cost the same)",
        ours,
        theirs,
        unit="ms",
    )


def time_start(n_rows: int) -> Row:
    """Time k-means++ (with the summary of the rows on our side)."""
    rows = make_rows("blobs", n_rows, np.float32)
    model = KMeans(N_CLUSTERS, max_iter=1, n_jobs=N_THREADS, random_state=0, scheduler="local")
    model.fit(rows[:2000])
    fixed = [timed(fit_ours, rows, 1)[0] for _ in range(N_REPEATS)]
    whole = [timed(model.fit, rows)[0] for _ in range(N_REPEATS)]
    theirs = [
        timed(lambda: kmeans_plusplus(rows, N_CLUSTERS, random_state=0))[0]
        for _ in range(N_REPEATS)
    ]
    return Row(
        f"KMeans, {n_rows:,} x {N_FEATURES} float32 blobs: k-means++ of {N_CLUSTERS} centres",
        f"scikit-learn {sklearn.__version__}, kmeans_plusplus",
        [a - b for a, b in zip(whole, fixed, strict=True)],
        theirs,
    )


def run(quick: bool) -> list[Row]:
    """Run all; ``quick``: a twentieth of the rows."""
    n_rows = 50_000 if quick else 1_000_000
    with threadpool_limits(N_THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits that stop after a pass say so
        rows = [
            time_passes(name, dtype, n_rows)
            for name in ("blobs", "noise")
            for dtype in (np.float32, np.float64)
        ]
        return [*rows, time_first_pass(np.float32, n_rows), time_start(n_rows)]
