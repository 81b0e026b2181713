"""A worker's part in checkpoints: what it keeps, gives, takes and writes.

Beside the vault (memory), this is where parts travel: to the next rank's worker, to a file, and
back to whoever goes on from a checkpoint. Called from ranks' threads; only `take` and `give` are
handlers on the event loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest, Saved, SavedPart, check_arrays
from dask_petuum.checkpoint.saver import Keeper
from dask_petuum.checkpoint.vault import N_FORGOTTEN, PIECE_BYTES, PartKey, Vault
from dask_petuum.exceptions import (
    CheckpointError,
    DamagedPartError,
    RunInterruptedError,
    TransportError,
)
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.spec import Keeping, RunSpec
from dask_petuum.store.messages import field_of, number_of
from dask_petuum.transport.dask_comms import Node
from dask_petuum.transport.wire import pack

__all__ = ["KeptParts"]

logger = logging.getLogger(__name__)

#: Tries of one message, where connections break.
TRIES = 4

Ask = Callable[..., Mapping[str, Any]]
Wait = Callable[[Coroutine[Any, Any, Any]], Any]


class KeptParts:
    """What a worker keeps of checkpoints, and its ways to the others.

    Parameters
    ----------
    address
        Of this worker.
    node
        To the other workers.
    wait
        Runs a coroutine on the event loop and waits for it, from another thread.
    ask
        Calls the scheduler's handler and waits, from another thread.
    """

    def __init__(self, address: str, node: Node, wait: Wait, ask: Ask) -> None:
        self.address = address
        self.vault = Vault()
        #: Fits that have ended well: their files are gone, and none is to come after that.
        self.done: deque[str] = deque(maxlen=N_FORGOTTEN)
        self._node = node
        self._wait = wait
        self._ask = ask

    def __repr__(self) -> str:
        return f"<KeptParts at {self.address}: {self.vault!r}>"

    def keeper(self, spec: RunSpec, rank: int, node: Node) -> Keeper:
        """Make a rank's keeper, whose calls end with the run's node."""
        assert spec.keeping is not None
        return _Keeper(self, spec.keeping, rank, node)

    def open(self, spec: RunSpec) -> Saved:
        """Open the checkpoint that a run goes on from."""
        manifest = spec.saved
        assert manifest is not None
        keeping = spec.keeping
        url = None if keeping is None else keeping.url
        folder = None if url is None else CheckpointFolder(url)

        def fetch(part: SavedPart, names: Sequence[str]) -> Mapping[str, Array]:
            return self._fetch(manifest, part, names, folder)

        return Saved(manifest, fetch)

    def take(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a piece of another rank's part (handler)."""
        self.vault.add_piece(message)
        return {"status": "OK"}

    def give(self, message: Mapping[str, Any]) -> Any:
        """Give a piece of an array that is kept here (handler)."""
        key, name = PartKey.of(message), field_of(message, "name", str)
        try:
            flat = _bytes_of(self.vault.get(key, name))
        except CheckpointError as error:
            return {"status": "gone", "text": str(error)}
        offset = number_of(message, "offset", 0, flat.size)
        piece = flat[offset : offset + PIECE_BYTES]
        return pack({"status": "OK", "piece": piece}, self._node.wrap)

    def copy_to(self, address: str, key: PartKey, arrays: Mapping[str, Array], node: Node) -> None:
        """Send a part to another worker, which keeps it."""
        for name, array in arrays.items():
            flat = _bytes_of(array)
            head = {**_fields(key), "name": name, "shape": array.shape, "dtype": array.dtype.str}
            for offset in range(0, max(flat.size, 1), PIECE_BYTES):
                piece = flat[offset : offset + PIECE_BYTES]
                message = pack({**head, "offset": offset, "piece": piece}, self._node.wrap)
                self._call(address, "petuum_keep", message, node)

    def forget(self, fit_ids: Collection[str], done: bool = False) -> None:
        """Drop all of some fits; where they have ended well, files that come late, too."""
        if done:
            self.done.extend(fit_ids)
        self.vault.forget(fit_ids)

    def report(self, key: PartKey, part: SavedPart) -> dict[str, Any]:
        """Tell the scheduler of a part; returns when the checkpoint is complete, or will not be."""
        return dict(
            self._ask(
                "petuum_saved",
                fit_id=key.fit_id,
                run_id=key.run_id,
                clock=key.clock,
                part=asdict(part),
            )
        )

    def give_up(self, key: PartKey, why: str) -> None:
        """Tell the scheduler that a part cannot be kept."""
        self._ask(
            "petuum_not_saved",
            fit_id=key.fit_id,
            run_id=key.run_id,
            clock=key.clock,
            rank=key.rank,
            why=why,
        )

    def _fetch(
        self,
        manifest: Manifest,
        part: SavedPart,
        names: Sequence[str],
        folder: CheckpointFolder | None,
    ) -> Mapping[str, Array]:
        """Get arrays of a part from whoever is nearest: here, another worker, the file.

        A copy that is damaged is passed over.

        Raises
        ------
        TransportError
            Where some that kept it do not answer, and the others do not give them as they were:
            that is the loss of a peer, and no error of the program.
        DamagedPartError
            Where all have answered, and no copy is whole: another try would find the same.
        """
        key = PartKey(manifest.fit_id, manifest.run_id, manifest.clock, part.rank)
        errors, all_answer = [], True
        for address in sorted(part.holders, key=lambda address: address != self.address):
            try:
                arrays = self._fetch_copy(address, key, part, names)
                check_arrays(part, names, arrays)
                return arrays
            except (CheckpointError, TransportError) as error:
                logger.warning("The copy of %s at %s is passed over: %s", key, address, error)
                errors.append(f"{address}: {error}")
                all_answer &= isinstance(error, CheckpointError)
        if folder is not None and part.file is not None:
            try:
                return folder.fetch(part, names)
            except CheckpointError as error:
                errors.append(str(error))
        why = "; ".join(errors) or "whoever kept it is gone"
        text = f"nobody gives {names[0]!r} of rank {part.rank} at clock {key.clock}: {why}"
        if errors and all_answer:
            raise DamagedPartError(text)
        raise TransportError(text, final=True)

    def _fetch_copy(
        self, address: str, key: PartKey, part: SavedPart, names: Sequence[str]
    ) -> Mapping[str, Array]:
        """Get arrays of a part from a worker that keeps it; from this one, copies."""
        if address == self.address:
            return {name: self.vault.get(key, name).copy() for name in names}
        return {name: self._fetch_array(address, key, name, part.arrays[name]) for name in names}

    def _fetch_array(self, address: str, key: PartKey, name: str, look: Any) -> Array:
        array = np.empty(look.shape, look.dtype)
        flat = _bytes_of(array)
        for offset in range(0, max(flat.size, 1), PIECE_BYTES):
            message = {**_fields(key), "name": name, "offset": offset}
            piece = self._call(address, "petuum_kept", message, self._node)["piece"]
            if piece.size != min(PIECE_BYTES, flat.size - offset):
                raise CheckpointError(f"{name!r} of {key} at {address} has another size")
            flat[offset : offset + piece.size] = piece
        return array

    def _call(self, address: str, operation: str, message: Any, node: Node) -> Mapping[str, Any]:
        """Call another worker; again where a connection breaks: pieces may come twice."""
        for left in reversed(range(TRIES)):
            try:
                reply: Mapping[str, Any] = self._wait(node.call(address, operation, message))
                break
            except TransportError as error:
                if error.final or not left:
                    raise
                logger.info("%s is sent again: %s", operation, error)
        if reply["status"] != "OK":
            raise CheckpointError(f"{address} answered {reply['status']!r}: {reply.get('text')}")
        return reply


