"""The rank's core: its clock, its views, what to push and when to pull. No I/O, no time.

Calls and replies go in; the messages to send come out as :class:`Push` and :class:`Pull`. The
caller (:class:`dask_petuum.runtime.endpoint.Endpoint`) sends them, sends them again where no reply
came, and waits until :meth:`RankCore.ready`.

What makes repeats and reordering harmless: a batch is named by (run, epoch, rank, clock) and there
is one per owner and clock, so the clock is its sequence number; an answer carries values, not
differences, and says up to which of this rank's own clocks (``own``) they reach, so that exactly
the batches that it lacks are added again; one pull per owner is in flight, and only the answer
with its ``number`` is taken in, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.exceptions import TableError
from dask_petuum.store.codec import Allocator, Chunk, chunk_bytes, encode_delta, n_chunk_rows
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.effects import Open, Pull, Push
from dask_petuum.store.identity import Identity
from dask_petuum.store.layout import Block
from dask_petuum.store.rows import checked_rows
from dask_petuum.store.spec import TableSpec
from dask_petuum.store.statistics import Statistics
from dask_petuum.store.view import StoreView

__all__ = ["Open", "Pull", "Push", "RankCore"]

#: Clocks beyond the bound whose batches may be on their way to an owner.
MAX_UNACKNOWLEDGED = 16

Array = npt.NDArray[Any]


@dataclass
class _Entry:
    """The update log of one clock: increments that some owner's answers may still lack."""

    clock: int
    increments: list[tuple[StoreView, Any]]
    #: What was sent; kept as long as the increments, for receivers that read it where it lies.
    chunks: list[list[Chunk]]
    unacked: set[int]
    lacking: set[int]


