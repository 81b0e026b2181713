"""Workers that have a rank and do not answer: given up when their lease is over.

A rank that is lost to a stopped process or a dead machine holds up all others, and Dask waits five
minutes. Heartbeats come from a worker's event loop, about twice a second, also while its kernels
compute; so their absence says that the process is stopped, gone, or starved.

Only time in which the scheduler itself was awake counts: after a laptop has slept, or a virtual
machine was paused, all workers look silent, and none is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from dask_petuum.runtime import adapter, config

__all__ = ["Leases", "Silence"]

logger = logging.getLogger(__name__)


class Leases:
    """Gives up the workers that are silent for longer than ``petuum.recovery.lease``.

    Parameters
    ----------
    scheduler
        On whose event loop `look` is called.
    pause
        As of `Silence`.
    on_silence
        As of `adapter.give_up_worker`.
    """

    # The mutable state is the silence, which workers are being given up, which ones are looked at
    # though their run is over, and which ones somebody needs until the next look.

    def __init__(self, scheduler: Any, pause: float, on_silence: Callable[[str], None]) -> None:
        self._scheduler = scheduler
        self._silence = Silence(pause)
        self._on_silence = on_silence
        self._given_up: set[str] = set()
        self._suspects: set[str] = set()
        self._needed: set[str] = set()

    def __repr__(self) -> str:
        return f"<Leases: {self._silence}, given up {sorted(self._given_up)}>"

    def look(self, addresses: Iterable[str], needed: Collection[str], now: float) -> None:
        """Look at some workers, seconds since the epoch; give up none but those that are needed."""
        heard = {address: adapter.last_seen(self._scheduler, address) for address in addresses}
        seen = {address: last for address, last in heard.items() if last is not None}
        found = self._silence.look(seen, now)
        self._suspects = {address for address in self._suspects if found.get(address, 0.0) > 0.0}
        looked_at = {*needed, *self._suspects, *self._needed} - self._given_up
        self._needed.clear()
        for address, silent in found.items():
            if address in looked_at and silent > config.lease_seconds():
                logger.warning("Worker %s was silent for %.1f s: it is given up", address, silent)
                self._given_up.add(address)
                adapter.soon(self._scheduler, self._give_up, address)

    @property
    def suspects(self) -> list[str]:
        """Workers of which it is not known whether they live."""
        return sorted(self._suspects)

    def suspect(self, addresses: Iterable[str]) -> None:
        """Keep looking at the workers of a run that has lost touch, until each is heard of.

        Its ranks may notice a silent peer before its lease is over, and while its nanny is asked;
        the next epoch should not begin with it.
        """
        self._suspects.update(addresses)

    def need(self, addresses: Iterable[str]) -> None:
        """Look at workers that somebody waits for outside of a run, at the next look."""
        self._needed.update(addresses)

    async def _give_up(self, address: str) -> None:
        try:
            await adapter.give_up_worker(self._scheduler, address, "petuum-lease", self._on_silence)
        finally:
            self._given_up.discard(address)


class Silence:
    """For how long workers have been silent while somebody listened; pure.

    Parameters
    ----------
    pause
        Longest time between two looks that counts as listening, seconds.
    """

    # The mutable state is when the last look was, and each worker's last sign of life and silence.

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._looked: float | None = None
        self._seen: dict[str, float] = {}
        self._silent: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Silence of {self._silent}>"

    def look(self, seen: Mapping[str, float], now: float) -> dict[str, float]:
        """Take in when each worker was last heard of.

        Parameters
        ----------
        seen
            By worker's address, seconds since any epoch.
        now
            Seconds since the same epoch.

        Returns
        -------
        By address, the seconds of silence.
        """
        listened = 0.0 if self._looked is None else min(now - self._looked, self._pause)
        self._looked = now
        self._silent = {
            address: self._silent.get(address, 0.0) + listened
            if self._seen.get(address) == last
            else 0.0
            for address, last in seen.items()
        }
        self._seen = dict(seen)
        return dict(self._silent)
