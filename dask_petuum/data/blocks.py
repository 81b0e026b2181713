"""One block of rows, of whatever kind, put into the one form that kernels read.

The form: X is an ndarray in C order or a ``csr_array`` with sorted indices, no duplicates and
int32 indices wherever they fit; y and the weights are contiguous 1-d arrays; numbers are in
native byte order. Numbers that kernels cannot read are widened the same way whatever the values
(so that all blocks of one dataset agree): float16 to float32, longdouble to float64, bool to
uint8 (a view), nullable pandas integers to float64. Nothing is copied that has the form already,
and the caller's object is never written to, its cached flags included.

``csr_array`` and not ``csr_matrix``: scipy keeps the matrix class for old code only; kernels read
``data``, ``indices`` and ``indptr``, which are alike in both.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray
from sklearn.utils import check_array

from dask_petuum.data.kinds import is_pandas_frame, is_pandas_series, is_xarray
from dask_petuum.sparse import checked_sparse, csr_of

__all__ = [
    "Matrix",
    "Vector",
    "as_matrix",
    "as_vector",
    "as_weights",
    "check_container",
    "read_only",
]

Vector: TypeAlias = NDArray[Any]
Matrix: TypeAlias = "NDArray[Any] | sp.csr_array[Any]"

_INT32_MAX = int(np.iinfo(np.int32).max)


def as_matrix(x: Any, dtype: DTypeLike | None = None, *, any_layout: bool = False) -> Matrix:
    """Return one block of X in the form that kernels read.

    Parameters
    ----------
    x
        ndarray, array-like, scipy.sparse of any format, pandas DataFrame or xarray.DataArray in
        memory; 2-d.
    dtype
        Wanted type of the values, None to keep them (but for the widenings named above). An
        integer type must hold every value exactly, a floating one to its precision.
    any_layout
        Leave the layout of a dense block and the order of a sparse row's indices as they are,
        for a caller who will cut rows first.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), or csr_array of that shape
        Shares its memory with ``x`` wherever that has the form already.

    Raises
    ------
    ValueError
        Not 2-d; text; a value that does not fit ``dtype``; a damaged sparse matrix.
    TypeError
        A masked array, an np.matrix, dates or other objects that are no numbers.
    """
    if is_xarray(x):
        x = x.values
    elif is_pandas_frame(x):
        x = _frame_values(x)
    if sp.issparse(x):
        return _as_csr(x, dtype, any_layout=any_layout)
    return _as_dense(x, dtype, any_layout=any_layout)


def as_vector(y: Any, name: str = "y") -> Vector:
    """Return labels or targets as a contiguous 1-d array; text and objects stay what they are.

    Raises
    ------
    ValueError
        Neither 1-d nor a single column.
    TypeError
        Sparse or masked.
    """
    if is_xarray(y):
        y = y.values
    elif is_pandas_series(y):
        y = _column_values(y)
    elif is_pandas_frame(y):
        y = as_matrix(y)
    if sp.issparse(y):
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    _refuse_masked(y, name)
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"{name} should be a 1d array, got an array of shape {y.shape} instead.")
    return np.ascontiguousarray(y, dtype=_readable(y.dtype))


def as_weights(sample_weight: Any) -> Vector:
    """Return sample weights as a contiguous 1-d float32 or float64 array."""
    weights = as_vector(sample_weight, "sample_weight")
    if weights.dtype.kind in "cmM":
        raise ValueError(f"sample_weight must be real numbers, got {weights.dtype}")
    if weights.dtype in (np.float32, np.float64):
        return weights
    return weights.astype(np.float64)


def read_only(values: Matrix) -> Matrix:
    """Return a view that cannot be written through; no copy."""
    if isinstance(values, np.ndarray):
        return _locked(values)
    data, indices, indptr = values.data, values.indices, values.indptr
    return csr_of(_locked(data), _locked(indices), _locked(indptr), values.shape)


def _locked(values: NDArray[Any]) -> NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view


def check_container(x: Any, name: str = "X") -> Any:
    """Refuse what a conversion would misread without a word: masks, dates, damaged matrices.

    Returns
    -------
    ``x``, or what `checked_sparse` makes of it.

    Raises
    ------
    TypeError
        A masked array or dates.
    ValueError
        A damaged sparse matrix.
    """
    if sp.issparse(x):
        return checked_sparse(x, name)
    _refuse_masked(x, name)
    source = getattr(x, "dtype", None)
    if isinstance(source, np.dtype) and source.kind in "mM":
        raise TypeError(f"{name} holds {source} values, numbers are required.")
    return x


def _as_dense(x: Any, dtype: DTypeLike | None, *, any_layout: bool) -> NDArray[Any]:
    check_container(x)
    block: NDArray[Any] = check_array(
        x, ensure_all_finite=False, ensure_min_samples=0, ensure_min_features=0
    )
    values = _cast(block, dtype)
    if any_layout and values is block:
        return values
    return np.ascontiguousarray(values)


def _as_csr(x: Any, dtype: DTypeLike | None, *, any_layout: bool) -> sp.csr_array[Any]:
    if x.ndim != 2:
        raise ValueError(f"Expected 2D input, got input with shape {x.shape}.")
    if x.dtype.kind == "c":
        raise ValueError("Complex data not supported\n")
    x = checked_sparse(x)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))  # scipy itself fails on some of these
    given = x if x.format == "csr" else x.tocsr()
    # A new object over the same buffers: scipy caches flags on the one that it is asked about.
    csr = csr_of(given.data, *_narrow(given.indices, given.indptr, x.shape), x.shape)
    if not any_layout and not csr.has_canonical_format:
        csr = _without_duplicates(csr)
    csr.data = _cast(csr.data, dtype)
    return csr


def _without_duplicates(csr: sp.csr_array[Any]) -> sp.csr_array[Any]:
    """Return a copy with sorted indices, duplicates added up; small integers do not wrap around."""
    small = csr.dtype.kind in "iu" and csr.dtype.itemsize < 8
    summed = csr.astype(np.int64) if small else csr.copy()
    summed.sum_duplicates()
    if small:
        again = summed.data.astype(csr.dtype)
        if np.array_equal(again, summed.data):
            summed.data = again
    return summed


def _narrow(
    indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both index arrays as int32 where they fit, else as int64; no copy if they are so."""
    fits = shape[1] <= _INT32_MAX and (len(indptr) == 0 or int(indptr[-1]) <= _INT32_MAX)
    wanted = np.int32 if fits else np.int64
    return np.asarray(indices, dtype=wanted), np.asarray(indptr, dtype=wanted)


