"""A job on the workers of a Dask cluster: partitions stay there, programs run beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from distributed import Client

from dask_petuum.config import get
from dask_petuum.data import Dataset, Partition, PieceSize
from dask_petuum.exceptions import RankLostError
from dask_petuum.runtime.checkpoints import Checkpoints, Place
from dask_petuum.runtime.cluster_fit import ClusterFit
from dask_petuum.runtime.cluster_partitions import PlacedPartitions, key_of
from dask_petuum.runtime.cluster_tasks import gather_pinned, released_on_failure
from dask_petuum.runtime.cluster_wait import wait_for_workers
from dask_petuum.runtime.fit_identity import identity_of
from dask_petuum.runtime.job import Check, Job
from dask_petuum.runtime.options import RunOptions, RunResult
from dask_petuum.runtime.program import Program
from dask_petuum.runtime.sent import Sent
from dask_petuum.runtime.threads import check_n_jobs

__all__ = ["ClusterJob"]

R = TypeVar("R")
logger = logging.getLogger(__name__)


class ClusterJob(Job):
    """A job on a cluster: one rank per worker that has partitions.

    Parameters
    ----------
    client
        Connected to the cluster, which is armed where it is not.
    dataset
        What ``fit`` was given. Dask partitions stay on their workers where the balance of their
        nonzeros allows it, and those of a wide array are cut by rows where there are fewer than
        workers; data in this process is cut into one piece per worker and sent. Ranks
        are numbered in the order of their first partitions, and a float table's sum of a clock in
        BSP is that of the ranks in this order, each of which adds up its partitions in theirs.
    check
        Called with each piece where it lies.
    dtype
        Type that the partitions' values get (None: as they are).
    n_jobs
        Threads of each rank; None or -1: those of its worker; -2: all of these but one, and so
        on, as in joblib, counted by the worker with the fewest where they differ.

    place
        Where checkpoints are files; None: they are in the workers' memory only.

    Raises
    ------
    ValueError
        For ``n_jobs`` that cannot be, before anything is started.
    """

    def __init__(
        self,
        client: Client,
        dataset: Dataset,
        *,
        check: Check | None = None,
        dtype: Any = None,
        n_jobs: int | None = None,
        place: Place | None = None,
    ) -> None:
        self._client = client
        check_n_jobs(n_jobs)
        self._n_jobs = n_jobs
        self._place = place or Place()
        hashed = self._place.url is not None
        self._partitions = self._persist(
            lambda: PlacedPartitions(client, dataset, check, dtype, hashed)
        )
        self.sizes: Sequence[PieceSize] = self._partitions.sizes

    def __repr__(self) -> str:
        return f"<ClusterJob: {self._partitions!r}>"

    def map(self, function: Callable[[Partition], R]) -> list[R]:
        """Call a function on each partition, in its rank's worker."""
        sent = Sent(function)
        return self._persist(lambda: self._map(sent), self._partitions.renew)

    def run(self, program: Program, options: RunOptions) -> RunResult:
        """Run a program in all ranks; go on after losses."""
        has_url = self._place.url is not None
        identity = identity_of(program, options, self.sizes) if has_url else {}
        checkpoints = Checkpoints(self._place, identity, program.resumable)
        fit = ClusterFit(self._client, self._partitions, program, options, checkpoints)
        fit.n_jobs = self._n_jobs
        return fit.run()

    def close(self) -> None:
        """Let go of the partitions."""
        self._partitions.release()

    def _map(self, sent: Sent) -> list[Any]:
        placed, key = self._partitions, key_of("map")
        futures = [
            self._client.submit(
                sent, part, key=f"{key}-{index}", workers=[placed.address(index)], pure=False
            )
            for index, part in enumerate(placed.futures)
        ]
        with released_on_failure(futures):
            return gather_pinned(self._client, futures, placed.addresses)

    def _persist(self, work: Callable[[], R], mend: Callable[[], None] | None = None) -> R:
        """Do something again after losses, as often as is configured."""
        is_again = False
        for left in reversed(range(int(get("recovery.attempts")) + 1)):
            try:
                if is_again and not wait_for_workers(self._client):
                    raise RankLostError("no worker has come back")
                if is_again and mend is not None:
                    mend()
                return work()
            except RankLostError as error:
                if not left:
                    raise
                logger.warning("%s; it is done again", error)
                is_again = True
        raise AssertionError("the last attempt returns or raises")
