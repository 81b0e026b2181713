"""Checkpoints of a run in this process: files at a URL, written in a thread of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest, Saved, SavedPart
from dask_petuum.checkpoint.saver import Saver
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.runtime.checkpoints import Checkpoints
from dask_petuum.runtime.context import Array

__all__ = ["LocalKeeping", "open_keeping"]


@contextmanager
def open_keeping(checkpoints: Checkpoints) -> Iterator[LocalKeeping | None]:
    """Keep a run's checkpoints while the ``with`` block lasts; gives None where there are none."""
    if checkpoints.folder is None:
        yield None
        return
    manifest = checkpoints.to_resume()
    run_id = f"{uuid.uuid4().hex[:16]}.{checkpoints.begin()}"
    saved = None if manifest is None else Saved(manifest, checkpoints.folder.fetch)
    keeping = LocalKeeping(checkpoints.folder, run_id, checkpoints.identity, saved)
    try:
        yield keeping
    finally:
        keeping.saver.wait()


class LocalKeeping:
    """The checkpoints of one run: the only rank's part and the manifest.

    Parameters
    ----------
    folder
        Where they are files.
    run_id
        Of the run, ``FIT.EPOCH``.
    identity
        What a fit must agree with to go on from one of them.
    saved
        The checkpoint that the run goes on from.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        run_id: str,
        identity: Mapping[str, Any],
        saved: Saved | None = None,
    ) -> None:
        self.saved = saved
        self._folder = folder
        self._identity = identity
        self.saver = Saver(run_id.partition(".")[0], run_id, 0, self)

    def keep(self, key: PartKey, part: SavedPart, arrays: Mapping[str, Array]) -> SavedPart:
        """Write the part."""
        return replace(part, file=self._folder.write_part(key, arrays))

    def report(self, key: PartKey, part: SavedPart) -> None:
        """Write the manifest: there are no other parts."""
        self._folder.write_manifest(
            Manifest(key.fit_id, key.run_id, key.clock, self._identity, (part,))
        )

    def give_up(self, key: PartKey, why: str) -> None:
        """Tell nobody: there is no other rank."""

    def is_done(self, key: PartKey) -> bool:
        """False: whoever ends the run waits until everything is saved."""
        return False

    def discard(self, key: PartKey) -> None:
        """Remove a checkpoint's files."""
        self._folder.discard(key)
