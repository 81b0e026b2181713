"""What every loop of the runtime has: its plan, its result, and metrics that travel by the store.

The metrics of a clock are rows of a table with one row a clock: they are summed as any table is,
arrive with the same bound on staleness, and cost no message of their own. So each rank can apply
the stop rule for itself and all of them stop at the same clock: what a clock's totals decide takes
effect some clocks later, when every rank is certain to have seen them. A callback's wish to stop
travels in the same way, as one more column, and so does rank 0's wish for a checkpoint: all ranks
save after the same clock. (A run without a bound, ASP, ends rank by rank, and meets for each
checkpoint.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dask_petuum.checkpoint.saved import Saved
from dask_petuum.runtime.cadence import Cadence
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import Program, Record, State
from dask_petuum.store.spec import TableSpec

__all__ = ["LoopContext", "LoopPlan", "Metrics", "RankResult", "add_metrics", "metrics_table"]

METRICS_TABLE = "__metrics__"
#: What every rank adds of its own besides the program's metrics, per clock.
STATISTICS = ("bytes_in", "bytes_out", "waited", "reads", "lag")
#: Clocks between two checkpoints of a run without a bound, where nobody says.
CLOCKS_BETWEEN_MEETINGS = 50


@dataclass(frozen=True)
class LoopPlan:
    """How long to go on.

    Parameters
    ----------
    max_clocks
        Steps at most.
    slack
        Clocks by which a rank may be behind: the run's largest staleness; 0 without a bound.
    homes
        Rank of each partition of the run, by number.
    save_clocks, save_seconds
        Clocks or seconds between two checkpoints, whichever comes first; None: no such limit.
    bounded
        Whether a rank may be behind by ``slack`` clocks only.
    elapsed
        Seconds since the fit began, when this epoch of it begins.
    """

    max_clocks: int
    slack: int = 0
    homes: Sequence[int] = (0,)
    save_clocks: int | None = None
    save_seconds: float | None = None
    bounded: bool = True
    elapsed: float = 0.0


@dataclass(frozen=True)
class RankResult:
    """What one rank gives back.

    ``blocks`` are those of a model-parallel run that it ends with, ``block_bytes`` the most that
    it held at any time.
    """

    outputs: Mapping[int, State]
    history: Sequence[Record] = field(default_factory=list)
    n_clocks: int = 0
    stopped_by: str = "max_clocks"
    blocks: Mapping[int, Mapping[str, Array]] = field(default_factory=dict)
    block_bytes: int = 0


class LoopContext(Context, Protocol):
    """What the loop needs of a rank besides what programs see."""

    def defer_increments(self) -> None:
        """From here on, views show increments from the next clock on unless they ask otherwise."""

    @property
    def stop_requested(self) -> bool:
        """Whether a callback (or the client) asked this run to end by now."""

    @property
    def seed_of_run(self) -> int:
        """Root of every random stream of the run."""

    def statistics(self) -> Mapping[str, float]:
        """Take this rank's statistics (names as in STATISTICS) since the last call."""

    def report(self, record: Record) -> None:
        """Tell the client of a finished clock (rank 0 does)."""

    @property
    def saved(self) -> Saved | None:
        """The checkpoint that the run goes on from."""

    @property
    def can_save(self) -> bool:
        """Whether there is a place for checkpoints."""

    @property
    def save_requested(self) -> bool:
        """Whether the client asked for a checkpoint by now."""

    @property
    def is_saving(self) -> bool:
        """Whether the last checkpoint is not complete yet."""

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Save the state of the run as it is now, at the end of a clock; every rank does.

        ``arrays`` are this rank's, besides the tables; see :mod:`dask_petuum.checkpoint.saved`.
        """


def metrics_table(program: Program, plan: LoopPlan) -> TableSpec:
    """Specify the table through which a program's metrics travel: one row a clock."""
    names = (*program.metrics, *STATISTICS, "stop", "save")
    return TableSpec(
        METRICS_TABLE,
        shape=(plan.max_clocks + 1, len(names)),
        dtype="float64",
        dims=("clock", "metric"),
        coords={"metric": names},
    )


def add_metrics(totals: dict[str, float], values: Mapping[str, float]) -> None:
    """Add what a program gave to the sums of a clock.

    Raises
    ------
    ValueError
        For a name that is not among the program's ``metrics``.
    """
    for name, value in values.items():
        if name not in totals:
            raise ValueError(f"{name!r} is not among the program's metrics {sorted(totals)}")
        totals[name] += float(value)


