"""The plain interface: tables, and a function of one's own that runs in every rank.

::

    with petuum.connect(client) as ps:
        ps.create_table("w", shape=(1000, 10), dtype="f4")
        results = ps.run(train, partitions, consistency="essp", staleness=1)
        w = ps.table("w").to_numpy()

The same program runs in this process (one rank) and on a Dask cluster (one rank per worker).
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from types import TracebackType
from typing import Any

from dask_petuum.config import consistency_and_staleness
from dask_petuum.exceptions import RankError, TableError
from dask_petuum.results import table_to_xarray
from dask_petuum.runtime.local import LocalContext
from dask_petuum.runtime.pieces import given_pieces, join_pieces
from dask_petuum.runtime.threads import Threads, count_threads
from dask_petuum.runtime.where import find_client
from dask_petuum.store.audit_run import AuditReport, audit
from dask_petuum.store.consistency import Consistency, Staleness
from dask_petuum.store.local import LocalTable
from dask_petuum.store.spec import TableSpec, UpdateRule

__all__ = ["LocalSession", "Session", "SessionTable", "connect", "disarm"]

RankFunction = Callable[[Any, Any], Any]


class SessionTable:
    """A table of a session, as the caller sees it: whole, between runs."""

    def __init__(self, session: Session, spec: TableSpec) -> None:
        self._session = session
        self.spec = spec

    def __repr__(self) -> str:
        return f"<table {self.spec.name!r} {self.spec.shape} {self.spec.dtype}>"

    def to_numpy(self) -> Any:
        """Read all values: ndarray (n_rows, n_cols); of a sparse table, a ``csr_array``."""
        self._session._check_open()
        return self._session._read(self.spec)

    def to_xarray(self) -> Any:
        """Read all values, labelled: ``xarray.DataArray`` with the table's dims and coords."""
        return table_to_xarray(self.spec, self.to_numpy())


class Session(ABC):
    """Tables that live from ``connect`` to the end of its ``with`` block, and runs over them."""

    def __init__(self) -> None:
        self._specs: dict[str, TableSpec] = {}
        #: Per rank of the last run: bytes, rows, seconds waited, histogram of staleness.
        self.statistics: list[dict[str, Any]] = []
        self._closed = False

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def create_table(  # noqa: PLR0913 - the fields of a TableSpec
        self,
        name: str,
        shape: tuple[int, int],
        dtype: Any = "float32",
        *,
        init: Any = 0,
        dims: tuple[str, str] = ("row", "column"),
        coords: Mapping[str, Sequence[Any]] | None = None,
        sparse: bool = False,
        rule: UpdateRule | None = None,
        staleness: int | None = None,
    ) -> SessionTable:
        """Create a table; see :class:`dask_petuum.store.spec.TableSpec` for the parameters.

        Raises
        ------
        TableError
            For a name that is taken, or anything that cannot be.
        """
        self._check_open()
        if isinstance(name, str) and name in self._specs:
            raise TableError(f"there is a table {name!r} already")
        spec = TableSpec(
            name,
            shape,
            dtype,
            init=init,
            dims=dims,
            coords=coords or {},
            sparse=sparse,
            rule=rule or UpdateRule(),
            staleness=staleness,
        )
        self._add(spec)
        self._specs[name] = spec
        return SessionTable(self, spec)

    def table(self, name: str) -> SessionTable:
        """Look up a table."""
        if not isinstance(name, str) or name not in self._specs:
            raise TableError(f"no table {name!r}; there are {sorted(self._specs)}")
        return SessionTable(self, self._specs[name])

    def run(
        self,
        function: RankFunction,
        partitions: Any = None,
        *,
        consistency: str | None = None,
        staleness: Staleness | None = None,
        seed: int = 0,
    ) -> list[Any]:
        """Call ``function(ctx, partition)`` once in every rank; results in rank order.

        Parameters
        ----------
        function
            Gets a :class:`dask_petuum.runtime.context.Context` and the rows that lie in its rank.
        partitions
            A list with one item per partition; or an array, DataFrame or Dask collection, which
            is cut by rows (a tuple of them, such as ``(X, y)``, is cut alike, and the function
            gets tuples). Where a rank gets several partitions they are joined by rows. None: the
            function gets None.
        consistency
            "bsp", "ssp", "essp" or "asp"; None: the setting ``petuum.consistency`` ("essp").
        staleness
            Clocks that a read may lag; or a range ``(low, high)``, in which each rank moves its
            bound by the time it waits, or "auto" for (0, 8); None: 0 in BSP and ASP, else the
            setting ``petuum.staleness`` (1).
        seed
            Root of the random streams of ``ctx.seed``.

        Raises
        ------
        RankError
            Where the function raised, with that rank's traceback; its own error is the cause.
        RankLostError
            Where a worker is lost.
        ValueError, TableError
            For arguments that cannot be; before anything is started.
        """
        self._check_open()
        if not callable(function):
            raise TypeError(f"function must be callable as function(ctx, data), got {function!r}")
        _check_whole("seed", seed, 0)
        return self._run(function, partitions, _model(consistency, staleness), int(seed))

    def audit(
        self,
        *,
        consistency: str | None = None,
        staleness: Staleness | None = None,
        n_clocks: int = 20,
        seed: int = 0,
    ) -> AuditReport:
        """Check here, with tables of its own, that the store keeps its promise.

        Every rank adds to fingerprint tables, in which each read shows exactly the increments
        that it holds: none lost, none twice, none older than the bound allows.

        Parameters
        ----------
        consistency, staleness
            As for :meth:`run`: what is run with and checked.
        n_clocks
            Clocks of every rank.
        seed
            Of what is added where.

        Returns
        -------
        dask_petuum.store.audit_run.AuditReport
            With ``violations``, which is empty where the promise was kept.

        Raises
        ------
        ValueError
            For a model, a bound or a number of clocks that cannot be.
        """
        self._check_open()
        _check_whole("n_clocks", n_clocks, 1)
        _check_whole("seed", seed, 0)
        model = _model(consistency, staleness)
        with self._sibling() as session:
            return audit(session, model, n_clocks, seed)

    def close(self) -> None:
        """Free the tables; the session is of no use afterwards."""
        self._closed = True
        self._free()

    def _check_open(self) -> None:
        if self._closed:
            raise TableError("this session is closed, its tables are gone; connect() opens another")

    @abstractmethod
    def _free(self) -> None:
        """Free the tables; may be called again."""

    @abstractmethod
    def _sibling(self) -> Session:
        """Open another session in the same place."""

    @abstractmethod
    def _add(self, spec: TableSpec) -> None: ...

    @abstractmethod
    def _read(self, spec: TableSpec) -> Any: ...

    @abstractmethod
    def _run(
        self, function: RankFunction, partitions: Any, consistency: Consistency, seed: int
    ) -> list[Any]: ...


