"""What a policy is to the machine: a small frozen object that starts a picker for one run.

The machine knows what is in flight, where each block is and who conflicts; the picker knows the
order. A picker is told of all that happens and holds all of a policy's mutable state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["FloatArray", "IntArray", "Picker", "Policy", "View", "checked_rho"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class View(Protocol):
    """What a picker may see of the machine, and never changes."""

    #: Whether blocks conflict with others too, not only with themselves.
    checks: bool
    #: (n_blocks,) 1 where the block is in flight.
    busy: npt.NDArray[np.uint8]
    #: (n_blocks,) the rank that holds the block, -1 where nobody does.
    places: IntArray

    @property
    def costs(self) -> FloatArray:
        """(n_blocks,) how long each block is believed to take, in a unit of its own."""
        ...

    def keep(
        self, candidates: Sequence[int], others: Sequence[int], makes_way: bool = False
    ) -> list[bool]:
        """Tell of each candidate whether it may be handed out.

        That is if it is free and conflicts neither with what is in flight, nor with `others`, nor
        with a candidate kept before it; with `makes_way`, nor with the first that is not kept.
        """
        ...


class Picker(Protocol):
    """The order in which blocks are handed out; the mutable half of a policy."""

    def pick(self, rank: int, width: int) -> list[int]:
        """Choose up to `width` blocks for a rank: they are in flight from now on."""
        ...

    def finish(self, rank: int, blocks: IntArray, changes: FloatArray) -> None:
        """Hear that a rank is done with its blocks and how far each of them moved."""
        ...

    def drop(self, rank: int, blocks: IntArray) -> None:
        """Hear that blocks in flight came to nothing: they are free, and were not visited."""
        ...

    def lose(self, rank: int) -> None:
        """Hear that a rank is gone: the others go on without it."""
        ...

    def prioritise(self, priorities: FloatArray) -> None:
        """Take new priorities of all blocks; raises TypeError where the order has none."""
        ...

    def pass_is_over(self) -> bool:
        """Tell whether all blocks had all the visits of this pass."""
        ...

    def end_pass(self) -> None:
        """Begin the next pass."""
        ...


class Policy(Protocol):
    """Which blocks next, and which may be in flight together; immutable parameters."""

    @property
    def moves(self) -> bool:
        """Whether a block travels from rank to rank (else every rank has all blocks)."""
        ...

    @property
    def rho(self) -> float | None:
        """From which strength on two blocks conflict; None: only with themselves."""
        ...

    def start(self, view: View, n_blocks: int, n_ranks: int, seed: Any) -> Picker:
        """Make the picker of one run."""
        ...


def checked_rho(rho: float | None) -> None:
    """Refuse a threshold on correlations that is not one."""
    if rho is not None and not 0 < rho <= 1:
        raise ValueError(f"rho must be in (0, 1], or None for no check, got {rho}")
