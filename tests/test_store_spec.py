"""Table specs: what they refuse, and first values that do not depend on the cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from dask_petuum.exceptions import TableError
from dask_petuum.store.spec import (
    DTYPES,
    SEED_BLOCK_ROWS,
    Normal,
    TableSpec,
    Uniform,
    UpdateRule,
    initial_rows,
    initial_values,
)

WRONG = {
    "no name": ({"name": ""}, "non-empty string"),
    "a name that is no text": ({"name": 3}, "non-empty string"),
    "a shape of one": ({"shape": (3,)}, r"\(n_rows, n_cols\)"),
    "a shape of three": ({"shape": (3, 3, 3)}, r"\(n_rows, n_cols\)"),
    "a number for a shape": ({"shape": 3}, r"\(n_rows, n_cols\)"),
    "a fractional shape": ({"shape": (2.5, 3)}, r"\(n_rows, n_cols\)"),
    "a shape of text": ({"shape": ("2", "3")}, r"\(n_rows, n_cols\)"),
    "no rows": ({"shape": (0, 3)}, "within 1"),
    "negative columns": ({"shape": (3, -1)}, "within 1"),
    "too many rows": ({"shape": (2**31, 1)}, "within 1"),
    "an unsigned dtype": ({"dtype": "uint8"}, "must be one of"),
    "a dtype that is none": ({"dtype": "number"}, "must be one of"),
    "an object dtype": ({"dtype": object}, "must be one of"),
    "one dim": ({"dims": ("a",)}, "two different names"),
    "the same dim twice": ({"dims": ("a", "a")}, "two different names"),
    "dims as text": ({"dims": "ab"}, "two different names"),
    "coords of no dim": ({"coords": {"x": [1, 2]}}, "no dim 'x'"),
    "too few labels": ({"coords": {"row": [1]}}, "2 entries, got 1"),
    "first values of another shape": ({"init": np.ones((3, 2))}, "have shape"),
    "first values in a row": ({"init": [1.0, 2.0, 3.0]}, "have shape"),
    "sparse first values of another shape": ({"init": sp.eye_array(4)}, "have shape"),
    "text for first values": ({"init": "zero"}, "must be numbers"),
    "complex first values": ({"init": 1j}, "must be numbers"),
    "objects for first values": ({"init": np.array([[{}] * 3] * 2)}, "must be numbers"),
    "a fraction in whole numbers": ({"dtype": "int32", "init": 0.5}, "do not fit int32"),
    "fractions in whole numbers": ({"dtype": "int64", "init": np.full((2, 3), 0.5)}, "do not fit"),
    "a NaN in whole numbers": ({"dtype": "int32", "init": float("nan")}, "do not fit"),
    "a number that is too large": ({"dtype": "int32", "init": 2**31}, "do not fit int32"),
    "a float that is too large": ({"dtype": "int64", "init": 2.0**63}, "do not fit int64"),
    "random whole numbers": ({"dtype": "int32", "init": Normal()}, "need a float dtype"),
    "a rule on sparse rows": ({"sparse": True, "rule": UpdateRule("clip")}, "'add' only"),
    "a negative staleness": ({"staleness": -1}, "must be >= 0"),
    "a fractional staleness": ({"staleness": 1.5}, "must be an integer"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_spec_is_refused(what):
    fields, text = WRONG[what]
    with pytest.raises(TableError, match=text):
        TableSpec(**{"name": "w", "shape": (2, 3), **fields})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "multiply"}, "must be 'add', 'clip' or 'soft_threshold'"),
        ({"kind": "clip", "low": 2, "high": 1}, "low <= high"),
        ({"kind": "clip", "low": float("nan")}, "low <= high"),
        ({"kind": "soft_threshold", "threshold": -1}, ">= 0"),
        ({"kind": "soft_threshold", "threshold": float("nan")}, ">= 0"),
    ],
)
def test_a_wrong_rule_is_refused(fields, text):
    with pytest.raises(TableError, match=text):
        UpdateRule(**fields)


def test_a_table_error_is_a_value_error():
    with pytest.raises(ValueError, match="shape"):
        TableSpec("w", (0, 0))


def test_fields_are_brought_into_one_form():
    spec = TableSpec("w", [np.int64(2), 3], np.float32, dims=["a", "b"], staleness=np.int64(2))
    assert (spec.shape, spec.dtype, spec.dims, spec.staleness) == ((2, 3), "float32", ("a", "b"), 2)
    assert type(spec.staleness) is int
    assert (spec.n_rows, spec.n_cols, spec.row_bytes) == (2, 3, 12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse", [True, False])
def test_first_values(dtype, sparse):
    array = np.arange(12).reshape(4, 3)
    for init, expected in [
        (0, np.zeros((4, 3))),
        (7, np.full((4, 3), 7)),
        (array, array),
        (array.tolist(), array),
        (sp.coo_array(array), array),
        (np.float64(2.0), np.full((4, 3), 2)),
    ]:
        spec = TableSpec("w", (4, 3), dtype, init=init, sparse=sparse)
        values = initial_values(spec, 1, 3)
        assert sp.issparse(values) == sparse
        assert values.dtype == dtype
        dense = values.toarray() if sparse else values
        np.testing.assert_array_equal(dense, expected[1:3])
        np.testing.assert_array_equal(initial_rows(spec, 1, 3), expected[1:3])


def test_first_values_are_a_copy():
    array = np.zeros((4, 3), dtype=np.float32)
    initial_values(TableSpec("w", (4, 3), init=array), 0, 4)[:] = 1
    assert array.max() == 0


N_ROWS = 2 * SEED_BLOCK_ROWS + 100


@pytest.mark.parametrize("init", [Normal(1.0, 2.0, seed=3), Uniform(-1.0, 2.0, seed=3)])
@given(cuts=st.lists(st.integers(1, N_ROWS - 1), max_size=4, unique=True))
def test_drawn_values_do_not_depend_on_the_cut(init, cuts):
    spec = TableSpec("w", (N_ROWS, 2), init=init)
    bounds = [0, *sorted(cuts), N_ROWS]
    parts = [initial_rows(spec, a, b) for a, b in pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(parts), initial_rows(spec, 0, N_ROWS))


def test_drawn_values_are_of_their_distribution():
    normal = initial_rows(TableSpec("w", (N_ROWS, 8), init=Normal(1.0, 2.0)), 0, N_ROWS)
    assert abs(normal.mean() - 1.0) < 0.1
    assert abs(normal.std() - 2.0) < 0.1
    uniform = initial_rows(TableSpec("w", (N_ROWS, 8), init=Uniform(-1.0, 2.0)), 0, N_ROWS)
    assert uniform.min() >= -1.0
    assert uniform.max() < 2.0
    assert abs(uniform.mean() - 0.5) < 0.05


def test_blocks_of_drawn_values_differ_as_seeds_do():
    spec = TableSpec("w", (N_ROWS, 2), init=Normal(seed=1))
    first = initial_rows(spec, 0, 10)
    assert (first != initial_rows(spec, SEED_BLOCK_ROWS, SEED_BLOCK_ROWS + 10)).all()
    other = TableSpec("w", (N_ROWS, 2), init=Normal(seed=2))
    assert (first != initial_rows(other, 0, 10)).all()
