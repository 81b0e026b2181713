"""The owner's core: one rank's shard of every table, and who may read it when.

A plain state machine: a message goes in, the replies to send come out. No socket, no time, no
thread of its own; the caller holds a lock around each call. Every rank pushes exactly one batch a
clock to every owner (empty where nothing changed), so an owner knows by itself how far each rank
is: ``fresh``, the number of clocks that *every* rank's batches are in, bounds what it may answer.
A read that asks for more waits here ("parked"), as in Petuum's servers, and is released by the
push that it waits for: no message to a third party lies between a push and the reads it allows.

A *cut* is where a checkpoint lies: a batch that is marked with it is the first of its rank after
the cut. It waits until every rank's batches before the cut are in, and the shard is copied then; so
the copy holds exactly the clocks before the cut, whatever the model (Chandy and Lamport 1985,
"Distributed snapshots"; the clocks are the markers).

BSP needs two things more. A batch of clock c must not be seen by a slow reader that still asks for
the values of clock c; and float sums must not depend on arrival. So batches are held until
all ranks' batches of a clock are there, and are then applied in the order of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.exceptions import ProtocolError
from dask_petuum.store.codec import Allocator, Chunk, encode_rows
from dask_petuum.store.identity import Identity
from dask_petuum.store.layout import Block
from dask_petuum.store.messages import (
    FINISHED,
    check_chunk,
    checked_blocks,
    field_of,
    number_of,
)
from dask_petuum.store.shard import Shard
from dask_petuum.store.spec import TableSpec

__all__ = ["FINISHED", "Cut", "Owner", "Release"]

Array = npt.NDArray[Any]
Message = Mapping[str, Any]
Reply = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """A parked read that can now be answered: ``token`` says whose it is."""

    token: Any
    reply: Reply


@dataclass(frozen=True)
class Cut:
    """A copy of a shard as it was when exactly the clocks before ``clock`` were in."""

    clock: int
    #: Table, first row and values of each block.
    blocks: Sequence[tuple[str, int, Any]]


@dataclass
class _Plan:
    """Rows that a rank declared, in one of this owner's blocks; None: all of the block."""

    shard: Shard
    rows: Array | None

    @property
    def n_rows(self) -> int:
        return self.shard.n_rows if self.rows is None else len(self.rows)


@dataclass(frozen=True)
class _Read:
    """A checked read: of one plan (an open) or of what changed in all of them (a pull)."""

    token: Any
    need: int
    plan: int | None = None
    since: int = -1
    number: int = 0


@dataclass
class _Reader:
    """What the owner knows of one rank."""

    next_clock: int = 0
    last_clock: int = FINISHED
    plans: dict[tuple[int, int], _Plan] = field(default_factory=dict)
    early: dict[int, Message] = field(default_factory=dict)
    parked: dict[int | None, _Read] = field(default_factory=dict)