class RankCore:
    """One rank's part of the store.

    Parameters
    ----------
    identity
        Who this is.
    specs, layout
        The run's tables and their row blocks.
    consistency
        The model; its bound may move (``bound``).
    empty
        Makes the arrays that are sent, as ``numpy.empty``.
    first_clock
        Where every rank begins: at the cut that the run goes on from.
    """

    # The mutable state is `clock`, `bound`, the views, the update log `_log` and, per owner, what
    # was heard (`_seen`, `_since`, `_inbox`, `_in_flight`). The endpoint holds a lock around calls.

    def __init__(
        self,
        identity: Identity,
        specs: Sequence[TableSpec],
        layout: Mapping[str, Sequence[Block]],
        consistency: Consistency,
        empty: Allocator = np.empty,
        first_clock: int = 0,
    ) -> None:
        self._empty = empty
        self.rank = identity.rank
        self.n_ranks = n_ranks = identity.n_ranks
        self.clock = first_clock
        self.bound = consistency.low
        self.statistics = Statistics([spec.name for spec in specs])
        self.sender = identity.sender()
        self._specs = {spec.name: spec for spec in specs}
        self._layout = layout
        self._consistency = consistency
        self._views: list[StoreView] = []
        self._log: deque[_Entry] = deque()
        self._seen = [first_clock] * n_ranks
        self._installed = [first_clock] * n_ranks
        self._since = [0] * n_ranks
        self._in_flight: dict[int, int] = {}
        self._n_pulls = 0
        self._consumed: list[list[tuple[str, int]]] = [[] for _ in range(n_ranks)]
        self._ended = False
        self._inbox: list[list[Mapping[str, Any]]] = [[] for _ in range(n_ranks)]
        self._barrier = False
        self._cut = False

    def __repr__(self) -> str:
        return (
            f"<RankCore {self.rank} of {self.n_ranks}, clock {self.clock}, bound {self.bound}, "
            f"seen {self._seen}, {len(self._log)} clocks in the log>"
        )

    @property
    def unacknowledged(self) -> int:
        """Batches that an owner has not acknowledged."""
        return sum(len(entry.unacked) for entry in self._log)

    def open_view(
        self, name: str, rows: Sequence[int] | Array | None, read_my_writes: bool
    ) -> tuple[StoreView, list[Open]]:
        """Declare rows; the view may be used when every ``Open`` has been answered.

        The same declaration again gives the same view.
        """
        spec = self._specs.get(name)
        if spec is None:
            raise TableError(f"no table {name!r}; there are {sorted(self._specs)}")
        checked = checked_rows(spec, rows)
        for view in self._views:
            if view.declares(spec, checked, read_my_writes):
                return view, []
        blocks, plan = self._layout[name], len(self._views)
        view = StoreView(spec, blocks, plan, checked, read_my_writes, self._empty)
        self._views.append(view)
        effects = []
        for owner in sorted({piece.owner for piece in view.pieces}):
            held = [(piece.block, piece.rows) for piece in view.pieces if piece.owner == owner]
            message = {
                **self.sender,
                "plan": view.plan,
                "table": name,
                "blocks": held,
                "need": max(0, self._need(view)),
            }
            effects.append(Open(owner, message))
        return view, effects

    def view_of(self, plan: int) -> StoreView:
        """The view of an access plan."""
        return self._views[plan]

    def on_opened(self, owner: int, view: StoreView, reply: Mapping[str, Any]) -> None:
        """Install an owner's answer to an ``Open``."""
        if owner in view.opened:
            return
        view.opened[owner] = reply["fresh"]
        self._install_chunks(owner, view, reply, reply["chunks"])
        self._consumed[owner].append(("open", view.plan))
        self._update_freshness()

    def cut(self) -> None:
        """Mark the batch of the clock under way as the first one after a cut."""
        self._cut = True

    def end_clock(self, *, last: bool = False, barrier: bool = False) -> list[Push | Pull]:
        """End the clock: what to push to every owner, and what to pull.

        Parameters
        ----------
        last
            This rank will end no more clocks; nobody waits for it any longer.
        barrier
            The next ``ready`` asks for every rank's increments up to here.
        """
        increments = [(view, view.take_pending()) for view in self._views]
        increments = [(view, pending) for view, pending in increments if pending is not None]
        chunks: list[list[Chunk]] = [[] for _ in range(self.n_ranks)]
        owners: set[int] = set()
        for view, pending in increments:
            for piece, part in view.parts(pending):
                owners.add(piece.owner)
                own = piece.owner == self.rank
                for chunk in encode_delta(part, view.plan, piece.block, self._empty, in_place=own):
                    chunks[piece.owner].append(chunk)
                    if not own:
                        n_rows = n_chunk_rows(chunk, view.spec.n_cols)
                        self.statistics.sent(view.spec.name, chunk_bytes(chunk), n_rows)
        entry = _Entry(self.clock, increments, chunks, set(range(self.n_ranks)), owners)
        self._log.append(entry)
        self._show_own(increments)
        base = {**self.sender, "clock": self.clock, "last": last}
        if self._cut:
            base["cut"] = True
            self._cut = False
        effects: list[Push | Pull] = [
            Push(owner, {**base, "chunks": chunks[owner]}) for owner in range(self.n_ranks)
        ]
        self.clock += 1
        self._barrier = barrier
        self._ended = last
        if not last:
            effects += self._pulls()
        return effects

    def on_pushed(self, owner: int, clock: int, own: int) -> None:
        """Note that an owner has a batch.

        It has applied those of the clocks before ``own``; others may wait there for a clock that is
        late, or for a cut.
        """
        outstanding = (
            owner in self._in_flight
            or self._inbox[owner]
            or any(not view.is_open(owner) for view in self._views)
        )
        for entry in self._log:
            if entry.clock == clock:
                entry.unacked.discard(owner)
                if not outstanding and not self._consistency.ordered and clock < own:
                    entry.lacking.discard(owner)
        self._trim()

    def on_answer(self, owner: int, reply: Mapping[str, Any]) -> list[Pull]:
        """Take in an owner's answer to a ``Pull``; it is shown at the next :meth:`install`."""
        if self._in_flight.get(owner) != reply["number"]:
            return []
        del self._in_flight[owner]
        self._inbox[owner].append(reply)
        self._seen[owner] = max(self._seen[owner], reply["fresh"])
        self._since[owner] = max(self._since[owner], reply["version"])
        if not self._ended and (self._consistency.eager or self._lacks(owner)):
            return self._pull(owner)
        return []

    def ready(self) -> bool:
        """Whether the views would be fresh enough with what has been heard.

        False as well while an owner is ``MAX_UNACKNOWLEDGED`` clocks beyond the bound in taking
        this rank's batches: a run without a bound would fill the memory with them.
        """
        for entry in self._log:
            if entry.clock + MAX_UNACKNOWLEDGED + self.bound < self.clock and entry.unacked:
                return False
        return not any(self._lacks(owner) for owner in range(self.n_ranks))

    def install(self) -> None:
        """Show in the views what has been heard. Called in ``clock()``, when ``ready``."""
        for owner, replies in enumerate(self._inbox):
            for reply in replies:
                by_plan: dict[int, list[Chunk]] = {}
                for chunk in reply["chunks"]:
                    by_plan.setdefault(chunk["plan"], []).append(chunk)
                for plan, chunks in by_plan.items():
                    self._install_chunks(owner, self._views[plan], reply, chunks)
                self._installed[owner] = max(self._installed[owner], reply["fresh"])
                self._consumed[owner].append(("pull", reply["number"]))
                for entry in self._log:
                    if entry.clock < reply["own"]:
                        entry.lacking.discard(owner)
            replies.clear()
        self._barrier = False
        self._trim()
        self._update_freshness()
        for view in self._views:
            self.statistics.read(view.spec.name, self.clock - min(view.fresh, self.clock))

    def _need(self, view: StoreView) -> int:
        """Clocks of every rank that the view must hold now."""
        if self._barrier:
            return self.clock
        if not self._consistency.bounded:
            return 0
        own = view.spec.staleness
        return self.clock - (self.bound if own is None else own)

    def _lacks(self, owner: int) -> bool:
        seen = self._seen[owner]
        return any(
            self._need(view) > max(seen, view.opened[owner])
            for view in self._views
            if owner in view.opened
        )

    def _needed(self, owner: int) -> int:
        return max((self._need(view) for view in self._views if owner in view.opened), default=0)

    def _pulls(self) -> list[Push | Pull]:
        pulls: list[Push | Pull] = []
        for owner in sorted({owner for view in self._views for owner in view.opened}):
            lazy = self._consistency.model == "ssp" and not self._lacks(owner)
            if owner not in self._in_flight and not lazy:
                pulls += self._pull(owner)
        return pulls

    def _pull(self, owner: int) -> list[Pull]:
        need = self._needed(owner)
        if self._consistency.eager:
            need = max(need, self._seen[owner] + 1)
        self._n_pulls += 1
        self._in_flight[owner] = self._n_pulls
        message = {
            **self.sender,
            "number": self._n_pulls,
            "need": max(need, 0),
            "since": self._since[owner],
            "consumed": self._consumed[owner],
        }
        self._consumed[owner] = []
        return [Pull(owner, message)]

    def _show_own(self, increments: Sequence[tuple[StoreView, Any]]) -> None:
        """Show increments where inc() did not: in views without read-my-writes, in other views."""
        for view, pending in increments:
            if not view.read_my_writes and not self._comes_back(view):
                view.add_own(pending)
            for other in self._views:
                if other is not view and other.spec is view.spec:
                    everywhere = np.ones(other.shape[0], dtype=np.bool_)
                    for piece in other.pieces:
                        self._add_rows_of(other, piece.owner, view, pending, everywhere)

    def _comes_back(self, view: StoreView) -> bool:
        """Whether the clock's own increments are certain to be in what is installed next (BSP)."""
        return self._consistency.ordered and view.spec.staleness in (None, 0)

    def _install_chunks(
        self, owner: int, view: StoreView, reply: Mapping[str, Any], chunks: Sequence[Chunk]
    ) -> None:
        if view.versions.get(owner, -1) > reply["version"]:
            return
        view.versions[owner] = reply["version"]
        replaced = view.install(chunks)
        if owner != self.rank:
            for chunk in chunks:
                n_rows = n_chunk_rows(chunk, view.spec.n_cols)
                self.statistics.received(view.spec.name, chunk_bytes(chunk), n_rows)
        for entry in self._log:
            if entry.clock >= reply["own"]:
                for source, pending in entry.increments:
                    if source.spec is view.spec:
                        self._add_rows_of(view, owner, source, pending, replaced)

    def _add_rows_of(
        self, view: StoreView, owner: int, source: StoreView, pending: Any, where: Array
    ) -> None:
        """Add ``source``'s increments to the marked rows of ``view`` that ``owner`` holds."""
        for piece in view.pieces:
            if piece.owner != owner:
                continue
            target = np.arange(piece.lo, piece.hi, dtype=np.int32)
            if source is view:
                view.add_where(target, pending[piece.lo : piece.hi], where)
                continue
            wanted = target.astype(np.int64) if view.rows is None else view.rows[target]
            position, found = _positions(source.rows, wanted)
            if found.any():
                delta = pending[position[found]]
                view.add_where(np.ascontiguousarray(target[found]), delta, where)

    def _update_freshness(self) -> None:
        for view in self._views:
            view.fresh = min(
                (max(opened, self._installed[owner]) for owner, opened in view.opened.items()),
                default=self.clock,
            )

    def _trim(self) -> None:
        while self._log and not self._log[0].unacked and not self._log[0].lacking:
            self._log.popleft()


def _positions(rows: Array | None, wanted: Array) -> tuple[Array, Array]:
    """Find where each wanted row lies in ``rows`` (None: all rows), and whether it does."""
    if rows is None:
        return wanted, np.ones(len(wanted), dtype=np.bool_)
    position = np.searchsorted(rows, wanted)
    inside = np.minimum(position, max(len(rows) - 1, 0))
    return inside, (rows[inside] == wanted) if len(rows) else np.zeros(len(wanted), np.bool_)
