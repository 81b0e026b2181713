"""Which checkpoints of which fits are kept, and by whom: the scheduler's part. Pure.

A checkpoint counts when every rank of its run has reported its part; then the older ones go.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dask_petuum.checkpoint.saved import SavedPart
from dask_petuum.exceptions import CheckpointError

__all__ = ["Ledger"]

V = TypeVar("V")


@dataclass
class _Fit:
    """One fit: who may ask for it, its last complete checkpoint, and those under way.

    ``given_up``: those that will not be complete, by run and clock, and why. ``gone``: workers that
    were lost since the last one was complete. Others may have come to their addresses, with nothing
    in their memory.
    """

    client: str
    newest: dict[str, Any] | None = None
    under_way: dict[tuple[str, int], dict[int, Any]] = field(default_factory=dict)
    given_up: dict[tuple[str, int], str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


class Ledger:
    """The checkpoints of all fits.

    The mutable state is `_fits`; only the scheduler's event loop changes it.
    """

    def __init__(self) -> None:
        self._fits: dict[str, _Fit] = {}

    def __repr__(self) -> str:
        return f"<Ledger of {sorted(self._fits)}>"

    @property
    def fits(self) -> list[str]:
        """Fits that there are."""
        return sorted(self._fits)

    def begin(self, fit_id: str, client: str) -> None:
        """Note a fit; nothing changes where it is known."""
        self._fits.setdefault(fit_id, _Fit(client))

    def add(self, fit_id: str, part: Mapping[str, Any], *, run_id: str, clock: int, n: int) -> bool:
        """Note a rank's part of a checkpoint; True if that is its last one (of n).

        Raises
        ------
        CheckpointError
            For what is not a part of one of n ranks.
        """
        fit = self._fits.get(fit_id)
        if fit is None or self.is_complete(fit_id, run_id, clock):
            return False
        if (run_id, clock) in fit.given_up:
            return False
        rank = SavedPart.from_dict(part).rank
        if rank >= n:
            raise CheckpointError(f"rank {rank} of {n} cannot save a part")
        parts = fit.under_way.setdefault((run_id, clock), {})
        parts[rank] = dict(part)
        if len(parts) < n:
            return False
        ordered = [parts[rank] for rank in sorted(parts)]
        fit.newest = {"fit_id": fit_id, "run_id": run_id, "clock": clock, "parts": ordered}
        fit.gone.clear()
        fit.under_way = _later(fit.under_way, run_id, clock)
        fit.given_up = _later(fit.given_up, run_id, clock)
        return True

    def give_up(self, fit_id: str, *, run_id: str, clock: int, why: str) -> None:
        """Note that a checkpoint will not be complete, since a rank could not save its part."""
        fit = self._fits.get(fit_id)
        if fit is not None and not self.is_complete(fit_id, run_id, clock):
            fit.given_up.setdefault((run_id, clock), why)
            fit.under_way.pop((run_id, clock), None)

    def why_given_up(self, fit_id: str, run_id: str, clock: int) -> str | None:
        """Why a checkpoint will not be complete; None: it may be."""
        fit = self._fits.get(fit_id)
        return None if fit is None else fit.given_up.get((run_id, clock))

    def is_complete(self, fit_id: str, run_id: str, clock: int) -> bool:
        """Whether a checkpoint, or a later one of its run, is complete."""
        newest = self._fits[fit_id].newest if fit_id in self._fits else None
        return newest is not None and newest["run_id"] == run_id and newest["clock"] >= clock

    def newest(self, fit_id: str) -> dict[str, Any] | None:
        """The last complete checkpoint of a fit."""
        fit = self._fits.get(fit_id)
        return None if fit is None else fit.newest

    def lose(self, address: str) -> None:
        """Note that a worker is gone, with all that it kept."""
        for fit in self._fits.values():
            fit.gone.add(address)

    def keeping(self, fit_id: str, workers: Collection[str]) -> set[str]:
        """Those of some workers that are still what they were at a fit's last checkpoint."""
        fit = self._fits.get(fit_id)
        return set(workers) - (set() if fit is None else fit.gone)

    def holders(self, fit_id: str) -> set[str]:
        """The workers that were given parts of a fit's last checkpoint."""
        newest = self.newest(fit_id)
        return set() if newest is None else {a for part in newest["parts"] for a in part["holders"]}

    def is_held(self, fit_id: str, workers: Collection[str]) -> bool:
        """Whether some workers, or files, have every part of a fit's last checkpoint."""
        newest, there = self.newest(fit_id), self.keeping(fit_id, workers)
        if newest is None:
            return True
        parts = map(SavedPart.from_dict, newest["parts"])
        return all(part.file is not None or there.intersection(part.holders) for part in parts)

    def forget(self, fit_id: str) -> bool:
        """Drop a fit; False where it was not known."""
        return self._fits.pop(fit_id, None) is not None

    def of_client(self, client: str) -> list[str]:
        """Fits of a client."""
        return [fit_id for fit_id, fit in self._fits.items() if fit.client == client]


def _later(found: Mapping[tuple[str, int], V], run_id: str, clock: int) -> dict[tuple[str, int], V]:
    return {(run, at): value for (run, at), value in found.items() if run == run_id and at > clock}
