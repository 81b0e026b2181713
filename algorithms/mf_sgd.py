"""Matrix factorisation by stochastic gradient descent, with blocks of items that rotate.

Users stay in their partition; the items' factors are cut into blocks that move. A cell (partition,
block) is visited by one rank at a time, and inside it the ratings are cut again, users and the
block's items into ``n_groups`` groups each: the cells of a diagonal share neither a user nor an
item, so that threads need no lock, and the result does not depend on their number (DSGD,
Gemulla et al. 2011; FPSGD, Zhuang et al. 2013; a pass is that of NOMAD, Yun et al. 2014).

Users and items are dealt to groups by falling number of ratings, to and fro, so that groups weigh
about the same; the ratings of a cell are visited in a random order that stays.

References
----------
R. Gemulla, P. Haas, E. Nijkamp, Y. Sismanis, "Large-scale matrix factorization with distributed
stochastic gradient descent", KDD 2011.
Y. Zhuang, W.-S. Chin, Y.-C. Juan, C.-J. Lin, "A fast parallel SGD for matrix factorization in
shared memory systems", RecSys 2013.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.model_parallel.rotation import Rotation
from dask_petuum.runtime.block_program import Batch, BlockSpec, ModelParallelProgram
from dask_petuum.runtime.context import Context
from dask_petuum.runtime.job import RunResult
from dask_petuum.runtime.program import Record, State

from .kernels.mf_rows import count_cells, deal_cells, shuffle_cell
from .kernels.mf_sgd import visit_cell
from .mf_problem import Problem, Split, split_ratings
from .mf_stop import Stop

__all__ = ["ItemDeal", "SgdProgram", "deal"]

#: Blocks for each partition: one can travel while another is worked on. In free order a rank has
#: one at work and the next, and there must be others to choose from.
BLOCKS_OF_A_PARTITION = {"fixed": 2, "free": 4}
#: Ratings of a cell of a diagonal: about 1 ms; and groups at most.
CELL_RATINGS, MAX_GROUPS = 1 << 15, 16

Floats = NDArray[np.float32]


class ItemDeal(NamedTuple):
    """Where the items are: the same on every rank."""

    #: (n_items,) block * n_groups + group
    cell: NDArray[np.int64]
    #: (n_items,) row within the block
    place: NDArray[np.int64]
    #: items of each block, in the order of their rows
    members: list[NDArray[np.int64]]


def deal(counts: NDArray[Any], n_hands: int) -> NDArray[np.int64]:
    """Deal rows to hands by falling count, to and fro; each row's hand."""
    order = np.argsort(-counts, kind="stable")
    turn = np.arange(len(counts)) % (2 * n_hands)
    out = np.empty(len(counts), np.int64)
    out[order] = np.where(turn < n_hands, turn, 2 * n_hands - 1 - turn)
    return out


def n_groups_for(n_ratings: int) -> int:
    """Groups of users, and of a block's items: a power of two."""
    wanted = max(1.0, np.sqrt(n_ratings / CELL_RATINGS))
    return int(min(MAX_GROUPS, 2 ** int(np.log2(wanted))))


