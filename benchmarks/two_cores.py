"""What two processes can do at most here, against one: virtual cores may share a real one.

Half of a work in each of two processes that wait for each other now and then takes as long as the
slower one does. So the speed-up of two ranks is bounded by that of two processes that share
nothing, and on a machine whose cores are lent it moves from minute to minute.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Pairs", "in_pairs"]

#: Multiplications of a vector that fits into a core's cache: about 0.3 s.
N_PRODUCTS, N_FLOATS = 1500, 1 << 18
#: Two cores are two where two processes that share nothing do at least that much of what one does.
LEAST_BOUND = 1.8
#: Pairs of that kind without which all pairs are taken.
LEAST_PAIRS = 3


class Pairs(NamedTuple):
    """Speeds of one process and of two, in turn, and what two can be of one meanwhile."""

    one: list[float]
    two: list[float]
    bound: list[float]

    @property
    def ratios(self) -> list[float]:
        """Of measurements that follow each other."""
        return [b / a for a, b in zip(self.one, self.two, strict=True)]

    @property
    def whole(self) -> list[float]:
        """The ratios of pairs meanwhile which there were two cores."""
        both = zip(self.ratios, self.bound, strict=True)
        return [ratio for ratio, bound in both if bound >= LEAST_BOUND]

    @property
    def ratio(self) -> float:
        """The median of the ratios of pairs meanwhile which there were two cores, if any were."""
        return statistics.median(self.whole if len(self.whole) >= LEAST_PAIRS else self.ratios)

    @property
    def note(self) -> str:
        """How the ratio was made, and what could be had."""
        low, middle, high = min(self.bound), statistics.median(self.bound), max(self.bound)
        chosen = (
            f"of the {len(self.whole)} of {len(self.ratios)} pairs meanwhile which they did at "
            f"least {LEAST_BOUND}; over all pairs it is {statistics.median(self.ratios):.2f}"
            if len(self.whole) >= LEAST_PAIRS
            else f"of all {len(self.ratios)} pairs: they seldom did {LEAST_BOUND}"
        )
        return (
            "Fits of one and of two processes follow each other, and between them two processes "
            "that share nothing, of which the slower counts, do as much as they can of what one "
            f"alone does: {middle:.2f} ({low:.2f} to {high:.2f}). The ratio is the median {chosen}."
        )


def in_pairs(measure: Callable[[int], float], repeats: int) -> Pairs:
    """Measure with one process and with two, in turn; between them, what two can do here."""
    out = Pairs([], [], [])
    for _ in range(repeats):
        out.one.append(measure(1))
        alone = _seconds(1)
        both = _seconds(2)
        alone += _seconds(1)
        out.two.append(measure(2))
        out.bound.append(2 * statistics.mean(alone) / max(both))
    return out


def _seconds(n: int) -> list[float]:
    """Seconds that each of so many processes takes for the same work at the same time."""
    context = multiprocessing.get_context("spawn")
    results, together = context.SimpleQueue(), context.Barrier(n)
    processes = [context.Process(target=_work, args=(together, results)) for _ in range(n)]
    for process in processes:
        process.start()
    seconds: list[float] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return seconds


def _work(together: Barrier, results: Any) -> None:
    vector = np.ones(N_FLOATS, dtype=np.float32)
    together.wait()
    began = time.perf_counter()
    for _ in range(N_PRODUCTS):
        np.multiply(vector, 1.0001, out=vector)
        np.minimum(vector, 2.0, out=vector)
    results.put(time.perf_counter() - began)
