"""The store's real cores, driven by a random schedule over a network that fails.

One seed is one schedule: tables, views, consistency, who works when, and what happens to each
message. What ranks did and read becomes a history, which :func:`dask_petuum.store.audit.check`
judges. Nothing here knows how the cores work inside.
"""

from __future__ import annotations

import ctypes
import random
import weakref
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from dask_petuum.exceptions import TransportError
from dask_petuum.runtime.endpoint import Step, _joined
from dask_petuum.store.audit import End, Event, Final, Inc, Read, Violation, check
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.identity import Identity
from dask_petuum.store.layout import plan_layout
from dask_petuum.store.owner import FINISHED, Cut, Owner
from dask_petuum.store.rank import Open, Pull, Push, RankCore
from dask_petuum.store.spec import DTYPES, TableSpec, initial_rows
from dask_petuum.store.view import StoreView
from dask_petuum.transport.memory import Faults, MemoryNetwork

MODELS = ("bsp", "ssp", "essp", "asp")
OPERATIONS = {Open: "open", Pull: "pull", Push: "push", Step: "step"}


class Memory:
    """Memory that ranks share: who is sent an array reads it where it lies, and does not own it.

    What nobody who owns it refers to any longer is overwritten at once, so that a reader who comes
    too late reads nonsense.
    """

    def __init__(self, n_bytes: int) -> None:
        self._bytes = bytearray(n_bytes)
        self._base = np.frombuffer(self._bytes, dtype=np.uint8).__array_interface__["data"][0]
        self._next = 0

    def empty(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """As numpy.empty; in ordinary memory when there is none left."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        offset, end = self._next, self._next + n_bytes
        if n_bytes == 0 or end > len(self._bytes):
            return np.empty(shape, dtype)
        self._next = -(-end // 16) * 16
        slot = (ctypes.c_char * n_bytes).from_buffer(self._bytes, offset)
        weakref.finalize(slot, self._overwrite, offset, n_bytes)
        return np.frombuffer(slot, dtype=dtype).reshape(shape)

    def lend(self, value):
        """A message as its receiver sees it."""
        if isinstance(value, np.ndarray):
            offset = value.__array_interface__["data"][0] - self._base
            if value.size == 0 or not 0 <= offset < len(self._bytes):
                return value
            lent = np.frombuffer(self._bytes, value.dtype, value.size, offset)
            return lent.reshape(value.shape)
        if isinstance(value, dict):
            return {key: self.lend(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.lend(item) for item in value]
        return value

    def _overwrite(self, offset: int, n_bytes: int) -> None:
        self._bytes[offset : offset + n_bytes] = b"\x55" * n_bytes


class Cores:
    """Owners and rank cores of a run, wired through a network as the runtime's endpoints do it.

    With a ``memory``, ranks share it: they keep answers until their readers name them as consumed.
    """

    def __init__(
        self,
        n_ranks: int,
        specs: list[TableSpec],
        consistency: Consistency,
        network: MemoryNetwork,
        own_by_network: bool = False,
        memory: Memory | None = None,
        joins: bool = False,
        run_id: str = "run",
        epoch: int = 0,
        first_clock: int = 0,
    ) -> None:
        self.run_id = run_id
        #: Whether a push and a pull to one owner go in one message.
        self.joins = joins
        layout = plan_layout(specs, n_ranks)
        empty = np.empty if memory is None else memory.empty
        self._memory = memory
        #: Answers that were not consumed yet, by owner, reader and which.
        self._kept: dict[tuple[int, int, tuple[str, int]], list] = {}
        self.own_by_network = own_by_network
        self.owners: list[Owner] = []
        self.ranks: list[RankCore] = []
        #: Plan and owner of each access plan that has not been answered, by rank.
        self.opening: list[set[tuple[int, int]]] = [set() for _ in range(n_ranks)]
        #: Owners whose ``fresh`` was less than before.
        self.fell: list[int] = []
        #: Copies of shards that were made at cuts.
        self.cuts: list[Cut] = []
        for p in range(n_ranks):
            identity = Identity(run_id, p, n_ranks, epoch)
            ordered = consistency.ordered
            owner = Owner(
                identity, specs, layout, ordered=ordered, empty=empty, first_clock=first_clock
            )
            self.owners.append(owner)
            self.ranks.append(RankCore(identity, specs, layout, consistency, empty, first_clock))
            network.serve(p, partial(self._serve, p))
        self.transports = [network.connect(p) for p in range(n_ranks)]

    def open_view(self, p: int, table: str, rows, read_my_writes: bool) -> StoreView:
        """Declare rows; not to be used before ``opening`` is empty."""
        view, effects = self.ranks[p].open_view(table, rows, read_my_writes)
        self.opening[p] |= {(view.plan, effect.owner) for effect in effects}
        self.send(p, effects)
        return view

    def send(self, p: int, effects: list) -> None:
        """Send what a rank's core asks for; its own owner is reached by a call."""
        if not self.own_by_network:
            for effect in effects:
                if effect.owner == p:
                    operation = OPERATIONS[type(effect)]
                    self._serve(p, operation, effect.message, partial(self._hear, p, effect))
            effects = [effect for effect in effects if effect.owner != p]
        for effect in _joined(effects) if self.joins else effects:
            self._call(p, effect)

    def on_cut(self, p: int, cut: Cut) -> None:
        """Take an owner's copy of its shard."""
        self.cuts.append(cut)

    def table(self, spec: TableSpec) -> np.ndarray:
        """A table as its owners hold it; -99 where nobody does, or two do."""
        values = np.full(spec.shape, -99.0)
        held = np.zeros(spec.n_rows, dtype=int)
        for owner in self.owners:
            for start, block in owner.block_values(spec.name):
                dense = block.toarray() if spec.sparse else block
                values[start : start + len(dense)] = dense
                held[start : start + len(dense)] += 1
        values[held != 1] = -99
        return values

    def _call(self, p: int, effect) -> None:
        message = effect.message if self._memory is None else self._memory.lend(effect.message)
        self.transports[p].call(
            effect.owner, OPERATIONS[type(effect)], message, partial(self._hear, p, effect)
        )

    def _hear(self, p: int, effect, reply) -> None:
        core = self.ranks[p]
        if isinstance(reply, TransportError):
            self._call(p, effect)
        elif isinstance(effect, Step):
            self._hear(p, effect.push, reply["pushed"])
            self._hear(p, effect.pull, reply)
        elif reply["status"] == "superseded":
            return
        elif isinstance(effect, Push):
            core.on_pushed(effect.owner, effect.message["clock"], reply["own"])
        elif isinstance(effect, Pull):
            self.send(p, core.on_answer(effect.owner, reply))
        else:
            plan = effect.message["plan"]
            core.on_opened(effect.owner, core.view_of(plan), reply)
            self.opening[p].discard((plan, effect.owner))

    def _serve(self, p: int, operation: str, message, answer) -> None:
        if operation == "step":
            pushed: list = []
            self._serve(p, "push", message["push"], pushed.append)
            both = {"pushed": pushed[0]}
            self._serve(p, "pull", message["pull"], lambda read: answer({**read, **both}))
            return
        owner = self.owners[p]
        before = owner.fresh
        if self._memory is not None:
            answer = self._keeping(p, operation, message, answer)
        if operation == "push":
            reply, releases = owner.push(message)
            for cut in owner.take_cuts():
                self.on_cut(p, cut)
            answer(reply)
        else:
            releases = getattr(owner, operation)(message, answer)
        if owner.fresh < before:
            self.fell.append(p)
        for release in releases:
            release.token(release.reply)

    def _keeping(self, p: int, operation: str, message, answer):
        """Lend answers, and keep them until their reader says that they are installed."""
        reader = message["rank"]
        if message["run"] == self.run_id:  # each run keeps its own answers
            for what in message.get("consumed", ()):
                self._kept.pop((p, reader, tuple(what)), None)
        if operation == "push":
            return answer
        number = message["number" if operation == "pull" else "plan"]

        def keep(reply) -> None:
            self._kept.setdefault((p, reader, (operation, number)), []).append(reply)
            answer(self._memory.lend(reply))

        return keep


@dataclass
class Rank:
    """Where one rank's program stands."""

    core: RankCore
    n_clocks: int
    weight: float
    views: list[StoreView] = field(default_factory=list)
    #: What is left to do in this clock.
    todo: list[tuple] = field(default_factory=list)
    state: str = "start"
    #: Views of which a barrier promised, for this clock, that they lack nothing.
    complete: int = 0


class Simulation:
    """One run of the store under one schedule.

    ``model`` fixes the consistency model; the rest is drawn from the seed.
    """

    #: Fewest and most clocks of a run.
    CLOCKS = (2, 5)

    def __init__(self, seed: int, model: str | None = None) -> None:
        self.random = rng = random.Random(seed)
        self.events: list[Event] = []
        self.violations: list[Violation] = []
        self.n_ranks = rng.choice((1, 2, 2, 3, 3, 4, 5))
        #: Ranks that a row has room for.
        self.n_columns = self._n_columns()
        self.n_clocks = rng.randint(*self.CLOCKS)
        self.consistency = self._draw_consistency(model or rng.choice(MODELS))
        self.specs = [self._draw_table(i, seed) for i in range(rng.choice((1, 1, 1, 2, 3)))]
        self.base = {s.name: initial_rows(s, 0, s.n_rows) for s in self.specs}
        self.barriers = {c for c in range(self.n_clocks) if rng.random() < 0.15}
        faults = Faults(
            lose=rng.choice((0, 0.1)),
            repeat=rng.choice((0, 0.2)),
            late=rng.choice((0, 0.2)),
            slow=rng.choice((0, 0.15)),
        )
        self.network = MemoryNetwork(seed, faults)
        self.own_by_network = rng.random() < 0.3
        self.memory = Memory(2**18) if rng.random() < 0.3 else None
        self.joins = rng.random() < 0.5
        self.ranks: list[Rank] = []
        self._begin()
        self.share = rng.choice((0.3, 0.6, 0.85))
        #: Clocks before which a checkpoint lies.
        self.cut_clocks = {c for c in range(1, self.n_clocks) if rng.random() < 0.25}

    def _n_columns(self) -> int:
        return self.n_ranks

    def _begin(self) -> None:
        """Make the owners and the ranks."""
        self.cores = Cores(
            self.n_ranks,
            self.specs,
            self.consistency,
            self.network,
            self.own_by_network,
            self.memory,
            self.joins,
        )
        rng = self.random
        for core in self.cores.ranks:
            n_clocks = self.n_clocks if rng.random() < 0.8 else rng.randint(1, self.n_clocks)
            self.ranks.append(Rank(core, n_clocks, rng.choice((0.2, 1, 1))))

    def _draw_consistency(self, model: str) -> Consistency:
        if model in ("bsp", "asp"):
            return Consistency.parse(model)
        low = self.random.choice((0, 0, 1, 1, 2, 3, 5))
        high = low + self.random.choice((0, 0, 0, 2))
        return Consistency(model, low, high)

    def _draw_table(self, index: int, seed: int) -> TableSpec:
        rng = self.random
        shape = (rng.choice((1, 2, 3, 5, 8)), self.n_columns * self.n_clocks)
        init: object = rng.choice((0, 3))
        if rng.random() < 0.3:
            init = np.random.default_rng(seed).integers(0, 4, shape)
        return TableSpec(
            f"table{index}",
            shape,
            rng.choice(DTYPES),
            init=init,
            sparse=rng.random() < 0.1,
            staleness=rng.choice((None, None, None, 0, 1, 3)),
        )

    def run(self) -> list[Violation]:
        """Run to the end; what was broken on the way."""
        for _ in range(20_000):
            runnable = [p for p in range(self.n_ranks) if self._runnable(p)]
            under_way = self.network.n_under_way
            if not runnable and not under_way:
                break
            if under_way and (not runnable or self.random.random() < self.share):
                self.network.step()
            else:
                weights = [self.ranks[p].weight for p in runnable]
                self._advance(self.random.choices(runnable, weights)[0])
        self._check_end()
        n_rows = {spec.name: spec.n_rows for spec in self.specs}
        found = check(self.events, self.n_columns, self.n_clocks, n_rows, one_order=True)
        return self.violations + found

    def _runnable(self, p: int) -> bool:
        rank = self.ranks[p]
        if rank.state == "waiting":
            return rank.core.ready()
        return rank.state != "done" and not self.cores.opening[p]

    def _advance(self, p: int) -> None:
        rank = self.ranks[p]
        if rank.state in ("start", "waiting"):
            if rank.state == "waiting":
                rank.core.install()
                low, high = self.consistency.low, self.consistency.high
                rank.core.bound = self.random.randint(low, high)
            rank.state = "working"
            self._plan_clock(p)
        elif rank.todo:
            what, *arguments = rank.todo.pop(0)
            getattr(self, "_" + what)(p, *arguments)
        else:
            self._end_clock(p)

    def _plan_clock(self, p: int) -> None:
        rng, rank = self.random, self.ranks[p]
        chance = 0.9 if rank.core.clock == 0 else 0.1
        rank.todo = [("read_all",)]
        for spec in self.specs:
            for _ in range(2):
                if rng.random() < chance:
                    rank.todo.insert(rng.randrange(len(rank.todo) + 1), ("open", spec))
                chance *= 0.4 if rank.core.clock == 0 else 1
        for _ in range(rng.choice((0, 1, 1, 2))):
            rank.todo.append(("inc",))
        if rng.random() < 0.4:
            rank.todo.append(("read_all",))

    def _open(self, p: int, spec: TableSpec) -> None:
        rank, rng = self.ranks[p], self.random
        rows = None
        if rng.random() < 0.5:
            rows = [row for row in range(spec.n_rows) if rng.random() < 0.6]
        view = self.cores.open_view(p, spec.name, rows, rng.random() < 0.5)
        if view not in rank.views:
            rank.views.append(view)

    def _read_all(self, p: int) -> None:
        rank = self.ranks[p]
        for number, view in enumerate(rank.views):
            self._log_read(p, number, view)

    def _log_read(self, p: int, number: int, view: StoreView) -> None:
        core = self.ranks[p].core
        rows = np.arange(view.spec.n_rows) if view.rows is None else view.rows
        values = view.values.toarray() if view.spec.sparse else view.values
        with np.errstate(all="ignore"):  # what was overwritten may be no number at all
            values = (values - self.base[view.spec.name][rows]).astype(np.int64)
        values = values.reshape(len(rows), self.n_columns, self.n_clocks)
        bound = 0 if number < self.ranks[p].complete else self._bound(view)
        self.events.append(
            Read(
                p,
                core.clock,
                view.spec.name,
                rows,
                values,
                number,
                bound,
                -1 if self.consistency.ordered else None,
                view.fresh if view.pieces else 0,
            )
        )

    def _bound(self, view: StoreView) -> int | None:
        if not self.consistency.bounded:
            return None
        return self.consistency.high if view.spec.staleness is None else view.spec.staleness

    def _inc(self, p: int) -> None:
        rank, rng = self.ranks[p], self.random
        if not rank.views:
            return
        number = rng.randrange(len(rank.views))
        view = rank.views[number]
        n = view.shape[0]
        at = None if rng.random() < 0.5 else sorted(rng.sample(range(n), rng.randint(0, n)))
        n_changed = n if at is None else len(at)
        amounts = np.array([rng.choice((0, 1, 1, 2)) for _ in range(n_changed)], dtype=np.int64)
        delta = np.zeros((n_changed, self.n_columns, self.n_clocks), dtype=view.spec.dtype)
        delta[:, p, rank.core.clock] = amounts
        delta = delta.reshape(n_changed, view.shape[1])
        where = np.arange(n) if at is None else np.array(at, dtype=np.int64)
        rows = where if view.rows is None else view.rows[where]
        self.events.append(
            Inc(
                p,
                rank.core.clock,
                view.spec.name,
                rows,
                amounts,
                number,
                deferred=not view.read_my_writes,
            )
        )
        view.inc(delta, at)
        delta[:] = 99  # the caller may use it again

    def _end_clock(self, p: int) -> None:
        rank = self.ranks[p]
        core = rank.core
        last = core.clock + 1 == rank.n_clocks
        bounds = [self._bound(view) for view in rank.views if view.pieces]
        bound = min((b for b in bounds if b is not None), default=None)
        self.events.append(End(p, core.clock + 1, bound, last))
        barrier = core.clock in self.barriers
        rank.complete = len(rank.views) if barrier else 0
        self._mark(core)
        self.cores.send(p, core.end_clock(last=last, barrier=barrier))
        rank.state = "done" if last else "waiting"

    def _mark(self, core: RankCore) -> None:
        if core.clock in self.cut_clocks:
            core.cut()

    def _check_end(self) -> None:
        states = Counter(rank.state for rank in self.ranks)
        if states["done"] != self.n_ranks or self.network.n_under_way:
            self.violations.append(Violation("hang", f"{states} {self.ranks} {self.cores.owners}"))
            return
        for p in self.cores.fell:
            self.violations.append(Violation("fresh fell", f"owner {p}"))
        for rank, owner in zip(self.ranks, self.cores.owners, strict=True):
            if rank.core.unacknowledged:
                self.violations.append(Violation("hang", f"unacknowledged: {rank.core}"))
            if owner.fresh != FINISHED:
                self.violations.append(Violation("hang", f"not finished: {owner}"))
        for spec in self.specs:
            shape = (spec.n_rows, self.n_columns, self.n_clocks)
            with np.errstate(all="ignore"):
                values = (self.cores.table(spec) - self.base[spec.name]).astype(np.int64)
            self.events.append(Final(spec.name, values.reshape(shape)))
        self._check_cuts()

    def _check_cuts(self) -> None:
        """A copy made at a cut holds every increment of the clocks before it, and no other."""
        last = max(rank.n_clocks for rank in self.ranks)
        expected_cuts = {clock for clock in self.cut_clocks if clock < last}
        found = Counter(cut.clock for cut in self.cores.cuts)
        if found != dict.fromkeys(expected_cuts, self.n_ranks):
            self.violations.append(Violation("cuts", f"{found} of {expected_cuts}"))
        for cut in self.cores.cuts:
            self._check_cut(cut)

    def _check_cut(self, cut: Cut) -> None:
        for name, start, block in cut.blocks:
            rows = slice(start, start + block.shape[0])
            with np.errstate(all="ignore"):
                values = (self._dense(name, block) - self.base[name][rows]).astype(np.int64)
            if not np.array_equal(values, self._issued_before(cut.clock, name)[rows]):
                self.violations.append(Violation("cut", f"{name} at {cut.clock}"))

    def _dense(self, name: str, block) -> np.ndarray:
        spec = next(spec for spec in self.specs if spec.name == name)
        return block.toarray() if spec.sparse else block

    def _issued_before(self, clock: int, name: str) -> np.ndarray:
        """What a table gained by the increments of the clocks before one."""
        gained = np.zeros((len(self.base[name]), self.n_columns, self.n_clocks), dtype=np.int64)
        for event in self.events:
            if isinstance(event, Inc) and event.table == name and event.clock < clock:
                np.add.at(gained[:, event.rank, event.clock], event.rows, event.amounts)
        return gained.reshape(len(gained), -1)
