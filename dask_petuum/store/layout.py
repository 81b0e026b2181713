"""Which rank owns which rows: contiguous row blocks, spread over all ranks by size. Pure.

Every table is cut into as many blocks of about equal size as there are ranks (fewer where it has
fewer rows), so that one big table, the usual case, loads all ranks alike; the blocks of tables
with fewer rows than ranks go to the ranks that hold the fewest bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dask_petuum.store.spec import TableSpec

__all__ = ["Block", "plan_layout"]


@dataclass(frozen=True)
class Block:
    """Rows start .. stop-1 of a table, and the rank that holds them for everybody."""

    start: int
    stop: int
    owner: int

    @property
    def n_rows(self) -> int:
        """Rows of the block."""
        return self.stop - self.start


def plan_layout(specs: Sequence[TableSpec], n_ranks: int) -> Mapping[str, tuple[Block, ...]]:
    """Cut every table into row blocks and give each an owner.

    Returns
    -------
    mapping from a table's name to its blocks, in row order; each row is in exactly one block.
    """
    held = [0] * n_ranks
    layout = {}
    for spec in sorted(specs, key=lambda s: -s.n_rows * s.row_bytes):
        n_blocks = min(n_ranks, spec.n_rows)
        bounds = [spec.n_rows * i // n_blocks for i in range(n_blocks + 1)]
        owners = sorted(sorted(range(n_ranks), key=lambda r: (held[r], r))[:n_blocks])
        blocks = []
        for owner, start, stop in zip(owners, bounds, bounds[1:], strict=False):
            blocks.append(Block(start, stop, owner))
            held[owner] += (stop - start) * spec.row_bytes
        layout[spec.name] = tuple(blocks)
    return layout
