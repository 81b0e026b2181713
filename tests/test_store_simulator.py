"""Random schedules over a failing network keep the store's promise; planted bugs do not.

A seed names its schedule: ``Simulation(seed).run()`` runs it again. Seeds of bugs that were found
belong into FOUND, so that they are run whatever the number of schedules.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from unittest.mock import PropertyMock, patch

import numpy as np
import pytest
from store_simulator import MODELS, Simulation

from dask_petuum.store.owner import FINISHED, Owner, Release
from dask_petuum.store.rank import RankCore
from dask_petuum.store.shard import Shard
from dask_petuum.store.view import StoreView

N_SCHEDULES = 2_000
N_PARTS = 8
#: Schedules that once showed a bug.
FOUND: tuple[int, ...] = ()


@pytest.mark.parametrize("part", range(N_PARTS))
def test_every_schedule_keeps_the_promise(part):
    n = N_SCHEDULES // N_PARTS
    for seed in (*FOUND, *range(part * n, (part + 1) * n)):
        simulation = Simulation(seed)
        violations = simulation.run()
        assert violations == [], f"seed {seed}, {simulation.consistency}"


def test_schedules_are_of_every_kind():
    seen = set()
    for seed in range(80):
        simulation = Simulation(seed)
        simulation.run()
        seen |= {simulation.consistency.model, simulation.n_ranks}
        seen |= {spec.dtype for spec in simulation.specs}
        seen |= {"sparse" for spec in simulation.specs if spec.sparse}
        seen |= {"own bound" for spec in simulation.specs if spec.staleness is not None}
        seen |= {"barrier" for _ in simulation.barriers}
        for rank in simulation.ranks:
            seen |= {("mine at once", view.read_my_writes) for view in rank.views}
            seen |= {"part of the rows" for view in rank.views if view.rows is not None}
            seen |= {"several views" for _ in rank.views[1:]}
    wanted = {*MODELS, 1, 2, 3, 4, 5}
    wanted |= {"int32", "int64", "float32", "float64", "sparse", "own bound", "barrier"}
    wanted |= {("mine at once", True), ("mine at once", False), "several views", "part of the rows"}
    assert wanted <= seen


def test_a_schedule_can_be_run_again():
    first, second = Simulation(7), Simulation(7)
    first.run()
    second.run()
    assert len(first.events) > 10
    assert repr(first.events) == repr(second.events)


# Planted bugs. Each takes the original method and returns the broken one.


def applies_repeats(original):
    def push(self, message):
        reader = self._readers[message["rank"]]
        if message["clock"] < reader.next_clock and not self._ordered:
            self._apply(reader, message)
        return original(self, message)

    return push


def loses_batches(original):
    def apply(self, reader, message):
        if (message["rank"] + message["clock"]) % 3 == 1:
            message = {**message, "chunks": []}
        original(self, reader, message)

    return apply


def needs_one_clock_less(original):
    return lambda self, view: original(self, view) - 1


def never_refreshes(original):
    def install(self, chunks):
        if all(piece.owner in self.versions for piece in self.pieces) and self.fresh:
            return np.zeros(self.shape[0], dtype=np.bool_)
        return original(self, chunks)

    return install


def forgets_own_increments(original):
    def install_chunks(self, owner, view, reply, chunks):
        log, self._log = self._log, deque()
        original(self, owner, view, reply, chunks)
        self._log = log

    return install_chunks


def adds_own_increments_twice(original):
    def add_rows_of(self, view, owner, source, pending, where):
        original(self, view, owner, source, pending, where)
        if not where.all():
            original(self, view, owner, source, pending, where)

    return add_rows_of


def applies_at_once_in_bsp(original):
    def init(self, *arguments, **keywords):
        original(self, *arguments, **{**keywords, "ordered": False})

    return init


def lets_clocks_overtake(original):
    def push(self, message):
        reader, clock = self._readers[message["rank"]], message["clock"]
        if self._ordered:
            return original(self, message)
        taken = self.__dict__.setdefault("taken", set())
        if (message["rank"], clock) not in taken:
            taken.add((message["rank"], clock))
            self._apply(reader, message)
            reader.next_clock = FINISHED if message["last"] else max(reader.next_clock, clock + 1)
        return {**self._reply(), "own": reader.next_clock}, self._releases()

    return push


def takes_the_fastest_clock(original):
    def fresh(self):
        clocks = [reader.next_clock for reader in self._readers]
        return max((clock for clock in clocks if clock < FINISHED), default=FINISHED)

    return property(fresh)


def takes_any_answer(original):
    def on_answer(self, owner, reply):
        self._in_flight[owner] = reply["number"]
        return original(self, owner, reply)

    return on_answer


def installs_over_newer(original):
    def install_chunks(self, owner, view, reply, chunks):
        view.versions[owner] = -1
        original(self, owner, view, reply, chunks)

    return install_chunks


def keeps_the_older_pull(original):
    def answer_or_park(self, reader, read):
        old = reader.parked.pop(read.plan, None)
        released = original(self, reader, read)
        if old is not None:
            released.append(Release(old.token, {**self._reply(), "status": "superseded"}))
        return released

    return answer_or_park


def ignores_a_tables_bound(original):
    def need(self, view):
        with patch.object(type(view.spec), "staleness", PropertyMock(return_value=None)):
            return original(self, view)

    return need


def shows_deferred_at_once(original):
    def inc(self, delta, at=None):
        deferred, self.read_my_writes = not self.read_my_writes, True
        original(self, delta, at)
        self.read_my_writes = not deferred

    return inc


def hides_increments_from_other_views(original):
    def show_own(self, increments):
        views, self._views = self._views, []
        original(self, increments)
        self._views = views

    return show_own


def believes_acknowledgements(original):
    def on_pushed(self, owner, clock, own):
        for entry in self._log:
            if entry.clock == clock:
                entry.lacking.discard(owner)
        original(self, owner, clock, own)

    return on_pushed


def opens_without_waiting(original):
    return lambda self, message, token: original(self, {**message, "need": 0}, token)


def marks_no_cells(original):
    def apply_cells(self, chunk, plan_rows, version):
        versions = self.versions.copy()
        original(self, chunk, plan_rows, version)
        self.versions = versions

    return apply_cells


def waits_for_the_finished(original):
    def accept(self, rank, reader, message):
        original(self, rank, reader, {**message, "last": False})

    return accept


def claims_too_much_of_own(original):
    def answer(self, reader, read):
        reply = original(self, reader, read)
        return {**reply, "own": reply["own"] + 1}

    return answer


def skips_barriers(original):
    return lambda self, **keywords: original(self, **{**keywords, "barrier": False})


def claims_too_fresh(original):
    def update(self):
        original(self)
        for view in self._views:
            view.fresh = min(view.fresh + 1, self.clock)

    return update


def keeps_the_callers_array(original):
    def collect(self, delta, where):
        first = self._pending is None
        original(self, delta, where)
        if first and where is None:
            self._pending = delta

    return collect


def shows_other_views_when_opened(original):
    def on_opened(self, owner, view, reply):
        original(self, owner, view, reply)
        everywhere = np.ones(view.shape[0], dtype=np.bool_)
        for other in self._views:
            if other is not view and other.spec is view.spec and other._pending is not None:
                self._add_rows_of(view, owner, other, other._pending, everywhere)

    return on_opened


def frees_answers_before_installing(original):
    def on_answer(self, owner, reply):
        if self._in_flight.get(owner) == reply["number"]:
            self._consumed[owner].append(("pull", reply["number"]))
        return original(self, owner, reply)

    return on_answer


def frees_batches_when_acknowledged(original):
    def on_pushed(self, owner, clock, own):
        original(self, owner, clock, own)
        for entry in self._log:
            if entry.clock == clock and not entry.unacked:
                self._log.remove(entry)
                return

    return on_pushed


def never_waits(original):
    return lambda self: True


def pulls_after_the_last_version(original):
    def pull(self, owner):
        pulls = original(self, owner)
        for pull in pulls:
            pull.message["since"] += 1
        return pulls

    return pull


BUGS = {
    applies_repeats: (Owner, "push", "surplus final"),
    loses_batches: (Owner, "_apply", "final"),
    needs_one_clock_less: (RankCore, "_need", "stale"),
    never_refreshes: (StoreView, "install", "stale"),
    forgets_own_increments: (RankCore, "_install_chunks", "own"),
    adds_own_increments_twice: (RankCore, "_add_rows_of", "surplus"),
    applies_at_once_in_bsp: (Owner, "__init__", "too new"),
    lets_clocks_overtake: (Owner, "push", "stale"),
    takes_the_fastest_clock: (Owner, "fresh", "stale"),
    keeps_the_older_pull: (Owner, "_answer_or_park", "hang"),
    ignores_a_tables_bound: (RankCore, "_need", "stale"),
    shows_deferred_at_once: (StoreView, "inc", "early"),
    hides_increments_from_other_views: (RankCore, "_show_own", "own"),
    believes_acknowledgements: (RankCore, "on_pushed", "own"),
    opens_without_waiting: (Owner, "open", "stale"),
    marks_no_cells: (Shard, "_apply_cells", "stale"),
    waits_for_the_finished: (Owner, "_accept", "hang"),
    claims_too_much_of_own: (Owner, "_answer", "own"),
    skips_barriers: (RankCore, "end_clock", "stale"),
    claims_too_fresh: (RankCore, "_update_freshness", "fresh"),
    keeps_the_callers_array: (StoreView, "_collect", "surplus final"),
    shows_other_views_when_opened: (RankCore, "on_opened", "surplus"),
    frees_answers_before_installing: (RankCore, "on_answer", "surplus"),
    frees_batches_when_acknowledged: (RankCore, "on_pushed", "final own"),
    never_waits: (RankCore, "ready", "stale spread"),
    pulls_after_the_last_version: (RankCore, "_pull", "stale"),
}
#: Bugs of which each alone does no harm.
STALE_ANSWERS = (
    (takes_any_answer, RankCore, "on_answer"),
    (installs_over_newer, RankCore, "_install_chunks"),
)
MOST_SCHEDULES = 1_000


def hunt(kinds, model=None):
    """Find the first schedule that shows a violation of one of the kinds."""
    for seed in range(MOST_SCHEDULES):
        found = {violation.kind for violation in Simulation(seed, model).run()}
        if found & set(kinds):
            return seed
    return None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug):
    owner, name, kinds = BUGS[bug]
    expected = [kind for kind in ALL_KINDS if kind in kinds]
    with patch.object(owner, name, bug(owner.__dict__[name])):
        assert hunt(expected) is not None, f"{bug.__name__} survives {MOST_SCHEDULES} schedules"


def test_a_stale_answer_installed_over_a_newer_one_is_found():
    with ExitStack() as stack:
        for bug, owner, name in STALE_ANSWERS:
            stack.enter_context(patch.object(owner, name, bug(owner.__dict__[name])))
        assert hunt(("stale", "own", "backwards"), "bsp") is not None


ALL_KINDS = (
    *("surplus", "stale", "fresh", "too new", "own", "early"),
    *("backwards", "clock", "spread", "final", "hang"),
)
