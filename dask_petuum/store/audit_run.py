"""An audit of a store that is running: every rank adds, reads and checks what it reads.

What each rank adds in each clock follows from the seed alone, so every rank knows by itself what
all the others must have added, and checks its own reads (:mod:`dask_petuum.store.audit`) without
sending them anywhere. Works with whatever keeps the contracts of the runtime's Context and Session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.store.audit import End, Event, Final, Inc, Read, Violation, check
from dask_petuum.store.consistency import Consistency

__all__ = ["AuditReport", "Fingerprint", "audit"]

Array = npt.NDArray[Any]

#: Fingerprint tables: one of each kind of row and of number.
TABLES: Mapping[str, Mapping[str, Any]] = {
    "fingerprint_dense": {"dtype": "int64", "sparse": False},
    "fingerprint_sparse": {"dtype": "float32", "sparse": True},
}
#: Rows of each table per rank: enough that every rank owns some and that some are left alone.
ROWS_PER_RANK = 3


@dataclass(frozen=True)
class RankReport:
    """What one rank found."""

    n_reads: int
    n_increments: int
    violations: Sequence[Violation]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes
    ----------
    n_reads
        Reads that were checked, over all ranks.
    n_increments
        Rows that were added to, over all ranks and clocks.
    violations
        Promises that were broken; none, if the store is right.
    """

    consistency: Consistency
    n_ranks: int
    n_clocks: int
    n_reads: int
    n_increments: int
    violations: Sequence[Violation] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def __str__(self) -> str:
        model = self.consistency
        head = (
            f"{model.model} with a bound of {model.high} clocks, {self.n_ranks} ranks, "
            f"{self.n_clocks} clocks: {self.n_reads} reads of {self.n_increments} increments, "
            f"{len(self.violations)} violations"
        )
        return "\n".join([head, *(f"{v.kind}: {v.text}" for v in self.violations[:20])])


