"""Tables of a run in one process: the views are the tables, nothing is copied or sent.

Keeps the contract of :class:`dask_petuum.runtime.context.View` for one rank. A view of contiguous
rows of a dense table with plain addition is a slice of it; other views are copies that ``clock``
brings up to date.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.store.rows import (
    checked_delta,
    checked_positions,
    checked_rows,
    same_rows,
    spread_rows,
)
from dask_petuum.store.rules import apply_dense
from dask_petuum.store.spec import TableSpec, initial_values

__all__ = ["LocalTable", "LocalView"]

Array = npt.NDArray[Any]


class LocalTable:
    """One table, whole, with the views that its single rank declared."""

    # The mutable state is `values` and each view's pending increments; only the run's one user
    # thread changes them.

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.values: Any = initial_values(spec, 0, spec.n_rows)
        self._views: list[LocalView] = []
        self._clock = 0

    def __repr__(self) -> str:
        return f"<LocalTable {self.spec.name!r} {self.spec.shape} {self.spec.dtype}>"

    def view(
        self, rows: Sequence[int] | Array | None = None, *, read_my_writes: bool = True
    ) -> LocalView:
        """Declare the rows that the rank will use; the same declaration gives the same view."""
        checked = checked_rows(self.spec, rows)
        for view in self._views:
            if view.declares(checked, read_my_writes):
                return view
        view = LocalView(self, checked, read_my_writes)
        self._views.append(view)
        return view

    def begin(self, values: Any, clock: int) -> None:
        """Start with other values, before any view, in a clock."""
        self.values = values
        self._clock = clock

    def forget_views(self) -> None:
        """Forget the views of a run that has ended."""
        self._views.clear()
        self._clock = 0

    def end_clock(self) -> None:
        """Apply what the views hold back, then show it in each of them."""
        self._clock += 1
        for view in self._views:
            view._apply()
        for view in self._views:
            view._refresh(self._clock)


class LocalView:
    """A view of a :class:`LocalTable`."""

    def __init__(self, table: LocalTable, rows: Array | None, read_my_writes: bool) -> None:
        self._table = table
        self._rows = rows
        self._sparse = table.spec.sparse
        self._read_my_writes = read_my_writes
        self._where = _as_slice(rows, table.spec.n_rows)
        self._direct = (
            self._where is not None and table.spec.rule.kind == "add" and not self._sparse
        )
        n_rows = table.spec.n_rows if rows is None else len(rows)
        self.shape = (n_rows, table.spec.n_cols)
        self._pending: Any = None
        self._values: Any = None
        self.fresh = table._clock
        self._refresh(table._clock)

    def declares(self, rows: Array | None, read_my_writes: bool) -> bool:
        """Whether this is the view of such a declaration."""
        return self._read_my_writes == read_my_writes and same_rows(self._rows, rows)

    @property
    def values(self) -> Any:
        """The rows' values."""
        return self._values

    @property
    def writable(self) -> Array | None:
        """The table itself, where the view is all of it."""
        whole = self._direct and self.shape == self._table.spec.shape
        if not whole or len(self._table._views) > 1:
            return None
        values: Array = self._table.values
        return values

    def inc(self, delta: Any, at: Sequence[int] | Array | None = None) -> None:
        """Add to the table; see :class:`dask_petuum.runtime.context.View`."""
        where = checked_positions(self.shape[0], at)
        delta = checked_delta(self._table.spec, self.shape, delta, where)
        if self._direct and self._read_my_writes:
            target: Array = self._table.values[self._where]
            if where is None:
                target += delta
            else:
                target[where] += delta
            return
        self._hold(delta, where)
        if self._read_my_writes:
            if self._sparse:
                self._values = self._values + spread_rows(delta, where, self.shape)
            elif where is None:
                self._values += delta
            else:
                self._values[where] += delta

    def _hold(self, delta: Any, where: Array | None) -> None:
        if self._sparse:
            spread = spread_rows(delta, where, self.shape)
            self._pending = spread if self._pending is None else self._pending + spread
            return
        if self._pending is None:
            self._pending = np.zeros(self.shape, dtype=self._table.spec.dtype)
        if where is None:
            self._pending += delta
        else:
            self._pending[where] += delta

    def _apply(self) -> None:
        if self._pending is None:
            return
        table = self._table
        if self._sparse:
            table.values = table.values + spread_rows(self._pending, self._rows, table.spec.shape)
            table.values.eliminate_zeros()
        else:
            rows = self._where if self._where is not None else self._rows
            block = table.values[rows]
            apply_dense(table.spec.rule, block, self._pending)
            if self._where is None:
                table.values[rows] = block
        self._pending = None

    def _refresh(self, clock: int) -> None:
        self.fresh = clock
        if self._direct:
            self._values = self._table.values[self._where]
        elif self._sparse and self._rows is None:
            self._values = self._table.values
        else:
            rows = self._where if self._where is not None else self._rows
            self._values = self._table.values[rows].copy()


def _as_slice(rows: Array | None, n_rows: int) -> slice | None:
    if rows is None:
        return slice(0, n_rows)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return None
