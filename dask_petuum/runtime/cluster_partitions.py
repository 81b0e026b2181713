"""The partitions of a job on a cluster: computed where they belong, and again when they are lost.

What was given stays within reach: Dask's graph of a lazy piece, or the caller's own rows. So a
partition whose worker is gone is made again, and one that belongs elsewhere moves worker to worker.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from distributed import Client, Future

from dask_petuum.data import Dataset, Partition, PieceSize, measure, to_partition
from dask_petuum.exceptions import RankLostError, RunError
from dask_petuum.runtime.arm import arm, workers_for_ranks
from dask_petuum.runtime.cluster_data import homes_of, put_pieces, scatter_to
from dask_petuum.runtime.cluster_run import new_run_id
from dask_petuum.runtime.cluster_tasks import (
    gather_pinned,
    released_on_failure,
    wait_pinned,
)
from dask_petuum.runtime.job import Check
from dask_petuum.runtime.placement import place_partitions
from dask_petuum.runtime.rebalance import rebalance
from dask_petuum.runtime.sent import Sent

__all__ = ["PlacedPartitions", "key_of"]

logger = logging.getLogger(__name__)


class PlacedPartitions:
    """Partitions, and the rank of each.

    Parameters
    ----------
    client
        Connected to the cluster, which is armed where it is not.
    dataset, check, dtype
        See :class:`dask_petuum.runtime.cluster_job.ClusterJob`.
    hashed
        Whether the pieces' contents are hashed, for checkpoints in files.
    """

    # The mutable state is where everything is: `addresses`, `ranks` and `futures`; `renew` changes
    # it. `speeds` is set by whoever has measured it.

    def __init__(
        self,
        client: Client,
        dataset: Dataset,
        check: Check | None = None,
        dtype: Any = None,
        hashed: bool = False,
    ) -> None:
        self._client = client
        self._dtype = dtype
        workers = workers_for_ranks(client)
        dataset = dataset.spread(len(workers))
        self._given = dataset.pieces()
        self.addresses: tuple[str, ...] = ()
        self.ranks: list[int] = []
        self.futures: list[Future] = []
        pieces = put_pieces(client, self._given, workers)
        mine = [p for p, given in zip(pieces, self._given, strict=True) if p is not given]
        with released_on_failure(mine), released_on_failure(self.futures):
            self.sizes: Sequence[PieceSize] = self._measure(
                pieces, partial(measure, check=check, hashed=hashed), workers
            )
            dataset.check(self.sizes)
            self._starts = [0, *accumulate(size.n_rows for size in self.sizes)]
            self._settle(workers[: len(pieces)], homes_of(client, pieces, workers[: len(pieces)]))
            self.futures += [self._make(index, piece) for index, piece in enumerate(pieces)]
            wait_pinned(client, self.futures, self.addresses)

    def __repr__(self) -> str:
        return f"<PlacedPartitions: {len(self.sizes)} on {len(self.addresses)} ranks>"

    @property
    def work(self) -> list[int]:
        """Work of each partition: its stored values."""
        return [size.nnz for size in self.sizes]

    def by_rank(self) -> list[list[Future]]:
        """The partitions of each rank."""
        out: list[list[Future]] = [[] for _ in self.addresses]
        for future, rank in zip(self.futures, self.ranks, strict=True):
            out[rank].append(future)
        return out

    def address(self, index: int) -> str:
        """Where a partition belongs."""
        return self.addresses[self.ranks[index]]

    def renew(
        self, leaving: Collection[str] = (), slowness: dict[str, float] | None = None
    ) -> None:
        """Place the partitions on the workers that are there now.

        Parameters
        ----------
        leaving
            Workers that are not to be used any longer.
        slowness
            Seconds that a worker takes for a unit of work; those that are not named are taken for
            the fastest.

        Raises
        ------
        RankLostError
            Where another worker is lost meanwhile, or none is left.
        RunError
            Where a partition that was computed again is not what it was.
        """
        try:
            there, able = arm(self._client), workers_for_ranks(self._client)
        except RunError as error:
            raise RankLostError(f"no worker is left: {error}") from error
        stay = [address for address in self.addresses if address in able]
        workers = [*stay, *sorted(set(able) - set(stay))]
        workers = [address for address in workers if address not in leaving] or workers
        workers = workers[: len(self.sizes)]
        before = list(self.futures)
        homes = homes_of(self._client, before, list(there))
        held = [bool(ranks) for ranks in homes]
        names = list(there)
        at = [[workers.index(names[i]) for i in ranks if names[i] in workers] for ranks in homes]
        old = [self.address(index) for index in range(len(before))]
        self._settle(workers, at, slowness)
        for index, future in enumerate(before):
            target = self.address(index)
            if held[index] and old[index] == target:
                continue
            if held[index]:
                logger.info("Partition %d moves from %s to %s", index, old[index], target)
                self.futures[index] = self._submit(_same, future, index=index)
            else:
                logger.info("Partition %d is made again on %s", index, target)
                self.futures[index] = self._make(index, self._piece(index, target))
        wait_pinned(self._client, self.futures, self.addresses)
        made = [index for index, was_held in enumerate(held) if not was_held]
        self._check_sizes(made)

    def release(self) -> None:
        """Let go of the partitions."""
        for future in self.futures:
            future.release()
        self.futures = []

    def _settle(
        self,
        workers: Sequence[str],
        homes: Sequence[Sequence[int]],
        slowness: dict[str, float] | None = None,
    ) -> None:
        """Decide which worker gets which partition; ranks are numbered by first partitions."""
        placed = place_partitions(self.work, homes, len(workers))
        if slowness:
            fastest = min(slowness.values())
            placed = rebalance(self.work, placed, [slowness.get(a, fastest) for a in workers])
        first = {place: index for index, place in reversed(list(enumerate(placed)))}
        used = sorted(set(placed), key=lambda place: first[place])
        self.ranks = [used.index(place) for place in placed]
        self.addresses = tuple(workers[place] for place in used)

    def _measure(
        self, pieces: Sequence[Future], function: Any, workers: Sequence[str]
    ) -> list[PieceSize]:
        measured = self._client.map(
            Sent(function),
            pieces,
            key=key_of("measure"),
            workers=list(workers),
            pure=False,
        )
        with released_on_failure(measured):
            sizes: list[PieceSize] = gather_pinned(self._client, measured, workers)
        return sizes

    def _piece(self, index: int, address: str) -> Future:
        given = self._given[index]
        if hasattr(given, "dask"):
            future: Future = self._client.compute(given)
            return future
        if isinstance(given, Future):
            return given
        return scatter_to(self._client, given, address)

    def _make(self, index: int, piece: Future) -> Future:
        return self._submit(
            to_partition, piece, index, self._starts[index], self._dtype, index=index
        )

    def _submit(self, function: Any, *arguments: Any, index: int) -> Future:
        future: Future = self._client.submit(
            function,
            *arguments,
            key=f"{key_of('partition')}-{index}",
            workers=[self.address(index)],
            pure=False,
        )
        return future

    def _check_sizes(self, indices: Sequence[int]) -> None:
        """A graph that gives other data when it is computed again is no basis for a fit."""
        futures = [
            self._submit(_size_of_partition, self.futures[index], index=index) for index in indices
        ]
        found = gather_pinned(self._client, futures, self.addresses)
        for index, (n_rows, nnz) in zip(indices, found, strict=True):
            size = self.sizes[index]
            if (n_rows, nnz) != (size.n_rows, size.nnz):
                raise RunError(
                    f"partition {index} was lost and came back with {n_rows} rows and {nnz} values "
                    f"where it had {size.n_rows} and {size.nnz}: its graph does not give the same "
                    "data again"
                )


def key_of(name: str) -> str:
    """A key that no other task has."""
    return f"petuum-{name}-{new_run_id()}"


def _same(partition: Partition) -> Partition:
    return partition


def _size_of_partition(part: Partition) -> tuple[int, int]:
    size = measure((part.data, part.y, part.sample_weight))
    return size.n_rows, size.nnz