class _Keeper:
    """Keeps one rank's parts: here, at another worker, and in a file where there is a URL."""

    def __init__(self, kept: KeptParts, keeping: Keeping, rank: int, node: Node) -> None:
        self._kept = kept
        self._node = node
        self._keeping = keeping
        self._buddy = keeping.buddies[rank] if keeping.buddies else ""
        self._folder = None if keeping.url is None else CheckpointFolder(keeping.url)

    def keep(self, key: PartKey, part: SavedPart, arrays: Mapping[str, Array]) -> SavedPart:
        """Copy and write."""
        self._kept.vault.put(key, arrays)
        holders = [self._kept.address]
        if self._buddy and self._copied(key, arrays):
            holders.append(self._buddy)
        file = None if self._folder is None else self._folder.write_part(key, arrays)
        return replace(part, holders=tuple(holders), file=file)

    def _copied(self, key: PartKey, arrays: Mapping[str, Array]) -> bool:
        """Copy a part. The buddy of a single rank has none of its own, and may leave at any time:
        the run goes on then, and what it keeps has no copy.
        """
        try:
            self._kept.copy_to(self._buddy, key, arrays, self._node)
        except (CheckpointError, TransportError) as error:
            if len(self._keeping.buddies) > 1:
                raise
            logger.warning("Checkpoint at clock %d has no copy: %s", key.clock, error)
            return False
        return True

    def report(self, key: PartKey, part: SavedPart) -> None:
        """Tell the scheduler; rank 0 then writes the manifest, when all parts are there."""
        reply = self._kept.report(key, part)
        if reply["status"] != "OK":
            raise RunInterruptedError(reply["text"])
        if self._folder is not None and part.rank == 0:
            body = {**reply["checkpoint"], "identity": dict(self._keeping.identity)}
            self._folder.write_manifest(Manifest.from_dict(body))

    def give_up(self, key: PartKey, why: str) -> None:
        """Let nobody wait for this checkpoint."""
        self._kept.give_up(key, why)

    def is_done(self, key: PartKey) -> bool:
        """Whether the fit has ended well."""
        return key.fit_id in self._kept.done

    def discard(self, key: PartKey) -> None:
        """Remove a checkpoint's files."""
        if self._folder is not None:
            self._folder.discard(key)


def _fields(key: PartKey) -> dict[str, Any]:
    return {"fit": key.fit_id, "run": key.run_id, "clock": key.clock, "rank": key.rank}


def _bytes_of(array: Array) -> Array:
    flat: Array = array.reshape(-1).view(np.uint8)
    return flat