class SgdProgram(ModelParallelProgram):
    """Block-cyclic descent; a clock is a pass.

    Parameters
    ----------
    problem
        What is minimised.
    rate
        Step size of a row that has not moved yet.
    n_parts
        Partitions of the run.
    stop
        When to end.
    rotation
        The order in which blocks and partitions meet.
    """

    metrics = ("squares", "held")

    def __init__(
        self,
        problem: Problem,
        rate: float,
        n_parts: int,
        stop: Stop,
        rotation: Rotation = Rotation("fixed"),  # noqa: B008 - it is frozen
    ) -> None:
        self.problem = problem
        self.rate = rate
        self.stop = stop
        self.rotation = rotation
        per_part = BLOCKS_OF_A_PARTITION[rotation.order]
        self.n_blocks = (
            1 if n_parts == 1 else max(n_parts, min(problem.n_items, per_part * n_parts))
        )
        per_cell = problem.n_ratings // (n_parts * self.n_blocks)
        self.n_groups = n_groups_for(per_cell)
        cell = deal(problem.item_counts, self.n_blocks * self.n_groups)
        order = np.argsort(cell, kind="stable")
        bounds = np.searchsorted(cell[order], np.arange(self.n_blocks + 1) * self.n_groups)
        members = [order[low:high] for low, high in pairwise(bounds)]
        place = np.empty(problem.n_items, np.int64)
        for items in members:
            place[items] = np.arange(len(items))
        self.items = ItemDeal(cell, place, members)

    def schedule(self) -> Rotation:
        """Let every block visit every partition in each pass."""
        return self.rotation

    def blocks(self) -> Sequence[BlockSpec]:
        """Cut the first rows of the items into blocks."""
        rows, counts = self.problem.first_items(), self.problem.item_counts
        weights = self.problem.counts(counts)
        return [
            BlockSpec(
                {"rows": rows[items], "speeds": _speeds(weights[items], counts[items])},
                float(counts[items].sum()),
            )
            for items in self.items.members
        ]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Deal the partition's ratings to cells."""
        problem, n_groups = self.problem, self.n_groups
        split = split_ratings(problem, partition)
        counts = np.diff(split.indptr)
        group = deal(counts, n_groups)
        order = np.argsort(group, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        rng = np.random.default_rng([problem.seed, 3, partition.index])
        rows = problem.first(partition.n_rows, 0, rng)[place]
        rows[counts[order] == 0, problem.factors] = 0
        cells = self._cells(ctx, split, (group, place), int(rng.integers(2**62)))
        block = self.items.cell[split.held_items] // n_groups
        by_block = np.argsort(block, kind="stable")
        return {
            "rows": rows,
            "speeds": _speeds(problem.counts(counts)[order], counts[order]),
            "place": place,
            **cells,
            "held_cuts": np.searchsorted(block[by_block], np.arange(self.n_blocks + 1)),
            "held_users": place[split.held_users[by_block]],
            "held_items": self.items.place[split.held_items[by_block]],
            "held_ratings": split.held_ratings[by_block],
            "sums": np.zeros(2),
        }

    def push(self, ctx: Context, partition: Partition, state: State, batch: Batch) -> None:
        """Step once for each rating in the cells of the batch's blocks."""
        for block, values in zip(batch.blocks, batch.values, strict=True):
            self._visit(ctx, state, int(block), values)

    def measure(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Give the squared errors of a pass."""
        squares, held = state["sums"].tolist()
        state["sums"][:] = 0
        return {"squares": squares, "held": held}

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show the errors, each taken before the rating's own step."""
        return self.stop.errors(self.problem, totals["squares"], totals["held"], 1.0)

    def converged(self, history: Sequence[Record]) -> bool:
        """Ask the stop rule."""
        return self.stop.reached(history, n_first=2)

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the rows of the partition's users."""
        return {"users": state["rows"][state["place"]]}

    def items_of(self, result: RunResult) -> Floats:
        """Put the blocks of a result together: rows of all items."""
        out = np.empty((self.problem.n_items, self.problem.width), np.float32)
        for items, arrays in zip(self.items.members, result.blocks, strict=True):
            out[items] = arrays["rows"]
        return out

    def _cells(
        self, ctx: Context, split: Split, users: tuple[NDArray[Any], NDArray[Any]], seed: int
    ) -> State:
        csr = (split.data, split.indices, split.indptr)
        n_cells = self.n_blocks * self.n_groups**2
        cuts = np.zeros(n_cells + 1, np.int64)
        count_cells(csr, users[0], self.items.cell, self.n_groups, cuts)
        size = len(split.data)
        entries = (np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32))
        deal_cells(
            csr,
            users,
            (self.items.cell, self.items.place),
            self.n_groups,
            cuts[:-1].copy(),
            entries,
        )
        ctx.map(
            lambda c: shuffle_cell(entries, int(cuts[c]), int(cuts[c + 1]), seed + c * 0x5851),
            range(n_cells),
        )
        return {"cuts": cuts, "user": entries[0], "item": entries[1], "rating": entries[2]}

    def _visit(
        self, ctx: Context, state: State, block: int, values: Mapping[str, NDArray[Any]]
    ) -> None:
        n_groups, cuts = self.n_groups, state["cuts"]
        entries = (state["user"], state["item"], state["rating"])
        users, items = (state["rows"], state["speeds"]), (values["rows"], values["speeds"])
        lanes = self.problem.lanes()

        def work(cell: int) -> float:
            low, high = int(cuts[cell]), int(cuts[cell + 1])
            return visit_cell(entries, low, high, users, items, lanes, self.rate)

        for shift in range(n_groups):
            diagonal = [
                (block * n_groups + group) * n_groups + (group + shift) % n_groups
                for group in range(n_groups)
            ]
            state["sums"][0] += sum(ctx.map(work, diagonal))
        low, high = state["held_cuts"][block : block + 2]
        if high > low:
            own, theirs = state["held_users"][low:high], state["held_items"][low:high]
            product = np.einsum("ij,ij->i", users[0][own], items[0][theirs])
            error = state["held_ratings"][low:high] - product
            state["sums"][1] += float(np.vdot(error, error))


def _speeds(weights: Floats, counts: NDArray[Any]) -> Floats:
    """First speed of each row, and the factor of its penalty at one of its ratings."""
    out = np.ones((len(weights), 2), np.float32)
    out[:, 1] = weights / np.maximum(counts, 1)
    return out
