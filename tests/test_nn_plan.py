"""Which rows the steps of a training visit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dask_petuum.nn.plan import Plan


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 20))
def test_a_pass_visits_each_row_once_in_batches_of_two_at_least(sizes, batch_size):
    plan = Plan(tuple(sizes), batch_size, 2, 0)
    for partition, n in enumerate(sizes):
        steps = range(plan.steps_per_pass, 2 * plan.steps_per_pass)
        bounds = [plan.bounds(partition, step) for step in steps]
        lengths = [high - low for low, high in bounds if high > low]
        order = plan.training_rows(partition, steps.start)
        seen = np.concatenate([order[low:high] for low, high in bounds])
        np.testing.assert_array_equal(np.sort(seen), np.arange(n))
        assert max(lengths) <= (3 if batch_size == 2 else batch_size)
        assert min(lengths) >= min(2, n, batch_size)
    assert all(plan.n_rows(step) for step in range(plan.n_steps)), "no step is for nothing"


@given(st.integers(1, 60), st.integers(3, 20))
def test_batches_of_the_largest_partition_are_equal(n, batch_size):
    plan = Plan((n,), batch_size, 1, 0)
    assert plan.steps_per_pass == -(-n // batch_size)
    lengths = np.diff([plan.bounds(0, step) for step in range(plan.n_steps)])
    assert lengths.max() - lengths.min() <= 1
