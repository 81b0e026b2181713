"""What ``fit`` was given, cut by rows: in memory as views, lazily as one ``Delayed`` per chunk."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_consistent_length

from dask_petuum.data.blocks import Matrix, Vector, as_matrix, as_vector, as_weights
from dask_petuum.data.chunks import RowChunks, align_rows, cut_rows, delayed_pieces, row_chunks
from dask_petuum.data.kinds import (
    dask_backed,
    is_dask_frame,
    is_pandas_frame,
    is_xarray,
)
from dask_petuum.data.partition import PieceSize, check_sizes
from dask_petuum.sparse import csr_of

__all__ = ["Dataset", "LazyDataset", "MemoryDataset", "RawPiece", "open_dataset"]

#: ``(X, y, sample_weight)``, or a Dask ``Delayed`` that gives such a tuple.
RawPiece: TypeAlias = Any


class Dataset(ABC):
    """Training data cut by rows; nothing of it has been moved or computed.

    Attributes
    ----------
    is_lazy : bool
        True when X is a Dask collection.
    n_rows, n_features : int or None
        None where only computing would tell.
    feature_names : ndarray of str or None
        As scikit-learn's ``feature_names_in_``: names of a DataFrame's columns, or the labels of
        a DataArray's second dimension, if they are strings.
    """

    is_lazy: ClassVar[bool]
    feature_names: NDArray[Any] | None

    @property
    @abstractmethod
    def n_rows(self) -> int | None:
        """Number of rows."""

    @property
    @abstractmethod
    def n_features(self) -> int | None:
        """Number of columns of X."""

    @abstractmethod
    def check(self, sizes: Sequence[PieceSize]) -> None:
        """Refuse measured pieces that are not what the collection says it holds."""

    @abstractmethod
    def pieces(self, dtype: DTypeLike | None = None) -> list[RawPiece]:
        """Return the pieces in the order of their rows.

        Parameters
        ----------
        dtype
            Type that X's values get in a piece; None keeps them.
        """

    @abstractmethod
    def split(self, n_pieces: int) -> Dataset:
        """Return the same data cut anew into (at most) ``n_pieces`` pieces."""

    @abstractmethod
    def spread(self, n_workers: int) -> Dataset:
        """Return the same data cut so that several workers can share it.

        In memory, that is a piece for each worker. Of Dask's chunks, only those of a wide array
        are cut: one that has chunks along its columns, and fewer along its rows than workers.
        """


@dataclass(frozen=True)
class MemoryDataset(Dataset):
    """Data in this process; its pieces are slices of rows that share its memory."""

    x: Matrix
    y: Vector | None
    sample_weight: Vector | None
    feature_names: NDArray[Any] | None
    #: (n_pieces + 1,) first row of each piece, and the number of rows.
    bounds: tuple[int, ...]

    is_lazy: ClassVar[bool] = False

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.x.shape[0])

    @property
    def n_features(self) -> int:
        """Number of columns of X."""
        return int(self.x.shape[1])

    def check(self, sizes: Sequence[PieceSize]) -> None:
        """Nothing to refuse: they are slices."""

    def pieces(self, dtype: DTypeLike | None = None) -> list[RawPiece]:
        """Return one ``(X, y, sample_weight)`` tuple per piece."""
        return [
            self._piece(start, stop, dtype)
            for start, stop in zip(self.bounds[:-1], self.bounds[1:], strict=True)
        ]

    def split(self, n_pieces: int) -> MemoryDataset:
        """Return the data cut into ``n_pieces`` pieces of about equally many stored values.

        Every piece has a row at least, so there are no more pieces than rows. A piece's stored
        values differ from the mean by less than the fullest row's.

        Raises
        ------
        ValueError
            ``n_pieces`` is below 1.
        """
        if n_pieces < 1:
            raise ValueError(f"n_pieces must be >= 1, got {n_pieces}.")
        return replace(self, bounds=_balanced_bounds(self.x, min(n_pieces, self.n_rows)))

    def spread(self, n_workers: int) -> MemoryDataset:
        """Return one piece for each worker; see `Dataset`."""
        return self.split(n_workers)

    def _piece(self, start: int, stop: int, dtype: DTypeLike | None) -> RawPiece:
        x = _slice_rows(self.x, start, stop)
        y = None if self.y is None else self.y[start:stop]
        weights = None if self.sample_weight is None else self.sample_weight[start:stop]
        return (x if dtype is None else as_matrix(x, dtype)), y, weights


@dataclass(frozen=True)
class LazyDataset(Dataset):
    """Dask collections; each row chunk of X is a piece and stays where Dask has it."""

    x: RowChunks
    y: RowChunks | None
    sample_weight: RowChunks | None
    feature_names: NDArray[Any] | None

    is_lazy: ClassVar[bool] = True

    @property
    def n_rows(self) -> int | None:
        """Number of rows, None if chunk sizes are unknown."""
        return self.x.n_rows

    @property
    def n_features(self) -> int | None:
        """Number of columns of X, None if column chunk sizes are unknown."""
        return self.x.n_columns

    def check(self, sizes: Sequence[PieceSize]) -> None:
        """Refuse chunks of other rows or columns than their collection says; see `check_sizes`."""
        check_sizes(sizes, self.x.sizes, self.x.n_columns)

    def pieces(self, dtype: DTypeLike | None = None) -> list[RawPiece]:
        """Return one ``Delayed`` per row chunk, each giving an ``(X, y, sample_weight)`` tuple.

        The tuples are in the form that a `Partition` holds: converting is part of the piece's
        task, so that the raw chunk can be freed where it was read. The graph is optimised for
        the three collections together (what they share is computed once).
        """
        return delayed_pieces(self.x, self.y, self.sample_weight, dtype)

    def split(self, n_pieces: int) -> LazyDataset:
        """Refuse: Dask's chunks are the pieces.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"A Dask collection keeps its {self.x.n_chunks} row chunks; to get {n_pieces}, use "
            "X.rechunk or X.repartition before fit."
        )

    def spread(self, n_workers: int) -> LazyDataset:
        """Cut the chunks of a wide array by rows; see `Dataset`.

        A piece has all columns of its rows, so that the pieces of a wide array would be few and
        large: one worker would hold what was cut to be held by many.
        """
        if not self.x.is_wide or self.x.n_chunks >= n_workers:
            return self
        x = cut_rows(self.x, n_workers)
        y, weights = (
            None if values is None else align_rows(values.values, x, name)
            for values, name in ((self.y, "y"), (self.sample_weight, "sample_weight"))
        )
        return replace(self, x=x, y=y, sample_weight=weights)


