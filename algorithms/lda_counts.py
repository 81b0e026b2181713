"""Checks of counts of words: whole numbers, none negative, none too large."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import check_array, validate_data

from dask_petuum.data import Partition
from dask_petuum.data.blocks import as_matrix, check_container
from dask_petuum.data.kinds import dask_backed

from .input_values import check_width, host_memory
from .inputs import check_rows

__all__ = ["check_counts", "check_input", "check_piece", "check_totals", "count_tokens"]

#: A document's count of a word; they are kept in 32 bits.
LARGEST = 2**31 - 1
#: Memory of a token in a fit.
TOKEN_BYTES = 6


def check_input(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Check the counts that a method was given; learn (``reset``) or compare their columns.

    Returns
    -------
    X as an ndarray or CSR of its own number type; a Dask collection as it was given, whose
    values are checked where they lie.

    Raises
    ------
    ValueError
        In scikit-learn's words, or naming the row and the value of the first bad count.
    """
    if dask_backed(X) is not None:
        return check_rows(estimator, X, reset=reset)
    try:
        X = validate_data(
            estimator,
            check_container(X),
            accept_sparse="csr",
            dtype="numeric",
            order="C",
            reset=reset,
            accept_large_sparse=True,
            ensure_all_finite=False,
        )
    except OverflowError as error:
        raise ValueError(f"counts must be whole numbers up to {LARGEST}: {error}") from error
    if reset:
        check_width(estimator, X.shape[1])
    X = as_matrix(X)  # native numbers; sorted indices without duplicates
    check_counts(X)
    return X


def check_counts(X: Any, *, chunk: bool = False) -> None:
    """Refuse counts that are negative, fractional or not finite, naming the first.

    ``chunk``: say that the row is counted within a chunk.

    Raises
    ------
    ValueError
        With the row, column and value.
    """
    values: Any = X.data if sp.issparse(X) else X  # type: ignore[attr-defined]
    if values.dtype.kind in "bu" and values.dtype.itemsize < 4:
        return
    if values.dtype == np.float16:
        values = values.astype(np.float32)  # the largest count does not fit it
    with np.errstate(invalid="ignore"):
        low = not values.size or values.min() >= 0  # False for NaN
        fine = low and (not values.size or values.max() <= LARGEST)
        if fine and (values.dtype.kind in "iu" or bool((values == np.rint(values)).all())):
            return
        bad = ~((values >= 0) & (values <= LARGEST) & (values == np.rint(values)))
    row, column, value = _first(X, bad)
    where = f"in row {row}{' of its chunk' if chunk else ''}, column {column}"
    if np.isnan(value):
        raise ValueError(f"Input X contains NaN: counts must be whole numbers, got nan {where}")
    if np.isinf(value):
        raise ValueError(f"Input X contains infinity: got {value} {where}")
    if value < 0:
        raise ValueError(
            f"Negative values in data passed to LDA: counts must be >= 0, got {value} {where}"
        )
    raise ValueError(
        f"counts must be whole numbers up to {LARGEST}, got {value} {where}; LDA takes the "
        "counts of words themselves, not tf-idf weights"
    )


def check_piece(X: Any, y: Any, sample_weight: Any) -> None:
    """Check a piece of a Dask collection where it lies."""
    check_array(X, accept_sparse="csr", dtype=None, ensure_min_samples=0, ensure_all_finite=False)
    check_counts(X, chunk=True)


def count_tokens(partition: Partition) -> tuple[int, int]:
    """Tokens and documents of a partition.

    Raises
    ------
    ValueError
        Where the tokens do not fit this machine's memory.
    """
    n_tokens = int(partition.data.sum(dtype=np.int64))
    if TOKEN_BYTES * n_tokens > host_memory():
        values: Any = partition.data.data if sp.issparse(partition.data) else partition.data
        raise ValueError(
            f"rows {partition.row_start} to {partition.row_stop - 1} of X have {n_tokens} tokens "
            f"(the largest count is {values.max()}): at {TOKEN_BYTES} bytes each they do not fit "
            f"this machine's {host_memory() / 2**30:.0f} GiB"
        )
    return n_tokens, partition.n_rows


def check_totals(totals: Any) -> None:
    """Refuse a word with more tokens in all than its count in a topic can hold.

    Parameters
    ----------
    totals
        (n_words,) tokens of each word.
    """
    if totals.max(initial=0) > LARGEST:
        raise ValueError(
            f"word {int(totals.argmax())} has {int(totals.max())} tokens in all of X, a topic's "
            f"count of it goes up to {LARGEST}"
        )


def _first(X: Any, bad: Any) -> tuple[int, int, Any]:
    """Row, column and value of the first bad count."""
    if isinstance(X, np.ndarray):
        row, column = (int(i) for i in np.argwhere(bad)[0])
        return row, column, X[row, column]
    place = int(np.flatnonzero(bad)[0])
    row = int(np.searchsorted(X.indptr, place, side="right")) - 1
    return row, int(X.indices[place]), X.data[place]
