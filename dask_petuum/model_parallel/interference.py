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

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from .kernels.correlation import Columns, Known, are_blocks, exact_strengths, screen
from .picker import FloatArray, IntArray

__all__ = ["Correlation", "KnownCorrelation", "from_gram"]

#: A column is constant if its centred sum of squares is below this share of its sum of squares:
#: what rounding leaves (the square of 100 units in the last place of the mean).
ROUNDING = (100 * 2.2e-16) ** 2
#: The same where the centred sum is a difference of two sums over all rows.
CANCELLATION = 1e-12
#: Dense columns that are kept as they are multiplied, and their bytes at most.
SLOTS, SLOT_BYTES = 256, 64_000_000


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
        How many pairs are kept at most; each has one place, which the last one that fell on it has.

    Raises
    ------
    ValueError
        X has another number of dimensions, no row or a value that is not finite; or groups or
        cache_size do not fit.

    Notes
    -----
    The mutable state is what is kept: strengths of pairs, and up to `SLOTS` dense columns, centred,
    in float32. It is not thread-safe. A pair that is not kept costs a pass over two columns.

    Examples
    --------
    >>> X = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [3.0, 6.0, 0.0]])
    >>> Correlation(X).strengths(0, [1, 2]).round(6).tolist()
    [1.0, 0.0]
    >>> Correlation(X).conflicts(0, [2], rho=0.1)
    False
    >>> Correlation(X).screen([0, 1, 2], others=[], rho=0.1)  # 1 correlates with 0
    [True, False, True]
    """

    def __init__(
        self, X: Any, groups: npt.ArrayLike | None = None, cache_size: int = 200_000
    ) -> None:
        if cache_size < 1:
            raise ValueError(f"cache_size must be >= 1, got {cache_size}")
        values = _as_columns(X)
        is_sparse = bool(sp.issparse(values))
        means, inverses = _moments(values, is_sparse)
        starts, members = _columns_of_blocks(groups, values.shape[1])
        self._columns = Columns(*_parts(values, is_sparse), means, inverses, starts, members)
        self._known = _nothing_known(values.shape, is_sparse, cache_size)

    @property
    def n_blocks(self) -> int:
        """How many blocks the columns are in."""
        return len(self._columns.starts) - 1

    def conflicts(self, block: int, chosen: Sequence[int], rho: float) -> bool:
        """Tell whether a block is chosen, or its correlation with any chosen one `rho` or more."""
        return not self.screen([block], chosen, rho)[0]

    def screen(
        self,
        candidates: Sequence[int],
        others: Sequence[int],
        rho: float,
        makes_way: bool = False,
    ) -> list[bool]:
        """Tell of each candidate whether it is kept: whether it conflicts with none before it.

        Those are the others, the candidates kept before it and, with `makes_way`, the first
        candidate that is not kept. One call costs microseconds: see ``scheduler_decisions``.
        """
        n_others, n = len(others), len(candidates)
        blocks = np.array([*others, *candidates], dtype=np.int64)
        found, kept = np.empty(n_others + n), np.empty(n, dtype=np.bool_)
        arguments = self._columns, self._known, blocks, n_others, n, rho, makes_way, found, kept
        if not screen(*arguments):
            raise self._no_block(blocks)
        verdicts: list[bool] = kept.tolist()
        return verdicts

    def strengths(self, block: int, others: Sequence[int]) -> FloatArray:
        """Return the absolute correlations of a block with others, in float64.

        Returns
        -------
        (len(others),) array, from 0 to 1.
        """
        blocks = np.array(others, dtype=np.int64)
        found = np.empty(blocks.size)
        if not are_blocks(self._columns, np.append(blocks, block)):
            raise self._no_block([block, *blocks])
        exact_strengths(self._columns, self._known, block, blocks, blocks.size, found)
        return found

    def _no_block(self, blocks: Any) -> ValueError:
        return ValueError(
            f"blocks must be 0 .. {self.n_blocks - 1}, the blocks of these columns, got "
            f"{np.min(blocks)} .. {np.max(blocks)}"
        )

    def __repr__(self) -> str:
        n_known = int(np.count_nonzero(self._known.pairs >= 0))
        return (
            f"<Correlation of {self.n_blocks} blocks, {n_known} of at most "
            f"{self._known.pairs.size} pairs known>"
        )


def _parts(X: Any, is_sparse: bool) -> tuple[Any, Any, Any, Any]:
    """Return what the kernels take of X: dense values, or those of a CSC matrix."""
    if is_sparse:
        return np.empty((0, 0)), X.data, X.indices, X.indptr
    none = np.empty(0, dtype=np.int64)
    return X, np.empty(0), none, none


def _nothing_known(shape: tuple[int, int], is_sparse: bool, cache_size: int) -> Known:
    n_rows, n_columns = shape
    n_slots = max(2, min(SLOTS, n_columns, SLOT_BYTES // (4 * n_rows)))
    return Known(
        pairs=np.full(cache_size, -1, dtype=np.int64),
        slots=np.empty((2, 0) if is_sparse else (n_slots, n_rows), dtype=np.float32),
        slot_of=np.full(n_columns, -1, dtype=np.int64),
        column_in=np.full(n_slots, -1, dtype=np.int64),
        turn=np.zeros(1, dtype=np.int64),
        work=np.zeros(n_rows if is_sparse else 0),
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


def _columns_of_blocks(groups: npt.ArrayLike | None, n_columns: int) -> tuple[IntArray, IntArray]:
    """Return where each block's columns start, and the columns block by block."""
    if groups is None:
        return np.arange(n_columns + 1), np.arange(n_columns)
    blocks = np.asarray(groups)
    if blocks.shape != (n_columns,) or blocks.dtype.kind not in "iu" or (blocks < 0).any():
        raise ValueError(f"groups must be {n_columns} whole numbers >= 0, got {blocks}")
    starts = np.concatenate([[0], np.cumsum(np.bincount(blocks))])
    return starts, np.argsort(blocks, kind="stable")


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
