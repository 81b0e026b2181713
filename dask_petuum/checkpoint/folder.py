"""Checkpoints as files, at any URL that fsspec knows.

::

    URL/checkpoint-000000000120-4f0c.../part-0000.npz
                                       /part-0001.npz
                                       /manifest.json

Parts are npz files (arrays only: they are read without pickle), each written whole under its name
before the manifest, which comes last and names each with its size, its digest and those of its
arrays. Local files are on the disk before it names them. So a crash at any byte leaves the
checkpoints before it as they were, and a folder without a manifest counts for nothing. The
manifest carries a digest of itself.

The newest is the one of the latest epoch, and of the highest clock among those: an epoch goes on
from what was the newest that is whole, so whatever an older one has at a higher clock was damaged,
or came too late. The two newest that are whole are kept; what is not whole pushes none of them out.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
from fsspec.implementations.local import LocalFileSystem

from dask_petuum.checkpoint.file_digest import Hashed, check_file
from dask_petuum.checkpoint.saved import (
    FILE_NAME,
    FOLDER_NAME,
    Manifest,
    SavedFile,
    SavedPart,
    check_arrays,
)
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.exceptions import CheckpointError

__all__ = ["CheckpointFolder"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

FORMAT = "dask_petuum checkpoint"
FORMAT_VERSION = 1
N_KEPT = 2
#: Tries to remove a folder into which others write meanwhile, and what the system says then.
N_REMOVALS = 100
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
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

    # The mutable state is `_whole`: checkpoints that were found whole, or written, by this; and
    # `_read`: files whose bytes were compared with their digest. Their arrays are each time.

    def __init__(self, url: str) -> None:
        self.url = url
        self._whole: set[str] = set()
        self._read: set[SavedFile] = set()
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def __repr__(self) -> str:
        return f"<CheckpointFolder {self.url}>"

    def write_part(self, key: PartKey, arrays: Mapping[str, Array]) -> SavedFile:
        """Write a rank's part."""
        folder = _name_of(key)
        name = f"{folder}/part-{key.rank:04d}.npz"
        self._fs.makedirs(f"{self._root}/{folder}", exist_ok=True)
        with self._fs.open(f"{self._root}/{name}", "wb") as file:
            hashed = Hashed(file)
            _write_npz(hashed, arrays)
            self._settle(file)
        self._settle_names(folder)
        return SavedFile(name, hashed.size, hashed.digest)

    def write_manifest(self, manifest: Manifest) -> None:
        """Make a checkpoint count, whose parts are all written; then remove what it replaces."""
        body = {"format": FORMAT, "version": FORMAT_VERSION, **manifest.to_dict()}
        text = json.dumps({**body, "digest": _digest_of(body)})
        folder = f"{self._root}/{_name_of(manifest)}"
        with self._fs.open(f"{folder}/{_MANIFEST}.new", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            self._settle(getattr(file, "buffer", file))
        self._fs.mv(f"{folder}/{_MANIFEST}.new", f"{folder}/{_MANIFEST}")
        self._settle_names(_name_of(manifest))
        if self._has_parts(manifest):
            self._whole.add(_name_of(manifest))
        self._remove_old(_name_of(manifest))

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
            with self._fs.open(self._inside(path), "r", encoding="utf-8") as file:
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
        manifest = Manifest.from_dict(body)
        named = {_name_of(manifest), *(_folder_of(part) for part in manifest.parts)}
        if named != {name}:
            raise CheckpointError(f"{self.url}/{path} is of {sorted(map(str, named - {name}))}")
        return manifest

    def usable(self, tell: Callable[[str], None]) -> Iterator[Manifest]:
        """Go through the checkpoints that are whole, the newest first; tell what is wrong.

        All arrays of each are read and compared with their digests.
        """
        for name in self.names():
            try:
                manifest = self._check(name)
            except CheckpointError as error:
                logger.warning("A checkpoint is left out: %s", error)
                tell(str(error))
            else:
                self._whole.add(name)
                yield manifest

    def fetch(self, part: SavedPart, names: Sequence[str]) -> dict[str, Array]:
        """Read arrays of a part.

        Raises
        ------
        CheckpointError
            Naming the file that is missing or damaged.
        """
        if part.file is None or not FILE_NAME.fullmatch(part.file.name):
            raise CheckpointError(f"{part.file!r} is no name of a file of a checkpoint")
        name = part.file.name
        path = self._inside(name)
        try:
            with self._fs.open(path, "rb") as file:
                if part.file not in self._read:
                    check_file(file, part.file)
                    self._read.add(part.file)
                archive = np.load(file, allow_pickle=False)
                arrays = {name: archive[_entry(name)] for name in names}
        except CheckpointError as error:
            raise CheckpointError(f"{self.url}/{name} {error}") from error
        except Exception as error:
            raise CheckpointError(f"{self.url}/{name} cannot be read: {error!r}") from error
        try:
            check_arrays(part, names, arrays)
        except CheckpointError as error:
            raise CheckpointError(f"in {self.url}/{name} {error}") from error
        return arrays

    def next_epoch(self) -> int:
        """The number of an epoch that begins now: behind all those that have left anything here."""
        return max((_order(name)[0] + 1 for name in self._folders()), default=0)

    def remove_parts(self) -> None:
        """Remove parts of checkpoints without a manifest: of whoever was here before is no more."""
        for name in set(self._folders()) - set(self.names()):
            self._remove(name)

    def discard(self, key: PartKey) -> None:
        """Remove a checkpoint that came when nobody needed it any more."""
        self._whole.discard(_name_of(key))
        self._remove(_name_of(key))

    def clear(self) -> None:
        """Remove all checkpoints: the fit is done."""
        for name in self._folders():
            self._remove(name)

    def _remove_old(self, written: str) -> None:
        """Remove what the checkpoint that was written replaces.

        These are parts of which no checkpoint will be made any more, and all that is older than
        `N_KEPT` checkpoints that are whole. What a later epoch has is not this one's to remove.
        """
        counted = self.names()
        kept = [name for name in counted if self._is_whole(name)][:N_KEPT]
        for name in self._folders():
            if name in kept or not _order(name) < _order(written):
                continue
            if name not in counted or len(kept) == N_KEPT:
                self._remove(name)

    def _has_parts(self, manifest: Manifest) -> bool:
        """Whether the parts are there: a later epoch has removed them where this comes too late."""
        folder = f"{self._root}/{_name_of(manifest)}"
        self._fs.invalidate_cache(folder)
        there = {path.rsplit("/", 1)[-1] for path in self._fs.ls(folder, False)}
        files = [part.file for part in manifest.parts]
        return all(f is not None and f.name.rsplit("/", 1)[-1] in there for f in files)

    def _is_whole(self, name: str) -> bool:
        """Whether a checkpoint is whole; each that another has written is read once."""
        if name not in self._whole:
            try:
                self._check(name)
            except CheckpointError as error:
                logger.warning("A checkpoint does not count: %s", error)
                return False
            self._whole.add(name)
        return True

    def _check(self, name: str) -> Manifest:
        """Read a checkpoint and compare it with its digests."""
        manifest = self.read_manifest(name)
        for part in manifest.parts:
            self.fetch(part, list(part.arrays))
        return manifest

    def _inside(self, name: str) -> str:
        """The path of a file in the folder of a checkpoint.

        Raises
        ------
        CheckpointError
            Where a link leads elsewhere: what is read here is what was written here.
        """
        path = f"{self._root}/{name}"
        if self._is_local and os.path.realpath(path) != os.path.join(
            os.path.realpath(self._root), *name.split("/")
        ):
            raise CheckpointError(f"{self.url}/{name} is a link to {os.path.realpath(path)}")
        return path

    def _settle(self, file: Any) -> None:
        """Get a file's bytes onto the disk, where there is one: before a manifest names them."""
        if self._is_local:
            file.flush()
            os.fsync(file.fileno())

    def _settle_names(self, name: str) -> None:
        """Get the names of a checkpoint's files onto the disk, and that of its folder."""
        if not self._is_local:
            return
        for path in (f"{self._root}/{name}", self._root):
            folder = os.open(path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint; others may remove it, or write into it, at the same time."""
        path = f"{self._root}/{name}"
        for _ in range(N_REMOVALS):
            try:
                self._fs.rm(path, recursive=True)
                return
            except FileNotFoundError:
                pass  # or a file of it is: the rest may be there
            except OSError as error:
                if error.errno not in _NOT_EMPTY:
                    raise
            if not self._fs.exists(path):
                return
        logger.warning("%s/%s is not removed: others write there", self.url, name)

    def _folders(self) -> list[str]:
        """Names of the checkpoints' folders, the newest first."""
        if not self._fs.exists(self._root):
            return []
        paths = (path.rstrip("/") for path in self._fs.ls(self._root, False))
        own = (path for path in paths if not (self._is_local and os.path.islink(path)))
        names = (path.rsplit("/", 1)[-1] for path in own)
        return sorted((n for n in names if FOLDER_NAME.fullmatch(n)), key=_order, reverse=True)


def _name_of(key: PartKey | Manifest) -> str:
    """Name of a checkpoint's folder."""
    return f"checkpoint-{key.clock:012d}-{key.run_id}"


def _folder_of(part: SavedPart) -> str | None:
    """Name of the folder that a part says that it is in."""
    return None if part.file is None else part.file.name.partition("/")[0]


def _order(name: str) -> tuple[int, int]:
    """Epoch and clock of a folder's checkpoint: a run's name ends with its epoch, ``FIT.EPOCH``."""
    found = FOLDER_NAME.fullmatch(name)
    assert found is not None
    return int(found["epoch"] or 0), int(found["clock"])


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
