"""What a program sees of the run it is part of: the contract that every way of running keeps.

The same function runs in this process (:mod:`dask_petuum.runtime.local`) and in the ranks of a
Dask cluster (:mod:`dask_petuum.runtime.rank`); both give it a :class:`Context`, and the same tests
hold both to the promises written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dask_petuum.data import Partition

__all__ = ["Array", "Context", "Table", "View"]

Array = npt.NDArray[Any]
T = TypeVar("T")
R = TypeVar("R")


class View(Protocol):
    """A rank's copy of the rows it declared, with its own increments.

    A view changes only inside ``clock()`` and ``barrier()`` and by the rank's own increments,
    never under a running kernel.
    """

    @property
    def values(self) -> Any:
        """The rows' values: ndarray (n_rows, n_cols); of a sparse table, a ``csr_array``.

        Not to be written to.
        """

    @property
    def fresh(self) -> int:
        """Every increment of every rank's clocks 0 .. fresh-1 is in the values."""

    @property
    def writable(self) -> Array | None:
        """The table itself, to be changed in place instead of by ``inc``, or None.

        Offered only where nobody else can see the table: one rank, dense rows, plain addition,
        every row declared. A program that can, saves two copies; it must have a path without.
        """

    def inc(self, delta: Any, at: Sequence[int] | Array | None = None) -> None:
        """Add to the table.

        Parameters
        ----------
        delta
            Array of the view's shape (of a sparse table also a sparse array). Copied: the caller
            may use it again.
        at
            Positions within the view, each at most once; ``delta`` then has one row for each.
        """


class Table(Protocol):
    """A table, as a rank sees it."""

    def view(
        self, rows: Sequence[int] | Array | None = None, *, read_my_writes: bool | None = None
    ) -> View:
        """Declare the rows that this rank will use, once (IterStore, Cui et al. 2014).

        Parameters
        ----------
        rows
            Row numbers, ascending and unique; None: all.
        read_my_writes
            True: an increment is seen in ``values`` at once. False: from the next clock on, so
            that everything done within a clock starts from the same values. None: True in a
            function given to ``run``, False in a program (whose partitions must not see each
            other's work within a clock).
        """


class Context(Protocol):
    """A rank's handle on its run."""

    @property
    def rank(self) -> int:
        """Number of this rank, 0 .. n_ranks - 1."""

    @property
    def n_ranks(self) -> int:
        """Ranks of the run."""

    @property
    def clock_index(self) -> int:
        """Clocks that this rank has ended."""

    @property
    def n_threads(self) -> int:
        """Threads that ``map`` uses."""

    def table(self, name: str) -> Table:
        """Look up a table of the run."""

    def clock(self) -> None:
        """End this rank's step: send its increments; wait until the views are fresh enough."""

    def barrier(self) -> None:
        """End this rank's step and wait until the views hold every rank's increments up to here.

        Every rank calls it after the same number of clocks.
        """

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call a function (that releases the GIL) on each item in the rank's threads, in order."""

    def seed(self, partition: Partition) -> np.random.SeedSequence:
        """Seed for (run, partition, clock): the same on whatever rank the partition lies."""
