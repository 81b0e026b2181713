"""MatrixFactorization on two worker processes against one, with one thread each.

What two ranks cost is what is measured: the data are those of :mod:`benchmarks.mf_vs_peers`. Ranks
do not wait for the sum of a pass's errors before they begin the next (``staleness=1``); factors are
the same as without.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

import numpy as np
import scipy.sparse as sp
from distributed import Client, LocalCluster

from benchmarks.mf_vs_peers import planted
from benchmarks.report import Row
from benchmarks.two_cores import in_pairs
from dask_petuum import MatrixFactorization


def run(quick: bool) -> list[Row]:
    """Ratings a second on two worker processes of one thread each, against one."""
    size, repeats = ((5_000, 2_500, 500_000), 1) if quick else ((20_000, 10_000, 4_000_000), 5)
    split = planted(*size)
    users, items, ratings = split.train
    matrix = sp.csr_array((ratings, (users, items)), shape=split.shape)
    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
    rows = []
    with ExitStack() as stack:
        clients = {}
        for n_workers in (1, 2):
            cluster = stack.enter_context(LocalCluster(n_workers=n_workers, **options))
            client = Client(cluster, set_as_default=False)
            clients[n_workers] = stack.enter_context(client)
        for solver, schedule in (("sgd", "fixed"), ("sgd", "free"), ("ccd", "fixed")):

            def measure(n_workers: int, solver: str = solver, schedule: str = schedule) -> float:
                model = MatrixFactorization(
                    40,
                    alpha=0.01,
                    solver=solver,
                    schedule=schedule,
                    max_iter=16,
                    tol=0,
                    keep_seen=False,
                    consistency="essp",
                    staleness=1,
                )
                model.client = clients[n_workers]
                history = model.fit(matrix).history_
                passes = np.diff([record["seconds"] for record in history])
                return len(ratings) / statistics.median(passes.tolist())

            is_default = (solver, schedule) == ("sgd", "fixed")
            pairs = in_pairs(measure, 3 * repeats if is_default else repeats)
            rows.append(
                Row(
                    f'MatrixFactorization(solver="{solver}", schedule="{schedule}"), '
                    f"{len(ratings):,} ratings, rank 40: ESSP s=1: 2 worker processes",
                    "itself, 1 worker process",
                    pairs.two,
                    pairs.one,
                    target=">= 1.6",
                    unit="ratings/s",
                    ratio=pairs.ratio,
                    note=pairs.note,
                )
            )
    return rows
