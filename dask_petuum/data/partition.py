"""A partition, as a program sees it, and the two functions that run where a piece lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import scipy.sparse as sp
from numpy.typing import DTypeLike

from dask_petuum.data.blocks import Matrix, Vector, as_matrix, as_vector, as_weights, read_only
from dask_petuum.data.fingerprint import fingerprint

__all__ = ["Partition", "PieceSize", "canonical_piece", "check_sizes", "measure", "to_partition"]


@dataclass(frozen=True)
class PieceSize:
    """What placing a piece needs to know of it.

    Attributes
    ----------
    n_rows, n_cols
        Shape of X.
    nnz
        Stored values: ``n_rows * n_cols`` if dense, explicit zeros included if sparse.
    nbytes
        Bytes of X, y and the weights together.
    digest
        Hash of the contents as they were given, where it was asked for.
    """

    n_rows: int
    n_cols: int
    nnz: int
    nbytes: int
    digest: str = ""


@dataclass(frozen=True)
class Partition:
    """A slice of the training rows, as one rank sees it; picklable.

    All arrays are read-only views: partitions may share memory with what the caller gave, and a
    kernel then sees one array type whatever the input was (numba compiles it once).

    Attributes
    ----------
    data
        (n_rows, n_features): ndarray in C order, or csr_array with sorted indices and no
        duplicates.
    y
        (n_rows,) labels or targets as they were given, or None.
    sample_weight
        (n_rows,) float32 or float64, or None.
    index
        Number of the partition among all partitions of the run.
    row_start
        Number of its first row among all rows of the run.
    """

    data: Matrix
    y: Vector | None
    sample_weight: Vector | None
    index: int
    row_start: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", read_only(self.data))
        for name in ("y", "sample_weight"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, read_only(values))

    def __reduce__(self) -> tuple[type[Partition], tuple[Any, ...]]:
        # Through the constructor, since pickle forgets that an array is read-only.
        fields = (self.data, self.y, self.sample_weight, self.index, self.row_start)
        return type(self), fields

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.data.shape[0])

    @property
    def row_stop(self) -> int:
        """Number of the row after its last one, among all rows of the run."""
        return self.row_start + self.n_rows


def canonical_piece(
    piece: tuple[Any, Any, Any], dtype: DTypeLike | None = None
) -> tuple[Matrix, Vector | None, Vector | None]:
    """Return ``(X, y, sample_weight)`` in the form of `blocks`, with equal numbers of rows.

    Raises
    ------
    ValueError
        The numbers of rows differ, or what `blocks.as_matrix` and its siblings refuse.
    """
    x, y, sample_weight = piece
    data = as_matrix(x, dtype)
    target = None if y is None else as_vector(y)
    weights = None if sample_weight is None else as_weights(sample_weight)
    lengths = [len(v) for v in (target, weights) if v is not None]
    if any(length != data.shape[0] for length in lengths):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[int(data.shape[0]), *lengths]}"
        )
    return data, target, weights


def measure(
    piece: tuple[Any, Any, Any],
    check: Callable[[Any, Any, Any], None] | None = None,
    hashed: bool = False,
) -> PieceSize:
    """Return a piece's size, and let ``check`` look at its values; runs where the piece lies.

    Parameters
    ----------
    piece
        ``(X, y, sample_weight)``, as `Dataset.pieces` gives it.
    check
        Called with the three in the form that a `Partition` holds (values not yet cast); raises
        on values that the estimator refuses.
    hashed
        Whether to hash the contents.
    """
    data, y, sample_weight = canonical_piece(piece)
    if check is not None:
        check(data, y, sample_weight)
    n_rows, n_cols = data.shape
    nbytes = sum(v.nbytes for v in (y, sample_weight) if v is not None)
    if sp.issparse(data):
        nnz = int(data.nnz)
        nbytes += data.data.nbytes + data.indices.nbytes + data.indptr.nbytes
    else:
        nnz = int(n_rows * n_cols)
        nbytes += data.nbytes
    digest = fingerprint(data, y, sample_weight) if hashed else ""
    return PieceSize(int(n_rows), int(n_cols), nnz, int(nbytes), digest)


def check_sizes(
    sizes: Sequence[PieceSize], n_rows: Sequence[float] = (), n_columns: int | None = None
) -> None:
    """Refuse pieces that are no parts of one table, now that they have been measured.

    Parameters
    ----------
    sizes
        Size of each piece, in order.
    n_rows
        Rows that each piece was said to have, NaN where nothing was; empty: nothing was.
    n_columns
        Columns that they were said to have.

    Raises
    ------
    ValueError
        Naming the first chunk that differs, or in scikit-learn's words where there are no rows.
    """
    expected, who = (sizes[0].n_cols, "chunk 0") if n_columns is None else (n_columns, "its array")
    for number, size in enumerate(sizes):
        if size.n_cols != expected:
            raise ValueError(
                f"chunk {number} of X has {size.n_cols} columns, {who} says {expected}; "
                "the chunks of a collection must have the same columns"
            )
    for number, (size, said) in enumerate(zip(sizes, n_rows, strict=False)):
        if not math.isnan(said) and size.n_rows != said:
            raise ValueError(
                f"chunk {number} of X has {size.n_rows} rows, its array says {said:.0f}; "
                "call X.compute_chunk_sizes(), or make it with the right chunks"
            )
    shape = (sum(size.n_rows for size in sizes), expected)
    for length, what in zip(shape, ("sample", "feature"), strict=True):
        if length == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required."
            )


def to_partition(
    piece: tuple[Any, Any, Any], index: int, row_start: int, dtype: DTypeLike | None = None
) -> Partition:
    """Return a piece as a partition; runs where the piece lies.

    Makes one copy of X at most, and none if X is in the form already (see `blocks`).

    Parameters
    ----------
    piece
        ``(X, y, sample_weight)``, as `Dataset.pieces` gives it.
    index
        Number of the partition among all partitions of the run.
    row_start
        Number of its first row among all rows of the run.
    dtype
        Type of X's values in the partition, None to keep them.
    """
    data, y, sample_weight = canonical_piece(piece, dtype)
    return Partition(data, y, sample_weight, int(index), int(row_start))
