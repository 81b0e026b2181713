"""What every rank of a run is told at its start, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_petuum.checkpoint.saved import Manifest
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.identity import Identity
from dask_petuum.store.spec import TableSpec

__all__ = ["Keeping", "RunSpec", "rank_of_task"]

_TASK = "petuum-rank-"


@dataclass(frozen=True)
class Keeping:
    """Where the checkpoints of a fit go.

    Parameters
    ----------
    fit_id
        Of the fit, whose epochs are runs of their own.
    buddies
        For each rank the worker that keeps a copy of its part; "": none.
    url
        Where they are files as well; None: in memory only.
    identity
        What a fit must agree with to go on from one.
    """

    fit_id: str
    buddies: tuple[str, ...] = ()
    url: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_lone(self) -> bool:
        """Whether what is kept would be lost with the worker that it is of."""
        return not self.buddies and self.url is None


@dataclass(frozen=True)
class RunSpec:
    """One run on a cluster.

    Parameters
    ----------
    run_id
        Unique on the cluster. A fit that goes on after a loss does so as another run, an epoch
        later: what the old one still sends finds nobody.
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
    epoch
        Generation of the fit's membership.
    keeping
        Where checkpoints go; None: there are none.
    saved
        The checkpoint that the run goes on from.
    """

    run_id: str
    addresses: tuple[str, ...]
    tables: Sequence[TableSpec]
    consistency: Consistency
    seed: int = 0
    n_threads: int | None = None
    after: str | None = None
    epoch: int = 0
    keeping: Keeping | None = None
    saved: Manifest | None = None

    @property
    def first_clock(self) -> int:
        """Clock in which every rank begins."""
        return 0 if self.saved is None else self.saved.clock

    def identity(self, rank: int) -> Identity:
        """Who a rank is in the store's messages."""
        return Identity(self.run_id, rank, len(self.addresses), self.epoch)

    def task_key(self, rank: int) -> str:
        """Key of the Dask task that is a rank."""
        return f"{_TASK}{self.run_id}-{rank}"


def rank_of_task(key: object) -> tuple[str, int] | None:
    """Run and rank of a Dask task's key; None for other tasks."""
    if not isinstance(key, str) or not key.startswith(_TASK):
        return None
    run_id, _, rank = key.removeprefix(_TASK).rpartition("-")
    return run_id, int(rank)
