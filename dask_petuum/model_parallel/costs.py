"""How long blocks take and how slow ranks are, learnt from the seconds of the tasks.

A task takes ``slowness of its rank x cost of its blocks`` seconds. Both are moving averages, the
rank's quick and the block's slower, so that a rank that falls behind does not make the blocks it
happened to have look large. Costs keep the unit they were given in (nonzeros, tokens).
"""

from __future__ import annotations

import numpy as np

from .picker import FloatArray, IntArray

__all__ = ["Costs"]

#: How much of a new observation goes into a rank's slowness and into a block's cost.
RANK_SHARE, BLOCK_SHARE = 0.3, 0.2
#: An observation counts as at most this many times what was expected, or this part of it: a rank
#: that was stopped for a while says nothing about its blocks.
OUTLIER = 10.0
#: Seconds below this are beneath any clock, and say nothing.
RESOLUTION = 1e-9


class Costs:
    """Estimates of the blocks' costs and the ranks' slowness.

    The mutable state is `values` and `slowness`; only `observe` changes it.
    """

    def __init__(self, costs: FloatArray, n_ranks: int) -> None:
        #: (n_blocks,) cost of each block, in the unit given.
        self.values = costs.copy()
        #: (n_ranks,) seconds per unit of cost; nan where nothing is known yet.
        self.slowness = np.full(n_ranks, np.nan)

    def observe(self, rank: int, blocks: IntArray, seconds: float) -> None:
        """Learn from a task; one of 0 seconds says nothing.

        Parameters
        ----------
        seconds
            How long the rank computed on all of the blocks.
        """
        if seconds < RESOLUTION:
            return
        observed = seconds / float(self.values[blocks].sum())
        known = self.slowness[rank]
        if np.isnan(known):
            self.slowness[rank] = observed
            return
        surprise = min(max(observed / known, 1 / OUTLIER), OUTLIER) - 1
        self.values[blocks] *= 1 + BLOCK_SHARE * surprise
        self.slowness[rank] *= 1 + RANK_SHARE * surprise
