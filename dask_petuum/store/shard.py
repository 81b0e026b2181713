"""One row block of one table, as its owner keeps it: values, and when each row last changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_petuum.store import kernels
from dask_petuum.store.codec import Chunk, chunk_rows, decode_csr
from dask_petuum.store.rows import spread_rows
from dask_petuum.store.rules import apply_dense
from dask_petuum.store.spec import TableSpec, initial_values

__all__ = ["Shard"]

Array = npt.NDArray[Any]


class Shard:
    """Rows start .. stop-1 of a table.

    Attributes
    ----------
    values
        (n_rows, n_cols) array, or ``csr_array`` of a sparse table.
    versions
        (n_rows,) int64: the owner's version in which the row last changed.
    """

    def __init__(self, spec: TableSpec, start: int, stop: int) -> None:
        self.spec = spec
        self.start = start
        self.n_rows = stop - start
        self.values: Any = initial_values(spec, start, stop)
        self.versions = np.zeros(self.n_rows, dtype=np.int64)

    def __repr__(self) -> str:
        return (
            f"<Shard {self.spec.name!r} rows {self.start}..{self.start + self.n_rows - 1}, "
            f"{self.nbytes} bytes>"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        if self.spec.sparse:
            arrays = (self.values.data, self.values.indices, self.values.indptr)
            return sum(int(array.nbytes) for array in arrays)
        return int(self.values.nbytes)

    def apply(self, chunk: Chunk, plan_rows: Array | None, version: int) -> None:
        """Apply a checked chunk of increments.

        Parameters
        ----------
        chunk
            As the codec made it; its positions count in ``plan_rows``.
        plan_rows
            (n,) int32 rows of this block, or None for all of them.
        version
            What the changed rows are marked with.
        """
        if chunk["kind"] == "cells":
            self._apply_cells(chunk, plan_rows, version)
            return
        n_plan = self.n_rows if plan_rows is None else len(plan_rows)
        where = chunk_rows(chunk, n_plan)
        rows = where if plan_rows is None else plan_rows[where]
        self.versions[rows] = version
        if chunk["kind"] == "csr":
            self._apply_csr(chunk, rows)
            return
        delta = np.ascontiguousarray(chunk["values"])
        contiguous = len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        if contiguous:
            block = self.values[rows[0] : rows[-1] + 1]
            apply_dense(self.spec.rule, block, delta)
        elif self.spec.rule.kind == "add":
            kernels.add_rows(self.values, rows, delta)
        else:
            block = self.values[rows]
            apply_dense(self.spec.rule, block, delta)
            self.values[rows] = block

    def _apply_cells(self, chunk: Chunk, plan_rows: Array | None, version: int) -> None:
        n_cols = self.spec.n_cols
        cells = np.ascontiguousarray(chunk["cells"]) + int(chunk["first"]) * n_cols
        rows = kernels.positions(self.n_rows) if plan_rows is None else plan_rows
        kernels.mark_cells(self.versions, rows, cells, n_cols, version)
        if self.spec.rule.kind == "add":
            everywhere = np.ones(self.n_rows, dtype=np.bool_)
            kernels.add_cells(self.values, rows, cells, chunk["values"], everywhere)
            return
        delta = np.zeros((len(rows), n_cols), dtype=self.values.dtype)
        delta.reshape(-1)[cells] = chunk["values"]
        block = self.values[rows]
        apply_dense(self.spec.rule, block, delta)
        self.values[rows] = block

    def _apply_csr(self, chunk: Chunk, rows: Array) -> None:
        part = decode_csr(chunk, self.spec.n_cols)
        self.values = self.values + spread_rows(part, rows, self.values.shape)
        self.values.eliminate_zeros()
