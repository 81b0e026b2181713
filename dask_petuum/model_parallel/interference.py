"""How strongly blocks depend on each other: the absolute correlation of their columns.

Updating two coefficients at once from the same residual is safe if their columns are nearly
orthogonal, and may diverge if they are not (Bradley et al., ICML 2011). Strads therefore never has
two variables in flight whose Pearson correlation is ``rho`` or more (Lee et al., NIPS 2014). Only
pairs that meet as candidates are computed; the last of them are kept. A column that is empty or
constant has no correlation (0 with everything): an intercept takes up what it does.

`Correlation` has all rows of its columns. Where rows are spread over ranks, each rank sums its
products, and `from_gram` makes the same of the totals.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from .kernels import column_products
from .picker import FloatArray, IntArray

__all__ = ["Correlation", "KnownCorrelation", "from_gram"]

#: A column is constant if its centred sum of squares is below this share of its sum of squares:
#: what rounding leaves (the square of 100 units in the last place of the mean).
ROUNDING = (100 * 2.2e-16) ** 2
#: The same where the centred sum is a difference of two sums over all rows.
CANCELLATION = 1e-12


class Correlation:
    """Absolute Pearson correlation between blocks of columns, computed when asked for.

    Parameters
    ----------
    X : (n_rows, n_columns), dense or sparse, finite
        Columns are read one by one: a dense array is best in Fortran order, a sparse one in CSC.
        Not copied where it has that form; do not change it.
    groups : (n_columns,) of whole numbers >= 0, optional
        The block of each column; each is its own if None. Between two blocks, the largest
        correlation of their columns counts; a block of no columns conflicts with nobody.
    cache_size
        How many pairs are kept, those used last.

    Raises
    ------
    ValueError
        X has another number of dimensions, no row or a value that is not finite; or groups or
        cache_size do not fit.

    Notes
    -----
    The mutable state is the cache and the work space, so it is not thread-safe. A pair that is
    not in the cache costs one pass over the columns of both.

    Examples
    --------
    >>> X = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [3.0, 6.0, 0.0]])
    >>> Correlation(X).strengths(0, [1, 2]).round(6).tolist()
    [1.0, 0.0]
    >>> Correlation(X).conflicts(0, [2], rho=0.1)
    False
    """

    def __init__(
        self, X: Any, groups: npt.ArrayLike | None = None, cache_size: int = 200_000
    ) -> None:
        if cache_size < 1:
            raise ValueError(f"cache_size must be >= 1, got {cache_size}")
        self._X = _as_columns(X)
        self._is_sparse = bool(sp.issparse(self._X))
        self._means, self._scales = _moments(self._X, self._is_sparse)
        self._columns = _columns_of_blocks(groups, self._X.shape[1])
        self._cache_size = cache_size
        #: The lower block's number times n_blocks plus the higher's, to their strength.
        self._cache: OrderedDict[int, float] = OrderedDict()
        self._work = np.zeros(self._X.shape[0])

    @property
    def n_blocks(self) -> int:
        """How many blocks the columns are in."""
        return len(self._columns)

    def conflicts(self, block: int, chosen: Sequence[int], rho: float) -> bool:
        """Tell whether a block's correlation with any chosen one is `rho` or more."""
        return max(self._look_up(block, chosen), default=0.0) >= rho

    def strengths(self, block: int, others: Sequence[int]) -> FloatArray:
        """Return the absolute correlations of a block with others.

        Returns
        -------
        (len(others),) array, from 0 to 1.
        """
        return np.array(self._look_up(block, others), dtype=np.float64)

    def _look_up(self, block: int, others: Sequence[int]) -> list[float]:
        """Return the strengths from the cache, after computing those that are not there."""
        cache, n = self._cache, len(self._columns)
        keys = [block * n + other if block < other else other * n + block for other in others]
        found = [cache.get(key, -1.0) for key in keys]
        if -1.0 in found:
            missing = [at for at, strength in enumerate(found) if strength < 0]
            computed = self._compute(block, [others[at] for at in missing]).tolist()
            for at, strength in zip(missing, computed, strict=True):
                found[at] = cache[keys[at]] = strength
        for key in keys:
            cache.move_to_end(key)
        while len(cache) > self._cache_size:
            cache.popitem(last=False)
        return found

    def _compute(self, block: int, others: Sequence[int]) -> FloatArray:
        strengths = np.zeros(len(others))
        mine = self._columns[block]
        theirs = [self._columns[other] for other in others]
        filled = [at for at, columns in enumerate(theirs) if columns.size]
        if not mine.size or not filled:
            return strengths
        columns = np.concatenate([theirs[at] for at in filled])
        starts = np.cumsum([0, *(theirs[at].size for at in filled)])[:-1]
        largest = np.abs(self._correlations(mine, columns)).max(axis=0)
        strengths[filled] = np.minimum(np.maximum.reduceat(largest, starts), 1.0)
        return strengths

    def _correlations(self, mine: IntArray, theirs: IntArray) -> FloatArray:
        """Return the correlations of columns with columns: (len(mine), len(theirs))."""
        X, means, scales = self._X, self._means, self._scales
        if not self._is_sparse:
            left = (X[:, mine] - means[mine]) * scales[mine]
            right = (X[:, theirs] - means[theirs]) * scales[theirs]
            return np.asarray(left.T @ right, dtype=np.float64)
        products = np.empty((mine.size, theirs.size))
        for row, column in zip(products, mine, strict=True):
            column_products(X.data, X.indices, X.indptr, column, theirs, self._work, row)
        products -= X.shape[0] * np.outer(means[mine], means[theirs])
        return products * scales[mine][:, None] * scales[theirs]

    def __repr__(self) -> str:
        return (
            f"<Correlation of {self.n_blocks} blocks, {len(self._cache)} of at most "
            f"{self._cache_size} pairs known>"
        )