class Metrics:
    """The rows of the metrics table, turned into the history and the stop decision."""

    def __init__(self, ctx: LoopContext, program: Program, plan: LoopPlan) -> None:
        self._ctx = ctx
        self._program = program
        self._plan = plan
        self._view: View = ctx.table(METRICS_TABLE).view()
        self._n_metrics = len(program.metrics)
        self._stop_after: int | None = None
        self._why = ""
        self._started = time.perf_counter() - plan.elapsed
        self.history: list[Record] = []
        self.n_done = 0
        #: The store's clock to which each row belongs.
        self._clocks: list[int] = []
        self._cadence = Cadence(plan, may_wish=ctx.rank == 0 and ctx.can_save)
        self._save_after: int | None = None
        #: The last clock whose wish belongs to the checkpoint before.
        self._wished_until = 0
        if ctx.saved is not None:
            self._go_on_from(ctx.saved)

    def add(self, totals: Mapping[str, float]) -> None:
        """Add this rank's part of the clock that is about to end; what is not named is zero."""
        statistics = self._ctx.statistics()
        row = [totals.get(name, 0.0) for name in self._program.metrics]
        row += [statistics[name] for name in STATISTICS]
        row.append(float(self._ctx.stop_requested))
        row.append(float(self._wants_to_save()))
        self.n_done += 1
        self._clocks.append(self._ctx.clock_index)
        self._view.inc(np.array([row]), at=[self.n_done])

    def end_clock(self) -> None:
        """End the clock; where ranks agree on nothing, meet for a checkpoint."""
        if self._meets():
            self._ctx.barrier()
        else:
            self._ctx.clock()

    def saves_now(self) -> bool:
        """Whether every rank saves after the clock that has ended."""
        due = self._save_after is not None and self.n_done >= self._save_after
        if due:
            self._save_after = None
            self._cadence.saved(self.n_done)
        return due or self._meets()

    def state(self) -> dict[str, Array]:
        """What a checkpoint needs besides the table."""
        seconds = [record["seconds"] for record in self.history] or [0.0]
        return {"n_done": np.array([self.n_done]), "seconds": np.array(seconds)}

    def _go_on_from(self, saved: Saved) -> None:
        """Read the history anew: all its rows are complete at a cut."""
        state = saved.arrays("run", 0)
        self.n_done = int(state["n_done"][0])
        seconds = state["seconds"].tolist()
        self._clocks = [-1] * self.n_done
        for number in range(self.n_done):
            then = seconds[min(number, len(seconds) - 1)]
            self._append(self._view.values[number + 1], then)
        # of a fit that an earlier process began only this is known
        self._started = min(self._started, time.perf_counter() - seconds[-1])
        self._save_after = None
        self._wished_until = self.n_done
        self._cadence.begin_again()

    def _wants_to_save(self) -> bool:
        ctx = self._ctx
        if ctx.rank != 0 or not ctx.can_save or not self._plan.bounded:
            return False
        busy = ctx.is_saving or self._save_after is not None
        return self._cadence.is_due(self.n_done + 1, ctx.save_requested, busy)

    def _meets(self) -> bool:
        clocks = self._plan.save_clocks or CLOCKS_BETWEEN_MEETINGS
        meets = self._ctx.can_save and not self._plan.bounded
        return meets and self.n_done % clocks == 0

    def update(self) -> str | None:
        """Take in the clocks that are complete; say why to stop now, or None to go on."""
        while len(self.history) < self.n_done:
            if self._view.fresh <= self._clocks[len(self.history)]:
                break
            seconds = time.perf_counter() - self._started
            self._append(self._view.values[len(self.history) + 1], seconds)
        if self._ctx.n_ranks == 1 and self._ctx.stop_requested:
            return "callback"
        if self._stop_after is not None and self.n_done >= self._stop_after:
            return self._why
        return None

    def _append(self, row: Array, seconds: float) -> None:
        totals = dict(zip(self._program.metrics, row[: self._n_metrics].tolist(), strict=True))
        statistics = dict(zip(STATISTICS, row[self._n_metrics : -2].tolist(), strict=True))
        clock = len(self.history) + 1
        reads = statistics.pop("reads")
        lag = statistics.pop("lag")
        record: Record = {"clock": clock, "seconds": seconds}
        record.update(self._program.objective(totals))
        record.update(statistics)
        record["staleness"] = lag / reads if reads else 0.0
        self.history.append(record)
        if self._stop_after is None:
            if self._program.converged(self.history):
                self._why = "converged"
                self._stop_after = clock + self._plan.slack
            elif row[-2] > 0:
                self._why = "callback"
                self._stop_after = clock + self._plan.slack
        # Rank 0 goes on wishing until it sees its first wish. All these are of one checkpoint, by
        # their clocks and not by when a rank sees them: that may be after it has saved.
        if clock > self._wished_until and row[-1] > 0:
            self._save_after = self._wished_until = clock + self._plan.slack
        if self._ctx.rank == 0:
            self._ctx.report(record)
