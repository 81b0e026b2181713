"""What the engine needs of a run: to send arrays to another rank, and to wait for one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    @property
    def position(self) -> int:
        """Place of this rank among those of its host, from 0."""

    @property
    def is_near(self) -> bool:
        """Whether all ranks are on one host and share memory; the same in each of them.

        Nothing is copied to another rank then, and what has been sent may be changed.
        """

    def send(self, ranks: Sequence[int], block: int, stamp: int, arrays: Mapping[str, Any]) -> None:
        """Send arrays to each of some ranks; unless `is_near`, they must not change any more."""

    def take(self, rank: int, block: int, stamp: int) -> dict[str, Any]:
        """Wait for the arrays of a rank's block; raises why the run ended.

        They are good until the next one of that block and rank is taken.
        """
