"""A program: what an algorithm hands to the runtime.

The runtime writes the loops once (:mod:`dask_petuum.runtime.loop` and beside it): clocks, metrics,
callbacks, the stop rule, errors. A program says what its tables are and what is done on one
partition; the model-parallel kind is in :mod:`dask_petuum.runtime.block_program`.
It is a plain picklable object that knows nothing of Dask. Its state is a dict of numpy arrays per
partition, so that it can be saved and moved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context
from dask_petuum.store.spec import TableSpec

__all__ = ["DataParallelProgram", "Program", "Record", "State"]

State = dict[str, Array]
#: One clock of a run, as the history keeps it.
Record = dict[str, float]


class Program(ABC):
    """What both kinds of programs have."""

    #: Names of the metrics; they are summed over partitions and ranks.
    metrics: tuple[str, ...] = ()
    #: Whether `save` gives all that the program remembers. Where not, there are no checkpoints of
    #: it, and after a loss it begins again.
    resumable: bool = True

    @abstractmethod
    def tables(self) -> Sequence[TableSpec]:
        """Say what the tables of the run are."""

    @abstractmethod
    def start(self, ctx: Context, partition: Partition) -> State:
        """Make the state of one partition; increments made here belong to clock 0."""

    def save(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the arrays that a checkpoint keeps of one partition; by default, its state.

        A program that remembers more than its states has it here, in those of some partition;
        what can be made again from the partition need not be kept.
        """
        return state

    def resume(self, ctx: Context, partition: Partition, saved: State) -> State:
        """Make the state of one partition from what :meth:`save` gave, instead of :meth:`start`.

        Nothing is added to tables: they are as they were, too.
        """
        return saved

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Turn summed metrics into what the history shows. Pure."""
        return totals

    def converged(self, history: Sequence[Record]) -> bool:
        """Say whether to stop, from the objectives so far. Pure: every rank asks for itself."""
        return False

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give what goes back to the caller for one partition (labels, ...)."""
        return {}


class DataParallelProgram(Program):
    """Base of the programs that run over partitions of the rows.

    All partitions of a clock start from the same values (a view shows increments from the next
    clock on), so that a result does not depend on how partitions are spread over ranks.
    """

    @abstractmethod
    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Do one clock's work on one partition; return its part of each metric."""
