"""What the scheduler knows of workers: who is armed, who comes back, who is gone. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

__all__ = ["Roster"]

#: For how long it is remembered that a nanny starts another worker, seconds.
MEMORY_SECONDS = 3600.0
#: Addresses of lost workers that are remembered, for those that come back.
N_LOST = 1000


class Roster:
    """The workers of a cluster."""

    # The mutable state is all of it; only the scheduler's event loop changes it.

    def __init__(self) -> None:
        #: Versions of the workers that have the plugin, by address.
        self.versions: dict[str, str] = {}
        self._nannies: set[str] = set()
        self._returning: dict[str, float] = {}
        self._lost: deque[str] = deque(maxlen=N_LOST)

    def __repr__(self) -> str:
        return f"<Roster of {len(self.versions)} workers, {len(self._returning)} come back>"

    def add(self, address: str, version: str, nanny: bool) -> bool:
        """Note a worker that has the plugin; True where one was lost at its address."""
        self.versions[address] = version
        if nanny:
            self._nannies.add(address)
        if self._returning:
            self._returning.pop(next(iter(self._returning)))
        if address not in self._lost:
            return False
        self._lost.remove(address)
        return True

    def remove(self, address: str, now: float, retires: bool) -> None:
        """Note that a worker is gone: another comes if it had a nanny and did not retire."""
        self.versions.pop(address, None)
        self._lost.append(address)
        if address in self._nannies:
            self._nannies.discard(address)
            if not retires:
                self._returning[address] = now

    def expect_no_other(self, address: str) -> None:
        """Note that nobody starts another worker when this one is gone."""
        self._nannies.discard(address)

    def there(self, workers: Collection[str]) -> list[str]:
        """Those of a scheduler's workers that have the plugin: others know none of its messages."""
        return [address for address in self.versions if address in workers]

    def returning(self, now: float) -> list[float]:
        """For how long workers that are expected back have been gone, seconds."""
        self._returning = {a: t for a, t in self._returning.items() if now - t < MEMORY_SECONDS}
        return [now - since for since in self._returning.values()]
