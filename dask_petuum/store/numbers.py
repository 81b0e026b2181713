"""Numbers that users give the store: first values and increments, and whether they fit a table.

NaN and infinity are numbers of a float table, and are kept as they are. What is refused is what
would become another number without a word: too large for the table's type, or not whole.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.exceptions import TableError
from dask_petuum.sparse import checked_sparse

__all__ = ["checked_array", "fitting", "is_number", "is_whole"]

Array = npt.NDArray[Any]


def checked_array(values: Any, what: str) -> Any:
    """Return what was given as an ndarray or a ``csr_array``; its numbers are not looked at.

    Raises
    ------
    TableError
        For a masked array, rows of different lengths, or a damaged sparse array.
    """
    if sp.issparse(values):
        given: Any = values
        try:
            return sp.csr_array(checked_sparse(given, what))
        except ValueError as error:
            raise TableError(str(error)) from None
    if isinstance(values, np.ma.MaskedArray):
        raise TableError(f"{what} are a masked array, whose mask would be lost; fill it first")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise TableError(f"{what} are no array: {error}") from None


def fitting(values: Array, dtype: Any, what: str) -> Array:
    """Return numbers as the table's type; those that would be others are refused.

    Parameters
    ----------
    values
        Numbers of any type and shape, or a single one.
    dtype
        Of the table.
    what
        What to call them in errors.

    Raises
    ------
    TableError
        With the first value that does not fit.
    """
    wanted = np.dtype(dtype)
    if values.dtype == wanted:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(wanted)
        if np.can_cast(values.dtype, wanted, "safe"):
            return cast
        bad = (
            _beyond(values, wanted) if wanted.kind == "i" else np.isinf(cast) & np.isfinite(values)
        )
    if bad.any():
        first = values[tuple(np.argwhere(bad)[0])]
        advice = "; round them" if wanted.kind == "i" and values.dtype.kind == "f" else ""
        raise TableError(f"{what} do not fit {wanted}: {first} is among them{advice}")
    return cast


def _beyond(values: Array, wanted: np.dtype[Any]) -> npt.NDArray[np.bool_]:
    """Mark numbers that are not whole or not within the limits of an integer type."""
    limits = np.iinfo(wanted)
    if values.dtype.kind != "f":
        return np.asarray((values < limits.min) | (values > limits.max))
    # 2**63 - 1 is no float: the float next to it would be 2**63, which does not fit
    inside = (values >= float(limits.min)) & (values < -float(limits.min))
    marked: npt.NDArray[np.bool_] = ~(inside & (values == np.rint(values)))
    return marked


def is_number(value: Any) -> bool:
    """Tell a finite real number, which is no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


def is_whole(value: Any) -> bool:
    """Tell a whole number >= 0, which is no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0
