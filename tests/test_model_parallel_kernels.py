"""The policies' kernels against their naive twins, and the trees' invariants."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from dask_petuum.model_parallel.bags import max_tree, sum_tree
from dask_petuum.model_parallel.kernels.trees import (
    best_to_visit,
    draw_mixed,
    longest_waiting,
    put_max,
    put_sum,
    take_largest,
)

SEEDS = st.integers(0, 10_000)
SIZES = st.integers(1, 40)


def naive_best(rank, visited, busy, places, left, costs):
    free = [j for j in range(len(visited)) if not visited[j] and not busy[j]]
    return max(free, key=lambda j: (places[j] == rank, left[j] * costs[j], -j), default=-1)


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_best_to_visit(n, seed):
    rng = np.random.default_rng(seed)
    visited, busy = rng.integers(0, 2, (2, n)).astype(np.uint8)
    places, left = rng.integers(-1, 3, n), rng.integers(0, 4, n)
    costs = rng.integers(1, 4, n).astype(float)
    arguments = (1, visited, busy, places, left, costs)
    assert best_to_visit(*arguments) == naive_best(*arguments)


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_longest_waiting(n, seed):
    rng = np.random.default_rng(seed)
    handed_at, busy = rng.integers(0, 5, n), rng.integers(0, 2, n).astype(np.uint8)
    free = [j for j in range(n) if not busy[j]]
    expected = min(free, key=lambda j: (handed_at[j], j), default=-1)
    assert longest_waiting(handed_at, busy) == expected


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_trees_stay_what_they_are_made_of(n, seed):
    """Leaves set one by one give to the bit the tree made of them at once."""
    rng = np.random.default_rng(seed)
    leaves = rng.exponential(size=n)
    sums, largest = sum_tree(leaves), max_tree(leaves)
    blocks = rng.integers(0, n, 3)
    values = rng.exponential(size=3) * rng.integers(0, 2, 3)
    put_sum(sums, blocks, values)
    put_max(largest, blocks, values)
    for block, value in zip(blocks, values, strict=True):
        leaves[block] = value
    assert sums.tolist() == sum_tree(leaves).tolist()
    assert largest.tolist() == max_tree(leaves).tolist()


def naive_draw(new, weights, units, base, points):
    """Draw by running sums: new blocks; then all weights, then a base weight for each block."""
    new, weights, units, drawn = new.copy(), weights.copy(), units.copy(), []
    for point in points:
        ends = np.cumsum(new if new.any() else np.concatenate([weights, base * units]))
        if ends[-1] <= 0:
            break
        at = int(np.searchsorted(ends, point * ends[-1], side="right")) % len(weights)
        drawn.append(at)
        new[at] = weights[at] = units[at] = 0.0
    return drawn


def random_bag(n, rng):
    """Return 0 or 1 for each block that is new, and for each other one that may be drawn."""
    kinds = rng.integers(0, 3, n)
    return (kinds == 1).astype(float), (kinds == 2).astype(float)


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_draw_mixed(n, seed):
    """Weights are small whole numbers and the base 1/2: sums are exact, so draws agree exactly."""
    rng = np.random.default_rng(seed)
    new, units = random_bag(n, rng)
    weights = units * rng.integers(0, 5, n)
    points = rng.random(int(rng.integers(0, n + 3)))
    out = np.empty(points.size, dtype=np.int64)
    leaves = (new, weights, units)
    trees = [sum_tree(values) for values in leaves]
    drawn = out[: draw_mixed(*trees, 0.5, points, out)].tolist()
    assert drawn == naive_draw(*leaves, 0.5, points)
    assert len(drawn) == min(points.size, int(new.sum() + units.sum()))
    for tree, values in zip(trees, leaves, strict=True):
        values[drawn] = 0.0
        assert tree.tolist() == sum_tree(values).tolist()


@settings(max_examples=300, deadline=None)
@given(SIZES, SEEDS, st.sampled_from([1e-300, 1e-12, 1.0, 1e12, 1e300]))
def test_draws_never_hit_a_block_that_is_not_in(n, seed, scale):
    """Also where rounding puts a point on an edge, or weights differ by many magnitudes."""
    rng = np.random.default_rng(seed)
    new, units = random_bag(n, rng)
    weights = units * np.minimum(rng.exponential(size=n) ** 20, 1e6) * scale
    points = rng.choice([0.0, 0.5, np.nextafter(1.0, 0.0), rng.random()], n)
    out = np.empty(n, dtype=np.int64)
    trees = [sum_tree(values) for values in (new, weights, units)]
    drawn = out[: draw_mixed(*trees, 0.01 * scale, points, out)].tolist()
    assert sorted(drawn) == np.flatnonzero(new + units).tolist()


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_take_largest(n, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 4, n).astype(float)
    values[values == 3] = np.inf
    tree = max_tree(values)
    out = np.empty(int(rng.integers(0, n + 2)), dtype=np.int64)
    taken = out[: take_largest(tree, out)].tolist()
    order = sorted((j for j in range(n) if values[j] >= 0), key=lambda j: (-values[j], j))
    assert taken == order[: out.size]
    values[taken] = -1.0
    assert tree.tolist() == max_tree(values).tolist()
