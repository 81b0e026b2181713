"""What the scheduler knows of one run: who takes part, how far each is, why it ended. Pure.

A plain state machine without I/O; :mod:`dask_petuum.runtime.scheduler_plugin` wires it to Dask.
What comes from a rank is looked at first: ProtocolError for what cannot be, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_petuum.exceptions import ProtocolError
from dask_petuum.runtime.free_loop import Assignment, Tasks
from dask_petuum.store.messages import field_of, number_of

__all__ = ["Board", "Failure"]

#: Records kept for a client that has not asked for a while; what comes then it is not told.
MAX_RECORDS = 100_000
#: Kinds of failures.
KINDS = ("error", "lost", "damaged", "interrupt")


@dataclass(frozen=True)
class Failure:
    """Why a run ended without its result: kind is one of `KINDS`."""

    kind: str
    rank: int
    text: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not isinstance(self.text, str) or not self.text.strip():
            raise ProtocolError(f"{self!r:.200} is no failure")

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a message."""
        return {"kind": self.kind, "rank": self.rank, "text": self.text}


@dataclass
class Board:
    """One run.

    Parameters
    ----------
    run_id, client
        Whose run this is.
    addresses
        Worker of each rank.
    """

    # The mutable state is everything below `addresses`; only the scheduler's event loop changes it.

    run_id: str
    client: str
    addresses: Sequence[str]
    exchanges: list[dict[int, Any]] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    clocks: list[int] = field(default_factory=list)
    status: dict[int, dict[str, Any]] = field(default_factory=dict)
    #: Records that the client may not have yet, and how many there were before these.
    records: list[dict[str, Any]] = field(default_factory=list)
    n_forgotten: int = 0
    failure: Failure | None = None
    stopping: bool = False
    #: Who chooses the blocks of a model-parallel run, where that is the scheduler.
    tasks: Tasks | None = None
    #: The fit that this run is an epoch of, and the clock of its last checkpoint.
    fit_id: str | None = None
    saved_clock: int = -1

    def __post_init__(self) -> None:
        self.clocks = [0] * len(self.addresses)

    @property
    def n_records(self) -> int:
        """How many records there were so far."""
        return self.n_forgotten + len(self.records)

    @property
    def min_clock(self) -> int:
        """Clocks that the slowest rank has ended."""
        return min(self.clocks)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.failure is not None or len(self.finished) == len(self.addresses)

    def check_rank(self, rank: Any) -> None:
        """Refuse what is no rank of the run (ProtocolError)."""
        number_of({"rank": rank}, "rank", 0, len(self.addresses) - 1)

    def tell(self, rank: int, value: Any) -> int:
        """Take a rank's value of its next exchange; return the exchange's number."""
        self.check_rank(rank)
        number = sum(rank in exchange for exchange in self.exchanges)
        if number == len(self.exchanges):
            self.exchanges.append({})
        self.exchanges[number][rank] = value
        return number

    def told(self, number: int) -> list[Any] | None:
        """All ranks' values of an exchange, or None while some are missing."""
        exchange = self.exchanges[number]
        if len(exchange) < len(self.addresses):
            return None
        return [exchange[rank] for rank in range(len(self.addresses))]

    def finish_task(self, done: Any) -> None:
        """Take a rank's finished task of a model-parallel run: its number, and seconds."""
        assert self.tasks is not None
        try:
            number, seconds = done
            self.tasks.finish((int(number), float(seconds)))
        except (TypeError, ValueError, KeyError) as error:
            raise ProtocolError(f"{done!r:.80} is no finished task: {error}") from error

    def next_task(self, number: int, partitions: Sequence[int]) -> Assignment | None:
        """Choose a task of a pass for one of a rank's partitions; None: nothing is free now."""
        assert self.tasks is not None
        for partition in field_of({"partitions": partitions}, "partitions", (list, tuple)):
            number_of({"partition": partition}, "partition")
        try:
            return self.tasks.ask(partitions)
        except ValueError as error:
            raise ProtocolError(f"there is no task of pass {number}: {error}") from error

    def pass_is_over(self, number: int) -> bool:
        """Whether a pass of a model-parallel run has ended; there is none before the first."""
        assert self.tasks is not None
        return self.tasks.is_over(number_of({"number": number}, "number", -1))

    def finish(self, rank: int) -> None:
        """Note that a rank has ended its last clock."""
        self.check_rank(rank)
        self.finished.add(rank)

    def report(self, rank: int, clock: int, status: dict[str, Any]) -> None:
        """Note a rank's clock; late reports never take it back."""
        self.check_rank(rank)
        number_of({"clock": clock}, "clock")
        field_of({"state": status}, "state", dict)
        if clock >= self.clocks[rank]:
            self.clocks[rank] = clock
            self.status[rank] = status

    def add_record(self, record: dict[str, Any]) -> None:
        """Keep a finished clock's record for the client."""
        number_of(field_of({"record": record}, "record", dict), "clock", 1)
        if len(self.records) < MAX_RECORDS:
            self.records.append(record)

    def forget(self, since: int) -> None:
        """Keep the first ``since`` records no longer: the client has them."""
        n = min(max(since - self.n_forgotten, 0), len(self.records))
        del self.records[:n]
        self.n_forgotten += n

    def fail(self, failure: Failure) -> bool:
        """Note why the run cannot end well; the first cause stays. True if this is the first."""
        if self.ended:
            return False
        self.failure = failure
        return True

    def lose_worker(self, address: str) -> bool:
        """Note that a worker is gone; True if the run cannot go on."""
        if address not in self.addresses:
            return False
        rank = list(self.addresses).index(address)
        if rank in self.finished and self.ended:
            return False
        text = (
            f"rank {rank} of run {self.run_id} was lost with its worker {address} "
            f"in clock {self.clocks[rank]}"
        )
        return self.fail(Failure("lost", rank, text))

    def view(self, since: int) -> dict[str, Any]:
        """What a client that has ``since`` records is told."""
        return {
            "records": self.records[max(since - self.n_forgotten, 0) :],
            "clocks": list(self.clocks),
            "ranks": {str(rank): status for rank, status in self.status.items()},
            "ended": self.ended,
            "saved_clock": self.saved_clock,
            "failure": None if self.failure is None else self.failure.to_dict(),
        }
