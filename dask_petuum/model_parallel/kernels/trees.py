"""Kernels of the policies: the best block of many, in microseconds at 10,000 blocks.

A *tree* is an array of 2 n nodes, n a power of two: node 1 is the root, node i has the children
2 i and 2 i + 1, and block j is the leaf n + j; leaves without a block are never chosen. In a sum
tree a node is the sum of its children, recomputed from them on every change, so that no rounding
error piles up; in a max tree it is the larger one. All take C-contiguous arrays whose dtypes and
lengths the pickers have fixed. Ties go to the block with the lowest number, so that every machine
chooses the same.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from dask_petuum.jit import kernel

__all__ = [
    "best_to_visit",
    "draw_mixed",
    "longest_waiting",
    "put_max",
    "put_sum",
    "take_largest",
]

Array = npt.NDArray[Any]


@kernel()
def best_to_visit(
    rank: int, visited: Array, busy: Array, places: Array, left: Array, costs: Array
) -> int:
    """Return the free block that a rank should visit next; -1 where there is none.

    A block that the rank holds comes before all others; then the one with the most work left for
    all ranks together, which is visits left times cost.

    Parameters
    ----------
    visited, busy : (n_blocks,) uint8, 1 where this rank was there in this pass; where in flight
    places, left : (n_blocks,) int64, who holds the block; how many ranks have to visit it yet
    costs : (n_blocks,) float64
    """
    best = -1
    best_held = False
    best_work = 0.0
    for j in range(visited.shape[0]):
        if visited[j] or busy[j]:
            continue
        held = places[j] == rank
        work = left[j] * costs[j]
        if best < 0 or (held and not best_held) or (held == best_held and work > best_work):
            best = j
            best_held = held
            best_work = work
    return best


@kernel()
def longest_waiting(handed_at: Array, busy: Array) -> int:
    """Return the free block that was handed out longest ago; -1 where none is free.

    Parameters
    ----------
    handed_at : (n_blocks,) int64
    busy : (n_blocks,) uint8, 1 where the block is in flight
    """
    oldest = -1
    for j in range(handed_at.shape[0]):
        if not busy[j] and (oldest < 0 or handed_at[j] < handed_at[oldest]):
            oldest = j
    return oldest


@kernel(inline=True)
def _put_sum(tree: Array, leaf: int, value: float) -> None:
    tree[leaf] = value
    node = leaf >> 1
    while node:
        tree[node] = tree[2 * node] + tree[2 * node + 1]
        node >>= 1


@kernel(inline=True)
def _put_max(tree: Array, leaf: int, value: float) -> None:
    tree[leaf] = value
    node = leaf >> 1
    while node:
        tree[node] = max(tree[2 * node], tree[2 * node + 1])
        node >>= 1


@kernel()
def put_sum(tree: Array, blocks: Array, values: Array) -> None:
    """Set leaves of a sum tree.

    Parameters
    ----------
    tree : (2 n,) float64, updated in place
    blocks : (k,) int64
    values : (k or more,) float64, >= 0
    """
    for i in range(blocks.shape[0]):
        _put_sum(tree, (tree.shape[0] >> 1) + blocks[i], values[i])


@kernel()
def put_max(tree: Array, blocks: Array, values: Array) -> None:
    """Set leaves of a max tree; parameters as of `put_sum`."""
    for i in range(blocks.shape[0]):
        _put_max(tree, (tree.shape[0] >> 1) + blocks[i], values[i])


@kernel(inline=True)
def _leaf_at(tree: Array, point: float) -> int:
    """Return the leaf of a sum tree in which a point of [0, tree[1]) lies; never one of 0.

    A point that rounding has put behind the end goes to the last leaf that is not 0.
    """
    n = tree.shape[0] >> 1
    node = 1
    while node < n:
        node *= 2
        if tree[node + 1] > 0.0 and (point >= tree[node] or tree[node] <= 0.0):
            point -= tree[node]
            node += 1
    return node


@kernel()
def draw_mixed(
    new: Array, weights: Array, units: Array, base: float, points: Array, out: Array
) -> int:
    """Draw blocks without replacement, new ones first; return how many.

    New blocks are drawn alike, the others in proportion to weight + base: the mass of a draw is
    ``weights[1] + base * units[1]``. A drawn block's leaves become 0 in all trees: the caller puts
    back those that it does not use.

    Parameters
    ----------
    new : (2 n,) float64, sum tree of 1 for each new block that may be drawn
    weights : (2 n,) float64, sum tree of the weights of the others that may be drawn
    units : (2 n,) float64, sum tree of 1 for each of those
    base
        What every block that is not new has besides its weight, >= 0.
    points : (k,) float64, uniform in [0, 1)
    out : (k,) int64, filled with the blocks in the order of the draws
    """
    n = weights.shape[0] >> 1
    for i in range(points.shape[0]):
        if new[1] > 0.0:
            leaf = _leaf_at(new, points[i] * new[1])
            _put_sum(new, leaf, 0.0)
            out[i] = leaf - n
            continue
        weighted = weights[1]
        mass = weighted + base * units[1]
        if mass <= 0.0:
            return i
        point = points[i] * mass
        if point < weighted or base * units[1] <= 0.0:
            leaf = _leaf_at(weights, point)
        else:
            leaf = _leaf_at(units, (point - weighted) / base)
        _put_sum(weights, leaf, 0.0)
        _put_sum(units, leaf, 0.0)
        out[i] = leaf - n
    return len(points)


@kernel()
def take_largest(tree: Array, out: Array) -> int:
    """Take the blocks with the largest values >= 0 out of a max tree; return how many.

    A block taken has the leaf -1: the caller puts back those that it does not use.

    Parameters
    ----------
    tree : (2 n,) float64, max tree; -1 where a block is not to be taken
    out : (k,) int64, filled with the blocks, the largest first
    """
    n = tree.shape[0] >> 1
    for i in range(out.shape[0]):
        if tree[1] < 0.0:
            return i
        node = 1
        while node < n:
            node *= 2
            if tree[node] < tree[node + 1]:
                node += 1
        out[i] = node - n
        _put_max(tree, node, -1.0)
    return len(out)
