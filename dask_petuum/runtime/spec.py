"""What every rank of a run is told at its start, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_petuum.store.consistency import Consistency
from dask_petuum.store.identity import Identity
from dask_petuum.store.spec import TableSpec

__all__ = ["RunSpec", "rank_of_task"]

_TASK = "petuum-rank-"


@dataclass(frozen=True)
class RunSpec:
    """One run on a cluster.

    Parameters
    ----------
    run_id
        Unique on the cluster.
    addresses
        Worker of each rank.
    tables
        The run's tables.
    consistency
        Model and bound.
    seed
        Root of every random stream.
    n_threads
        Threads of each rank; None: those of its worker.
    after
        Run (of the same tables, on the same workers) whose final values this one starts with.
    """

    run_id: str
    addresses: tuple[str, ...]
    tables: Sequence[TableSpec]
    consistency: Consistency
    seed: int = 0
    n_threads: int | None = None
    after: str | None = None

    def identity(self, rank: int) -> Identity:
        """Who a rank is in the store's messages."""
        return Identity(self.run_id, rank, len(self.addresses))

    def task_key(self, rank: int) -> str:
        """Key of the Dask task that is a rank."""
        return f"{_TASK}{self.run_id}-{rank}"


def rank_of_task(key: object) -> tuple[str, int] | None:
    """Run and rank of a Dask task's key; None for other tasks."""
    if not isinstance(key, str) or not key.startswith(_TASK):
        return None
    run_id, _, rank = key.removeprefix(_TASK).rpartition("-")
    return run_id, int(rank)
