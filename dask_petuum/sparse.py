"""Sparse matrices that are what they say: index arrays that stay within the shape.

scipy checks an index array when a matrix is made, and never again: one that was changed since, or
built from its parts in a Dask chunk, leads compiled code outside of its arrays, which ends the
process or changes other memory. So the border looks first; two passes over the indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["checked_sparse", "csr_of"]


def csr_of(
    data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int]
) -> sp.csr_array[Any]:
    """Return a csr_array over these very buffers.

    Its constructor copies a buffer that is a view of less than half of another one
    (``scipy.sparse._sputils._prune_array``), which every slice of rows is.
    """
    csr = sp.csr_array(shape, dtype=data.dtype)
    csr.data, csr.indices, csr.indptr = data, indices, indptr
    return csr


def checked_sparse(x: Any, name: str = "X") -> Any:
    """Refuse a sparse matrix whose arrays contradict each other or its shape.

    Parameters
    ----------
    x
        scipy.sparse of any format; what is not 2-d is left to others.
    name
        What to call it in errors.

    Returns
    -------
    ``x`` itself; as CSR where its format has no index arrays to look at (LIL, DOK, DIA), and
    without the spare room behind its values where it has some.

    Raises
    ------
    ValueError
        Naming the array, the place and the value.
    """
    if x.ndim != 2:
        return x
    if x.format == "coo":
        return _checked_triplets(x, name)
    if x.format not in ("csr", "csc", "bsr"):
        x = x.tocsr()
    across = x.format == "csc"
    n_outer, n_inner = (int(n) for n in (x.shape[::-1] if across else x.shape))
    if x.format == "bsr":
        if x.data.ndim != 3 or 0 in x.data.shape[1:]:
            raise ValueError(_damaged(name, f"data has shape {x.data.shape}, not of blocks"))
        n_outer, n_inner = n_outer // x.data.shape[1], n_inner // x.data.shape[2]
    _check_pointers(x, n_outer, name)
    nnz = int(x.indptr[-1])
    _check_indices(x.indices[:nnz], n_inner, "indices", name)
    if len(x.data) > nnz:
        x = x.copy()
        x.prune()
    return x


def _check_pointers(x: Any, n_outer: int, name: str) -> None:
    pointers = x.indptr
    if pointers.ndim != 1 or len(pointers) != n_outer + 1 or pointers.dtype.kind not in "iu":
        raise ValueError(
            _damaged(
                name,
                f"indptr has shape {pointers.shape} of {pointers.dtype}, expected "
                f"({n_outer + 1},) integers",
            )
        )
    if pointers[0] != 0:
        raise ValueError(_damaged(name, f"indptr begins with {pointers[0]}, not with 0"))
    falls = pointers[1:] < pointers[:-1]
    if falls.any():
        place = int(falls.argmax())
        raise ValueError(
            _damaged(
                name,
                f"indptr falls from {pointers[place]} to {pointers[place + 1]} at {place + 1}",
            )
        )
    shorter = min(len(x.indices), len(x.data))
    if pointers[-1] > shorter:
        raise ValueError(
            _damaged(
                name,
                f"indptr ends with {pointers[-1]}, but there are {len(x.indices)} indices and "
                f"{len(x.data)} values",
            )
        )


def _check_indices(indices: NDArray[Any], size: int, what: str, name: str) -> None:
    """Refuse an index that is not within ``0 .. size - 1``."""
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(
            _damaged(name, f"{what} has shape {indices.shape} of {indices.dtype}, not integers")
        )
    if not len(indices):
        return
    # A negative number is a large one without its sign: one pass instead of two.
    unsigned = indices.view(f"{indices.dtype.byteorder}u{indices.dtype.itemsize}")
    if int(unsigned.max()) < size:
        return
    place = int(np.flatnonzero((indices < 0) | (indices >= size))[0])
    raise ValueError(
        _damaged(name, f"{what}[{place}] is {indices[place]}, the shape allows 0 .. {size - 1}")
    )


def _checked_triplets(x: Any, name: str) -> Any:
    lengths = [len(part) for part in (x.data, *x.coords)]
    if len(set(lengths)) != 1:
        raise ValueError(_damaged(name, f"data, row and col have lengths {lengths}"))
    for indices, size, what in zip(x.coords, x.shape, ("row", "col"), strict=True):
        _check_indices(indices, int(size), what, name)
    return x


def _damaged(name: str, what: str) -> str:
    return f"{name}: the sparse matrix is damaged, {what}; build it anew from its parts."
