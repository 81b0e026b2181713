"""Kernels that put a partition's ratings (CSR, rows are users) into the orders the solvers read.

Cyclic descent reads rows padded to a multiple of 8 entries, once by user and once by item. Descent
by cells reads the ratings of one cell (user group, item group) together, in random order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = ["count_cells", "deal_cells", "pad_columns", "pad_rows", "shuffle_cell", "sum_squares"]

#: Prime modulus of the shuffle's random numbers: products stay within 64 bits.
MODULUS = 2147483647

Floats = NDArray[np.float32]
Ints = NDArray[np.integer]
Csr = tuple[Floats, Ints, Ints]


@kernel()
def pad_rows(csr: Csr, starts: NDArray[np.int64], index: NDArray[np.int32], out: Floats) -> None:
    """Copy CSR rows to their padded places.

    Parameters
    ----------
    csr : data (float32), indices, indptr
    starts : (n_rows + 1,) first place of each row
    index, out : (starts[-1],), output; padding is left as it is
    """
    data, indices, indptr = csr
    for i in range(starts.shape[0] - 1):
        place = starts[i]
        for p in range(indptr[i], indptr[i + 1]):
            index[place] = indices[p]
            out[place] = data[p]
            place += 1


@kernel()
def pad_columns(
    csr: Csr,
    starts: NDArray[np.int64],
    places: NDArray[np.int64],
    index: NDArray[np.int32],
    out: Floats,
) -> None:
    """Copy CSR rows to the padded places of their columns, in the order of the rows.

    Parameters
    ----------
    csr, index, out
        As in `pad_rows`; ``index`` gets row numbers.
    starts : (n_columns + 1,) first place of each column
    places : (n_columns,) scratch
    """
    data, indices, indptr = csr
    for j in range(places.shape[0]):
        places[j] = starts[j]
    for i in range(indptr.shape[0] - 1):
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            index[places[j]] = i
            out[places[j]] = data[p]
            places[j] += 1


@kernel()
def count_cells(
    csr: Csr, user_group: Ints, item_cell: Ints, n_groups: int, cuts: NDArray[np.int64]
) -> None:
    """Find where each cell's ratings begin.

    Parameters
    ----------
    csr : data, indices, indptr
    user_group : (n_users,), 0 .. n_groups - 1
    item_cell : (n_items,) block * n_groups + group within the block
    cuts : (n_blocks * n_groups ** 2 + 1,), output; cell (block, g, s) is number
        (block * n_groups + g) * n_groups + s
    """
    _, indices, indptr = csr
    cuts[:] = 0
    for i in range(indptr.shape[0] - 1):
        shift = user_group[i] * n_groups
        for p in range(indptr[i], indptr[i + 1]):
            cell = item_cell[indices[p]]
            block = cell // n_groups
            cuts[block * n_groups * n_groups + shift + cell - block * n_groups + 1] += 1
    for c in range(cuts.shape[0] - 1):
        cuts[c + 1] += cuts[c]


@kernel()
def deal_cells(
    csr: Csr,
    users: tuple[Ints, Ints],
    items: tuple[Ints, Ints],
    n_groups: int,
    places: NDArray[np.int64],
    entries: tuple[NDArray[np.int32], NDArray[np.int32], Floats],
) -> None:
    """Copy the ratings to their cells.

    Parameters
    ----------
    csr : data, indices, indptr
    users : group and place (row of the factors) of each user
    items : cell and place of each item
    n_groups : as in `count_cells`
    places : (n_cells,) first place of each cell; moved on
    entries : (n_ratings,) user place, item place, rating; output
    """
    data, indices, indptr = csr
    user_group, user_place = users
    item_cell, item_place = items
    for i in range(indptr.shape[0] - 1):
        shift = user_group[i] * n_groups
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            cell = item_cell[j]
            block = cell // n_groups
            c = block * n_groups * n_groups + shift + cell - block * n_groups
            entries[0][places[c]] = user_place[i]
            entries[1][places[c]] = item_place[j]
            entries[2][places[c]] = data[p]
            places[c] += 1


@kernel()
def shuffle_cell(
    entries: tuple[NDArray[np.int32], NDArray[np.int32], Floats], low: int, high: int, seed: int
) -> None:
    """Shuffle entries low..high in place (Fisher and Yates; numbers of Park and Miller 1988)."""
    users, items, ratings = entries
    state = seed % (MODULUS - 1) + 1
    for e in range(high - 1, low, -1):
        state = state * 48271 % MODULUS
        # The bias is below 2^-31 times the cell's size; the product below 2^62.
        other = low + state * (e - low + 1) // MODULUS
        user, item, rating = users[e], items[e], ratings[e]
        users[e], items[e], ratings[e] = users[other], items[other], ratings[other]
        users[other], items[other], ratings[other] = user, item, rating


@kernel()
def sum_squares(values: Floats, low: int, high: int) -> float:
    """Sum of the squares of values low..high, in float64; four sums side by side."""
    a = b = c = d = 0.0
    whole = low + (high - low) // 4 * 4
    for p in range(low, whole, 4):
        a += np.float64(values[p]) * np.float64(values[p])
        b += np.float64(values[p + 1]) * np.float64(values[p + 1])
        c += np.float64(values[p + 2]) * np.float64(values[p + 2])
        d += np.float64(values[p + 3]) * np.float64(values[p + 3])
    for p in range(whole, high):
        a += np.float64(values[p]) * np.float64(values[p])
    return a + b + c + d
