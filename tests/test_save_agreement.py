"""All ranks save after the same clocks, whenever each of them comes to see the wishes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dask_petuum.runtime.metrics import STATISTICS, LoopPlan, Metrics

N_CLOCKS = 24
#: Column of the table of metrics; there are no metrics of a program.
SAVE = len(STATISTICS) + 1


class Rank:
    """A rank that has seen all wishes of the clocks up to ``lags[clock]`` before its own."""

    rank, n_ranks, can_save = 1, 2, True
    saved, stop_requested, is_saving, save_requested = None, False, False, False

    def __init__(self, wishes, lags):
        self.clock_index = 0
        values = np.zeros((N_CLOCKS + 1, len(STATISTICS) + 2))
        values[1:, SAVE] = wishes
        self._lags = lags
        self._view = SimpleNamespace(values=values, fresh=0, inc=lambda row, at: None)

    def table(self, name):
        return SimpleNamespace(view=lambda: self._view)

    def statistics(self):
        return dict.fromkeys(STATISTICS, 0.0)

    def clock(self):
        self.clock_index += 1
        self._view.fresh = max(
            self._view.fresh, self.clock_index - self._lags[self.clock_index - 1]
        )


def saves(wishes, lags, slack):
    """The clocks after which a rank saves."""
    program = SimpleNamespace(
        metrics=(), objective=lambda totals: {}, converged=lambda history: False
    )
    ctx = Rank(wishes, [min(lag, slack) for lag in lags])
    metrics = Metrics(ctx, program, LoopPlan(N_CLOCKS, slack))
    found = []
    for clock in range(1, N_CLOCKS + 1):
        metrics.add({})
        metrics.end_clock()
        assert metrics.update() is None
        if metrics.saves_now():
            found.append(clock)
    return found


LAGS = st.lists(st.integers(0, 3), min_size=N_CLOCKS, max_size=N_CLOCKS)


@example(slack=2, wishes=[False, True, True] + [False] * 21, lags=[2] * N_CLOCKS)
@given(
    slack=st.integers(0, 3),
    wishes=st.lists(st.booleans(), min_size=N_CLOCKS, max_size=N_CLOCKS),
    lags=LAGS,
)
def test_a_rank_that_sees_wishes_late_saves_when_the_others_do(slack, wishes, lags):
    at_once = saves(wishes, [0] * N_CLOCKS, slack)
    assert saves(wishes, lags, slack) == at_once
    first = wishes.index(True) + 1 + slack if any(wishes) else N_CLOCKS + 1
    assert at_once[:1] == [first] * (first <= N_CLOCKS), "a wish is heard"
