"""A program whose partitions show each other arrays, several times a clock.

For solvers that take turns: each partition works on what it owns, shows what came of it to all the
others, and works on with what they showed. The parameter store could carry the same, but
a round would then be a clock with its barrier, and values would travel as increments by way of
an owner. Here they go straight from rank to rank, once, as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Context
from dask_petuum.runtime.program import Program, State
from dask_petuum.store.spec import TableSpec

__all__ = ["ExchangeProgram"]


class ExchangeProgram(Program):
    """Base of the programs that exchange arrays. The result does not depend on the ranks."""

    def tables(self) -> Sequence[TableSpec]:
        """Specify no table: what is shared is shown."""
        return ()

    @abstractmethod
    def deal(self, ctx: Context, partition: Partition, state: State) -> Sequence[State]:
        """Say, once, what each partition of the run gets of this one's data."""

    @abstractmethod
    def collect(
        self, ctx: Context, partition: Partition, state: State, dealt: Sequence[State]
    ) -> None:
        """Take what every partition dealt to this one, in the order of the partitions."""

    @abstractmethod
    def n_rounds(self, number: int) -> int:
        """Rounds of a clock, counted from 0; the same wherever it is asked."""

    @abstractmethod
    def give(self, ctx: Context, partition: Partition, state: State, at: tuple[int, int]) -> State:
        """Work, and give what all partitions are to see.

        Parameters
        ----------
        at
            Clock and round, each from 0.

        Returns
        -------
        Arrays that do not change before the next round's `give` of this partition.
        """

    @abstractmethod
    def take(
        self,
        ctx: Context,
        partition: Partition,
        state: State,
        at: tuple[int, int],
        given: Sequence[State],
    ) -> None:
        """Take what every partition gave in a round, in their order, its own too; not to change."""

    @abstractmethod
    def measure(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Give a partition's part of the metrics at the end of a clock."""
