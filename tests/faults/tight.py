"""A file system whose room a test decides on, in all processes: ``tight:///folder``.

What the file ``room`` in a folder above says holds for what is written below: ``free``, ``full``
(no byte more), ``little`` (some bytes, then no more), ``read-only``. A worker knows it where it is
started with this module as a preload.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

__all__ = ["dask_setup", "failures", "register"]

SCHEME = "tight://"
#: Bytes that are written where there is little room.
LITTLE = 300
LOGGER = "dask_petuum.checkpoint.saver"


def register() -> None:
    """Let this process know it."""
    fsspec.register_implementation("tight", TightFileSystem, clobber=True)


def dask_setup(worker: Any) -> None:
    """Let a worker know it, and remember what is said of checkpoints that could not be saved."""
    register()
    worker.petuum_test_failures = _Failures()
    logging.getLogger(LOGGER).addHandler(worker.petuum_test_failures)


def failures(dask_worker: Any) -> list[tuple[int, int, str]]:
    """Clock, rank and error of each checkpoint that this worker warned of."""
    return list(dask_worker.petuum_test_failures.found)


class _Failures(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[int, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        clock, rank, error = record.args  # type: ignore[misc]
        self.found.append((int(clock), int(rank), repr(error)))  # type: ignore[call-overload]


def _room_of(path: str) -> str:
    found = (parent / "room" for parent in Path(path).parents)
    return next(room.read_text() for room in found if room.exists())


class TightFileSystem(LocalFileSystem):
    """The local one, where there is room."""

    protocol = "tight"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(os.fspath(path).removeprefix(SCHEME))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        if _room_of(f"{path}/x") == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        super().makedirs(path, exist_ok=exist_ok)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        return _TightFile(file, path) if "w" in mode else file


class _TightFile:
    """A file that is written as far as there is room."""

    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._path = path
        self._n_written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        room = _room_of(self._path)
        self._n_written += memoryview(data).nbytes
        if room == "full" or (room == "little" and self._n_written > LITTLE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        n: int = self._file.write(data)
        return n
