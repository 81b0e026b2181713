"""A partition of the rows, as the lasso over ranks reads it: sums over its rows, in threads.

Sums are formed over slices of fixed size and added in their order, so that they do not depend on
the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Context

from .kernels.lasso_rows import (
    moments_csr,
    moments_dense,
    products_csr,
    products_dense,
    sums_csr,
    sums_dense,
)

__all__ = ["Rows"]

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

#: Values of a slice of rows (a thread's piece of work: about 10 ms), and slices at most: each has
#: its own sum.
VALUES_PER_SLICE, MAX_SLICES = 2**22, 32
#: Rows of a block whose columns are gathered for a Gram matrix; 16 MB of 500 columns.
GRAM_ROWS = 4096


class Rows:
    """Rows, targets and weights of a partition.

    Parameters
    ----------
    ctx
        Whose threads are used.
    partition
        The rows.
    unit
        What the weights are multiplied with: rows by the sum of the weights.
    """

    def __init__(self, ctx: Context, partition: Partition, unit: float) -> None:
        self.ctx = ctx
        self.data: Any = partition.data
        self.n_rows, self.n_cols = self.data.shape
        self.sparse = not isinstance(self.data, np.ndarray)
        if partition.sample_weight is None:
            self.weights = np.full(self.n_rows, unit)
        else:
            self.weights = partition.sample_weight.astype(np.float64) * unit
        self.y = np.asarray(partition.y, dtype=np.float64)

    @property
    def _x(self) -> Any:
        if self.sparse:
            return self.data.data, self.data.indices, self.data.indptr
        return self.data

    def sums(self) -> Doubles:
        """Return ``sum s_i x_i``, (n_cols,)."""
        run = sums_csr if self.sparse else sums_dense
        return self._add((self.n_cols,), lambda a, b, out: run(self._x, self.weights, a, b, out))

    def moments(self, means: Doubles) -> Doubles:
        """Return squares about the means, and the weight that they are of, (2, n_cols)."""
        run = moments_csr if self.sparse else moments_dense
        return self._add(
            (2, self.n_cols), lambda a, b, out: run(self._x, self.weights, means, a, b, out)
        )

    def products(self, w: Doubles, means: Doubles, mean: float) -> Doubles:
        """Return ``X'S r``, ``r'S r`` and ``r'S y`` of centred rows and targets, (n_cols + 2,)."""
        run = products_csr if self.sparse else products_dense
        y = self.y - mean
        shift = -float(means @ w)
        used = w if w.any() else np.empty(0)
        total = self._add(
            (self.n_cols + 3,),
            lambda a, b, out: run(self._x, y, self.weights, used, shift, a, b, out),
        )
        n = self.n_cols
        total[:n] -= means * total[n]
        return np.concatenate([total[:n], total[n + 1 :]])

    def gram(self, cols: Longs, first: int, means: Doubles) -> Doubles:
        """Return ``X'S X`` of centred columns: all of ``cols`` with ``cols[first:]``."""
        roots = np.sqrt(self.weights)
        n_slices = min(MAX_SLICES, max(1, self.n_rows // (4 * GRAM_ROWS)))

        def work(rows: slice) -> Doubles:
            out = np.zeros((len(cols), len(cols) - first))
            for low in range(rows.start, rows.stop, GRAM_ROWS):
                part = slice(low, min(low + GRAM_ROWS, rows.stop))
                out += _products(self.data[part], cols, first, means, roots[part])
            return out

        cuts = np.linspace(0, self.n_rows, n_slices + 1).astype(int)
        slices = [slice(int(a), int(b)) for a, b in pairwise(cuts)]
        total = np.zeros((len(cols), len(cols) - first))
        # so many at a time as there are threads: each has a matrix
        for start in range(0, n_slices, self.ctx.n_threads):
            for part in self.ctx.map(work, slices[start : start + self.ctx.n_threads]):
                total += part
        return total

    def _add(self, shape: tuple[int, ...], work: Callable[[int, int, Doubles], None]) -> Doubles:
        values = self.data.nnz if self.sparse else self.data.size
        n_slices = int(min(MAX_SLICES, max(1, values // VALUES_PER_SLICE), max(1, self.n_rows)))
        cuts = np.linspace(0, self.n_rows, n_slices + 1).astype(int)

        def run(place: int) -> Doubles:
            out = np.zeros(shape)
            work(int(cuts[place]), int(cuts[place + 1]), out)
            return out

        total = np.zeros(shape)
        for part in self.ctx.map(run, range(n_slices)):
            total += part
        return total


def _products(rows: Any, cols: Longs, first: int, means: Doubles, roots: Doubles) -> Any:
    """Products of some columns of a few rows, scaled and centred; in the rows' type."""
    if isinstance(rows, np.ndarray):
        block = rows[:, cols].astype(rows.dtype, copy=False)
        block -= means[cols].astype(block.dtype)
        block *= roots[:, None].astype(block.dtype)
        return block.T @ (block if first == 0 else block[:, first:])
    chosen: Any = sp.csc_array(rows)
    scaled: Any = sp.diags_array(roots) @ chosen[:, cols].astype(np.float64)
    out = np.asarray((scaled.T @ scaled[:, first:]).toarray())
    if means.any():
        sums = np.asarray(scaled.T @ roots)
        weight = float(roots @ roots)
        out -= np.outer(means[cols], sums[first:]) + np.outer(sums, means[cols[first:]])
        out += np.outer(means[cols], means[cols[first:]]) * weight
    return out