class LocalSession(Session):
    """A session in this process: one rank.

    The tables are changed in place: what a run that failed added to them stays.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        super().__init__()
        self._n_threads = count_threads(n_jobs)
        self._tables: dict[str, LocalTable] = {}

    def __repr__(self) -> str:
        return f"<LocalSession in this process, tables {sorted(self._tables)}>"

    def _free(self) -> None:
        self._tables.clear()

    def _sibling(self) -> Session:
        return LocalSession(self._n_threads)

    def _add(self, spec: TableSpec) -> None:
        self._tables[spec.name] = LocalTable(spec)

    def _read(self, spec: TableSpec) -> Any:
        return self._tables[spec.name].values.copy()

    def _run(
        self, function: RankFunction, partitions: Any, consistency: Consistency, seed: int
    ) -> list[Any]:
        pieces = given_pieces(partitions)
        values = [piece.compute() if hasattr(piece, "compute") else piece for piece in pieces]
        try:
            with Threads(self._n_threads) as threads:
                ctx = LocalContext(self._tables, threads, seed)
                try:
                    result = function(ctx, join_pieces(values))
                except Exception as error:
                    text = f"rank 0 raised {error!r}\n\n{traceback.format_exc()}"
                    raise RankError(text, 0) from error
                ctx.finish()
        finally:
            for table in self._tables.values():
                table.forget_views()
        self.statistics = [ctx.counts.to_dict()]
        return [result]


def _check_whole(name: str, value: Any, low: int) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or int(value) < low:
        raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")


def _model(consistency: str | None, staleness: Any) -> Consistency:
    """Check a choice; what is not chosen is as configured."""
    return Consistency.parse(*consistency_and_staleness(consistency, staleness))


def connect(client: Any = None) -> Session:
    """Open a session: on a Dask cluster, or in this process.

    Parameters
    ----------
    client
        A Dask client; or a scheduler's address; or "local" for this process; None: the active
        client if there is one, else this process.

    Returns
    -------
    Session
        A context manager.

    Examples
    --------
    >>> import dask_petuum as petuum
    >>> def train(ctx, partition):
    ...     view = ctx.table("w").view()
    ...     view.inc([[1.0], [2.0]])
    ...     ctx.clock()
    ...     return ctx.rank
    >>> with petuum.connect("local") as ps:
    ...     table = ps.create_table("w", shape=(2, 1))
    ...     results = ps.run(train)
    ...     values = ps.table("w").to_numpy()
    >>> results, values.ravel().tolist()
    ([0], [1.0, 2.0])
    """
    if client is None or isinstance(client, str):
        client = find_client(client)
    if client is None:
        return LocalSession()
    if not hasattr(client, "scheduler_info"):
        raise TypeError(
            f"client must be a Dask client, a scheduler's address, 'local' or None, got {client!r}"
        )
    from dask_petuum.runtime.cluster_session import ClusterSession

    return ClusterSession(client)


def disarm(client: Any = None) -> None:
    """Remove everything of dask_petuum from a cluster; runs under way end.

    Parameters
    ----------
    client
        A Dask client or a scheduler's address; None: the active client.

    Raises
    ------
    ValueError
        Where there is no client.
    """
    if client is None or isinstance(client, str):
        client = find_client(client)
    if client is None:
        raise ValueError("there is no active Dask client to disarm; give one")
    from dask_petuum.runtime.arm import disarm as disarm_cluster

    disarm_cluster(client)
