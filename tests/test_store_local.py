"""Tables in this process: the contract of a view, for one rank."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.exceptions import TableError
from dask_petuum.store.local import LocalTable
from dask_petuum.store.spec import DTYPES, TableSpec, UpdateRule

SPECS = {
    "dense": TableSpec("w", (5, 3), "float64"),
    "sparse": TableSpec("w", (5, 3), "float64", sparse=True),
    "with a rule": TableSpec("w", (5, 3), "float64", rule=UpdateRule("clip", low=-1e9, high=1e9)),
}
ROWS = {"all": None, "a stretch": [1, 2, 3], "some": [0, 2, 4]}


def dense(values):
    return values.toarray() if sp.issparse(values) else np.array(values)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("at", [None, [0, 2]])
def test_an_increment_is_seen_at_once(kind, rows, at):
    table = LocalTable(SPECS[kind])
    view = table.view(ROWS[rows])
    view.inc(np.ones((view.shape[0] if at is None else 2, 3)), at=at)
    expected = np.zeros(view.shape)
    expected[slice(None) if at is None else at] = 1
    np.testing.assert_array_equal(dense(view.values), expected)
    table.end_clock()
    np.testing.assert_array_equal(dense(view.values), expected)
    assert dense(table.values).sum() == expected.sum()
    assert view.fresh == 1


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", SPECS)
def test_without_read_my_writes_it_is_seen_from_the_next_clock_on(kind, rows):
    table = LocalTable(SPECS[kind])
    view = table.view(ROWS[rows], read_my_writes=False)
    delta = np.ones(view.shape)
    view.inc(delta)
    delta[:] = 99  # the caller may use it again
    view.inc(np.ones(view.shape))
    assert dense(view.values).sum() == 0
    table.end_clock()
    np.testing.assert_array_equal(dense(view.values), np.full(view.shape, 2.0))


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("mine", [True, False])
def test_every_view_shows_an_increment_from_the_next_clock_on(kind, mine):
    table = LocalTable(SPECS[kind])
    views = [
        table.view(rows, read_my_writes=own) for rows in ROWS.values() for own in (True, False)
    ]
    source = table.view([1, 2], read_my_writes=mine)
    source.inc(np.ones((2, 3)))
    table.end_clock()
    for view, rows in zip(views, [r for r in ROWS.values() for _ in range(2)], strict=True):
        expected = np.zeros((5, 3))
        expected[[1, 2]] = 1
        np.testing.assert_array_equal(
            dense(view.values), expected[slice(None) if rows is None else rows]
        )


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    sparse=st.booleans(),
)
def test_nothing_is_lost_whatever_views_are_used(seed, dtype, sparse):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 9, 2))
    init = rng.integers(0, 5, shape)
    table = LocalTable(TableSpec("w", shape, dtype, init=init, sparse=sparse))
    expected = init.astype(dtype)
    for _ in range(4):
        for _ in range(3):
            rows = np.flatnonzero(rng.random(shape[0]) < 0.6)
            view = table.view(rows, read_my_writes=bool(rng.integers(2)))
            delta = rng.integers(-2, 3, (len(rows), shape[1])).astype(dtype)
            view.inc(sp.csr_array(delta) if sparse and rng.random() < 0.5 else delta)
            expected[rows] += delta
        table.end_clock()
        np.testing.assert_array_equal(dense(table.values), expected)
        np.testing.assert_array_equal(dense(table.view().values), expected)


def test_the_rule_is_applied_once_a_clock_to_the_sum_of_increments():
    spec = TableSpec("w", (1, 2), "float64", rule=UpdateRule("clip", low=0, high=5))
    table = LocalTable(spec)
    view = table.view()
    view.inc([[-3.0, 9.0]])
    view.inc([[4.0, 0.0]])
    assert view.values.tolist() == [[1.0, 9.0]]
    table.end_clock()
    assert view.values.tolist() == [[1.0, 5.0]]


def test_the_same_declaration_gives_the_same_view():
    table = LocalTable(SPECS["dense"])
    assert table.view([0, 1]) is table.view(np.array([0, 1]))
    assert table.view() is table.view(range(5))
    assert table.view() is not table.view(read_my_writes=False)
    assert table.view([0, 1]) is not table.view([0, 2])
    first = table.view()
    table.forget_views()
    assert table.view() is not first


def test_the_table_itself_is_lent_to_the_only_view_of_all_of_it():
    table = LocalTable(SPECS["dense"])
    view = table.view(read_my_writes=False)
    view.writable[2, 1] = 7.0
    table.end_clock()
    assert view.values[2, 1] == 7.0
    table.view([1])
    assert view.writable is None


@pytest.mark.parametrize("kind", ["sparse", "with a rule"])
def test_other_tables_are_not_lent(kind):
    assert LocalTable(SPECS[kind]).view().writable is None
    assert LocalTable(SPECS["dense"]).view([0, 1]).writable is None


WRONG_ROWS = {
    "floats": ([0.5, 1.0], "sequence of integers"),
    "a matrix": ([[0, 1]], "sequence of integers"),
    "repeated": ([1, 1], "ascending and unique"),
    "out of order": ([2, 1], "ascending and unique"),
    "negative": ([-1, 2], "within 0 .. 4"),
    "too high": ([3, 5], "within 0 .. 4"),
}


@pytest.mark.parametrize("what", WRONG_ROWS)
def test_wrong_rows_are_refused(what):
    rows, text = WRONG_ROWS[what]
    with pytest.raises(TableError, match=text):
        LocalTable(SPECS["dense"]).view(rows)


WRONG_INCREMENTS = {
    "another shape": (np.ones((2, 3)), None, "must have shape"),
    "one dimension": (np.ones(15), None, "must have shape"),
    "fewer rows than positions": (np.ones((1, 3)), [0, 1], "must have shape"),
    "a position twice": (np.ones((2, 3)), [1, 1], "must be unique"),
    "a position outside": (np.ones((1, 3)), [5], "within 0 .. 4"),
    "a negative position": (np.ones((1, 3)), [-1], "within 0 .. 4"),
    "a fractional position": (np.ones((1, 3)), [0.5], "sequence of integers"),
}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("what", WRONG_INCREMENTS)
def test_a_wrong_increment_is_refused_and_changes_nothing(kind, what):
    delta, at, text = WRONG_INCREMENTS[what]
    table = LocalTable(SPECS[kind])
    view = table.view()
    with pytest.raises(TableError, match=text):
        view.inc(delta, at=at)
    table.end_clock()
    assert dense(view.values).sum() == 0


def test_fractions_are_not_added_to_whole_numbers():
    view = LocalTable(TableSpec("w", (1, 1), "int32")).view()
    with pytest.raises(TableError, match="round first"):
        view.inc([[0.5]])
    view.inc(np.array([[True]]))
    assert view.values.tolist() == [[1]]


def test_an_empty_view():
    table = LocalTable(SPECS["dense"])
    view = table.view([])
    view.inc(np.zeros((0, 3)))
    table.end_clock()
    assert view.values.shape == (0, 3)
