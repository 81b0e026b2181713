"""What the engine needs of a run: to send arrays to another rank, and to wait for one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Mesh"]


class Mesh(Protocol):
    """The ranks of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Number of this rank."""

    @property
    def n_ranks(self) -> int:
        """Ranks of the run."""

    def send(self, rank: int, block: int, stamp: int, arrays: Mapping[str, Any]) -> None:
        """Send arrays in the background; they must not change any more."""

    def take(self, block: int, stamp: int) -> dict[str, Any]:
        """Wait for the arrays of a block's stamp; raises why the run ended."""
