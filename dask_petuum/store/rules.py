"""Update rules that owners apply to their rows (Bösen applied plain sums only)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.store.spec import UpdateRule

__all__ = ["apply_dense"]

Array = npt.NDArray[Any]


def apply_dense(rule: UpdateRule, values: Array, delta: Array) -> None:
    """Apply one batch of increments to rows, in place.

    Parameters
    ----------
    rule
        What to do besides adding.
    values
        (n_rows, n_cols), changed in place.
    delta
        The same shape and dtype; zero cells are untouched by every rule.
    """
    values += delta
    if rule.kind == "clip":
        low, high = _bounds(rule, values.dtype)
        np.clip(values, low, high, out=values, where=delta != 0)
    elif rule.kind == "soft_threshold":
        touched = delta != 0
        shrunk = np.maximum(np.abs(values) - rule.threshold, 0)
        np.copyto(values, np.copysign(shrunk, values).astype(values.dtype), where=touched)


def _bounds(rule: UpdateRule, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Bounds in the table's own type: an integer table has no infinity."""
    if dtype.kind != "i":
        return dtype.type(rule.low), dtype.type(rule.high)
    limits = np.iinfo(dtype)
    return (
        int(max(np.ceil(max(rule.low, limits.min)), limits.min)),
        int(min(np.floor(min(rule.high, limits.max)), limits.max)),
    )
