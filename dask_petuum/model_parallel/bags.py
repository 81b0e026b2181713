"""What `Priority` takes its candidates from: blocks that may be taken, with their priorities.

Both bags keep their blocks in a tree, so that a take or a put costs ``log2(n_blocks)`` steps.
A block is in the bag or out of it; what is in flight is out.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .kernels.trees import draw_mixed, put_max, put_sum, take_largest
from .picker import FloatArray, IntArray

__all__ = ["Bag", "LargestBag", "SampleBag"]


class Bag(Protocol):
    """The blocks that may be taken, with their priorities."""

    def take(self, n: int) -> IntArray:
        """Take up to `n` blocks out, the first candidate first."""
        ...

    def remove(self, block: int) -> None:
        """Take one block out, which is in."""
        ...

    def put_back(self, blocks: IntArray) -> None:
        """Put blocks back that came to nothing, with the priorities they had."""
        ...

    def put(self, blocks: IntArray, priorities: FloatArray) -> None:
        """Put blocks in that were handed out, with their new priorities."""
        ...

    def fill(self, free: IntArray, priorities: FloatArray) -> None:
        """Set the priorities of all blocks; those in `free` are in, the others out."""
        ...


class SampleBag:
    """Blocks drawn by weight, which is priority ** power; before them, those nobody has done yet.

    Each has a base weight besides: `base` times the mean positive weight in the bag.

    The mutable state is all below, and changed by the five methods of `Bag`. A block in the bag is
    either new, with 1 in `_new`, or has its weight in `_weights` and 1 in `_units`.
    """

    def __init__(self, n_blocks: int, base: float, power: float, seed: Any) -> None:
        self._base = base
        self._power = power
        self._random = np.random.Generator(np.random.PCG64(seed))
        #: (n_blocks,) weight of each block, in the bag or not; 0 where it is new.
        self._weight = np.zeros(n_blocks)
        self._is_new = np.ones(n_blocks, dtype=bool)
        self._new = sum_tree(np.ones(n_blocks))
        self._weights = sum_tree(np.zeros(n_blocks))
        self._units = sum_tree(np.zeros(n_blocks))
        #: How many leaves of `_weights` are positive.
        self._n_positive = 0

    def take(self, n: int) -> IntArray:
        """Draw blocks without replacement."""
        taken = np.empty(n, dtype=np.int64)
        points = self._random.random(n)
        base = self._base * self._weights[1] / self._n_positive if self._n_positive else 1.0
        taken = taken[: draw_mixed(self._new, self._weights, self._units, base, points, taken)]
        self._n_positive -= int(np.count_nonzero(self._weight[taken]))
        return taken

    def remove(self, block: int) -> None:
        """Take one block out, which is in."""
        chosen, nothing = np.array([block]), np.zeros(1)
        self._n_positive -= int(self._weight[block] > 0)
        for tree in (self._new, self._weights, self._units):
            put_sum(tree, chosen, nothing)

    def put_back(self, blocks: IntArray) -> None:
        """Put blocks back; those that nobody has done yet are still new."""
        are_new = self._is_new[blocks]
        weight = self._weight[blocks]
        put_sum(self._new, blocks[are_new], np.ones(blocks.size))
        put_sum(self._units, blocks[~are_new], np.ones(blocks.size))
        put_sum(self._weights, blocks, weight)
        self._n_positive += int(np.count_nonzero(weight))

    def put(self, blocks: IntArray, priorities: FloatArray) -> None:
        """Put blocks in that were handed out, with their new priorities."""
        self._is_new[blocks] = False
        weight = priorities**self._power
        self._weight[blocks] = weight
        put_sum(self._weights, blocks, weight)
        put_sum(self._units, blocks, np.ones(blocks.size))
        self._n_positive += int(np.count_nonzero(weight))

    def fill(self, free: IntArray, priorities: FloatArray) -> None:
        """Set all priorities: no block is new any more."""
        self._weight = priorities**self._power
        self._is_new[:] = False
        inside = np.zeros(priorities.size)
        inside[free] = 1.0
        self._new = sum_tree(np.zeros(priorities.size))
        self._weights = sum_tree(inside * self._weight)
        self._units = sum_tree(inside)
        self._n_positive = int(np.count_nonzero(inside * self._weight))


class LargestBag:
    """Blocks taken by priority, the largest first; those nobody has done yet before all others.

    The mutable state is the priorities and the tree, in which a block that is out has -1.
    """

    def __init__(self, n_blocks: int) -> None:
        self._priorities = np.full(n_blocks, np.inf)
        self._tree = max_tree(self._priorities)

    def take(self, n: int) -> IntArray:
        """Take the largest."""
        taken = np.empty(n, dtype=np.int64)
        return taken[: take_largest(self._tree, taken)]

    def remove(self, block: int) -> None:
        """Take one block out, which is in."""
        put_max(self._tree, np.array([block]), np.array([-1.0]))

    def put_back(self, blocks: IntArray) -> None:
        """Put blocks back with the priorities they had."""
        put_max(self._tree, blocks, self._priorities[blocks])

    def put(self, blocks: IntArray, priorities: FloatArray) -> None:
        """Put blocks in with their new priorities."""
        self._priorities[blocks] = priorities
        self.put_back(blocks)

    def fill(self, free: IntArray, priorities: FloatArray) -> None:
        """Set all priorities."""
        self._priorities = priorities.copy()
        leaves = np.full(priorities.size, -1.0)
        leaves[free] = priorities[free]
        self._tree = max_tree(leaves)


def sum_tree(leaves: FloatArray) -> FloatArray:
    """Return the sum tree over the leaves; those it has besides are 0.

    Examples
    --------
    >>> sum_tree(np.array([1.0, 2.0, 4.0])).tolist()
    [0.0, 7.0, 3.0, 4.0, 1.0, 2.0, 4.0, 0.0]
    """
    return _tree(leaves, np.add, 0.0)


def max_tree(leaves: FloatArray) -> FloatArray:
    """Return the max tree over the leaves; those it has besides are -1.

    Examples
    --------
    >>> max_tree(np.array([1.0, 2.0, 4.0])).tolist()
    [-1.0, 4.0, 2.0, 4.0, 1.0, 2.0, 4.0, -1.0]
    """
    return _tree(leaves, np.maximum, -1.0)


def _tree(leaves: FloatArray, combine: np.ufunc, missing: float) -> FloatArray:
    n = 1 << (leaves.size - 1).bit_length()
    tree = np.full(2 * n, missing)
    tree[n : n + leaves.size] = leaves
    while n > 1:
        tree[n >> 1 : n] = combine(tree[n : 2 * n : 2], tree[n + 1 : 2 * n : 2])
        n >>= 1
    return tree