def open_dataset(X: Any, y: Any = None, sample_weight: Any = None) -> Dataset:
    """Look at training data of any accepted kind, without computing or moving it.

    Parameters
    ----------
    X
        (n_rows, n_features): ndarray or array-like, scipy.sparse, pandas or Dask DataFrame,
        xarray.DataArray, or a Dask array of ndarray or scipy.sparse chunks.
    y, sample_weight
        (n_rows,), of the same kinds. Beside a lazy X they may be in memory if the chunk sizes of
        X are known: each piece then takes its slice along.

    Returns
    -------
    Dataset
        In memory: of one piece, see `Dataset.split`. Lazy: of one piece per row chunk of X.

    Raises
    ------
    ValueError
        X is not 2-d or is empty, lengths differ, or chunks cannot be matched.
    TypeError
        A kind that is not accepted, or a lazy y beside an X in memory.

    Examples
    --------
    >>> import numpy as np
    >>> data = open_dataset(np.ones((10, 3))).split(2)
    >>> [piece[0].shape for piece in data.pieces()]
    [(5, 3), (5, 3)]
    """
    names = _feature_names(X)
    collection = dask_backed(X)
    if collection is not None:
        return _open_lazy(collection, y, sample_weight, names)
    for name, other in (("y", y), ("sample_weight", sample_weight)):
        if dask_backed(other) is not None:
            raise TypeError(
                f"{name} is a Dask collection but X is in memory; pass {name}.compute(), or X as "
                "a Dask array."
            )
    x = as_matrix(X, any_layout=True)
    _refuse_empty(x.shape)
    _warn_of_column(y)
    target = None if y is None else as_vector(y)
    weights = None if sample_weight is None else as_weights(sample_weight)
    check_consistent_length(x, target, weights)
    return MemoryDataset(x, target, weights, names, bounds=(0, int(x.shape[0])))


