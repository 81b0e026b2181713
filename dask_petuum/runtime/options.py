"""How to run a program, and what a run leaves: plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_petuum.runtime.program import Record, State
from dask_petuum.store.consistency import Staleness

__all__ = ["Monitor", "RunOptions", "RunResult"]

#: Called with each finished clock; True asks the run to end.
Monitor = Callable[[Record], bool]


@dataclass(frozen=True)
class RunOptions:
    """How to run a program.

    Parameters
    ----------
    max_clocks
        Steps at most.
    seed
        Root of every random stream of the run.
    consistency
        "bsp", "ssp", "essp" or "asp"; without meaning in this process (one rank).
    staleness
        Clocks that a read may lag, a range (low, high) in which each rank moves it, or "auto".
    monitor
        Called with the record of each finished clock; returning True ends the run.
    save_clocks
        Clocks between two checkpoints; None: the setting ``petuum.checkpoint.clocks``, by default
        no limit but that of time, ``petuum.checkpoint.interval``.
    """

    max_clocks: int
    seed: int = 0
    consistency: str = "bsp"
    staleness: Staleness = 0
    monitor: Monitor | None = None
    save_clocks: int | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: tables after its last clock, outputs by partition, history, blocks."""

    tables: Mapping[str, Any]
    outputs: Sequence[State]
    history: list[Record] = field(default_factory=list)
    n_clocks: int = 0
    stopped_by: str = "max_clocks"
    blocks: Sequence[Mapping[str, Any]] = ()
    #: The most bytes of moving blocks that each rank held at a time.
    block_bytes: Sequence[int] = ()
