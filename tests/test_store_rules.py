"""Update rules against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_petuum.store.rules import apply_dense
from dask_petuum.store.spec import DTYPES, UpdateRule


def cases():
    cell = st.integers(-9, 9)
    row = st.lists(cell, min_size=6, max_size=6)
    return st.tuples(row, row, st.sampled_from(DTYPES))


def arrays(case):
    values, delta, dtype = case
    return np.array(values, dtype).reshape(2, 3), np.array(delta, dtype).reshape(2, 3)


@given(cases())
def test_add(case):
    values, delta = arrays(case)
    expected = values + delta
    apply_dense(UpdateRule(), values, delta)
    np.testing.assert_array_equal(values, expected)


@given(cases(), st.integers(-5, 0), st.integers(0, 5))
def test_clip(case, low, high):
    values, delta = arrays(case)
    expected = np.where(delta != 0, np.minimum(np.maximum(values + delta, low), high), values)
    apply_dense(UpdateRule("clip", low=low, high=high), values, delta)
    np.testing.assert_array_equal(values, expected)


@given(cases(), st.integers(0, 4))
def test_soft_threshold(case, threshold):
    values, delta = arrays(case)
    total = values + delta
    shrunk = np.sign(total) * np.maximum(np.abs(total) - threshold, 0)
    expected = np.where(delta != 0, shrunk, values)
    apply_dense(UpdateRule("soft_threshold", threshold=threshold), values, delta)
    np.testing.assert_array_equal(values, expected)


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4), st.floats(0, 5))
def test_soft_threshold_is_the_proximal_step_of_the_l1_norm(start, threshold):
    """prox(v) = argmin 1/2 (x - v)^2 + threshold |x|: no x nearby does better."""
    delta = np.full((1, 4), 0.5)
    values = np.array([start])
    target = values + delta
    apply_dense(UpdateRule("soft_threshold", threshold=threshold), values, delta)

    def loss(x):
        return 0.5 * (x - target) ** 2 + threshold * np.abs(x)

    for step in (-0.1, 0.1, -1e-3, 1e-3):
        assert (loss(values) <= loss(values + step) + 1e-12).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, np.inf, [4, 0]), (-np.inf, 0, [0, -4]), (-np.inf, np.inf, [4, -4])],
)
def test_clip_on_one_side(dtype, low, high, expected):
    values = np.array([[3, -5]], dtype=dtype)
    apply_dense(UpdateRule("clip", low=low, high=high), values, np.array([[1, 1]], dtype=dtype))
    assert values.tolist() == [expected]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_fractional_bounds_of_whole_numbers_round_inwards(dtype):
    values = np.array([[5, -5]], dtype=dtype)
    rule = UpdateRule("clip", low=-2.5, high=3.5)
    apply_dense(rule, values, np.array([[1, -1]], dtype=dtype))
    assert values.tolist() == [[3, -2]]


@pytest.mark.parametrize(
    "rule", [UpdateRule("clip", low=1), UpdateRule("soft_threshold", threshold=9)]
)
def test_cells_without_an_increment_are_left_alone(rule):
    values = np.array([[-3.0, 0.5]])
    apply_dense(rule, values, np.zeros((1, 2)))
    assert values.tolist() == [[-3.0, 0.5]]
