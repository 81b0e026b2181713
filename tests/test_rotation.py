"""Rotation: the fixed plan's invariants for all small sizes, and both orders in the machine."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from dask_petuum.model_parallel import Machine, Rotation
from dask_petuum.model_parallel.rotation import (
    block_at,
    first_block,
    holder,
    home,
    next_holder,
    plan,
    previous_holder,
)

SIZES = [(n, p) for n, p in product(range(1, 13), range(1, 7)) if n >= p]
sizes = pytest.mark.parametrize(("n_blocks", "n_ranks"), SIZES)


@sizes
def test_every_rank_meets_every_block_once_in_a_pass(n_blocks: int, n_ranks: int) -> None:
    for cells in plan(n_blocks, n_ranks):
        assert [cell.step for cell in cells] == list(range(n_blocks))
        assert sorted(cell.block for cell in cells) == list(range(n_blocks))


@sizes
def test_a_block_is_at_one_rank_at_a_time(n_blocks: int, n_ranks: int) -> None:
    for step in range(3 * n_blocks):
        at = [block_at(rank, step, n_blocks, n_ranks) for rank in range(n_ranks)]
        assert len(set(at)) == n_ranks
        by_block = [holder(block, step, n_blocks, n_ranks) for block in range(n_blocks)]
        assert by_block == [at.index(block) if block in at else -1 for block in range(n_blocks)]


@sizes
def test_previous_and_next_holders_are_those_of_the_steps(n_blocks: int, n_ranks: int) -> None:
    """Follow each block over three passes, step by step; the plan must say the same."""
    cells = {
        (rank, cell.block): cell
        for rank, row in enumerate(Rotation.plan(n_blocks, n_ranks))
        for cell in row
    }
    for block in range(n_blocks):
        steps = range(3 * n_blocks)
        route = [holder(block, step, n_blocks, n_ranks) for step in steps]
        route = [rank for rank in route if rank >= 0]
        assert route[0] == home(block, n_blocks, n_ranks)
        for here, there in pairwise(route):
            assert cells[here, block].next == there == next_holder(here, n_ranks)
            assert here == previous_holder(there, n_ranks)
            assert cells[there, block].previous == here


@sizes
def test_the_homes_are_even_and_contiguous(n_blocks: int, n_ranks: int) -> None:
    homes = [home(block, n_blocks, n_ranks) for block in range(n_blocks)]
    assert homes == sorted(homes)
    counts = np.bincount(homes, minlength=n_ranks)
    assert counts.max() - counts.min() <= 1
    assert [homes.index(rank) for rank in range(n_ranks)] == [
        first_block(rank, n_blocks, n_ranks) for rank in range(n_ranks)
    ]


def test_one_rank_has_all_blocks_in_order() -> None:
    assert [cell.block for cell in plan(5, 1)[0]] == [0, 1, 2, 3, 4]
    assert {(cell.previous, cell.next) for cell in plan(5, 1)[0]} == {(0, 0)}


@pytest.mark.parametrize(("n_blocks", "n_ranks"), [(2, 3), (0, 1), (3, 0)])
def test_a_plan_needs_a_block_for_each_rank(n_blocks: int, n_ranks: int) -> None:
    with pytest.raises(ValueError, match=r"n_ranks|at least one block"):
        plan(n_blocks, n_ranks)
    with pytest.raises(ValueError, match=r"n_ranks|at least one block"):
        Machine(n_blocks, n_ranks, Rotation())


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match='"fixed" or "free"'):
        Rotation(order="any")  # type: ignore[arg-type]


@sizes
def test_the_machine_follows_the_plan_in_whatever_order_ranks_ask(
    n_blocks: int, n_ranks: int
) -> None:
    """Random ranks ask and finish; each block's visits are in the order of the plan."""
    rng = np.random.default_rng([n_blocks, n_ranks])
    machine = Machine(n_blocks, n_ranks, Rotation("fixed"))
    expected = plan(n_blocks, n_ranks)
    for _ in range(2):
        routes: list[list[int]] = [[] for _ in range(n_blocks)]
        done_by: list[list[int]] = [[] for _ in range(n_ranks)]
        while not machine.pass_is_over:
            task = machine.ask(int(rng.integers(n_ranks)))
            if task is not None:
                routes[task.blocks[0]].append(task.rank)
                done_by[task.rank].append(task.blocks[0])
            if machine.in_flight and rng.random() < 0.5:
                late = machine.in_flight[rng.integers(len(machine.in_flight))]
                machine.done(late.number, [1.0], 0.0)
        assert done_by == [[cell.block for cell in cells] for cells in expected]
        for block, route in enumerate(routes):
            start = home(block, n_blocks, n_ranks)
            assert route == [(start - k) % n_ranks for k in range(n_ranks)]
        assert all(machine.ask(rank) is None for rank in range(n_ranks))
        machine.end_pass()
    assert (machine.n_visits == 2 * n_ranks).all()
