"""A model as one zip file, which numpy opens too.

A member ``NAME.npy`` for every array, and ``manifest.json``, which says what wrote it and holds
everything that is no array, and the size and SHA-256 of each array's file. The manifest's own hash
is the archive's comment. The file is written under another name and then renamed: a crash leaves
the old one whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from dask_petuum.saving.content import (
    LARGEST_MANIFEST,
    MANIFEST,
    Arrays,
    Refused,
    check_head,
    refuse,
)

__all__ = ["read_archive", "write_archive"]


def write_archive(fs: Any, root: str, head: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a file that replaces an older one at once or not at all.

    Parameters
    ----------
    fs, root
        File system of fsspec's, and the path in it.
    head
        The manifest, but for the arrays.
    arrays
        Each with its name.
    """
    files = {name: _file_of(array) for name, array in arrays.items()}
    about = {
        name: {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "shape": list(arrays[name].shape),
            "dtype": arrays[name].dtype.str,
        }
        for name, data in files.items()
    }
    text = json.dumps({**head, "arrays": about}, indent=1).encode()
    folder, _, name = root.rpartition("/")
    temporary = f"{folder}/.{name}.{secrets.token_hex(4)}"
    try:
        with fs.open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.comment = hashlib.sha256(text).hexdigest().encode()
                for entry, data in files.items():
                    archive.writestr(f"{entry}.npy", data)
                archive.writestr(MANIFEST, text)
            if isinstance(fs, LocalFileSystem):
                file.flush()
                os.fsync(file.fileno())
        if isinstance(fs, LocalFileSystem):
            os.replace(temporary, root)
        else:
            fs.mv(temporary, root)
    except BaseException:
        with suppress(FileNotFoundError):
            fs.rm_file(temporary)
        raise


def read_archive(fs: Any, root: str, kind: str) -> tuple[dict[str, Any], Arrays]:
    """Read the content and the arrays of a model of a class.

    Raises
    ------
    Refused
        For a file that is none of ours, of another class, of a newer version, cut off or changed.
    OSError
        Where it cannot be opened.
    """
    with Path(root).open("rb") if isinstance(fs, LocalFileSystem) else fs.open(root, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _manifest(archive, kind)
                told = manifest["arrays"]
                return manifest["content"], {
                    name: _array(archive, name, about) for name, about in told.items()
                }
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - damage raises anything: zlib's, struct's, ...
            refuse(f"it is no model file, or a damaged one ({error!r})", error)


def _manifest(archive: zipfile.ZipFile, kind: str) -> dict[str, Any]:
    """Read and check the manifest."""
    names = archive.namelist()
    if MANIFEST not in names:
        refuse(f"it has no {MANIFEST}; its members are {sorted(names)[:5]}")
    text = _member(archive, MANIFEST, LARGEST_MANIFEST)
    try:
        manifest = json.loads(text)
        manifest["format"], manifest["class"], manifest["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        refuse(f"its {MANIFEST} is no manifest of a model ({error})", error)
    if hashlib.sha256(text).hexdigest().encode() != archive.comment:
        refuse(f"{MANIFEST} is not what was written: its hash is another one")
    check_head(manifest, kind)
    told = {f"{name}.npy" for name in manifest["arrays"]} | {MANIFEST}
    for name in sorted(told ^ set(names)):
        where = "is missing" if name in told else "is not in the manifest"
        refuse(f"its member {name} {where}")
    return dict(manifest)


def _array(archive: zipfile.ZipFile, name: str, told: Any) -> NDArray[Any]:
    """Read an array whose size, hash, type and shape are those of the manifest."""
    data = _member(archive, f"{name}.npy", told["size"])
    if len(data) != told["size"]:
        refuse(f"{name}.npy has {len(data)} bytes, the manifest says {told['size']}")
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        refuse(f"{name}.npy is not what was written: its hash is another one")
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if [list(array.shape), array.dtype.str] != [told["shape"], told["dtype"]]:
        refuse(
            f"{name}.npy is {array.dtype.str} {list(array.shape)}, the manifest says "
            f"{told['dtype']} {told['shape']}",
        )
    return array


def _member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """Read a member that says it has so many bytes at most."""
    size = archive.getinfo(name).file_size
    if size > largest:
        refuse(f"{name} has {size} bytes, expected are {largest} at most")
    try:
        return archive.read(name)
    except Exception as error:  # noqa: BLE001 - damage raises anything: zlib's, struct's, ...
        refuse(f"{name} is damaged ({error})", error)


def _file_of(array: NDArray[Any]) -> bytes:
    """Return the bytes of an array's npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()