def _as_columns(X: Any) -> Any:
    """Return X as a dense float array or a CSC array without repeated entries."""
    columns: Any
    is_sparse = bool(sp.issparse(X))  # not in the condition: mypy would take X for less
    if is_sparse:
        columns = sp.csc_array(X, dtype=np.result_type(X.dtype, np.float32))
        if not columns.has_canonical_format:
            columns = columns.copy()
            columns.sum_duplicates()
    else:
        columns = np.asarray(X)
        if columns.dtype.kind not in "fiub":
            raise ValueError(f"X must be an array of numbers, got dtype {columns.dtype}")
    if columns.ndim != 2 or columns.shape[0] == 0:
        raise ValueError(f"X must be (n_rows, n_columns) with rows, got shape {columns.shape}")
    return columns


def _moments(X: Any, is_sparse: bool) -> tuple[FloatArray, FloatArray]:
    """Return each column's mean, and 1 / its centred norm: 0 where it is constant."""
    with np.errstate(over="ignore", invalid="ignore"):  # told apart below
        means, centred, squares = (_sparse_sums if is_sparse else _dense_sums)(X)
    if not np.isfinite(squares).all():
        raise ValueError("X must be finite, and its columns' sums of squares too")
    return means, _inverse_norms(centred, squares, ROUNDING)


