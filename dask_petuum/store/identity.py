"""Who a part of the store is: named in every message, checked by everybody who gets one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity:
    """One rank of one run.

    Parameters
    ----------
    run_id
        Unique on the cluster.
    rank, n_ranks
        Number of this rank, and how many there are.
    epoch
        Generation of the run's membership.
    """

    run_id: str
    rank: int
    n_ranks: int
    epoch: int = 0

    def sender(self) -> dict[str, Any]:
        """The fields that say who sent a message."""
        return {"run": self.run_id, "epoch": self.epoch, "rank": self.rank}
