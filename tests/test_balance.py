"""Balance and width: the bounds that they promise, on generated costs and matrices."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from dask_petuum.model_parallel import balance, cut, spectral_radius, spectral_width

COSTS = st.lists(st.floats(0, 1e6), max_size=40)
PARTS = st.integers(1, 8)


def naive_balance(costs, n_parts):
    loads, counts, parts = [0.0] * n_parts, [0] * n_parts, [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        part = min(range(n_parts), key=lambda part: (loads[part], counts[part], part))
        loads[part] += costs[item]
        counts[part] += 1
        parts[item] = part
    return parts


@settings(deadline=None)
@given(COSTS, PARTS)
def test_balance_puts_the_costliest_where_there_is_least(costs, n_parts):
    parts = balance(costs, n_parts)
    assert parts.tolist() == naive_balance(costs, n_parts)
    loads = np.bincount(parts, costs, n_parts)
    mean, largest = sum(costs) / n_parts, max(costs, default=0.0)
    assert loads.max() <= mean + largest * (1 - 1 / n_parts) + 1e-6 * (1 + mean)  # Graham 1969
    if len(costs) >= n_parts and min(costs) > 0:
        assert np.bincount(parts, minlength=n_parts).min() >= 1


def test_items_that_cost_nothing_are_spread():
    assert np.bincount(balance([0.0] * 9 + [5.0], 3)).tolist() == [1, 5, 4]


@settings(deadline=None)
@given(COSTS, PARTS)
def test_cuts_are_contiguous_and_even(costs, n_parts):
    cuts = cut(costs, n_parts)
    assert len(cuts) == n_parts + 1
    assert (cuts[0], cuts[-1]) == (0, len(costs))
    assert (np.diff(cuts) >= (1 if len(costs) >= n_parts else 0)).all()
    loads = [sum(costs[a:b]) for a, b in pairwise(cuts)]
    mean, largest = sum(costs) / n_parts, max(costs, default=0.0)
    assert max(loads) <= mean + largest + 1e-6 * (1 + mean)


def test_even_costs_are_cut_evenly():
    assert cut(np.ones(12), 4).tolist() == [0, 3, 6, 9, 12]
    assert cut([10.0, 0.0, 0.0], 3).tolist() == [0, 1, 2, 3]
    assert cut([0.0, 0.0, 10.0], 3).tolist() == [0, 1, 2, 3]
    assert cut([], 2).tolist() == [0, 0, 0]
    assert cut([1.0], 3)[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize("function", [balance, cut])
@pytest.mark.parametrize(
    ("costs", "n_parts"), [([1.0], 0), ([-1.0], 1), ([np.nan], 1), ([[1.0]], 1), ([np.inf], 1)]
)
def test_bad_costs_are_refused(function, costs, n_parts):
    with pytest.raises(ValueError, match=r"n_parts must be|costs must be"):
        function(costs, n_parts)


def normalised(X):
    return X / np.linalg.norm(X, axis=0)


@settings(deadline=None, max_examples=40)
@example(5, 5, 39)  # the first vector hardly has the largest eigenvector in it
@given(st.integers(1, 30), st.integers(2, 40), st.integers(0, 1000))
def test_the_width_is_near_the_bound_and_not_above_it(n_columns, n_rows, seed):
    X = normalised(np.random.default_rng(seed).standard_normal((n_rows, n_columns)))
    exact = np.linalg.eigvalsh(X.T @ X)[-1]
    width = spectral_width(lambda v: X.T @ (X @ v), n_columns, seed)
    assert width <= np.ceil(n_columns / exact * 1.001)
    assert width >= np.floor(n_columns / exact / 1.25)


@pytest.mark.parametrize("n_iter", [2, 5, 10])
def test_few_iterations_make_the_width_smaller_not_larger(n_iter):
    rng = np.random.default_rng(0)
    X = normalised(rng.standard_normal((50, 30)) + 2.0 * rng.standard_normal((50, 1)))
    exact = np.linalg.eigvalsh(X.T @ X)[-1]
    assert spectral_radius(lambda v: X.T @ (X @ v), 30, 1, n_iter) >= 0.99 * exact
    assert spectral_width(lambda v: X.T @ (X @ v), 30, 1, n_iter) <= np.ceil(30 / exact)


def test_groups_of_equal_columns_bound_the_width():
    """Six groups of five equal columns, orthogonal to each other: r = 5, so 6 at a time."""
    X = np.repeat(np.eye(6), 5, axis=1)
    assert spectral_width(lambda v: X.T @ (X @ v), 30) == 6


def test_empty_columns_do_not_bound_the_width():
    assert spectral_width(lambda v: np.zeros(7), 7) == 7
    assert spectral_width(lambda v: v, 1) == 1


@pytest.mark.parametrize(
    ("matvec", "n", "n_iter"),
    [
        (lambda v: v, 0, 5),
        (lambda v: v, 3, 0),
        (lambda v: v[:2], 3, 5),
        (lambda v: v * np.nan, 3, 5),
    ],
)
def test_bad_matrices_are_refused(matvec, n, n_iter):
    with pytest.raises(ValueError, match=r"n and n_iter|matvec must return"):
        spectral_width(matvec, n, 0, n_iter)
