"""Cut work into parts of nearly equal cost: rows or columns by their nonzeros, say.

`balance` puts each item where there is least (longest first; Graham 1969: at most 4/3 of the
best), `cut` keeps the items in their order. Both are deterministic: ties go to the item, then to
the part, with the lowest number.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from .picker import FloatArray, IntArray

__all__ = ["balance", "cut"]


def balance(costs: npt.ArrayLike, n_parts: int) -> IntArray:
    """Return the part of each item, so that the parts cost nearly the same.

    Items that cost nothing are spread by number.

    Parameters
    ----------
    costs : (n,) of finite numbers >= 0
    n_parts
        >= 1; parts stay empty only where there are fewer items.

    Returns
    -------
    (n,) int64, parts 0 .. n_parts-1.

    Raises
    ------
    ValueError
        Another number of parts, or costs that are not such numbers.

    Examples
    --------
    >>> balance([5, 4, 3, 2], 2).tolist()
    [0, 1, 1, 0]
    """
    values = _checked(costs, n_parts)
    parts = np.empty(values.size, dtype=np.int64)
    loads = [(0.0, 0, part) for part in range(n_parts)]
    for item in np.argsort(-values, kind="stable").tolist():
        load, n_items, part = loads[0]
        parts[item] = part
        heapq.heapreplace(loads, (load + float(values[item]), n_items + 1, part))
    return parts


def cut(costs: npt.ArrayLike, n_parts: int) -> IntArray:
    """Cut a sequence into contiguous parts that cost nearly the same.

    No part costs more than the mean plus the costliest item, and none is empty unless there are
    fewer items than parts.

    Parameters
    ----------
    costs, n_parts
        As of `balance`.

    Returns
    -------
    (n_parts + 1,) int64: part i is ``cuts[i]:cuts[i + 1]``.

    Raises
    ------
    ValueError
        As of `balance`.

    Examples
    --------
    >>> cut([1, 1, 1, 1, 4], 2).tolist()
    [0, 4, 5]
    """
    values = _checked(costs, n_parts)
    n = values.size
    ends = np.concatenate([[0.0], np.cumsum(values)])
    aims = ends[-1] / n_parts * np.arange(n_parts + 1)
    after = np.clip(np.searchsorted(ends, aims), 1, max(n, 1))
    cuts = np.where(aims - ends[after - 1] <= ends[np.minimum(after, n)] - aims, after - 1, after)
    cuts[0], cuts[-1] = 0, n
    if n >= n_parts:
        ranks = np.arange(n_parts + 1)
        cuts = np.maximum.accumulate(cuts - ranks) + ranks
        cuts = np.minimum(cuts, n - n_parts + ranks)
    return np.asarray(cuts, dtype=np.int64)


def _checked(costs: npt.ArrayLike, n_parts: int) -> FloatArray:
    if n_parts < 1:
        raise ValueError(f"n_parts must be >= 1, got {n_parts}")
    values = np.asarray(costs, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"costs must be a sequence of finite numbers >= 0, got {values}")
    return values
