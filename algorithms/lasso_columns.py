"""The columns of X, dense or sparse, as the lasso's solver reads them.

Centring is implicit: where there is an intercept, the column that is meant is ``x_j - mean_j u``
with ``u`` the column of ones (or of the roots of the weights). Nothing of X is copied or changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.runtime.threads import Threads

from .kernels.lasso import cd_dense, combine_dense, correlate_dense, stats_dense
from .kernels.lasso_sparse import cd_csc, combine_csc, correlate_csc, pair_csc, stats_csc

__all__ = ["Columns", "DenseColumns", "SparseColumns", "columns_of"]

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

#: Values of a thread's slice of a pass, 2 to 4 ms: handing a slice over costs 0.05 ms on a quiet
#: machine, and a switch of processes (some ms) where another one has the core.
VALUES_PER_CHUNK = 2**22
#: A Gram matrix pays while the set is smaller than this many times a column's stored values; of
#: sparse columns also only for small sets, since products of pairs are not formed by BLAS.
DENSE_LIMIT, SPARSE_LIMIT, SPARSE_SET = 4.0, 8.0, 512.0
#: Rows of a block whose columns are gathered for a Gram matrix: 16 MB of 500 columns.
GRAM_ROWS = 4096
#: Columns of a tile of the Gram matrix: BLAS is at its best rate from here.
TILE = 384
#: Variance of a column, relative to its square, below which it counts as constant: what rounding
#: leaves of a constant column.
CONSTANT = 1e-24
#: Square of a column by that of the centred one from which the products of sparse columns, which
#: are centred afterwards, lose too many digits.
CANCELS = 1e6


class Columns(ABC):
    """Columns of X and what is known of them.

    Parameters
    ----------
    n_rows, n_cols
        Shape of X.
    ones
        (n_rows,) what columns are centred with; empty for no centring.
    threads
        Threads of passes over many columns.

    Attributes
    ----------
    squares, means
        (n_cols,) squared norms of the centred columns (0 exactly for a constant one), and means.
    values_per_column
        Stored values of a column, on average.
    """

    squares: Doubles
    means: Doubles
    values_per_column: float
    #: Columns of a set up to which its Gram matrix pays.
    gram_limit: float
    #: Whether products of centred columns can be formed without losing half of their digits.
    gram_is_exact: bool

    def __init__(self, n_rows: int, n_cols: int, ones: Doubles, threads: Threads) -> None:
        self.n_rows = n_rows
        self.n_cols = n_cols
        self.ones = ones
        self.threads = threads

    def look(self, y: Doubles) -> Doubles:
        """Learn squares and means; return ``X'y`` of the centred columns, in the same pass."""
        out = np.zeros((3, self.n_cols))
        self._spread(lambda low, high: self._stats(y, low, high, out), self.n_cols)
        products, self.squares, self.means = out
        raw = self.squares
        if len(self.ones):
            raw = self.squares + self.means**2 * float(self.ones @ self.ones)
        self.squares[self.squares <= CONSTANT * raw] = 0.0
        products[self.squares == 0.0] = 0.0
        used = self.squares > 0.0
        self.gram_is_exact = bool((raw[used] <= CANCELS * self.squares[used]).all())
        return self._centre(products, y, None)

    def correlate(self, r: Doubles, cols: Longs) -> Doubles:
        """Return ``x_j'r`` of some centred columns, (len(cols),)."""
        out = np.empty(len(cols))
        self._spread(lambda low, high: self._products(r, cols, low, high, out), len(cols))
        return self._centre(out, r, cols)

    def combine(self, cols: Longs, weights: Doubles) -> Doubles:
        """Return ``sum_k weights[k] x_cols[k]`` of the centred columns, (n_rows,)."""
        out = np.zeros(self.n_rows)
        self._combine(cols, weights, out)
        if len(self.ones):
            out -= self.ones * float(self.means[cols] @ weights)
        return out

    @abstractmethod
    def descend(
        self,
        cols: Longs,
        penalty: tuple[float, float],
        positive: bool,
        limits: tuple[int, float],
        state: tuple[Doubles, Doubles],
    ) -> float:
        """Run cycles of coordinate descent; see `kernels.lasso.cd_dense`.

        ``state`` is (w, r), updated in place.
        """

    @abstractmethod
    def gram(self, cols: Longs, first: int) -> Doubles:
        """Return products of all of ``cols`` with ``cols[first:]``, (len(cols), the rest)."""

    @abstractmethod
    def _stats(self, y: Doubles, low: int, high: int, out: Doubles) -> None: ...

    @abstractmethod
    def _products(self, r: Doubles, cols: Longs, low: int, high: int, out: Doubles) -> None: ...

    @abstractmethod
    def _combine(self, cols: Longs, weights: Doubles, out: Doubles) -> None: ...

    def _centre(self, products: Doubles, r: Doubles, cols: Longs | None) -> Doubles:
        if len(self.ones):
            products -= (self.means if cols is None else self.means[cols]) * float(self.ones @ r)
        return products

    def _spread(self, work: Callable[[int, int], Any], n: int) -> None:
        """Do columns 0 .. n-1 of a list in slices, in the threads where that pays."""
        chunks = int(n * self.values_per_column / VALUES_PER_CHUNK)
        chunks = min(chunks, 4 * self.threads.n_threads, n)
        if chunks < 2 or self.threads.n_threads == 1:
            work(0, n)
            return
        cuts = np.linspace(0, n, chunks + 1).astype(np.int64)
        self.threads.map(lambda k: work(int(cuts[k]), int(cuts[k + 1])), range(chunks))


