"""Models in files: arrays and JSON, with a hash of each part; nothing that could run.

A model is one zip file, which numpy opens too: a member ``NAME.npy`` for every array, and
``manifest.json``, which says what wrote it and holds everything that is no array, and the size and
SHA-256 of each array's file. The manifest's own hash is the archive's comment. The file is written
under another name and then renamed: a crash leaves the old one whole.

Reading makes numbers, text, lists and arrays of these, never an object of a class that the file
names; see ``docs/decisions/0014``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMAT", "read_model", "write_model"]

#: Version of the format; 1 was LDA's alone.
FORMAT = 2
MANIFEST = "manifest.json"
#: A manifest holds no arrays: more than this is none of ours.
LARGEST_MANIFEST = 1 << 28
#: Nested lists and dicts of a manifest at most.
DEPTH = 32

Parts = dict[str, NDArray[Any]]


def write_model(path: str | PathLike[str], kind: str, about: Mapping[str, Any]) -> None:
    """Write a model, replacing what is there at once or not at all.

    Parameters
    ----------
    path
        File to write.
    kind
        Name of the estimator's class.
    about
        Names to values: numbers, text, None, arrays, and lists, tuples and dicts of these.

    Raises
    ------
    TypeError
        For a value that is none of these; nothing has been written.
    """
    from dask_petuum import __version__

    arrays: Parts = {}
    content = {name: _packed(value, name, arrays) for name, value in about.items()}
    files = {name: _file_of(array) for name, array in arrays.items()}
    manifest = {
        "format": FORMAT,
        "class": kind,
        "version": __version__,
        "content": content,
        "arrays": {
            name: {
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "shape": list(arrays[name].shape),
                "dtype": arrays[name].dtype.str,
            }
            for name, data in files.items()
        },
    }
    text = json.dumps(manifest, indent=1).encode()
    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent or None)
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.comment = hashlib.sha256(text).hexdigest().encode()
                for name, data in files.items():
                    archive.writestr(f"{name}.npy", data)
                archive.writestr(MANIFEST, text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_model(path: str | PathLike[str], kind: str) -> dict[str, Any]:
    """Read what `write_model` wrote for a class of this name.

    Raises
    ------
    ValueError
        For a file that is none of ours, of another class, of a newer version, cut off or changed;
        with its name and what is wrong.
    OSError
        Where it cannot be opened.
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _manifest(archive, kind)
                arrays = {
                    name: _array(archive, name, told) for name, told in manifest["arrays"].items()
                }
            return {name: _unpacked(value, arrays) for name, value in manifest["content"].items()}
        except _Refused as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - damage raises anything: zlib's, struct's, ...
            why = f"it is no model file, or a damaged one ({error!r})"
    raise ValueError(f"{os.fspath(path)} cannot be loaded: {why}")


class _Refused(Exception):
    """Why a file is not read; the text goes into the error that users see."""


def _manifest(archive: zipfile.ZipFile, kind: str) -> dict[str, Any]:
    """Read and check the manifest."""
    names = archive.namelist()
    if MANIFEST not in names:
        _refuse(f"it has no {MANIFEST}; its members are {sorted(names)[:5]}")
    text = _member(archive, MANIFEST, LARGEST_MANIFEST)
    try:
        manifest = json.loads(text)
        form, of_kind, version = (manifest[name] for name in ("format", "class", "version"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        _refuse(f"its {MANIFEST} is no manifest of a model ({error})", error)
    if hashlib.sha256(text).hexdigest().encode() != archive.comment:
        _refuse(f"{MANIFEST} is not what was written: its hash is another one")
    if form != FORMAT:
        newer = isinstance(form, int) and form > FORMAT
        _refuse(
            f"it has format {form!r}, written by dask_petuum {version}; this version reads "
            f"{FORMAT}{', update dask_petuum' if newer else ''}",
        )
    if of_kind != kind:
        _refuse(f"it holds a {of_kind}, not a {kind}; use {of_kind}.load")
    told = {f"{name}.npy" for name in manifest["arrays"]} | {MANIFEST}
    for name in sorted(told ^ set(names)):
        where = "is missing" if name in told else "is not in the manifest"
        _refuse(f"its member {name} {where}")
    return dict(manifest)


def _array(archive: zipfile.ZipFile, name: str, told: Any) -> NDArray[Any]:
    """Read an array whose size, hash, type and shape are those of the manifest."""
    data = _member(archive, f"{name}.npy", told["size"])
    if len(data) != told["size"]:
        _refuse(f"{name}.npy has {len(data)} bytes, the manifest says {told['size']}")
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        _refuse(f"{name}.npy is not what was written: its hash is another one")
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if [list(array.shape), array.dtype.str] != [told["shape"], told["dtype"]]:
        _refuse(
            f"{name}.npy is {array.dtype.str} {list(array.shape)}, the manifest says "
            f"{told['dtype']} {told['shape']}",
        )
    return array


def _member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """Read a member that says it has so many bytes at most."""
    size = archive.getinfo(name).file_size
    if size > largest:
        _refuse(f"{name} has {size} bytes, expected are {largest} at most")
    try:
        return archive.read(name)
    except Exception as error:  # noqa: BLE001 - damage raises anything: zlib's, struct's, ...
        _refuse(f"{name} is damaged ({error})", error)


def _refuse(why: str, cause: BaseException | None = None) -> NoReturn:
    raise _Refused(why) from cause


def _file_of(array: NDArray[Any]) -> bytes:
    """Return the bytes of an array's npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _packed(value: Any, where: str, arrays: Parts, depth: int = 0) -> Any:
    """Turn a value into what JSON holds, with its arrays put aside."""
    if depth > DEPTH:
        raise TypeError(f"{where} is nested more than {DEPTH} deep and cannot be saved")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufUSmM":
        name = f"{len(arrays):03d}_{re.sub('[^a-z0-9_]', '', where.lower()).strip('_')[:40]}"
        arrays[name] = np.asarray(value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    inner: Any = None
    if isinstance(value, np.ndarray) and value.dtype == object:
        form, inner = "objects", [list(value.shape), value.ravel().tolist()]
    elif isinstance(value, tuple):
        form, inner = "tuple", list(value)
    elif isinstance(value, dict):
        return {
            "dict": [
                [
                    _packed(key, where, arrays, depth + 1),
                    _packed(item, key if isinstance(key, str) else where, arrays, depth + 1),
                ]
                for key, item in value.items()
            ]
        }
    elif isinstance(value, list):
        return [_packed(item, where, arrays, depth + 1) for item in value]
    else:
        raise TypeError(
            f"{where} holds a {type(value).__name__}, which cannot be saved: only numbers, text, "
            "arrays, and lists, tuples and dicts of these"
        )
    return {form: _packed(inner, where, arrays, depth + 1)}


def _unpacked(value: Any, arrays: Parts) -> Any:
    """Turn what JSON held back into the value."""
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((form, inner),) = value.items()
    if form == "array":
        return arrays[inner]
    if form == "scalar":
        return arrays[inner][()]
    inner = _unpacked(inner, arrays)
    if form == "tuple":
        return tuple(inner)
    if form == "dict":
        return {key: item for key, item in inner}
    if form == "objects":
        shape, items = inner
        out = np.empty(len(items), dtype=object)
        out[:] = items
        return out.reshape(shape)
    raise ValueError(f"unknown form {form!r}")


def _umask() -> int:
    """Return the process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
