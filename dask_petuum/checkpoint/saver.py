"""A rank's way of saving: its states and its shard's copy become a part, in a thread of its own.

The rank's thread copies its states at the cut and computes on; the shard's copy comes from the
owner, when every rank has come to the cut. What is then done with the part (a copy to another
worker, a file) is a :class:`Keeper`'s. One part is under way at a time; an error is logged and
told, so that no rank waits for this checkpoint, and the next one is tried: a fit does not end
because a disk is full.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dask_petuum.checkpoint.saved import SavedPart, cut_arrays, describe
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.exceptions import RunInterruptedError
from dask_petuum.store.owner import Cut

__all__ = ["Keeper", "Saver"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)


class Keeper(Protocol):
    """Where parts of checkpoints go."""

    def keep(self, key: PartKey, part: SavedPart, arrays: Mapping[str, Array]) -> SavedPart:
        """Copy a part to where it is kept; return it with its holders and its file."""

    def report(self, key: PartKey, part: SavedPart) -> None:
        """Tell that a part is kept; returns when all others are, or raises that one is not."""

    def give_up(self, key: PartKey, why: str) -> None:
        """Tell that there is no such part: nobody is to wait for this checkpoint."""

    def is_done(self, key: PartKey) -> bool:
        """Whether the fit has ended well, so that its files are removed or soon will be."""

    def discard(self, key: PartKey) -> None:
        """Remove the files of a checkpoint that nobody needs, as far as they are there."""


class Saver:
    """Saves one rank's parts.

    Parameters
    ----------
    fit_id, run_id, rank
        Whose.
    keeper
        Where to.
    """

    # The mutable state is `_states`, `_cuts` and `_n_under_way`, under the lock.

    def __init__(self, fit_id: str, run_id: str, rank: int, keeper: Keeper) -> None:
        self._key = (fit_id, run_id, rank)
        self._keeper = keeper
        self._lock = threading.Lock()
        self._states: dict[int, dict[str, Array]] = {}
        self._cuts: dict[int, dict[str, Array]] = {}
        self._n_under_way = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="petuum-saver")
        self._closed = self._is_given_up = False
        #: Whether the last part could not be saved.
        self.has_failed = False

    def __repr__(self) -> str:
        return f"<Saver of rank {self._key[2]}, {self._n_under_way} under way>"

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being saved."""
        with self._lock:
            return self._n_under_way == 0

    def put_states(self, clock: int, arrays: Mapping[str, Array]) -> None:
        """Take the rank's states at a cut; they are copied here."""
        copies = {name: np.array(values, order="C") for name, values in arrays.items()}
        with self._lock:
            self._n_under_way += 1
            self._states[clock] = copies
        self._save_if_complete(clock)

    def put_cut(self, cut: Cut) -> None:
        """Take the copy of the rank's shard."""
        with self._lock:
            self._cuts[cut.clock] = cut_arrays(cut)
        self._save_if_complete(cut.clock)

    def close(self) -> None:
        """Save no more: the run is over, and nobody needs what is being saved."""
        self._closed = self._is_given_up = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def wait(self) -> None:
        """Wait until everything is saved, and save no more."""
        self._closed = True
        self._thread.shutdown(wait=True)

    def _save_if_complete(self, clock: int) -> None:
        with self._lock:
            if self._closed or clock not in self._states or clock not in self._cuts:
                return
            arrays = {**self._states.pop(clock), **self._cuts.pop(clock)}
            self._thread.submit(self._save, clock, arrays)

    def _save(self, clock: int, arrays: Mapping[str, Array]) -> None:
        fit_id, run_id, rank = self._key
        key = PartKey(fit_id, run_id, clock, rank)
        is_reported = False
        try:
            looks = {name: describe(values) for name, values in arrays.items()}
            part = self._keeper.keep(key, SavedPart(rank, looks), arrays)
            if self._is_given_up:
                raise RunInterruptedError(f"run {run_id} is over")
            is_reported = True
            self._keeper.report(key, part)
            self.has_failed = False
        except Exception as error:  # noqa: BLE001 - whatever a file system raises; see above
            self.has_failed = True
            # the scheduler may know that the run is over before this worker does
            is_over = self._is_given_up or isinstance(error, RunInterruptedError)
            level = logging.INFO if is_over else logging.WARNING
            text = "Checkpoint at clock %d: rank %d could not save: %r"
            logger.log(level, text, clock, rank, error)
            if not is_over:
                self._give_up(key, repr(error))
        finally:
            self._clean(key, is_reported)
            with self._lock:
                self._n_under_way -= 1

    def _clean(self, key: PartKey, is_reported: bool) -> None:
        """Leave nothing of a checkpoint that came too late: whoever removed the fit's files, or
        went on from others, could not know of it. Without this part none is complete.
        """
        try:
            if self._keeper.is_done(key) or (self._is_given_up and not is_reported):
                self._keeper.discard(key)
        except Exception as error:  # noqa: BLE001 - as above; the next fit there removes them
            logger.warning("The files of %s stay: %r", key, error)

    def _give_up(self, key: PartKey, why: str) -> None:
        try:
            self._keeper.give_up(key, why)
        except Exception as error:  # noqa: BLE001 - who cannot be told is gone, or the run over
            logger.info("Nobody could be told that %s is not saved: %r", key, error)
