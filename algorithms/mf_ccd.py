"""Matrix factorisation by cyclic descent, eight factors at a time (CCD++ in blocks).

CCD++ (Yu et al. 2012) takes one factor after the other: given the residuals, it solves for that
factor of every user, then of every item. Here a block of 8 factors is taken instead: each row
solves 8 normal equations, exactly. A pass over the ratings then serves 8 factors, and the ratings'
rows are 8 floats, one vector, instead of one that is gathered. The objective never rises.

Ratings lie twice, by user and by item, each with its residual (16 bytes a rating). A residual lags
behind by the last change of the other side; whoever reads a row next brings it up to date
on the way, so that there is no pass that only updates residuals.

Users stay in their partition. Every partition has all items; their normal equations (44 numbers an
item) are summed through the table ``sums``, to which each partition adds what is new against
its last contribution, and every partition solves them alike. That is one clock for each block.
With one partition there is no table, and a clock is a pass.

References
----------
H.-F. Yu, C.-J. Hsieh, S. Si, I. Dhillon, "Scalable coordinate descent approaches to parallel
matrix factorization for recommender systems", ICDM 2012.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Context, View
from dask_petuum.runtime.job import RunResult
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .kernels.mf_ccd import gather_rows, solve_rows, spread_rows, update_rows
from .kernels.mf_lanes import LANES
from .kernels.mf_rows import pad_columns, pad_rows, sum_squares
from .mf_problem import Problem, Split, split_ratings
from .mf_stop import Stop

__all__ = ["CcdProgram", "Plan", "Step", "padded_rows"]

#: Entries of a piece of work for one thread at least (0.1 ms), and pieces at most.
CHUNK_ENTRIES, MAX_CHUNKS = 1 << 14, 64
#: Rounds over a block in the first pass: the first factors are random, and each round is a step
#: of the power method.
FIRST_ROUNDS = 5
#: Rounds over the biases alone before that.
BIAS_ROUNDS = 2
#: Numbers of an item's normal equations as they travel: the upper triangle and the right side.
N_SUMS = LANES * (LANES + 1) // 2 + LANES

Floats = NDArray[np.float32]
Rows = tuple[NDArray[np.int64], NDArray[np.int32], Floats]


class Step(NamedTuple):
    """What is solved for: a block, or only the biases in it."""

    block: int
    only_biases: bool = False


class Plan:
    """The order of the steps.

    Parameters
    ----------
    n_blocks
        Blocks of 8 lanes.
    has_biases
        Whether the first lanes of block 0 are biases. They are solved first, alone: a factor that
        has once taken their place is slow to give it back.
    """

    def __init__(self, n_blocks: int, has_biases: bool) -> None:
        self.n_blocks = n_blocks
        self._first = [Step(0, True)] * (BIAS_ROUNDS if has_biases else 0)
        self._first += [Step(block) for block in range(n_blocks) for _ in range(FIRST_ROUNDS)]
        self._later = [Step(block) for block in range(n_blocks)]

    def steps(self, n_pass: int) -> list[Step]:
        """Steps of a pass, in order."""
        return self._later if n_pass else self._first

    def n_clocks(self, n_passes: int) -> int:
        """Clocks of so many passes, where a clock is a step and one more ends a pass."""
        return n_passes * (self.n_blocks + 1) + len(self._first) - self.n_blocks

    def at(self, clock: int) -> Step | None:
        """Step of such a clock; None: only measure, at the end of a pass."""
        if clock < len(self._first):
            return self._first[clock]
        place = (clock - len(self._first)) % (self.n_blocks + 1)
        return self._later[place - 1] if place else None


def padded_rows(counts: NDArray[Any], n_others: int) -> Rows:
    """Make room for rows of so many entries: starts, index and residual.

    Padding has residual 0 and points at row ``n_others``, which is 0.
    """
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(-(-counts.astype(np.int64) // LANES) * LANES, out=starts[1:])
    return starts, np.full(starts[-1], n_others, np.int32), np.zeros(starts[-1], np.float32)


def _chunks(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut rows into chunks of about equally many entries; the same for any number of threads."""
    n_rows = len(starts) - 1
    n_chunks = max(1, min(n_rows, MAX_CHUNKS, int(starts[-1]) // CHUNK_ENTRIES))
    cuts = np.searchsorted(starts, np.arange(1, n_chunks) * starts[-1] // n_chunks)
    bounds = np.unique([0, *cuts.tolist(), n_rows])
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


class CcdProgram(DataParallelProgram):
    """Cyclic descent; see the module.

    Parameters
    ----------
    problem
        What is minimised.
    plan
        The order of the steps.
    n_parts
        Partitions of the run.
    stop
        When to end.
    """

    metrics = ("squares", "held", "ended")

    def __init__(self, problem: Problem, plan: Plan, n_parts: int, stop: Stop) -> None:
        self.problem = problem
        self.plan = plan
        self.stop = stop
        self.is_alone = n_parts == 1
        self._view: tuple[Context, View] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_view": None}

    def n_clocks(self, n_passes: int) -> int:
        """Clocks of so many passes."""
        return n_passes if self.is_alone else self.plan.n_clocks(n_passes)

    def tables(self) -> Sequence[TableSpec]:
        """Specify the sums of the items' normal equations."""
        if self.is_alone:
            return []
        return [TableSpec("sums", (self.problem.n_items, N_SUMS), "float32", dims=("item", "sum"))]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Lay the ratings out by user and by item."""
        problem = self.problem
        split = split_ratings(problem, partition)
        state = _ratings_state(split, partition.n_rows, problem.n_items)
        users = np.zeros((partition.n_rows, problem.width), np.float32)
        if problem.has_biases:
            users[:, 1] = 1
        n_blocks = self.plan.n_blocks
        state["users"] = _blocked(users, n_blocks)
        state["items"] = _blocked(problem.first_items(), n_blocks)
        state["user_counts"] = problem.counts(np.diff(split.indptr))
        state["item_counts"] = problem.counts(problem.item_counts)
        state["user_pack"] = np.zeros((partition.n_rows + 1, 2 * LANES), np.float32)
        state["item_pack"] = np.zeros((problem.n_items + 1, 2 * LANES), np.float32)
        state["user_change"] = np.zeros((partition.n_rows, LANES), np.float32)
        state["item_change"] = np.zeros((problem.n_items, LANES), np.float32)
        #: Block that the items changed last, and whether their sums still wait to be solved: 0 no,
        #: 1 yes, 2 for the biases only.
        state["last"] = np.array([n_blocks - 1, 0])
        if not self.is_alone:
            state["sent"] = np.zeros((problem.n_items, N_SUMS), np.float32)
            self._sums(ctx)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Do a pass, or with several partitions a block of one."""
        clock = ctx.clock_index - 1
        if self.is_alone:
            for each in self.plan.steps(clock):
                self._solve_users(ctx, state, each)
                self._solve_items(ctx, state, each)
            return self._measure(ctx, state)
        if state["last"][1]:
            self._receive(ctx, state)
        step = self.plan.at(clock)
        if step is None:
            return self._measure(ctx, state)
        squares = self._solve_users(ctx, state, step)
        self._send(ctx, state, step)
        return {"squares": squares, "held": 0.0, "ended": 0.0}

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the error at the end of the pass; within one, as the clock found it."""
        return self.stop.errors(self.problem, totals["squares"], totals["held"], totals["ended"])

    def converged(self, history: Sequence[Record]) -> bool:
        """Ask the stop rule at the end of each pass."""
        return self.stop.reached(history, n_first=1)

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the rows of the partition's users; the first one also those of the items."""
        if not self.is_alone and state["last"][1]:
            self._receive(ctx, state)
        items = _rows_of(state["items"])
        return {
            "users": _rows_of(state["users"]),
            "items": items[: None if partition.index == 0 else 0],
        }

    def items_of(self, result: RunResult) -> Floats:
        """Return the rows of all items from a result."""
        return np.asarray(result.outputs[0]["items"])

    def _solve_users(self, ctx: Context, state: State, step: Step) -> float:
        block = step.block
        pack, last = state["item_pack"], int(state["last"][0])
        pack[:-1, :LANES] = state["item_change"]
        pack[:-1, LANES:] = state["items"][block]
        state["item_change"][:] = 0
        values, change = state["users"][block], state["user_change"]
        # The block before may be this one (the first pass, or there is one block only): then its
        # old values are needed while the new ones are written.
        before = values.copy() if last == block else state["users"][last]
        rows = _rows(state, "user")
        rest = (state["user_counts"], *self._settings(0, step), values, change)
        squares = sum(
            ctx.map(lambda cut: update_rows(rows, *cut, before, pack, *rest), _chunks(rows[0]))
        )
        state["user_pack"][:-1, :LANES] = change
        state["user_pack"][:-1, LANES:] = values
        return float(squares)

    def _solve_items(self, ctx: Context, state: State, step: Step) -> None:
        block = step.block
        values, change = state["items"][block], state["item_change"]
        before, rows = values.copy(), _rows(state, "item")
        rest = (state["item_counts"], *self._settings(1, step), values, change)
        pack = state["user_pack"]
        ctx.map(lambda cut: update_rows(rows, *cut, before, pack, *rest), _chunks(rows[0]))
        state["last"][0] = block

    def _send(self, ctx: Context, state: State, step: Step) -> None:
        """Form the partition's part of the items' normal equations and add what is new in it."""
        block = step.block
        rows, before, pack = _rows(state, "item"), state["items"][block], state["user_pack"]
        packed = np.empty((self.problem.n_items, N_SUMS), np.float32)

        def work(cut: tuple[int, int]) -> None:
            gather_rows(rows, *cut, before, pack, packed)

        ctx.map(work, _chunks(rows[0]))
        self._sums(ctx).inc(packed - state["sent"])
        state["sent"] = packed
        state["last"][:] = block, 1 + step.only_biases

    def _receive(self, ctx: Context, state: State) -> None:
        """Solve the items from the sums of all partitions."""
        step = Step(int(state["last"][0]), int(state["last"][1]) == 2)
        block = step.block
        packed = self._sums(ctx).values
        values, change, rows = state["items"][block], state["item_change"], _rows(state, "item")
        rest = (state["item_counts"], *self._settings(1, step), values, change)
        pack = state["user_pack"]

        def work(cut: tuple[int, int]) -> None:
            solve_rows(packed, *cut, *rest)
            spread_rows(rows, *cut, change, pack)

        ctx.map(work, _chunks(rows[0]))
        state["last"][1] = 0

    def _measure(self, ctx: Context, state: State) -> Mapping[str, float]:
        """Measure the errors of the end of a pass; the residuals by item are up to date."""
        residual = state["item_residual"]
        cuts = np.linspace(0, len(residual), len(_chunks(state["item_starts"])) + 1).astype(int)
        squares = ctx.map(
            lambda k: sum_squares(residual, int(cuts[k]), int(cuts[k + 1])), range(len(cuts) - 1)
        )
        held = 0.0
        if len(state["held_ratings"]):
            error = state["held_ratings"].astype(np.float64)
            for users, items in zip(state["users"], state["items"], strict=True):
                error -= np.einsum(
                    "ij,ij->i", users[state["held_users"]], items[state["held_items"]]
                )
            held = float(error @ error)
        return {"squares": float(sum(squares)), "held": held, "ended": 1.0}

    def _settings(self, side: int, step: Step) -> tuple[Floats, Floats]:
        """Penalties and free lanes of a block."""
        cut = slice(step.block * LANES, (step.block + 1) * LANES)
        free, penalty = self.problem.lanes()[2 * side : 2 * side + 2, cut]
        if step.only_biases:
            free[2:] = 0
        return np.ascontiguousarray(penalty), np.ascontiguousarray(free)

    def _sums(self, ctx: Context) -> View:
        if self._view is None or self._view[0] is not ctx:
            self._view = (ctx, ctx.table("sums").view())
        return self._view[1]


def _ratings_state(split: Split, n_users: int, n_items: int) -> State:
    csr = (split.data, split.indices, split.indptr)
    by_user = padded_rows(np.diff(split.indptr), n_items)
    pad_rows(csr, *by_user)
    counts = np.bincount(split.indices, minlength=n_items)
    by_item = padded_rows(counts, n_users)
    pad_columns(csr, by_item[0], np.empty(n_items, np.int64), *by_item[1:])
    state: State = {
        "held_users": split.held_users,
        "held_items": split.held_items,
        "held_ratings": split.held_ratings,
    }
    for side, rows in (("user", by_user), ("item", by_item)):
        starts, index, residual = rows
        state[f"{side}_starts"] = starts
        state[f"{side}_index"] = index
        state[f"{side}_residual"] = residual
    return state


def _rows(state: State, side: str) -> Rows:
    return state[f"{side}_starts"], state[f"{side}_index"], state[f"{side}_residual"]


def _blocked(rows: Floats, n_blocks: int) -> Floats:
    """(n_rows, width) to (n_blocks, n_rows, 8), contiguous."""
    return np.ascontiguousarray(rows.reshape(len(rows), n_blocks, LANES).transpose(1, 0, 2))


def _rows_of(blocked: Floats) -> Floats:
    """Undo `_blocked`."""
    return np.ascontiguousarray(blocked.transpose(1, 0, 2)).reshape(blocked.shape[1], -1)
