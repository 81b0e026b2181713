"""The store against a dictionary: random get, inc, clock and barrier by several ranks.

The dictionary says how much each rank added to each cell in each clock. A value that a rank gets
must lie between what it has to see and what has been added at all (increments are positive): the
counter checker of Jepsen. At the end every cell is the sum of all increments.
"""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from store_simulator import Cores

from dask_petuum.store.consistency import Consistency
from dask_petuum.store.owner import Owner
from dask_petuum.store.rank import RankCore
from dask_petuum.store.spec import DTYPES, TableSpec
from dask_petuum.transport.memory import Faults, MemoryNetwork

N_COLS = 2
RANKS = st.integers(0, 2)
MODELS = st.sampled_from(
    [("bsp", 0), ("ssp", 0), ("ssp", 2), ("essp", 0), ("essp", 1), ("essp", 3), ("asp", 0)]
)


class StoreMachine(RuleBasedStateMachine):
    """Three ranks at most; messages are delivered when a rule says so."""

    @initialize(
        model=MODELS,
        n_ranks=st.integers(1, 3),
        n_rows=st.integers(1, 5),
        dtype=st.sampled_from(DTYPES),
        sparse=st.booleans(),
        faulty=st.booleans(),
        seed=st.integers(0, 99),
    )
    def start(self, model, n_ranks, n_rows, dtype, sparse, faulty, seed):
        self.spec = TableSpec("w", (n_rows, N_COLS), dtype, sparse=sparse)
        self.consistency = Consistency.parse(*model)
        faults = Faults(lose=0.1, repeat=0.1, late=0.1, slow=0.1) if faulty else Faults()
        self.network = MemoryNetwork(seed, faults)
        self.cores = Cores(n_ranks, [self.spec], self.consistency, self.network)
        self.n_ranks = n_ranks
        self.views = [
            [self.cores.open_view(p, "w", None, mine) for mine in (True, False)]
            for p in range(n_ranks)
        ]
        #: (rank, clock, row, column) to what was added.
        self.added = Counter()
        #: The same, of views that show it from the next clock on.
        self.deferred = Counter()
        self.waiting = [False] * n_ranks
        self.bounds = [self.bound()] * n_ranks
        self.fresh = [owner.fresh for owner in self.cores.owners]

    def bound(self):
        return self.consistency.low if self.consistency.bounded else None

    def works(self, p):
        return not self.waiting[p] and not self.cores.opening[p]

    @rule(n=st.integers(1, 30))
    def deliver(self, n):
        for _ in range(n):
            self.network.step()

    @rule(p=RANKS, read_my_writes=st.booleans(), picks=st.lists(st.booleans(), min_size=5))
    def open(self, p, read_my_writes, picks):
        if p < self.n_ranks and self.works(p) and len(self.views[p]) < 4:
            rows = [row for row in range(self.spec.n_rows) if picks[row]]
            view = self.cores.open_view(p, "w", rows, read_my_writes)
            if view not in self.views[p]:
                self.views[p].append(view)

    @rule(
        p=RANKS,
        which=st.integers(0, 3),
        position=st.integers(0, 4),
        column=st.integers(0, N_COLS - 1),
        amount=st.integers(1, 3),
    )
    def inc(self, p, which, position, column, amount):
        if p >= self.n_ranks or not self.works(p):
            return
        view = self.views[p][which % len(self.views[p])]
        if position >= view.shape[0]:
            return
        delta = np.zeros((1, N_COLS), dtype=self.spec.dtype)
        delta[0, column] = amount
        view.inc(delta, at=[position])
        row = position if view.rows is None else int(view.rows[position])
        key = (p, self.cores.ranks[p].clock, row, column)
        self.added[key] += amount
        if not view.read_my_writes:
            self.deferred[key] += amount

    @rule(p=RANKS)
    def get(self, p):
        if p < self.n_ranks and self.works(p):
            for view in self.views[p]:
                self.get_from(p, view)

    def get_from(self, p, view):
        values = view.values.toarray() if self.spec.sparse else view.values
        rows = range(self.spec.n_rows) if view.rows is None else view.rows
        for value, row in zip(values, rows, strict=True):
            for column in range(N_COLS):
                low, high = self.limits(p, int(row), column, view)
                assert low <= value[column] <= high, (p, row, column, view)

    def limits(self, p, row, column, view):
        """Least and most that a rank may see in a cell now."""
        clock = self.cores.ranks[p].clock
        low = high = 0
        for (rank, when, r, c), amount in self.added.items():
            if (r, c) != (row, column):
                continue
            now = rank == p and when == clock
            seen = view.fresh > when
            if rank == p:
                seen |= when < clock
            elif self.bounds[p] is not None:
                seen |= when < clock - self.bounds[p]
            low += amount if seen else 0
            allowed = not (self.consistency.ordered and rank != p and when >= clock)
            if allowed:
                high += amount - (self.deferred[rank, when, r, c] if now else 0)
        return low, high

    @rule(p=RANKS)
    def clock(self, p):
        if p < self.n_ranks and self.works(p):
            self.waiting[p] = True
            self.cores.send(p, self.cores.ranks[p].end_clock())

    @precondition(lambda self: len({core.clock for core in self.cores.ranks}) == 1)
    @rule()
    def barrier(self):
        if all(self.works(p) for p in range(self.n_ranks)):
            for p in range(self.n_ranks):
                self.waiting[p] = True
                self.bounds[p] = 0
                self.cores.send(p, self.cores.ranks[p].end_clock(barrier=True))

    @rule()
    def everybody_goes_on(self):
        for p in range(self.n_ranks):
            self.clock(p)
        for _ in range(60):
            self.network.step()
            for p in range(self.n_ranks):
                self.go_on(p)

    @rule(p=RANKS)
    def go_on(self, p):
        """Start the next clock, where the rank may."""
        if p < self.n_ranks and self.waiting[p] and self.cores.ranks[p].ready():
            self.cores.ranks[p].install()
            self.waiting[p] = False
            before = self.bounds[p]
            self.bounds[p] = self.bound()
            if before == 0 and self.bounds[p] != 0:
                clock = self.cores.ranks[p].clock
                assert all(view.fresh >= clock for view in self.views[p] if view.pieces)
            self.get(p)

    @invariant()
    def fresh_never_falls(self):
        if hasattr(self, "cores"):
            assert not self.cores.fell
            fresh = [owner.fresh for owner in self.cores.owners]
            assert all(new >= old for new, old in zip(fresh, self.fresh, strict=True))
            self.fresh = fresh

    @invariant()
    def every_row_has_one_owner(self):
        if hasattr(self, "cores"):
            assert (self.cores.table(self.spec) >= 0).all()

    @invariant()
    def clocks_stay_within_the_bound(self):
        if hasattr(self, "cores") and self.consistency.bounded:
            clocks = [core.clock for core in self.cores.ranks]
            assert max(clocks) - min(clocks) <= self.consistency.low + 1

    def teardown(self):
        if not hasattr(self, "cores"):
            return
        ended = [False] * self.n_ranks
        for _ in range(5_000):
            self.network.step()
            for p in range(self.n_ranks):
                self.go_on(p)
                if self.works(p) and not ended[p]:
                    ended[p] = True
                    self.cores.send(p, self.cores.ranks[p].end_clock(last=True))
            if all(ended) and not self.network.n_under_way:
                break
        assert all(ended), "a rank waits for ever"
        expected = np.zeros(self.spec.shape)
        for (_, _, row, column), amount in self.added.items():
            expected[row, column] += amount
        np.testing.assert_array_equal(self.cores.table(self.spec), expected)


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStoreAgainstADictionary = StoreMachine.TestCase
HUNT = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
)


@pytest.mark.parametrize("bug", ["a repeated batch", "a clock less", "no own increments"])
def test_the_machine_finds_a_planted_bug(bug, monkeypatch):
    if bug == "a repeated batch":

        def push(self, message, original=Owner.push):
            reader = self._readers[message["rank"]]
            if message["clock"] < reader.next_clock and not self._ordered:
                self._apply(reader, message)
            return original(self, message)

        monkeypatch.setattr(Owner, "push", push)
    elif bug == "a clock less":
        need = RankCore._need
        monkeypatch.setattr(RankCore, "_need", lambda self, view: need(self, view) - 1)
    else:
        monkeypatch.setattr(RankCore, "_show_own", lambda self, increments: None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(StoreMachine, settings=HUNT)
