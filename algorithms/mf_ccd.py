"""Matrix factorisation by cyclic descent, eight factors at a time (CCD++ in blocks).

CCD++ (Yu et al. 2012) takes one factor after the other: given the residuals, it solves for that
factor of every user, then of every item. Here a block of 8 factors is taken instead: each row
solves 8 normal equations, exactly. A pass over the ratings then serves 8 factors, and the ratings'
rows are 8 floats, one vector, instead of one that is gathered. The objective never rises.

Ratings lie twice, by user and by item, each with its residual (16 bytes a rating). A residual lags
behind by the last change of the other side; whoever reads a row next brings it up to date
on the way, so that there is no pass that only updates residuals.

Over several partitions it is CCD++'s distributed form (Yu et al. 2012, section 4.2). A partition
has its users' ratings, and besides it owns a range of items, whose ratings by all users are dealt
to it once. It solves its users, shows all partitions their values of the block and by how much they
changed (64 bytes a user), then does the same with its items. So every rating is read as often as
in one partition, every row is solved once, and the result is the same but for the order of sums.

References
----------
H.-F. Yu, C.-J. Hsieh, S. Si, I. Dhillon, "Scalable coordinate descent approaches to parallel
matrix factorization for recommender systems", ICDM 2012.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Context
from dask_petuum.runtime.exchange_program import ExchangeProgram
from dask_petuum.runtime.job import RunResult
from dask_petuum.runtime.program import Record, State

from .kernels.mf_ccd import update_rows
from .kernels.mf_lanes import LANES
from .kernels.mf_rows import pad_columns, pad_rows, sum_squares
from .mf_problem import Problem, split_ratings
from .mf_stop import Stop

__all__ = ["CcdProgram", "Plan", "Step", "padded_rows"]

#: Entries of a piece of work for one thread at least (0.1 ms), and pieces at most.
CHUNK_ENTRIES, MAX_CHUNKS = 1 << 14, 64
#: Rounds over a block in the first pass: the first factors are random, and each round is a step
#: of the power method.
FIRST_ROUNDS = 5
#: Rounds over the biases alone before that.
BIAS_ROUNDS = 2
#: What a row of a side costs besides its ratings, in ratings: to solve it.
ROW_COST = 16

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

    def following(self, n_pass: int, place: int) -> Step:
        """Give the step behind one of a pass."""
        steps = self.steps(n_pass)
        return steps[place + 1] if place + 1 < len(steps) else self._later[0]


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


class CcdProgram(ExchangeProgram):
    """Cyclic descent; a clock is a pass, and a step is two rounds: users, then items.

    Parameters
    ----------
    problem
        What is minimised.
    plan
        The order of the steps.
    sizes
        Users of each partition of the run.
    stop
        When to end.
    """

    metrics = ("squares", "held")

    def __init__(self, problem: Problem, plan: Plan, sizes: Sequence[int], stop: Stop) -> None:
        self.problem = problem
        self.plan = plan
        self.stop = stop
        self.n_users = sum(sizes)
        self._owned = _shares(problem.item_counts, len(sizes))

    def start(self, ctx: Context, partition: Partition) -> State:
        """Lay the partition's ratings out by user."""
        problem, n_blocks = self.problem, self.plan.n_blocks
        split = split_ratings(problem, partition)
        counts = np.diff(split.indptr)
        by_user = padded_rows(counts, problem.n_items)
        pad_rows((split.data, split.indices, split.indptr), *by_user)
        users = np.zeros((partition.n_rows, problem.width), np.float32)
        if problem.has_biases:
            users[:, 1] = 1
        items, own = problem.first_items(), self._owned[partition.index]
        item_pack = np.zeros((problem.n_items + 1, 2 * LANES), np.float32)
        item_pack[:-1, LANES:] = items[:, :LANES]
        return {
            **_named("user", by_user),
            "users": _blocked(users, n_blocks),
            "items": _blocked(items[own], n_blocks),
            "user_counts": problem.counts(counts),
            "item_counts": problem.counts(problem.item_counts[own]),
            #: of all users and all items: last change, and values of the block to be solved next
            "user_pack": np.zeros((self.n_users + 1, 2 * LANES), np.float32),
            "item_pack": item_pack,
            #: block whose change of the items is in their pack
            "last": np.array([n_blocks - 1]),
            "held_users": split.held_users,
            "held_items": split.held_items,
            #: as the ratings' residuals, they lag by the last change of the items
            "held_residual": split.held_ratings.copy(),
        }

    def deal(self, ctx: Context, partition: Partition, state: State) -> list[State]:
        """Deal the ratings to the owners of their items."""
        split = split_ratings(self.problem, partition)
        first, counts = partition.row_start, np.diff(split.indptr)
        users = np.repeat(np.arange(first, first + len(counts), dtype=np.int32), counts)
        hands: list[State] = []
        for own in self._owned:
            mine = (split.indices >= own.start) & (split.indices < own.stop)
            items = (split.indices[mine] - own.start).astype(np.int32)
            hands.append({"users": users[mine], "items": items, "ratings": split.data[mine]})
        return hands

    def collect(
        self, ctx: Context, partition: Partition, state: State, dealt: Sequence[State]
    ) -> None:
        """Lay the ratings of the own items out by item; they come in the order of users."""
        users, items, ratings = (
            np.concatenate([hand[name] for hand in dealt]) for name in ("users", "items", "ratings")
        )
        indptr = np.zeros(self.n_users + 1, np.int64)
        np.cumsum(np.bincount(users, minlength=self.n_users), out=indptr[1:])
        own = self._owned[partition.index]
        n_own = own.stop - own.start
        by_item = padded_rows(self.problem.item_counts[own], self.n_users)
        scratch = np.empty(n_own, np.int64)
        pad_columns((ratings, items, indptr), by_item[0], scratch, *by_item[1:])
        state.update(_named("item", by_item))

    def n_rounds(self, number: int) -> int:
        """Two rounds for each step."""
        return 2 * len(self.plan.steps(number))

    def give(self, ctx: Context, partition: Partition, state: State, at: tuple[int, int]) -> State:
        """Solve the own rows of one side."""
        number, turn = at
        step = self.plan.steps(number)[turn // 2]
        if turn % 2 == 0:
            return {"pack": self._solve_users(ctx, partition, state, step)}
        following = self.plan.following(number, turn // 2)
        return {"pack": self._solve_items(ctx, partition, state, step, following)}

    def take(
        self,
        ctx: Context,
        partition: Partition,
        state: State,
        at: tuple[int, int],
        given: Sequence[State],
    ) -> None:
        """Put the rows of all partitions side by side."""
        pack = state["item_pack" if at[1] % 2 else "user_pack"]
        place = 0
        for index, each in enumerate(given):
            rows = each["pack"]
            if index != partition.index:  # its own are there
                pack[place : place + len(rows)] = rows
            place += len(rows)

    def measure(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Measure the errors of the end of a pass; the residuals by item are up to date."""
        residual = state["item_residual"]
        cuts = np.linspace(0, len(residual), len(_chunks(state["item_starts"])) + 1).astype(int)
        squares = ctx.map(
            lambda k: sum_squares(residual, int(cuts[k]), int(cuts[k + 1])), range(len(cuts) - 1)
        )
        error = state["held_residual"] - self._held_change(state)
        return {"squares": float(sum(squares)), "held": float(np.vdot(error, error))}

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the errors at the end of the pass."""
        return self.stop.errors(self.problem, totals["squares"], totals["held"], 1.0)

    def converged(self, history: Sequence[Record]) -> bool:
        """Ask the stop rule."""
        return self.stop.reached(history, n_first=1)

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the rows of the partition's users and of its own items."""
        return {"users": _rows_of(state["users"]), "items": _rows_of(state["items"])}

    def items_of(self, result: RunResult) -> Floats:
        """Return the rows of all items from a result."""
        return np.concatenate([output["items"] for output in result.outputs])

    def _solve_users(self, ctx: Context, partition: Partition, state: State, step: Step) -> Floats:
        """Solve the partition's users for a block; their rows of the pack."""
        last = int(state["last"][0])
        values = state["users"][step.block]
        # The block before may be this one (the first pass, or there is one block only): then its
        # old values are needed while the new ones are written.
        before = values.copy() if last == step.block else state["users"][last]
        change = np.empty_like(values)
        state["held_residual"] -= self._held_change(state)
        settings = (state["user_counts"], *self._settings(0, step))
        pack = state["item_pack"]
        _update(ctx, _rows(state, "user"), before, pack, (*settings, values, change))
        held = change[state["held_users"]], pack[state["held_items"], LANES:]
        state["held_residual"] -= np.einsum("ij,ij->i", *held)
        out: Floats = state["user_pack"][partition.row_start :][: len(values)]
        out[:, :LANES], out[:, LANES:] = change, values
        return out

    def _solve_items(
        self, ctx: Context, partition: Partition, state: State, step: Step, following: Step
    ) -> Floats:
        """Solve the partition's items for a block; their rows of the pack, for the next block."""
        values = state["items"][step.block]
        change = np.empty_like(values)
        settings = (state["item_counts"], *self._settings(1, step))
        pack = state["user_pack"]
        _update(ctx, _rows(state, "item"), values.copy(), pack, (*settings, values, change))
        state["last"][0] = step.block
        out: Floats = state["item_pack"][self._owned[partition.index]]
        out[:, :LANES], out[:, LANES:] = change, state["items"][following.block]
        return out

    def _held_change(self, state: State) -> Floats:
        """What the items' last change adds to the predictions of held-out ratings."""
        users = state["users"][int(state["last"][0])]
        change = state["item_pack"][state["held_items"], :LANES]
        out: Floats = np.einsum("ij,ij->i", users[state["held_users"]], change)
        return out

    def _settings(self, side: int, step: Step) -> tuple[Floats, Floats]:
        """Penalties and free lanes of a block."""
        cut = slice(step.block * LANES, (step.block + 1) * LANES)
        free, penalty = self.problem.lanes()[2 * side : 2 * side + 2, cut]
        if step.only_biases:
            free[2:] = 0
        return np.ascontiguousarray(penalty), np.ascontiguousarray(free)


def _shares(counts: NDArray[np.int64], n_parts: int) -> list[slice]:
    """Cut rows into ranges of about equal work, one for each partition."""
    work = np.cumsum(counts + ROW_COST)
    cuts = np.searchsorted(work, np.arange(1, n_parts) * work[-1] / n_parts)
    return [slice(low, high) for low, high in pairwise([0, *cuts.tolist(), len(counts)])]


def _update(
    ctx: Context, rows: Rows, before: Floats, pack: Floats, rest: tuple[Floats, ...]
) -> None:
    ctx.map(lambda cut: update_rows(rows, *cut, before, pack, *rest), _chunks(rows[0]))


def _named(side: str, rows: Rows) -> State:
    return dict(zip((f"{side}_starts", f"{side}_index", f"{side}_residual"), rows, strict=True))


def _rows(state: State, side: str) -> Rows:
    return state[f"{side}_starts"], state[f"{side}_index"], state[f"{side}_residual"]


def _blocked(rows: Floats, n_blocks: int) -> Floats:
    """(n_rows, width) to (n_blocks, n_rows, 8), contiguous."""
    return np.ascontiguousarray(rows.reshape(len(rows), n_blocks, LANES).transpose(1, 0, 2))


def _rows_of(blocked: Floats) -> Floats:
    """Undo `_blocked`."""
    n_blocks, n_rows, lanes = blocked.shape  # no rows: reshape cannot guess their width
    return np.ascontiguousarray(blocked.transpose(1, 0, 2)).reshape(n_rows, n_blocks * lanes)