@dataclass(frozen=True)
class Fingerprint:
    """The function that every rank runs in an audit; picklable.

    Parameters
    ----------
    n_ranks, n_clocks
        Shape of a fingerprint row.
    consistency
        What the run was started with: what is checked.
    seed
        Of what is added where.
    """

    n_ranks: int
    n_clocks: int
    consistency: Consistency
    seed: int = 0

    @property
    def n_rows(self) -> int:
        """Rows of each table."""
        return ROWS_PER_RANK * self.n_ranks

    def tables(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and the other arguments of ``create_table`` of each table."""
        shape = (self.n_rows, self.n_ranks * self.n_clocks)
        for name, options in TABLES.items():
            yield name, {"shape": shape, "init": 0, **options}

    def __call__(self, ctx: Any, partition: Any) -> RankReport:
        """Add and read for ``n_clocks`` clocks; then check what was read."""
        started = ctx.clock_index
        mine = [view for name in TABLES for view in self._open(ctx, name)]
        others = [rank for rank in range(self.n_ranks) if rank != ctx.rank]
        events: list[Event] = [inc for rank in others for inc in self.all(rank)]
        for clock in range(self.n_clocks):
            events += [self._read(ctx.rank, clock, view) for view in mine]
            events += self._add(ctx.rank, clock, mine)
            events += [self._read(ctx.rank, clock, view) for view in mine]
            events.append(End(ctx.rank, clock + 1))
            if clock + 1 == self.n_clocks:
                ctx.barrier()
            else:
                ctx.clock()
        if ctx.clock_index != started + self.n_clocks:
            raise RuntimeError(f"{self.n_clocks} clocks moved clock_index to {ctx.clock_index}")
        events += [
            Final(name, self._values(opened.view, self.n_rows))
            for name in TABLES
            for opened in mine
            if opened.table == name and opened.whole
        ]
        n_rows = dict.fromkeys(TABLES, self.n_rows)
        found = check(events, self.n_ranks, self.n_clocks, n_rows)
        n_reads = sum(isinstance(event, Read) for event in events)
        own = sum(len(e.rows) for e in events if isinstance(e, Inc) and e.rank == ctx.rank)
        return RankReport(n_reads, own, found)

    def all(self, rank: int) -> Iterator[Inc]:
        """What a rank adds in all its clocks."""
        for clock in range(self.n_clocks):
            for name in TABLES:
                for rows, amounts in self._plan(rank, clock, name):
                    yield Inc(rank, clock, name, rows, amounts)

    def _plan(self, rank: int, clock: int, name: str) -> list[tuple[Array, Array]]:
        """Rows and amounts, for the view of all rows and for the one of some."""
        key = [self.seed, rank, clock, list(TABLES).index(name)]
        rng = np.random.default_rng(np.random.SeedSequence(key))
        out = []
        for rows in (np.arange(self.n_rows), self._some_rows(rank)):
            chosen = rows[rng.random(len(rows)) < 0.5]
            out.append((chosen, rng.integers(1, 4, len(chosen))))
        return out

    def _some_rows(self, rank: int) -> Array:
        return np.arange(rank % 2, self.n_rows, 2)

    def _open(self, ctx: Any, name: str) -> Iterator[_Opened]:
        """Open two overlapping views: of all rows, and of some, without read-my-writes."""
        table = ctx.table(name)
        number = 2 * list(TABLES).index(name)
        rows = self._some_rows(ctx.rank)
        whole = table.view(read_my_writes=True)
        yield _Opened(name, number, np.arange(self.n_rows), whole, whole=True)
        some = table.view(rows, read_my_writes=False)
        yield _Opened(name, number + 1, rows, some, whole=False)

    def _add(self, rank: int, clock: int, mine: Sequence[_Opened]) -> Iterator[Inc]:
        for opened in mine:
            rows, amounts = self._plan(rank, clock, opened.table)[0 if opened.whole else 1]
            delta = np.zeros((len(rows), self.n_ranks, self.n_clocks))
            delta[:, rank, clock] = amounts
            dtype = TABLES[opened.table]["dtype"]
            at = np.searchsorted(opened.rows, rows)
            flat = delta.reshape(len(rows), self.n_ranks * self.n_clocks).astype(dtype)
            opened.view.inc(flat, at=at)
            yield Inc(
                rank, clock, opened.table, rows, amounts, opened.number, deferred=not opened.whole
            )

    def _read(self, rank: int, clock: int, opened: _Opened) -> Read:
        model = self.consistency
        bound = model.high if model.bounded else None
        return Read(
            rank,
            clock,
            opened.table,
            opened.rows,
            self._values(opened.view, len(opened.rows)),
            opened.number,
            bound,
            -1 if model.ordered else bound,
            opened.view.fresh,
        )

    def _values(self, view: Any, n_rows: int) -> Array:
        values = view.values
        dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        return dense.reshape(n_rows, self.n_ranks, self.n_clocks).astype(np.int64)


@dataclass(frozen=True)
class _Opened:
    """A view with what the checker must know of it."""

    table: str
    number: int
    rows: Array
    view: Any
    whole: bool


def audit(session: Any, consistency: Consistency, n_clocks: int = 20, seed: int = 0) -> AuditReport:
    """Run an audit in a session that has no tables yet.

    Parameters
    ----------
    session
        Has ``create_table`` and ``run``; the tables of the audit stay in it.
    consistency
        The model to run with and to check.
    n_clocks
        Clocks of every rank.

    Raises
    ------
    ValueError
        For less than one clock.
    """
    if n_clocks < 1:
        raise ValueError(f"n_clocks must be >= 1, got {n_clocks}")
    n_ranks = len(session.run(_nothing))
    program = Fingerprint(n_ranks, n_clocks, consistency, seed)
    for name, options in program.tables():
        session.create_table(name, **options)
    low, high = consistency.low, consistency.high
    staleness = low if low == high else (low, high)
    reports = session.run(program, consistency=consistency.model, staleness=staleness)
    return AuditReport(
        consistency,
        n_ranks,
        n_clocks,
        sum(report.n_reads for report in reports),
        sum(report.n_increments for report in reports),
        [violation for report in reports for violation in report.violations],
    )


def _nothing(ctx: Any, partition: Any) -> None:
    """Be a rank; as many results as there are ranks."""
