"""The history checker: proves from what ranks did and read that the store kept its promise.

Increments commute, so no search over orders is needed. In a *fingerprint table* of P ranks and C
clocks each row is a P x C matrix, and rank p in clock c adds to cell [p, c] only: a read then shows
exactly which increments it holds, and each promise is one linear pass over the events:

==========  =====================================================================================
kind        what was broken
==========  =====================================================================================
surplus     a read shows more than was added: an increment twice, or one that nobody made
stale       an increment of a clock before c - s is missing in a read of clock c
fresh       an increment of a clock before the view's own ``fresh`` is missing
too new     BSP: another rank's increment of clock c or later; else: more than s clocks ahead
own         the reader's own increment is missing
early       an increment through a view without read-my-writes is seen within its clock
backwards   a view shows less than it showed before
clock       a rank's clocks do not go up one by one
spread      a rank ended its clock too far ahead of the slowest
final       the table at the end is not the sum of all increments
==========  =====================================================================================

Adding integers below 2**24 is exact in every dtype, so float tables are checked to the bit.
The idea is that of Jepsen's counter checker, sharpened: sums are compared cell by cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["End", "Event", "Final", "Inc", "Read", "Violation", "check"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Inc:
    """A rank in a clock adds to its cell of some rows.

    Parameters
    ----------
    view
        Number of the view, unique in the rank; -1: of another rank, not known here.
    rows : (n,) int
    amounts : (n,) int
    deferred
        The view shows its own increments from the next clock on.
    """

    rank: int
    clock: int
    table: str
    rows: Array
    amounts: Array
    view: int = -1
    deferred: bool = False


@dataclass(frozen=True)
class Read:
    """What a view shows.

    Parameters
    ----------
    rows : (n,) int
    values : (n, n_ranks, n_clocks)
        Less the table's first values.
    bound
        Clocks that the values may lag; None: no promise.
    ahead
        Clocks that another rank may be ahead, as seen in the values: -1 in BSP, s otherwise;
        None: no promise.
    fresh
        What the view says of itself: every increment of clocks 0 .. fresh-1 is there.
    """

    rank: int
    clock: int
    table: str
    rows: Array
    values: Array
    view: int
    bound: int | None
    ahead: int | None = None
    fresh: int = 0


@dataclass(frozen=True)
class End:
    """A rank ends a clock; ``clock`` is the number of clocks that it has ended then.

    ``bound`` is the strictest of its views' bounds; None where it never waits.
    """

    rank: int
    clock: int
    bound: int | None = None
    last: bool = False


@dataclass(frozen=True)
class Final:
    """A table when every rank has ended: (n_rows, n_ranks, n_clocks), less its first values."""

    table: str
    values: Array


Event = Inc | Read | End | Final


@dataclass(frozen=True)
class Violation:
    """A promise that was broken."""

    kind: str
    text: str


@dataclass
class _State:
    """What the events so far amount to."""

    totals: Mapping[str, Array]
    issued: Mapping[str, Array]
    ended: Array
    finished: Array
    #: By rank, table and view, of the rank's current clock: (n_rows,) added so far.
    current: dict[tuple[int, str, int], Array] = field(default_factory=dict)
    #: The same of all the rank's views that show increments at once.
    shown: dict[tuple[int, str], Array] = field(default_factory=dict)
    last: dict[tuple[int, int], Array] = field(default_factory=dict)


def check(
    events: Iterable[Event],
    n_ranks: int,
    n_clocks: int,
    n_rows: Mapping[str, int],
    *,
    one_order: bool = False,
) -> list[Violation]:
    """Check a history.

    Parameters
    ----------
    events
        Of all ranks; those of one rank in the order in which they happened.
    n_ranks, n_clocks
        Shape of a fingerprint row.
    n_rows
        Rows of each table.
    one_order
        The events of different ranks are in the order in which they happened, too. Then reads are
        compared with what had been added by then, and the spread of clocks is checked.

    Returns
    -------
    list of Violation
        In the order of the events; at most one for each kind and event.

    Notes
    -----
    Linear in the sizes of the reads. Every table must have a :class:`Final`.
    """
    events = list(events)
    shapes = {name: (n, n_ranks, n_clocks) for name, n in n_rows.items()}
    totals = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
    for event in events:
        if isinstance(event, Inc):
            np.add.at(totals[event.table][:, event.rank, event.clock], event.rows, event.amounts)
    issued = totals
    if one_order:
        issued = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
    state = _State(totals, issued, np.zeros(n_ranks, np.int64), np.zeros(n_ranks, np.bool_))
    found: list[Violation] = []
    seen: set[str] = set()
    for event in events:
        if isinstance(event, Inc):
            _take_inc(state, event, one_order)
        elif isinstance(event, Read):
            found += _check_read(state, event)
        elif isinstance(event, End):
            found += _check_end(state, event, one_order)
        else:
            seen.add(event.table)
            found += _check_final(state, event)
    for name in sorted(set(n_rows) - seen):
        found.append(Violation("final", f"nobody read table {name!r} at the end"))
    return found


def _take_inc(state: _State, inc: Inc, one_order: bool) -> None:
    n_rows = len(state.totals[inc.table])
    if one_order:
        np.add.at(state.issued[inc.table][:, inc.rank, inc.clock], inc.rows, inc.amounts)
    if inc.view < 0:
        return
    key = (inc.rank, inc.table, inc.view)
    if key not in state.current:
        state.current[key] = np.zeros(n_rows, dtype=np.int64)
    np.add.at(state.current[key], inc.rows, 0 if inc.deferred else inc.amounts)
    if inc.deferred:
        return
    shown = (inc.rank, inc.table)
    if shown not in state.shown:
        state.shown[shown] = np.zeros(n_rows, dtype=np.int64)
    np.add.at(state.shown[shown], inc.rows, inc.amounts)


def _check_read(state: _State, read: Read) -> list[Violation]:
    values = read.values
    total = state.totals[read.table][read.rows]
    so_far = total if state.issued is state.totals else state.issued[read.table][read.rows]
    clock, rank = read.clock, read.rank
    found = []

    def compare(kind: str, broken: Array) -> None:
        if broken.any():
            found.append(_violation(kind, read, broken))

    compare("surplus", values > so_far)
    missing = values < total
    if read.bound is not None and clock > read.bound:
        compare("stale", missing[:, :, : clock - read.bound])
    compare("fresh", missing[:, :, : max(read.fresh, 0)])
    if read.ahead is not None:
        others = values[:, :, clock + read.ahead + 1 :] != 0
        others[:, rank] = False
        compare("too new", others)
    mine = values[:, rank]
    compare("own", missing[:, rank, :clock])
    if clock < values.shape[2]:
        now = mine[:, clock]
        least = state.current.get((rank, read.table, read.view))
        if least is not None:
            compare("own", now < least[read.rows])
        most = state.shown.get((rank, read.table))
        compare("early", now > (0 if most is None else most[read.rows]))
    before = state.last.get((rank, read.view))
    if before is not None:
        compare("backwards", values < before)
    state.last[rank, read.view] = values
    return found


def _check_end(state: _State, end: End, one_order: bool) -> list[Violation]:
    found = []
    if end.clock != state.ended[end.rank] + 1:
        text = f"rank {end.rank} ended clock {end.clock} after {state.ended[end.rank]}"
        found.append(Violation("clock", text))
    state.ended[end.rank] = end.clock
    state.finished[end.rank] = end.last
    for key in [key for key in state.current if key[0] == end.rank]:
        del state.current[key]
    for shown in [shown for shown in state.shown if shown[0] == end.rank]:
        del state.shown[shown]
    if one_order and end.bound is not None:
        running = np.where(state.finished, end.clock, state.ended)
        if end.clock - running.min() > end.bound + 1:
            slowest = int(running.argmin())
            text = f"rank {end.rank} ended clock {end.clock}, rank {slowest} {running.min()}"
            found.append(Violation("spread", f"{text}, with a bound of {end.bound}"))
    return found


def _check_final(state: _State, final: Final) -> list[Violation]:
    total = state.totals[final.table]
    if np.array_equal(final.values, total):
        return []
    where = tuple(int(i) for i in np.argwhere(final.values != total)[0])
    text = f"table {final.table!r}: {final.values[where]} instead of {total[where]} at {where}"
    return [Violation("final", text)]


def _violation(kind: str, read: Read, broken: Array) -> Violation:
    first = tuple(int(i) for i in np.argwhere(broken)[0])
    text = (
        f"rank {read.rank} in clock {read.clock}, view {read.view} of table {read.table!r}, "
        f"row {read.rows[first[0]]}: {int(broken.sum())} cells, the first at {first[1:]}"
    )
    return Violation(kind, text)