class Owner:
    """Rows that one rank holds for everybody.

    Parameters
    ----------
    identity
        Whose shard this is; messages of another run or epoch are refused.
    specs, layout
        The run's tables and their row blocks.
    ordered
        Apply batches clock by clock, in the order of ranks (BSP).
    incarnation
        Told in every reply, so that a reply of an earlier life is not taken for one of this.
    empty
        Makes the arrays of answers, as ``numpy.empty``.
    first_clock
        Clock of every rank's first batch: that of the cut that the run goes on from.
    """

    # The mutable state is `_shards` (values and row versions), `_version`, `_readers` and the cuts;
    # only push, open, pull and take_cuts change it.

    def __init__(
        self,
        identity: Identity,
        specs: Sequence[TableSpec],
        layout: Mapping[str, Sequence[Block]],
        *,
        ordered: bool = False,
        incarnation: int = 0,
        empty: Allocator = np.empty,
        first_clock: int = 0,
    ) -> None:
        self._empty = empty
        self.run_id = identity.run_id
        self.rank = identity.rank
        self.epoch = identity.epoch
        self.incarnation = incarnation
        self._ordered = ordered
        self._specs = {spec.name: spec for spec in specs}
        self._readers = [_Reader(first_clock) for _ in range(identity.n_ranks)]
        self._held: dict[int, dict[int, Message]] = {}
        self._applied = first_clock
        self._last_cut = first_clock
        self._cuts: list[Cut] = []
        self._version = 0
        self._interrupted: str | None = None
        self._shards = {
            (spec.name, index): Shard(spec, block.start, block.stop)
            for spec in specs
            for index, block in enumerate(layout[spec.name])
            if block.owner == self.rank
        }

    def __repr__(self) -> str:
        clocks = [min(r.next_clock, FINISHED) for r in self._readers]
        parked = sum(len(r.parked) for r in self._readers)
        return (
            f"<Owner rank {self.rank} of run {self.run_id}: {len(self._shards)} blocks, "
            f"{self.nbytes} bytes, fresh {self.fresh}, clocks {clocks}, parked {parked}>"
        )

    @property
    def fresh(self) -> int:
        """Clocks of which every rank's batches have been applied."""
        if self._ordered:
            return self._applied
        return min(reader.next_clock for reader in self._readers)

    @property
    def nbytes(self) -> int:
        """Bytes of the values held."""
        return sum(shard.nbytes for shard in self._shards.values())

    def block_values(self, table: str) -> list[tuple[int, Any]]:
        """Values of this owner's blocks of a table, each with its first row; not copies."""
        return [
            (shard.start, shard.values)
            for (name, _), shard in self._shards.items()
            if name == table
        ]

    def adopt(self, before: Owner) -> None:
        """Start with the values that another run's owner (of the same layout) ended with."""
        for key, shard in self._shards.items():
            if key in before._shards:
                shard.values = before._shards[key].values.copy()

    def fill(self, values_of: Callable[[str, int, int], Any]) -> None:
        """Start with other values: ``values_of(table, start, stop)`` gives those of rows."""
        for shard in self._shards.values():
            start = shard.start
            shard.values = values_of(shard.spec.name, start, start + shard.n_rows)

    def take_cuts(self) -> list[Cut]:
        """Take the copies that the last push made, if it passed cuts."""
        cuts, self._cuts = self._cuts, []
        return cuts

    def push(self, message: Message) -> tuple[Reply, list[Release]]:
        """Take a rank's batch of one clock; repeated ones are acknowledged again, not applied.

        Raises
        ------
        ProtocolError
            For a batch of another run or epoch, or one that does not fit the tables; nothing has
            changed then.
        """
        reader = self._check_sender(message)
        clock = number_of(message, "clock", 0, reader.last_clock)
        if clock >= reader.next_clock and clock not in reader.early:
            field_of(message, "last", bool)
            field_of({"cut": False, **message}, "cut", bool)
            for chunk in field_of(message, "chunks", (list, tuple)):
                self._check_chunk(reader, chunk)
            reader.early[clock] = message
            self._accept_in_order(message["rank"])
        own = self._applied if self._ordered else reader.next_clock
        return {**self._reply(), "own": own}, self._releases()

    def open(self, message: Message, token: Any) -> list[Release]:
        """Take a rank's access plan; answer, now or later, with the values of its rows."""
        reader = self._check_sender(message)
        read = _Read(token, number_of(message, "need"), number_of(message, "plan"))
        self._declare(reader, message)
        return self._answer_or_park(reader, read)

    def pull(self, message: Message, token: Any) -> list[Release]:
        """Answer, now or later, with the rows that changed since ``message["since"]``.

        The answer holds every batch of the clocks before ``need``. A repeated request takes the
        place of the one before it, which is answered with the status "superseded"; a late copy of
        a request with a lower ``number`` than the one that waits is itself answered so.
        """
        reader = self._check_sender(message)
        need, since = number_of(message, "need"), number_of(message, "since")
        read = _Read(token, need, since=since, number=number_of(message, "number"))
        return self._answer_or_park(reader, read)

    def interrupt(self, cause: str) -> list[Release]:
        """End every wait with its cause; later reads are answered with it at once."""
        self._interrupted = cause
        return self._releases()

    def _check_sender(self, message: Message) -> _Reader:
        run_id = field_of(message, "run", str)
        if run_id != self.run_id:
            raise ProtocolError(f"run {run_id!r} is not this run, {self.run_id!r}")
        epoch = number_of(message, "epoch")
        if epoch != self.epoch:
            raise ProtocolError(f"epoch {epoch} is not this epoch, {self.epoch}")
        return self._readers[number_of(message, "rank", 0, len(self._readers) - 1)]

    def _declare(self, reader: _Reader, message: Message) -> None:
        table = field_of(message, "table", str)
        if table not in self._specs:
            raise ProtocolError(f"no table {table!r} in run {self.run_id!r}")
        here = {index: shard for (name, index), shard in self._shards.items() if name == table}
        n_rows_of = {index: shard.n_rows for index, shard in here.items()}
        blocks = checked_blocks(message, n_rows_of, table)
        plans = {
            (message["plan"], index): _Plan(here[index], None if rows is None else rows.copy())
            for index, rows in blocks
        }
        for key, plan in plans.items():
            if key in reader.plans and not _same_rows(reader.plans[key], plan):
                raise ProtocolError(f"plan {key[0]} has other rows already in block {key[1]}")
        reader.plans.update(plans)

    def _check_chunk(self, reader: _Reader, chunk: Chunk) -> None:
        address = number_of(chunk, "plan"), number_of(chunk, "block")
        plan = reader.plans.get(address)
        if plan is None:
            raise ProtocolError(f"plan {address[0]} has no block {address[1]} here")
        check_chunk(chunk, plan.shard.spec, plan.n_rows)

    def _accept_in_order(self, rank: int) -> None:
        """Accept what can be of a rank; of all ranks, where that lets them pass a cut."""
        waiting = [rank]
        while waiting:
            reader = self._readers[rank := waiting.pop()]
            while (clock := reader.next_clock) in reader.early:
                if reader.early[clock].get("cut", False) and clock > self._last_cut:
                    break
                self._accept(rank, reader, reader.early.pop(clock))
            self._apply_complete_clocks()
            if self._pass_cut():
                waiting = list(range(len(self._readers)))

    def _pass_cut(self) -> bool:
        """Copy the shard where every rank has come to a cut; tell whether that was so."""
        clock = min(reader.next_clock for reader in self._readers)
        held = [r.early.get(clock) for r in self._readers if r.next_clock == clock]
        marked = any(batch is not None and batch.get("cut", False) for batch in held)
        if not marked or clock <= self._last_cut:
            return False
        self._last_cut = clock
        blocks = [(name, s.start, s.values.copy()) for (name, _), s in self._shards.items()]
        self._cuts.append(Cut(clock, blocks))
        return True

    def _accept(self, rank: int, reader: _Reader, message: Message) -> None:
        clock = reader.next_clock
        reader.next_clock = clock + 1
        if message["last"]:
            reader.next_clock = FINISHED
            reader.last_clock = clock
        if self._ordered:
            self._held.setdefault(clock, {})[rank] = message
        else:
            self._apply(reader, message)

    def _apply_complete_clocks(self) -> None:
        if not self._ordered:
            return
        while all(reader.next_clock > self._applied for reader in self._readers):
            batches = self._held.pop(self._applied, {})
            for rank in sorted(batches):
                self._apply(self._readers[rank], batches[rank])
            if not batches and not self._held:
                self._applied = FINISHED
                return
            self._applied += 1

    def _apply(self, reader: _Reader, message: Message) -> None:
        self._version += 1
        for chunk in message["chunks"]:
            plan = reader.plans[chunk["plan"], chunk["block"]]
            plan.shard.apply(chunk, plan.rows, self._version)

    def _answer_or_park(self, reader: _Reader, read: _Read) -> list[Release]:
        releases = []
        old = reader.parked.get(read.plan)
        if old is not None:
            late = min(old, read, key=lambda r: r.number)
            releases.append(Release(late.token, {**self._reply(), "status": "superseded"}))
            if late is read:
                return releases
            del reader.parked[read.plan]
        if self._interrupted is None and read.need > self.fresh:
            reader.parked[read.plan] = read
        else:
            releases.append(Release(read.token, self._answer(reader, read)))
        return releases

    def _releases(self) -> list[Release]:
        released = []
        for reader in self._readers:
            for read in list(reader.parked.values()):
                if self._interrupted is not None or read.need <= self.fresh:
                    del reader.parked[read.plan]
                    released.append(Release(read.token, self._answer(reader, read)))
        return released

    def _answer(self, reader: _Reader, read: _Read) -> Reply:
        if self._interrupted is not None:
            return {**self._reply(), "status": "interrupted", "cause": self._interrupted}
        chunks: list[Chunk] = []
        for (plan_id, index), plan in reader.plans.items():
            if read.plan in (None, plan_id):
                chunks += self._changed_rows(plan, read.since, plan_id, index)
        return {
            **self._reply(),
            "number": read.number,
            "fresh": self.fresh,
            "own": self._applied if self._ordered else reader.next_clock,
            "version": self._version,
            "chunks": chunks,
        }

    def _changed_rows(self, plan: _Plan, since: int, plan_id: int, index: int) -> list[Chunk]:
        versions = plan.shard.versions if plan.rows is None else plan.shard.versions[plan.rows]
        values, changed = plan.shard.values, versions > since
        return list(encode_rows(values, plan.rows, changed, plan_id, index, self._empty))

    def _reply(self) -> Reply:
        return {"status": "OK", "incarnation": self.incarnation}


def _same_rows(plan: _Plan, other: _Plan) -> bool:
    if plan.rows is None or other.rows is None:
        return plan.shard is other.shard and plan.rows is other.rows
    return plan.shard is other.shard and np.array_equal(plan.rows, other.rows)
