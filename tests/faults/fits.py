"""Fits of fingerprints under a schedule of faults, and the check of every cell that they leave."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np
from crew import Crew
from fingerprint import Fingerprints, clocks_of, marks_of
from history import check_history
from injector import Fault, Injector, least_strikes

from dask_petuum.data import Dataset, open_dataset
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions, RunResult

__all__ = ["EVERY", "MAX_CLOCKS", "N_PARTITIONS", "assert_marks", "fit_fingerprints", "some_rows"]

N_PARTITIONS = 6
#: Far more clocks than a schedule takes: a fit ends when all of its faults have been survived.
MAX_CLOCKS = 20_000
#: Clocks between two checkpoints.
EVERY = 5


def some_rows() -> Dataset:
    """A row for each partition: the program does not look at them."""
    return open_dataset(da.zeros((N_PARTITIONS, 1), chunks=(1, 1)))


def fit_fingerprints(
    crew: Crew, schedule: Sequence[Fault], consistency: str, place: Place | None = None
) -> None:
    """Run until the schedule is over; check every cell, and that nothing is left behind."""
    crew.refill()
    bound = 2 if consistency in ("ssp", "essp") else 0
    program = Fingerprints(N_PARTITIONS, None if consistency == "asp" else bound)
    injector = Injector(crew, schedule, at_once=place is not None)
    options = RunOptions(
        MAX_CLOCKS,
        consistency=consistency,
        staleness=bound,
        monitor=injector,
        save_clocks=EVERY,
    )
    with ClusterJob(crew.client, some_rows(), place=place) as job:
        result = job.run(program, options)
    print(f"{consistency}: {schedule} -> {injector.done}, {result.n_clocks} clocks")
    assert len(injector.done) == len(schedule), "the fit ended before the schedule"
    assert len(injector.epochs) > 1
    assert injector.n_struck >= least_strikes(schedule)
    assert_marks(result, program.lag)
    crew.assert_free()


def assert_marks(result: RunResult, bound: int | None) -> None:
    """Each partition's marks are those of the clocks that it made, each once; and the store's own
    checker finds that every read was within the bound (None: there is none).
    """
    counts = np.concatenate([output["n"] for output in result.outputs])
    np.testing.assert_array_equal(result.tables["marks"], marks_of(counts))
    clocks = [record["clock"] for record in result.history]
    assert clocks == list(range(1, len(clocks) + 1))
    assert counts.min() <= len(clocks) <= counts.max(), "ranks end apart in ASP only"
    assert all(record["n"] == N_PARTITIONS for record in result.history[: counts.min()])
    reads = [output["reads"] for output in result.outputs]
    assert [len(own) for own in reads] == counts.tolist()
    assert check_history(reads, counts, clocks_of(result.tables["marks"]), bound) == []
