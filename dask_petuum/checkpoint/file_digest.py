"""The size and the hash of a file: found while it is written, compared before it is read."""

from __future__ import annotations

import hashlib
from typing import Any

from dask_petuum.checkpoint.saved import DIGEST_BYTES, SavedFile
from dask_petuum.exceptions import CheckpointError

__all__ = ["Hashed", "check_file"]

#: Bytes that are read at a time.
CHUNK = 1 << 20


class Hashed:
    """A file that is written from its start to its end; it has no way back, so zipfile uses none.

    Parameters
    ----------
    file
        What is written to.
    """

    # The mutable state is the hash and `size`, in step with the file.

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        #: Bytes written.
        self.size = 0

    def __repr__(self) -> str:
        return f"<Hashed {self._file!r}, {self.size} bytes>"

    @property
    def digest(self) -> str:
        """Hash of what was written."""
        return self._hash.hexdigest()

    def write(self, data: Any) -> int:
        """Write bytes."""
        n_bytes = memoryview(data).nbytes
        self._hash.update(data)
        self._file.write(data)
        self.size += n_bytes
        return n_bytes

    def flush(self) -> None:
        """Hand on what the file holds back."""
        self._file.flush()


def check_file(file: Any, expected: SavedFile) -> None:
    """Read a file, which must be what was written; it is at its start again then.

    Raises
    ------
    CheckpointError
        Where it is longer or shorter, or other bytes.
    """
    found, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    while size <= expected.size:
        chunk = file.read(CHUNK)
        if not chunk:
            break
        found.update(chunk)
        size += len(chunk)
    if size != expected.size:
        told = f"at least {size}" if size > expected.size else size
        raise CheckpointError(f"is damaged: it has {told} bytes, {expected.size} were written")
    if found.hexdigest() != expected.digest:
        raise CheckpointError("is damaged: its digest does not fit the manifest")
    file.seek(0)
