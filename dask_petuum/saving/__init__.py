"""Models in files: arrays and JSON, each with its size and hash; nothing that could run.

Two forms, and the path says which: one zip file (:mod:`.archive`), or, where it ends in ``.zarr``,
a folder of chunked arrays (:mod:`.folder`) for models that are large. Either may lie at any URL
that fsspec knows. Reading makes numbers, text, lists and arrays of these, never an object of a
class that a file names; see ``docs/decisions/0014`` and ``0022``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from dask_petuum.saving.archive import read_archive, write_archive
from dask_petuum.saving.content import FORMAT, Arrays, Refused, pack, refuse, unpack
from dask_petuum.saving.folder import read_folder, write_folder

__all__ = ["FORMAT", "read_model", "write_model"]

FOLDER_SUFFIX = ".zarr"

Place = str | PathLike[str]


def write_model(path: Place, kind: str, about: Mapping[str, Any]) -> None:
    """Write a model, replacing what is there at once or not at all.

    Parameters
    ----------
    path
        File to write, or a URL of one; a folder where it ends in ``.zarr``.
    kind
        Name of the estimator's class.
    about
        Names to values: numbers, text, None, arrays, and lists, tuples and dicts of these.

    Raises
    ------
    TypeError
        For a value that is none of these; nothing has been written.
    FileExistsError
        Where a folder is there that is no saved model.
    ImportError
        For a folder where zarr is not installed.
    """
    from dask_petuum import __version__

    arrays: Arrays = {}
    content = {name: pack(value, name, arrays) for name, value in about.items()}
    head = {"format": FORMAT, "class": kind, "version": __version__, "content": content}
    fs, root = _locate(path)
    write = write_folder if _is_folder(root) else write_archive
    write(fs, root, head, arrays)


def read_model(path: Place, kind: str) -> dict[str, Any]:
    """Read what `write_model` wrote for a class of this name.

    Raises
    ------
    ValueError
        For a file that is none of ours, of another class, of a newer version, cut off or changed;
        with its name and what is wrong.
    OSError
        Where it cannot be opened.
    ImportError
        For a folder where zarr is not installed.
    """
    fs, root = _locate(path)
    read = read_folder if _is_folder(root) else read_archive
    try:
        content, arrays = read(fs, root, kind)
        try:
            return {name: unpack(value, arrays) for name, value in content.items()}
        except Exception as error:  # noqa: BLE001 - what a stranger wrote raises anything
            refuse(f"its content is no model's, or a damaged one's ({error!r})", error)
    except Refused as error:
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error.__cause__


def _locate(path: Place) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it."""
    place = os.fspath(path)
    if "://" not in place and "::" not in place:
        return LocalFileSystem(), os.path.abspath(place)
    fs, root = url_to_fs(place)
    return fs, str(root).rstrip("/")


def _is_folder(root: str) -> bool:
    return root.endswith(FOLDER_SUFFIX)