def _cast(values: NDArray[Any], dtype: DTypeLike | None) -> NDArray[Any]:
    """Return the values in ``dtype``, or in a type that kernels read; no copy if they are so."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    wanted = _readable(values.dtype) if dtype is None else np.dtype(dtype)
    if values.dtype == wanted:
        return values
    try:
        with np.errstate(invalid="ignore", over="raise"):
            result = values.astype(wanted, order="C")
    except FloatingPointError:
        raise ValueError(
            f"X cannot be held as {wanted}: it has values beyond {np.finfo(wanted).max}."
        ) from None
    if wanted.kind in "iu" and not np.can_cast(values.dtype, wanted, "safe"):
        lost = np.flatnonzero((result != values).ravel())
        if len(lost):
            raise ValueError(
                f"X cannot be held as {wanted}: it has the value {values.ravel()[lost[0]]!r} "
                "(and perhaps more of the kind); use a floating dtype."
            )
    return result


def _readable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type, in native byte order, in which kernels read values of ``dtype``."""
    if dtype.kind == "f" and dtype.itemsize == 2:
        return np.dtype(np.float32)
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    return dtype.newbyteorder("=")


def _refuse_masked(values: Any, name: str) -> None:
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, which is not supported: its mask would be lost. "
            "Fill it first, e.g. with .filled(np.nan)."
        )


def _frame_values(frame: Any) -> Any:
    """Return the numbers of a pandas DataFrame: a view where it allows one, CSR if all sparse."""
    kinds = list(frame.dtypes)
    if kinds and all(_is_sparse_dtype(kind) for kind in kinds):
        return frame.sparse.to_coo()
    plain = [_plain_dtype(kind) for kind in kinds]
    if not kinds or any(kind is None for kind in plain):
        return frame.to_numpy()
    wanted = np.result_type(*plain)
    if all(isinstance(kind, np.dtype) for kind in kinds):
        return frame.to_numpy(dtype=wanted)
    missing = {"na_value": np.nan} if wanted.kind == "f" else {}
    return frame.to_numpy(dtype=wanted, **missing)


def _column_values(series: Any) -> Any:
    """Return the values of a pandas Series or Index; missing numbers become NaN."""
    kind = series.dtype
    plain = getattr(kind, "numpy_dtype", None)
    if isinstance(kind, np.dtype) or plain is None or plain.kind not in "iufb":
        return np.asarray(series)
    if series.isna().any():
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return series.to_numpy(dtype=plain)


def _plain_dtype(kind: Any) -> np.dtype[Any] | None:
    """Return the numpy type of a pandas column's numbers, None if they are none.

    A nullable integer or boolean column counts as float64 whether or not it has missing values:
    the blocks of one dataset must agree.
    """
    if isinstance(kind, np.dtype):
        return kind if kind.kind in "iufb" else None
    plain = kind.subtype if _is_sparse_dtype(kind) else getattr(kind, "numpy_dtype", None)
    if plain is None or plain.kind not in "iufb":
        return None
    keep = plain.kind == "f" or _is_sparse_dtype(kind)
    return np.dtype(plain if keep else np.float64)


def _is_sparse_dtype(kind: Any) -> bool:
    return type(kind).__name__ == "SparseDtype"
