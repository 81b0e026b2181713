"""What every loop of the runtime has: its plan, its result, and metrics that travel by the store.

The metrics of a clock are rows of a table with one row a clock: they are summed as any table is,
arrive with the same bound on staleness, and cost no message of their own. So each rank can apply
the stop rule for itself and all of them stop at the same clock: what a clock's totals decide takes
effect some clocks later, when every rank is certain to have seen them. A callback's wish to stop
travels in the same way, as one more column. (A run without a bound, ASP, ends rank by rank.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import Program, Record, State
from dask_petuum.store.spec import TableSpec

__all__ = ["LoopContext", "LoopPlan", "Metrics", "RankResult", "add_metrics", "metrics_table"]

METRICS_TABLE = "__metrics__"
#: What every rank adds of its own besides the program's metrics, per clock.
STATISTICS = ("bytes_in", "bytes_out", "waited", "reads", "lag")


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
    """

    max_clocks: int
    slack: int = 0
    homes: Sequence[int] = (0,)


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


def metrics_table(program: Program, plan: LoopPlan) -> TableSpec:
    """Specify the table through which a program's metrics travel: one row a clock."""
    names = (*program.metrics, *STATISTICS, "stop")
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
        self._started = time.perf_counter()
        self.history: list[Record] = []
        self.n_done = 0
        #: The store's clock to which each row belongs.
        self._clocks: list[int] = []

    def add(self, totals: Mapping[str, float]) -> None:
        """Add this rank's part of the clock that is about to end; what is not named is zero."""
        statistics = self._ctx.statistics()
        row = [totals.get(name, 0.0) for name in self._program.metrics]
        row += [statistics[name] for name in STATISTICS]
        row.append(float(self._ctx.stop_requested))
        self.n_done += 1
        self._clocks.append(self._ctx.clock_index)
        self._view.inc(np.array([row]), at=[self.n_done])

    def update(self) -> str | None:
        """Take in the clocks that are complete; say why to stop now, or None to go on."""
        while len(self.history) < self.n_done:
            if self._view.fresh <= self._clocks[len(self.history)]:
                break
            self._append(self._view.values[len(self.history) + 1])
        if self._ctx.n_ranks == 1 and self._ctx.stop_requested:
            return "callback"
        if self._stop_after is not None and self.n_done >= self._stop_after:
            return self._why
        return None

    def _append(self, row: Array) -> None:
        totals = dict(zip(self._program.metrics, row[: self._n_metrics].tolist(), strict=True))
        statistics = dict(zip(STATISTICS, row[self._n_metrics : -1].tolist(), strict=True))
        clock = len(self.history) + 1
        reads = statistics.pop("reads")
        lag = statistics.pop("lag")
        record: Record = {"clock": clock, "seconds": time.perf_counter() - self._started}
        record.update(self._program.objective(totals))
        record.update(statistics)
        record["staleness"] = lag / reads if reads else 0.0
        self.history.append(record)
        if self._stop_after is None:
            if self._program.converged(self.history):
                self._why = "converged"
                self._stop_after = clock + self._plan.slack
            elif row[-1] > 0:
                self._why = "callback"
                self._stop_after = clock + self._plan.slack
        if self._ctx.rank == 0:
            self._ctx.report(record)
