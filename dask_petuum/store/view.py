"""A rank's view of declared rows: values, own increments, and how fresh owners' answers made it.

Numbers only: what to send and when is decided by :class:`dask_petuum.store.rank.RankCore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.store import kernels
from dask_petuum.store.codec import Allocator, Chunk, chunk_rows, decode_csr
from dask_petuum.store.layout import Block
from dask_petuum.store.rows import checked_delta, checked_positions, same_rows, spread_rows
from dask_petuum.store.spec import TableSpec

__all__ = ["Piece", "StoreView"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """The part of a view that lies in one row block: positions lo .. hi-1 of the view."""

    block: int
    owner: int
    lo: int
    hi: int
    #: Rows within the block; None: all of it.
    rows: Array | None


class StoreView:
    """The rows that a rank declared; see :class:`dask_petuum.runtime.context.View`.

    Parameters
    ----------
    plan
        Number of the access plan, unique in its rank.
    rows
        int64 row numbers, ascending; None: all.
    empty
        Makes the arrays that increments are collected in, as ``numpy.empty``.
    """

    # The mutable state is `_values`, `_pending` and `fresh`; the rank's thread changes them, in
    # inc() and (through RankCore) in clock().

    def __init__(
        self,
        spec: TableSpec,
        blocks: Sequence[Block],
        plan: int,
        rows: Array | None,
        read_my_writes: bool,
        empty: Allocator = np.empty,
    ) -> None:
        self.spec = spec
        self._empty = empty
        self.plan = plan
        self.rows = rows
        self.read_my_writes = read_my_writes
        self.pieces = tuple(_cut(blocks, rows))
        self.shape = (spec.n_rows if rows is None else len(rows), spec.n_cols)
        self.fresh = 0
        self.writable = None
        #: Owners' versions, and clocks complete when they first answered, by owner.
        self.versions: dict[int, int] = {}
        self.opened: dict[int, int] = {}
        self._values: Any = _empty(spec, self.shape)
        self._pending: Any = None

    def __repr__(self) -> str:
        return f"<StoreView {self.spec.name!r} {self.shape} {self.spec.dtype}, fresh {self.fresh}>"

    @property
    def values(self) -> Any:
        """The rows' values."""
        return self._values

    def inc(self, delta: Any, at: Sequence[int] | Array | None = None) -> None:
        """Add to the table; sent at the next clock."""
        where = checked_positions(self.shape[0], at)
        delta = checked_delta(self.spec, self.shape, delta, where)
        if self.spec.sparse:
            delta = spread_rows(delta, where, self.shape)
            self._pending = delta if self._pending is None else self._pending + delta
            if self.read_my_writes:
                self._values = self._values + delta
            return
        self._collect(delta, where)
        if self.read_my_writes:
            if where is None:
                self._values += delta
            else:
                self._values[where] += delta

    def _collect(self, delta: Array, where: Array | None) -> None:
        """Add to the pending increments; the first whole one is copied, not added to zeros."""
        first = self._pending is None
        if first:
            self._pending = self._empty(self.shape, self.spec.dtype)
        if where is None and first:
            np.copyto(self._pending, delta)
        elif where is None:
            self._pending += delta
        else:
            if first:
                self._pending.fill(0)
            self._pending[where] += delta

    def declares(self, spec: TableSpec, rows: Array | None, read_my_writes: bool) -> bool:
        """Whether this is the view of such a declaration."""
        own = self.spec is spec and self.read_my_writes == read_my_writes
        return own and same_rows(self.rows, rows)

    def is_open(self, owner: int) -> bool:
        """Whether an owner has answered, or has none of the rows."""
        return owner in self.opened or all(piece.owner != owner for piece in self.pieces)

    def take_pending(self) -> Any:
        """Take the increments of the clock that ends; None where there are none."""
        pending, self._pending = self._pending, None
        return pending

    def parts(self, pending: Any) -> Iterator[tuple[Piece, Any]]:
        """Cut increments by row block; dense parts are slices, not copies."""
        for piece in self.pieces:
            yield piece, pending[piece.lo : piece.hi]

    def add_own(self, delta: Any) -> None:
        """Show the rank's own increments of a clock that has ended."""
        if self.spec.sparse:
            self._values = self._values + delta
        else:
            self._values += delta

    def install(self, chunks: Sequence[Chunk]) -> Array:
        """Replace rows by what owners answered.

        Returns
        -------
        (n_rows,) bool: the rows that were replaced, to which the rank's own increments that the
        owner had not seen are to be added again.
        """
        replaced = np.zeros(self.shape[0], dtype=np.bool_)
        blocks = {piece.block: piece for piece in self.pieces}
        sparse_rows: list[tuple[Array, Any]] = []
        for chunk in chunks:
            piece = blocks[chunk["block"]]
            where = chunk_rows(chunk, piece.hi - piece.lo) + np.int32(piece.lo)
            if self.spec.sparse:
                replaced[where] = True
                sparse_rows.append((where, decode_csr(chunk, self.spec.n_cols)))
            elif chunk["kind"] == "dense":
                lo = piece.lo + chunk["first"]
                self._values[lo : lo + len(where)] = chunk["values"]
                replaced[lo : lo + len(where)] = True
            else:
                values = np.ascontiguousarray(chunk["values"])
                kernels.put_rows(self._values, where, values, replaced)
        if sparse_rows:
            self._values = _replace_rows(self._values, replaced, sparse_rows)
        return replaced

    def add_where(self, rows: Array, delta: Any, where: Array) -> None:
        """Add increments to those of the given rows (positions) that are marked."""
        if self.spec.sparse:
            kept = np.flatnonzero(where[rows])
            spread = spread_rows(delta[kept], rows[kept].astype(np.int64), self.shape)
            self._values = self._values + spread
        else:
            kernels.add_rows_where(self._values, rows, delta, where)


def _cut(blocks: Sequence[Block], rows: Array | None) -> Iterator[Piece]:
    for index, block in enumerate(blocks):
        if rows is None:
            yield Piece(index, block.owner, block.start, block.stop, None)
            continue
        lo, hi = (int(i) for i in np.searchsorted(rows, [block.start, block.stop]))
        if lo == hi:
            continue
        own = (rows[lo:hi] - block.start).astype(np.int32)
        yield Piece(index, block.owner, lo, hi, None if len(own) == block.n_rows else own)


def _empty(spec: TableSpec, shape: tuple[int, int]) -> Any:
    if spec.sparse:
        return sp.csr_array(shape, dtype=spec.dtype)
    return np.zeros(shape, dtype=spec.dtype)


def _replace_rows(values: Any, replaced: Array, parts: Sequence[tuple[Array, Any]]) -> Any:
    keep = values.tocoo()
    row, col = keep.coords
    stays = ~replaced[row]
    rows, cols, data = [row[stays]], [col[stays]], [keep.data[stays]]
    for where, part in parts:
        new = part.tocoo()
        rows.append(where[new.coords[0]])
        cols.append(new.coords[1])
        data.append(new.data)
    joined = (np.concatenate(data), (np.concatenate(rows), np.concatenate(cols)))
    return sp.coo_array(joined, shape=values.shape).tocsr()