def _open_lazy(
    collection: Any, y: Any, sample_weight: Any, names: NDArray[Any] | None
) -> LazyDataset:
    x = row_chunks(collection, "X")
    _refuse_empty((x.n_rows, x.n_columns))
    _warn_of_column(y)
    target = None if y is None else align_rows(y, x, "y")
    weights = None if sample_weight is None else align_rows(sample_weight, x, "sample_weight")
    return LazyDataset(x, target, weights, names)


def _balanced_bounds(x: Matrix, n_pieces: int) -> tuple[int, ...]:
    """Return the ``n_pieces + 1`` row bounds nearest to equal numbers of stored values."""
    n_rows = int(x.shape[0])
    if isinstance(x, np.ndarray):
        stored = np.arange(n_rows + 1, dtype=np.int64)  # (n_rows + 1,) values before each row
    else:
        stored = x.indptr.astype(np.int64)
    targets = stored[-1] * np.arange(1, n_pieces) / n_pieces
    after = np.clip(np.searchsorted(stored, targets), 1, n_rows)
    before = after - 1
    inner = np.where(stored[after] - targets < targets - stored[before], after, before)
    # A row at least for each piece: bounds rise by one or more, and leave enough rows for the rest.
    ramp = np.arange(1, n_pieces)
    inner = np.maximum.accumulate(np.maximum(inner, 1) - ramp) + ramp
    inner = np.minimum(inner, n_rows - n_pieces + ramp)
    return (0, *(int(bound) for bound in inner), n_rows)


def _slice_rows(x: Matrix, start: int, stop: int) -> Matrix:
    """Return rows ``start:stop`` as a view (of a CSR only the row pointers are new)."""
    if isinstance(x, np.ndarray):
        return x[start:stop]
    first, last = x.indptr[start], x.indptr[stop]
    indptr = x.indptr[start : stop + 1]
    if first:
        indptr = indptr - first
    shape = (stop - start, int(x.shape[1]))
    return csr_of(x.data[first:last], x.indices[first:last], indptr, shape)


def _warn_of_column(y: Any) -> None:
    """Warn, as scikit-learn does, of a y with a column; it is taken as 1-d."""
    shape: tuple[Any, ...] = getattr(y, "shape", ())
    if len(shape) == 2 and shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape "
            "of y to (n_samples, ), for example using ravel().",
            DataConversionWarning,
            stacklevel=4,
        )


def _refuse_empty(shape: Sequence[int | None]) -> None:
    """Raise scikit-learn's errors for no rows or no columns, where these are known."""
    for length, what in zip(shape, ("sample", "feature"), strict=True):
        if length == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={tuple(shape)}) while a minimum of 1 is "
                "required."
            )


def _feature_names(X: Any) -> NDArray[Any] | None:
    """Return the names of X's columns if they are strings, as scikit-learn does."""
    if is_pandas_frame(X) or (is_dask_frame(X) and X.ndim == 2):
        names = list(X.columns)
    elif is_xarray(X) and X.ndim == 2 and X.dims[1] in getattr(X, "coords", ()):
        names = X.coords[X.dims[1]].values.tolist()
    else:
        return None
    n_strings = sum(isinstance(name, str) for name in names)
    if n_strings == 0:
        return None
    if n_strings < len(names):
        kinds = sorted({type(name).__qualname__ for name in names})
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your "
            f"input has {kinds} as feature name / column name types. If you want feature names to "
            "be stored and validated, you must convert them all to strings, by using X.columns = "
            "X.columns.astype(str) for example. Otherwise you can remove feature / column names "
            "from your input data, or convert them all to a non-string data type."
        )
    return np.asarray(names, dtype=object)
