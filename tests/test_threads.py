"""Threads of a rank: what ``n_jobs`` means here and on a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE
from programs import LeastSquares

from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.job import LocalJob, RunOptions
from dask_petuum.runtime.threads import Threads, count_threads

DATA = np.ones((4, 2)), np.ones(4)


class Counting(LeastSquares):
    """Tells how many threads its rank has."""

    def finish(self, ctx, partition, state):
        return {"n_threads": np.array([ctx.n_threads])}


@pytest.fixture(scope="module")
def three_threads() -> Iterator[Any]:
    """Two workers of three threads each, in this process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=3, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, timeout=PATIENCE)
        yield client


def threads_of(job: Any) -> list[int]:
    """Threads of each rank in a run of the job."""
    with job:
        result = job.run(Counting(2, 4), RunOptions(max_clocks=1))
    return [int(output["n_threads"][0]) for output in result.outputs]


@pytest.mark.parametrize(
    ("n_jobs", "expected"), [(None, 3), (1, 1), (2, 2), (5, 5), (-1, 3), (-2, 2), (-3, 1), (-9, 1)]
)
def test_ranks_of_a_cluster_count_by_the_threads_of_their_workers(three_threads, n_jobs, expected):
    job = ClusterJob(three_threads, open_dataset(*DATA), n_jobs=n_jobs)
    assert threads_of(job) == [expected, expected]


@pytest.mark.parametrize(("n_jobs", "left_out"), [(-1, 0), (-2, 1), (-1000, 1000)])
def test_negative_numbers_count_back_from_all_cores_here(n_jobs, left_out):
    cores = len(os.sched_getaffinity(0))
    assert count_threads(n_jobs) == max(1, cores - left_out)
    assert threads_of(LocalJob(open_dataset(*DATA), n_jobs=n_jobs)) == [max(1, cores - left_out)]


@pytest.mark.parametrize(
    ("n_jobs", "message"),
    [(0, "n_jobs must not be 0"), (1.5, "None or an integer, got 1.5"), (True, "None or an")],
)
def test_what_cannot_be_is_refused_before_anything_starts(three_threads, n_jobs, message):
    for start in (LocalJob, lambda *data, **more: ClusterJob(three_threads, *data, **more)):
        with pytest.raises(ValueError, match=message):
            start(open_dataset(*DATA), check=must_not_be_called, n_jobs=n_jobs)


def must_not_be_called(*piece):
    raise AssertionError("the data must not be looked at")


@pytest.mark.parametrize("n_threads", [1, 3])
def test_results_are_in_the_order_of_the_items(n_threads):
    with Threads(n_threads) as threads:
        assert threads.map(lambda n: n * n, range(20)) == [n * n for n in range(20)]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_in_a_thread_is_raised(n_threads):
    with Threads(n_threads) as threads, pytest.raises(ZeroDivisionError):
        threads.map(lambda n: 1 // n, [2, 1, 0, 1])
