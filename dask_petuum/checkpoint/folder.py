"""Checkpoints as files, at any URL that fsspec knows.

::

    URL/checkpoint-000000000120-4f0c.../part-0000.npz
                                       /part-0001.npz
                                       /manifest.json

Parts are npz files (arrays only: they are read without pickle), each written whole under its name
before the manifest, which comes last and names each with its arrays' digests. So a crash at any
byte leaves the checkpoints before it as they were, and a folder without a manifest counts for
nothing. The manifest carries a digest of itself. The two newest are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from dask_petuum.checkpoint.saved import Manifest, SavedPart, describe
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.exceptions import CheckpointError

__all__ = ["CheckpointFolder"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

FORMAT = "dask_petuum checkpoint"
FORMAT_VERSION = 1
N_KEPT = 2
_PREFIX = "checkpoint-"
_MANIFEST = "manifest.json"


class CheckpointFolder:
    """The checkpoints of one fit at a URL.

    Parameters
    ----------
    url
        A folder, local or remote; made where it is missing.

    Raises
    ------
    ValueError
        Where fsspec cannot make sense of the URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.core.url_to_fs(url)

    def __repr__(self) -> str:
        return f"<CheckpointFolder {self.url}>"

    def write_part(self, key: PartKey, arrays: Mapping[str, Array]) -> str:
        """Write a rank's part; return its name below the folder."""
        folder = f"{_PREFIX}{key.clock:012d}-{key.run_id}"
        name = f"{folder}/part-{key.rank:04d}.npz"
        self._fs.makedirs(f"{self._root}/{folder}", exist_ok=True)
        with self._fs.open(f"{self._root}/{name}", "wb") as file:
            _write_npz(file, arrays)
        return name

    def write_manifest(self, manifest: Manifest) -> None:
        """Make a checkpoint count, whose parts are all written; then remove those before it."""
        body = {"format": FORMAT, "version": FORMAT_VERSION, **manifest.to_dict()}
        text = json.dumps({**body, "digest": _digest_of(body)})
        folder = f"{self._root}/{_PREFIX}{manifest.clock:012d}-{manifest.run_id}"
        with self._fs.open(f"{folder}/{_MANIFEST}.new", "w", encoding="utf-8") as file:
            file.write(text)
        self._fs.mv(f"{folder}/{_MANIFEST}.new", f"{folder}/{_MANIFEST}")
        for name in self._folders()[N_KEPT:]:
            self._fs.rm(f"{self._root}/{name}", recursive=True)

    def names(self) -> list[str]:
        """Folders with a manifest, the newest first."""
        return [n for n in self._folders() if self._fs.exists(f"{self._root}/{n}/{_MANIFEST}")]

    def read_manifest(self, name: str) -> Manifest:
        """Read a checkpoint's manifest.

        Raises
        ------
        CheckpointError
            Naming the file and what is wrong with it.
        """
        path = f"{name}/{_MANIFEST}"
        try:
            with self._fs.open(f"{self._root}/{path}", "r", encoding="utf-8") as file:
                body = json.loads(file.read())
            found, own = body.get("format"), body.pop("digest", None)
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self.url}/{path} cannot be read: {error!r}") from error
        if found != FORMAT:
            raise CheckpointError(f"{self.url}/{path} is no manifest of a checkpoint")
        if body.get("version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{self.url}/{path} has version {body.get('version')!r}, this dask_petuum reads "
                f"{FORMAT_VERSION}"
            )
        if own != _digest_of(body):
            raise CheckpointError(f"{self.url}/{path} is damaged: its digest does not fit")
        return Manifest.from_dict(body)

    def usable(self, tell: Callable[[str], None]) -> Iterator[Manifest]:
        """Go through the checkpoints that are whole, the newest first; tell what is wrong.

        All arrays of each are read and compared with their digests.
        """
        for name in self.names():
            try:
                manifest = self.read_manifest(name)
                for part in manifest.parts:
                    self._check(part)
            except CheckpointError as error:
                logger.warning("A checkpoint is left out: %s", error)
                tell(str(error))
            else:
                yield manifest

    def fetch(self, part: SavedPart, names: Sequence[str]) -> dict[str, Array]:
        """Read arrays of a part.

        Raises
        ------
        CheckpointError
            Naming the file that is missing or damaged.
        """
        try:
            with self._fs.open(f"{self._root}/{part.file}", "rb") as file:
                archive = np.load(file, allow_pickle=False)
                return {name: archive[_entry(name)] for name in names}
        except Exception as error:
            raise CheckpointError(f"{self.url}/{part.file} cannot be read: {error!r}") from error

    def clear(self) -> None:
        """Remove all checkpoints: the fit is done."""
        for name in self._folders():
            self._fs.rm(f"{self._root}/{name}", recursive=True)

    def _check(self, part: SavedPart) -> None:
        for name, array in self.fetch(part, list(part.arrays)).items():
            if describe(array) != part.arrays[name]:
                raise CheckpointError(f"{name!r} in {self.url}/{part.file} is damaged")

    def _folders(self) -> list[str]:
        """Names of the checkpoints' folders, the newest first."""
        if not self._fs.exists(self._root):
            return []
        found = (path.rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._root, False))
        return sorted((name for name in found if name.startswith(_PREFIX)), reverse=True)


def _write_npz(file: Any, arrays: Mapping[str, Array]) -> None:
    """Write arrays under names that a zip file takes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{_entry(name)}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(values), allow_pickle=False)


def _entry(name: str) -> str:
    return name.replace("/", ":", 2)


def _digest_of(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