class DenseColumns(Columns):
    """Columns of an F-contiguous array, float32 or float64."""

    def __init__(self, x: NDArray[Any], ones: Doubles, threads: Threads) -> None:
        super().__init__(x.shape[0], x.shape[1], ones, threads)
        self.x = x
        self.values_per_column = float(x.shape[0])
        self.gram_limit = DENSE_LIMIT * x.shape[0]

    def descend(
        self,
        cols: Longs,
        penalty: tuple[float, float],
        positive: bool,
        limits: tuple[int, float],
        state: tuple[Doubles, Doubles],
    ) -> float:
        """Run cycles of coordinate descent."""
        shared = (self.squares, self.means, self.ones, penalty, positive, limits)
        return float(cd_dense(self.x, cols, *shared, *state))

    def gram(self, cols: Longs, first: int) -> Doubles:
        """Return products by BLAS, tile by tile, centred before they are multiplied."""
        out = np.zeros((len(cols), len(cols) - first))
        for low in range(0, self.n_rows, GRAM_ROWS):
            rows = slice(low, min(low + GRAM_ROWS, self.n_rows))
            block = self.x[rows].T[cols]  # (n_set, rows), C-contiguous
            if len(self.ones):
                means = self.means[cols, None].astype(block.dtype)
                block -= means * self.ones[rows].astype(block.dtype)
            add_products(block, first, out, self.threads)
        return out

    def look(self, y: Doubles) -> Doubles:
        """Learn squares and means; columns are centred before they are multiplied."""
        products = super().look(y)
        self.gram_is_exact = True
        return products

    def _stats(self, y: Doubles, low: int, high: int, out: Doubles) -> None:
        stats_dense(self.x, y, self.ones, low, high, out)

    def _products(self, r: Doubles, cols: Longs, low: int, high: int, out: Doubles) -> None:
        correlate_dense(self.x, r, cols, low, high, out)

    def _combine(self, cols: Longs, weights: Doubles, out: Doubles) -> None:
        combine_dense(self.x, cols, weights, out)


class SparseColumns(Columns):
    """Columns of a CSC matrix, float32 or float64."""

    def __init__(self, x: Any, ones: Doubles, threads: Threads) -> None:
        super().__init__(x.shape[0], x.shape[1], ones, threads)
        self.csc = (x.data, x.indices, x.indptr)
        self.values_per_column = x.nnz / x.shape[1]
        self.gram_limit = min(SPARSE_LIMIT * self.values_per_column, SPARSE_SET)

    def descend(
        self,
        cols: Longs,
        penalty: tuple[float, float],
        positive: bool,
        limits: tuple[int, float],
        state: tuple[Doubles, Doubles],
    ) -> float:
        """Run cycles of coordinate descent."""
        shared = (self.squares, self.means, self.ones, penalty, positive, limits)
        return float(cd_csc(self.csc, cols, *shared, *state))

    def gram(self, cols: Longs, first: int) -> Doubles:
        """Return products through a dense copy of one column at a time."""
        out = np.empty((len(cols), len(cols) - first))
        pair_csc(self.csc, cols, first, 0, len(cols) - first, np.zeros(self.n_rows), out)
        if len(self.ones):
            means = self.means[cols]
            out -= np.outer(means, means[first:]) * float(self.ones @ self.ones)
        return out

    def _stats(self, y: Doubles, low: int, high: int, out: Doubles) -> None:
        stats_csc(self.csc, y, self.ones, low, high, out)

    def _products(self, r: Doubles, cols: Longs, low: int, high: int, out: Doubles) -> None:
        correlate_csc(self.csc, r, cols, low, high, out)

    def _combine(self, cols: Longs, weights: Doubles, out: Doubles) -> None:
        combine_csc(self.csc, cols, weights, out)


def add_products(block: NDArray[Any], first: int, out: Doubles, threads: Threads) -> None:
    """Add ``block @ block[first:].T`` to ``out``: each product of two rows is formed once.

    The tiles are ours to hand to threads: BLAS is expected to use one thread (its own threads spin
    while they wait, and cost a factor of ten where another process has a core).
    """
    n = len(block)
    cuts = [*range(0, first, TILE), *range(first, n, TILE), n]
    spans = [(low, high) for low, high in pairwise(cuts) if high > low]
    tiles = [(a, b) for a in spans for b in spans if b[0] >= first and b[0] >= a[0]]

    def work(tile: tuple[tuple[int, int], tuple[int, int]]) -> None:
        (top, bottom), (left, right) = tile
        product = block[top:bottom] @ block[left:right].T
        out[top:bottom, left - first : right - first] += product
        if top >= first and top != left:
            out[left:right, top - first : bottom - first] += product.T

    if len(tiles) == 1 or threads.n_threads == 1:
        for tile in tiles:
            work(tile)
    else:
        threads.map(work, tiles)


def columns_of(x: Any, ones: Doubles, threads: Threads) -> Columns:
    """Wrap X: CSC, or F-contiguous dense."""
    if sp.issparse(x):
        return SparseColumns(x, ones, threads)
    return DenseColumns(x, ones, threads)
