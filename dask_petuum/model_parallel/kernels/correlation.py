"""Kernels of the check for dependent blocks: which candidates correlate with none in flight.

One call looks at all candidates of a decision. A pair that is not known is one product of two
columns, centred and of norm 1, in float32: the last columns used are kept in that form, and the
strengths of the last pairs. Where that is too near to the threshold to tell (`MARGIN`), the pair is
computed again in float64 and in the order of the rows. So a verdict does not depend on the order of
float32 sums, which is that of the machine's vector width, nor on what is kept.

A block is some columns: ``members[starts[block] : starts[block + 1]]``. The strength of two blocks
is the largest absolute correlation of their columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dask_petuum.jit import kernel

__all__ = ["MARGIN", "PART", "Columns", "Known", "are_blocks", "exact_strengths", "screen"]

Array = npt.NDArray[Any]

#: Rows that are summed in float32; the sums of the parts are float64.
PART = 1024
#: Of a strength that is kept, so that one number holds a pair and its strength.
BITS = 16
STEPS = (1 << BITS) - 1
#: No strength is wrong by as much: `PART` roundings of sums of at most 1 and those of the factors,
#: 6e-8 each, and half a step.
MARGIN = 1e-4
#: Spread the pairs over the table; primes.
LOW, HIGH = 2_654_435_761, 40_503


class Columns(NamedTuple):
    """The data, which no kernel changes."""

    #: (n_rows, n_columns) dense values; (0, 0) where they are sparse.
    x: Array
    #: Values, rows and starts of a CSC matrix without repeated entries; empty where it is dense.
    data: Array
    indices: Array
    indptr: Array
    #: (n_columns,) float64.
    means: Array
    #: (n_columns,) float64, 1 / norm of the centred column; 0 where it does not vary.
    inverses: Array
    #: (n_blocks + 1,) and (n_columns,) int64, columns of each block.
    starts: Array
    members: Array


class Known(NamedTuple):
    """What was computed and is kept; all of it is updated in place."""

    #: (n_pairs,) int64, a pair's number above `BITS` of its strength; -1: none.
    pairs: Array
    #: (n_slots >= 2, n_rows) float32, C-contiguous, columns as they are multiplied; dense only.
    slots: Array
    #: (n_columns,) int64, slot of each column; -1: none.
    slot_of: Array
    #: (n_slots,) int64, column in each slot; -1: none.
    column_in: Array
    #: (1,) int64, slot that is given up next.
    turn: Array
    #: (n_rows,) float64, all 0 between the calls; sparse only.
    work: Array


@kernel(inline=True)
def are_blocks(columns: Columns, blocks: Array) -> bool:
    """Tell whether there are such blocks: the other kernels do not check it."""
    n_blocks = columns.starts.shape[0] - 1
    n_there = 0
    for block in blocks:
        n_there += 0 <= block < n_blocks
    return n_there == len(blocks)


@kernel(fastmath=True)
def _dot(left: Array, right: Array) -> float:
    """Multiply two float32 vectors; wrong by less than `MARGIN` if their norms are 1."""
    total = 0.0
    for start in range(0, left.shape[0], PART):
        part = np.float32(0.0)
        for i in range(start, min(start + PART, left.shape[0])):
            part += left[i] * right[i]
        total += np.float64(part)
    return total


@kernel(fastmath=True, inline=True)
def _dots(rows: Array, mine: int, a: int, b: int, c: int, d: int, out: Array) -> None:
    """Do four of `_dot` at once: row `mine` is read once for all of them."""
    left = rows[mine]
    first, second, third, fourth = rows[a], rows[b], rows[c], rows[d]
    out[:] = 0.0
    for start in range(0, left.shape[0], PART):
        p = q = r = s = np.float32(0.0)
        for i in range(start, min(start + PART, left.shape[0])):
            p += left[i] * first[i]
            q += left[i] * second[i]
            r += left[i] * third[i]
            s += left[i] * fourth[i]
        out[0] += p
        out[1] += q
        out[2] += r
        out[3] += s


@kernel(inline=True)
def _fetch(columns: Columns, known: Known, column: int, pinned: int) -> int:
    """Return the slot that has a column, after filling one that is not `pinned`."""
    slot = known.slot_of[column]
    if slot >= 0:
        return int(slot)
    slot = known.turn[0]
    if slot == pinned:
        slot = (slot + 1) % known.slots.shape[0]
    known.turn[0] = (slot + 1) % known.slots.shape[0]
    if known.column_in[slot] >= 0:
        known.slot_of[known.column_in[slot]] = -1
    known.column_in[slot] = column
    known.slot_of[column] = slot
    mean, inverse, row = columns.means[column], columns.inverses[column], known.slots[slot]
    for i in range(row.shape[0]):
        row[i] = np.float32((np.float64(columns.x[i, column]) - mean) * inverse)
    return int(slot)


@kernel(inline=True)
def _scatter(columns: Columns, known: Known, column: int) -> None:
    for at in range(columns.indptr[column], columns.indptr[column + 1]):
        known.work[columns.indices[at]] = np.float64(columns.data[at])


@kernel(inline=True)
def _clear(columns: Columns, known: Known, column: int) -> None:
    for at in range(columns.indptr[column], columns.indptr[column + 1]):
        known.work[columns.indices[at]] = 0.0


@kernel(inline=True)
def _sparse(columns: Columns, known: Known, scattered: int, column: int) -> float:
    """Correlate a column with the one that is scattered; to the bit the same everywhere."""
    total = 0.0
    for at in range(columns.indptr[column], columns.indptr[column + 1]):
        total += columns.data[at] * known.work[columns.indices[at]]
    n_rows = float(known.work.shape[0])
    total -= n_rows * columns.means[scattered] * columns.means[column]
    return abs(float(total * columns.inverses[scattered] * columns.inverses[column]))


@kernel(inline=True)
def _dense(columns: Columns, left: int, right: int) -> float:
    """Correlate two dense columns; to the bit the same everywhere."""
    total = 0.0
    left_mean, right_mean = columns.means[left], columns.means[right]
    for i in range(columns.x.shape[0]):
        product = np.float64(columns.x[i, left]) - left_mean
        total += product * (np.float64(columns.x[i, right]) - right_mean)
    return abs(float(total * columns.inverses[left] * columns.inverses[right]))


@kernel(inline=True)
def exact_strengths(
    columns: Columns, known: Known, block: int, others: Array, n_others: int, out: Array
) -> None:
    """Compute the strengths of a block with others in float64.

    Parameters
    ----------
    columns, known
        The data; the work space.
    others, n_others
        (n_others or more,) int64 and how many of them.
    out : (n_others or more,) floats, filled
    """
    is_dense = columns.x.shape[0] > 0
    out[:n_others] = 0.0
    for i in range(columns.starts[block], columns.starts[block + 1]):
        mine = columns.members[i]
        if not is_dense:
            _scatter(columns, known, mine)
        for k in range(n_others):
            for j in range(columns.starts[others[k]], columns.starts[others[k] + 1]):
                column = columns.members[j]
                if is_dense:
                    strength = _dense(columns, mine, column)
                else:
                    strength = _sparse(columns, known, mine, column)
                out[k] = max(out[k], min(strength, 1.0))
        if not is_dense:
            _clear(columns, known, mine)


@kernel(inline=True)
def _pair(block: int, other: int, n_blocks: int) -> int:
    return min(block, other) * n_blocks + max(block, other)


@kernel(inline=True)
def _place(block: int, other: int, n_pairs: int) -> int:
    """Where a pair is kept, if it is; another that falls on it takes its place."""
    return (min(block, other) * LOW + max(block, other) * HIGH) % n_pairs


@kernel(inline=True)
def _look_up(
    columns: Columns, known: Known, block: int, others: Array, n_others: int, found: Array
) -> bool:
    """Take what is known; -1 where nothing is. Return whether all is."""
    n_blocks, n_pairs = columns.starts.shape[0] - 1, known.pairs.shape[0]
    complete = True
    for k in range(n_others):
        entry = known.pairs[_place(block, others[k], n_pairs)]
        if entry >= 0 and entry >> BITS == _pair(block, others[k], n_blocks):
            found[k] = (entry & STEPS) / STEPS
        else:
            found[k] = -1.0
            complete = False
    return complete


@kernel(inline=True)
def _multiply(
    columns: Columns,
    known: Known,
    slot: int,
    four: Array,
    at: Array,
    n: int,
    products: Array,
    found: Array,
) -> None:
    """Correlate the column in a slot with up to four; take in those that are larger.

    They are the first four numbers of `four`; the other four are theirs slots. What is not final in
    `found` has a minus sign, and is 1 too small.
    """
    for i in range(n):
        four[4 + i] = _fetch(columns, known, four[i], slot)
    together = n == 4
    for i in range(n):  # with few slots, one may have been given up for the next
        together = together and known.column_in[four[4 + i]] == four[i]
    if together:
        _dots(known.slots, slot, four[4], four[5], four[6], four[7], products)
    for i in range(n):
        if not together:
            theirs = _fetch(columns, known, four[i], slot)
            products[i] = _dot(known.slots[slot], known.slots[theirs])
        found[at[i]] = min(found[at[i]], -abs(products[i]) - 1.0)


@kernel(inline=True)
def _strengths(
    columns: Columns, known: Known, block: int, others: Array, n_others: int, found: Array
) -> None:
    """Compute those strengths of a block with others that are not known; keep them."""
    if _look_up(columns, known, block, others, n_others, found):
        return
    is_dense = columns.x.shape[0] > 0
    four, at, products = np.empty(8, dtype=np.int64), np.empty(4, dtype=np.int64), np.empty(4)
    for i in range(columns.starts[block], columns.starts[block + 1]):
        mine = columns.members[i]
        slot, n = -1, 0
        if is_dense:
            slot = _fetch(columns, known, mine, -1)
        else:
            _scatter(columns, known, mine)
        for k in range(n_others):
            if found[k] >= 0:
                continue
            for j in range(columns.starts[others[k]], columns.starts[others[k] + 1]):
                column = columns.members[j]
                if is_dense:
                    four[n], at[n] = column, k
                    n += 1
                    if n == 4:
                        _multiply(columns, known, slot, four, at, n, products, found)
                        n = 0
                else:
                    strength = _sparse(columns, known, mine, column)
                    found[k] = min(found[k], -strength - 1.0)
        if is_dense:
            _multiply(columns, known, slot, four, at, n, products, found)
        else:
            _clear(columns, known, mine)
    n_blocks, n_pairs = columns.starts.shape[0] - 1, known.pairs.shape[0]
    for k in range(n_others):
        if found[k] < 0:
            found[k] = min(-found[k] - 1.0, 1.0)
            entry = _pair(block, others[k], n_blocks) << BITS
            entry += int(found[k] * STEPS + 0.5)
            known.pairs[_place(block, others[k], n_pairs)] = entry


@kernel(inline=True)
def _meets(
    columns: Columns,
    known: Known,
    block: int,
    others: Array,
    n_others: int,
    rho: float,
    found: Array,
) -> bool:
    """Tell whether a block's strength with any other is `rho` or more, or it is among them."""
    for k in range(n_others):
        if found[k] >= rho + MARGIN or others[k] == block:
            return True
    for k in range(n_others):
        if found[k] > rho - MARGIN:
            exact_strengths(columns, known, block, others[k : k + 1], 1, found[k : k + 1])
            if found[k] >= rho:
                return True
    return False


@kernel()
def screen(
    columns: Columns,
    known: Known,
    others: Array,
    n_others: int,
    n_candidates: int,
    rho: float,
    makes_way: bool,
    found: Array,
    verdicts: Array,
) -> bool:
    """Keep each candidate whose strength with all others, and all kept before it, is below `rho`.

    Parameters
    ----------
    columns, known
        The data, and what is kept of it.
    others : (n_others + n_candidates,) int64
        Blocks in flight and then the candidates; the candidates' part is overwritten.
    makes_way
        Whether the first that is not kept joins the others: who comes after it makes way for it.
    found : (n_others + n_candidates,) float64, work space
    verdicts : (n_candidates,) bool, filled: whether each is kept

    Returns
    -------
    False, and nothing is done, if there is no such block.
    """
    if not are_blocks(columns, others):
        return False
    # A candidate's place is free for the next one that joins by the time that it was looked at.
    n = n_others
    for at in range(n_candidates):
        block = others[n_others + at]
        _strengths(columns, known, block, others, n, found)
        meets = _meets(columns, known, block, others, n, rho, found)
        verdicts[at] = not meets
        if not meets or makes_way:
            others[n] = block
            n += 1
        if meets:
            makes_way = False
    return True