def _dense_sums(X: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the columns' means, centred sums of squares and sums of squares."""
    means, centred, squares = (np.empty(X.shape[1]) for _ in range(3))
    for start in range(0, X.shape[1], 256):  # 256 columns at a time: no copy of all of X
        at = slice(start, start + 256)
        part = X[:, at].astype(np.float64)
        squares[at] = np.einsum("ij,ij->j", part, part)
        means[at] = part.mean(axis=0)
        part -= means[at]
        centred[at] = np.einsum("ij,ij->j", part, part)
    return means, centred, squares


def _sparse_sums(X: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Do what `_dense_sums` does."""
    n_rows, n_columns = X.shape
    counts = np.diff(X.indptr)
    column_of = np.repeat(np.arange(n_columns), counts)
    data = X.data.astype(np.float64)

    def sum_by_column(values: FloatArray) -> FloatArray:
        return np.bincount(column_of, values, n_columns).astype(np.float64)

    means = sum_by_column(data) / n_rows
    centred = sum_by_column((data - means[column_of]) ** 2) + (n_rows - counts) * means**2
    return means, centred, sum_by_column(data**2)


def _inverse_norms(centred: FloatArray, squares: FloatArray, noise: float) -> FloatArray:
    """Return 1 / sqrt(centred); 0 where that is rounding error beside the squares."""
    varies = centred > noise * squares
    return np.where(varies, 1.0 / np.sqrt(np.where(varies, centred, 1.0)), 0.0)


def _columns_of_blocks(groups: npt.ArrayLike | None, n_columns: int) -> list[IntArray]:
    if groups is None:
        return list(np.arange(n_columns)[:, None])
    blocks = np.asarray(groups)
    if blocks.shape != (n_columns,) or blocks.dtype.kind not in "iu" or (blocks < 0).any():
        raise ValueError(f"groups must be {n_columns} whole numbers >= 0, got {blocks}")
    order = np.argsort(blocks, kind="stable")
    ends = np.cumsum(np.bincount(blocks))
    return np.split(order, ends[:-1])


class KnownCorrelation:
    """Absolute correlations of some blocks, all known; all others count as in conflict.

    Parameters
    ----------
    blocks
        The blocks' numbers, each once.
    strengths : (n, n)
        Their absolute correlations.
    """

    def __init__(self, blocks: Sequence[int], strengths: FloatArray) -> None:
        self._at = {int(block): at for at, block in enumerate(blocks)}
        #: (n, n) absolute correlations, in the order of the blocks.
        self.strengths = strengths

    def conflicts(self, block: int, chosen: Sequence[int], rho: float) -> bool:
        """Tell whether a block's correlation with any chosen one is `rho` or more, or unknown."""
        at = [self._at.get(other, -1) for other in (block, *chosen)]
        if len(at) == 1:
            return False
        return min(at) < 0 or bool((self.strengths[at[0], at[1:]] >= rho).any())

    def __repr__(self) -> str:
        return f"<KnownCorrelation of {len(self._at)} blocks>"


def from_gram(
    candidates: Sequence[int],
    gram: npt.ArrayLike,
    sums: npt.ArrayLike,
    squares: npt.ArrayLike,
    n: int,
) -> KnownCorrelation:
    """Make the correlations of some columns from products summed over all ranks' rows.

    Parameters
    ----------
    candidates : k blocks of one column each, each once
    gram : (k, k)
        Dot products of the columns.
    sums, squares : (k,)
        Their sums and sums of squares.
    n
        How many rows there are, >= 1.

    Raises
    ------
    ValueError
        The shapes do not fit, a value is not finite, or a candidate comes twice.

    Notes
    -----
    Sums of squares cancel where a column's mean is large beside its deviation: about 16 digits
    less twice the digits of their ratio are left. Centre such columns before.

    Examples
    --------
    >>> X = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 5.0]])
    >>> known = from_gram([7, 9], X.T @ X, X.sum(0), (X**2).sum(0), 3)
    >>> known.strengths.round(4).tolist()
    [[1.0, 0.982], [0.982, 1.0]]
    >>> known.conflicts(7, [9], rho=0.99)
    False
    """
    products, totals, norms = (np.asarray(a, dtype=np.float64) for a in (gram, sums, squares))
    k = len(candidates)
    if products.shape != (k, k) or totals.shape != (k,) or norms.shape != (k,):
        raise ValueError(
            f"for {k} candidates gram must be ({k}, {k}), sums and squares ({k},), got "
            f"{products.shape}, {totals.shape} and {norms.shape}"
        )
    if n < 1 or len(set(candidates)) < k:
        raise ValueError(f"n must be >= 1 and each candidate there once, got {n}, {candidates}")
    if not all(np.isfinite(values).all() for values in (products, totals, norms)):
        raise ValueError("gram, sums and squares must be finite")
    scales = _inverse_norms(norms - totals**2 / n, norms, CANCELLATION)
    strengths = np.abs(products - np.outer(totals, totals) / n) * np.outer(scales, scales)
    return KnownCorrelation(candidates, np.minimum(strengths, 1.0))
