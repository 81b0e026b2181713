"""Which rank owns which rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_petuum.store.layout import Block, plan_layout
from dask_petuum.store.spec import TableSpec

SHAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=6)


def specs_of(shapes):
    return [TableSpec(f"t{i}", shape) for i, shape in enumerate(shapes)]


@given(SHAPES, st.integers(1, 9))
def test_every_row_is_in_one_block_of_one_rank(shapes, n_ranks):
    specs = specs_of(shapes)
    layout = plan_layout(specs, n_ranks)
    assert set(layout) == {spec.name for spec in specs}
    for spec in specs:
        blocks = layout[spec.name]
        rows = [row for block in blocks for row in range(block.start, block.stop)]
        assert rows == list(range(spec.n_rows))
        owners = [block.owner for block in blocks]
        assert len(set(owners)) == len(owners) == min(n_ranks, spec.n_rows)
        assert all(0 <= owner < n_ranks for owner in owners)


@given(SHAPES, st.integers(1, 9))
def test_blocks_of_a_table_are_of_about_equal_size(shapes, n_ranks):
    for blocks in plan_layout(specs_of(shapes), n_ranks).values():
        sizes = [block.n_rows for block in blocks]
        assert max(sizes) - min(sizes) <= 1


@given(SHAPES, st.integers(1, 9))
def test_a_layout_follows_from_the_specs(shapes, n_ranks):
    specs = specs_of(shapes)
    assert plan_layout(specs, n_ranks) == plan_layout(specs, n_ranks)


@given(st.integers(1, 9), st.integers(1, 30))
def test_small_tables_are_spread_over_all_ranks(n_ranks, n_tables):
    layout = plan_layout(specs_of([(1, 5)] * n_tables), n_ranks)
    held = [0] * n_ranks
    for [block] in layout.values():
        held[block.owner] += 1
    assert max(held) - min(held) <= 1


def test_a_block_counts_its_rows():
    assert Block(3, 8, owner=1).n_rows == 5
