"""A session on a Dask cluster: one rank per worker process, tables spread over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from distributed import Client

from dask_petuum.runtime.arm import workers_for_ranks
from dask_petuum.runtime.cluster_data import on_ranks
from dask_petuum.runtime.cluster_run import ClusterRun, new_run_id
from dask_petuum.runtime.pieces import given_pieces, join_pieces
from dask_petuum.runtime.session import RankFunction, Session
from dask_petuum.runtime.spec import RunSpec
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.local import LocalTable
from dask_petuum.store.spec import TableSpec

__all__ = ["ClusterSession"]


class ClusterSession(Session):
    """A session on a cluster; arms it where it is not.

    Between runs the tables stay on the workers, where the last run left them. A run with other
    ranks, or after new tables, gets them by way of this process.
    """

    # The mutable state is `_last`: the run that holds the tables.

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self._addresses = workers_for_ranks(client)
        self._last: ClusterRun | None = None

    def __repr__(self) -> str:
        return f"<ClusterSession on {len(self._addresses)} workers, tables {sorted(self._specs)}>"

    def _free(self) -> None:
        if self._last is not None:
            self._last.close()
            self._last = None

    def _sibling(self) -> Session:
        return ClusterSession(self.client)

    def _add(self, spec: TableSpec) -> None:
        """Nothing to do before a run: its ranks make their own rows."""

    def _read(self, spec: TableSpec) -> Any:
        if self._last is not None and spec.name in self._last.table_names:
            return self._last.table(spec.name)
        return LocalTable(spec).values

    def _run(
        self, function: RankFunction, partitions: Any, consistency: Consistency, seed: int
    ) -> list[Any]:
        self._addresses = workers_for_ranks(self.client)
        given = given_pieces(partitions)
        addresses = tuple(self._addresses[: len(given)] if given else self._addresses)
        pieces = on_ranks(self.client, given, addresses)
        run = ClusterRun(self.client, self._spec(addresses, consistency, seed))
        try:
            results = run.execute(partial(_call, function), pieces)
        except BaseException:
            run.close()
            raise
        if self._last is not None:
            self._last.close()
        self._last = run
        self.statistics = [statistics for _, statistics in results]
        return [result for result, _ in results]

    def _spec(self, addresses: tuple[str, ...], consistency: Consistency, seed: int) -> RunSpec:
        """Say what every rank is told; the tables go on from the last run's values."""
        spec = RunSpec(new_run_id(), addresses, tuple(self._specs.values()), consistency, seed)
        last = self._last
        if last is None:
            return spec
        same_tables = last.table_names == [table.name for table in spec.tables]
        if last.spec.addresses == addresses and same_tables:
            return replace(spec, after=last.spec.run_id)
        tables = tuple(
            replace(table, init=self._read(table)) if table.name in last.table_names else table
            for table in spec.tables
        )
        return replace(spec, tables=tables)


def _call(function: RankFunction, ctx: Any, pieces: Sequence[Any]) -> Any:
    return function(ctx, join_pieces(pieces))
