"""A model as a folder of chunked arrays, which zarr opens too: for models that are large.

::

    model.zarr/zarr.json                       a group, whose attributes are the manifest
              /model-4f0c.../zarr.json         the group of one `save`
                            /000_coef/zarr.json
                                     /c/0/0    a chunk

zarr reads changed chunks without a word, and zeros for a missing one: so the manifest names every
file of the arrays with its size and SHA-256, and reading compares each with it. Arrays are written
and read chunk by chunk. Every `save` writes a group with a name of its own, the manifest last, and
removes the groups before it then: a crash at any byte leaves the old model whole. One process at a
time may write.

What decodes a chunk is decided here, not by the metadata of the folder: these are for others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import ceil
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from dask_petuum.saving.content import (
    LARGEST_MANIFEST,
    Arrays,
    Refused,
    check_head,
    refuse,
)

__all__ = ["read_folder", "write_folder"]

GROUP = re.compile(r"model-[0-9a-f]{16}")
#: Metadata of a group or an array, as zarr names them; those of the folder are the manifest.
METADATA = "zarr.json"
#: The attribute of the folder's group that holds the manifest.
ATTRIBUTE = "dask_petuum"
NAME = re.compile(r"[a-z0-9_]+")
#: Bytes of a chunk, about, before they are compressed.
CHUNK_BYTES = 1 << 24
#: Besides groups, all that a saved model's folder has.
OWN_FILES = {METADATA, f"{METADATA}.new"}

Files = dict[str, tuple[int, str]]


def write_folder(fs: Any, root: str, head: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a folder whose manifest replaces an older one at once or not at all.

    Parameters
    ----------
    fs, root
        File system of fsspec's, and the path in it.
    head
        The manifest, but for the arrays.
    arrays
        Each with its name.

    Raises
    ------
    FileExistsError
        Where something is there that is no saved model.
    """
    _import_zarr()
    _refuse_to_replace(fs, root)
    group = f"model-{secrets.token_hex(8)}"
    to = _Writer(fs, root)
    try:
        to.write(f"{group}/{METADATA}", _group_metadata({}))
        about = {name: _write_array(to, f"{group}/{name}", a) for name, a in arrays.items()}
        body = {**head, "group": group, "arrays": about}
        manifest = {**body, "sha256": _digest_of(body)}
        to.write(f"{METADATA}.new", _group_metadata({ATTRIBUTE: manifest}))
        to.settle()
        fs.mv(f"{root}/{METADATA}.new", f"{root}/{METADATA}")
    except BaseException:
        with suppress(FileNotFoundError):
            fs.rm(f"{root}/{group}", recursive=True)
        raise
    to.settle()
    for name in _groups(fs, root):
        if name != group:
            fs.rm(f"{root}/{name}", recursive=True)


def read_folder(fs: Any, root: str, kind: str) -> tuple[dict[str, Any], Arrays]:
    """Read the content and the arrays of a model of a class.

    Raises
    ------
    Refused
        For a folder that is none of ours, of another class, of a newer version, or with a file that
        is missing or changed.
    OSError
        Where there is none.
    """
    _import_zarr()
    if not fs.exists(root):
        raise FileNotFoundError(f"{root} does not exist")
    try:
        manifest = _read_manifest(fs, root)
        check_head(manifest, kind)
        group = manifest["group"]
        if not GROUP.fullmatch(group):
            refuse(f"its manifest names a group {group!r}")
        return manifest["content"], {
            name: _read_array(fs, root, f"{group}/{name}", told)
            for name, told in manifest["arrays"].items()
        }
    except (Refused, ImportError):
        raise
    except Exception as error:  # noqa: BLE001 - what a stranger wrote raises anything
        refuse(f"it is no model, or a damaged one ({error!r})", error)


class _Writer:
    """Writes files below a folder, and gets local ones onto the disk.

    Parameters
    ----------
    fs, root
        File system of fsspec's, and the folder in it.
    """

    # The mutable state is `_written`: local folders with new names since they were settled.

    def __init__(self, fs: Any, root: str) -> None:
        self._fs, self._root = fs, root
        self._is_local = isinstance(fs, LocalFileSystem)
        self._written: set[str] = set()

    def __repr__(self) -> str:
        return f"<_Writer {self._root}>"

    def write(self, name: str, data: bytes) -> tuple[int, str]:
        """Write a file; return its size and SHA-256."""
        path = f"{self._root}/{name}"
        folder = path.rpartition("/")[0]
        self._fs.makedirs(folder, exist_ok=True)
        with self._fs.open(path, "wb") as file:
            file.write(data)
            if self._is_local:
                file.flush()
                os.fsync(file.fileno())
                self._written.add(folder)
        return len(data), hashlib.sha256(data).hexdigest()

    def settle(self) -> None:
        """Get the names of what was written onto the disk, before a manifest counts on them."""
        for folder in {self._root, *self._written} if self._is_local else ():
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
        self._written.clear()


def _write_array(to: _Writer, path: str, array: NDArray[Any]) -> dict[str, Any]:
    """Write an array chunk by chunk; return what the manifest says of it."""
    plain = _plain(array)
    row_bytes = plain.nbytes // max(1, len(plain)) if plain.ndim else 0
    chunk_rows = max(1, min(len(plain), CHUNK_BYTES // max(1, row_bytes))) if plain.ndim else 0
    held, target = _new_array(plain.shape, plain.dtype, chunk_rows)
    files: Files = {}

    def drain() -> None:
        for name in list(held):
            files[name] = to.write(f"{path}/{name}", held.pop(name).to_bytes())

    metadata = held[METADATA]
    if not plain.ndim:
        target[...] = plain
    for start in range(0, len(plain), chunk_rows) if plain.ndim else ():
        target[start : start + chunk_rows] = plain[start : start + chunk_rows]
        drain()
    held[METADATA] = metadata
    drain()
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "chunk_rows": chunk_rows,
        "files": files,
    }


def _read_array(fs: Any, root: str, path: str, told: Mapping[str, Any]) -> NDArray[Any]:
    """Read an array whose files are all what the manifest says."""
    shape, dtype = tuple(map(int, told["shape"])), np.dtype(str(told["dtype"]))
    if dtype.hasobject or not NAME.fullmatch(path.partition("/")[2]):
        refuse(f"its manifest names an array {path!r} of {dtype}")
    wanted = np.empty(shape, dtype)
    plain = _plain(wanted)
    chunk_rows = int(told["chunk_rows"])
    names = {METADATA, *_chunk_names(plain.shape, chunk_rows)}
    for name in sorted(names ^ set(told["files"])):
        refuse(f"its manifest {'lacks' if name in names else 'has a file'} {path}/{name}")
    held, source = _new_array(plain.shape, plain.dtype, chunk_rows)
    buffer = type(held[METADATA])

    def load(name: str) -> Any:
        size, digest = told["files"][name]
        return buffer.from_bytes(_read_file(fs, root, f"{path}/{name}", size, digest))

    load(METADATA)
    for row, name in enumerate(_chunk_names(plain.shape, chunk_rows)):
        held[name] = load(name)
        if plain.ndim:
            rows = slice(row * chunk_rows, (row + 1) * chunk_rows)
            plain[rows] = source[rows]
        else:
            plain[...] = source[...]
        del held[name]
    return wanted


def _read_file(fs: Any, root: str, name: str, size: int, digest: str) -> bytes:
    """Read a file of a size and a SHA-256."""
    path = f"{root}/{name}"
    try:
        found = fs.size(path)
        if found != size:
            refuse(f"{name} has {found} bytes, the manifest says {size}")
        data: bytes = fs.cat_file(path)
    except FileNotFoundError as error:
        refuse(f"{name} is missing", error)
    if hashlib.sha256(data).hexdigest() != digest:
        refuse(f"{name} is not what was written: its hash is another one")
    return data


def _read_manifest(fs: Any, root: str) -> dict[str, Any]:
    """Read a manifest that is what was written."""
    path = f"{root}/{METADATA}"
    try:
        if fs.size(path) > LARGEST_MANIFEST:
            refuse(f"its {METADATA} has {fs.size(path)} bytes")
        body = json.loads(fs.cat_file(path))["attributes"][ATTRIBUTE]
        digest = body.pop("sha256")
        body["format"], body["class"], body["version"], body["content"]
    except FileNotFoundError as error:
        refuse(f"it has no {METADATA}", error)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refuse(f"its {METADATA} holds no manifest of a model ({error!r})", error)
    if digest != _digest_of(body):
        refuse(f"its {METADATA} is not what was written: its hash is another one")
    return dict(body)


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _refuse_to_replace(fs: Any, root: str) -> None:
    """Refuse a folder that has anything that no saved model has."""
    if not fs.exists(root):
        return
    if not fs.isdir(root):
        raise FileExistsError(f"{root} is a file, and a model is to be saved as a folder there")
    strange = [name for name in _names(fs, root) if name not in OWN_FILES and not GROUP.match(name)]
    if strange:
        raise FileExistsError(
            f"{root} is there and is no saved model (it has {sorted(strange)[0]}); remove it, or "
            "save elsewhere"
        )


def _groups(fs: Any, root: str) -> list[str]:
    return [name for name in _names(fs, root) if GROUP.fullmatch(name)]


def _names(fs: Any, root: str) -> list[str]:
    """Names in a folder, as it is now."""
    fs.invalidate_cache()
    return [path.rstrip("/").rpartition("/")[2] for path in fs.ls(root, detail=False)]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """View an array as one of a type that every reader of zarr knows, in native order of bytes.

    Text becomes its code points, dates become integers, along a last axis; what is in the other
    order of bytes, or has no type there, becomes its bytes. A view, wherever that can be.
    """
    if array.dtype.kind in "biuf" and array.dtype.isnative and array.dtype.itemsize <= 8:
        return array
    part = np.dtype(np.uint32 if array.dtype.kind == "U" and array.dtype.isnative else np.uint8)
    if array.dtype.kind in "mM" and array.dtype.isnative:
        return array.view(np.int64)
    width = array.dtype.itemsize // part.itemsize
    if not array.size or not width:
        return np.empty((*array.shape, width), part)
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return contiguous[..., np.newaxis].view(part)


def _chunk_names(shape: tuple[int, ...], chunk_rows: int) -> Iterator[str]:
    """Names of the chunks of an array that is cut by its first axis."""
    if not shape:
        yield "c"
    elif 0 not in shape:
        if chunk_rows < 1:
            refuse(f"its manifest has chunks of {chunk_rows} rows")
        for row in range(ceil(shape[0] / chunk_rows)):
            yield "/".join(("c", str(row), *("0" for _ in shape[1:])))


def _new_array(shape: tuple[int, ...], dtype: Any, chunk_rows: int) -> tuple[dict[str, Any], Any]:
    """Return the files, so far in memory, of an array without chunks, and the array."""
    zarr = _import_zarr()
    held: dict[str, Any] = {}
    chunks = (max(1, chunk_rows), *(max(1, n) for n in shape[1:])) if shape else ()
    array = zarr.create_array(
        store=zarr.storage.MemoryStore(held),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        compressors=zarr.codecs.ZstdCodec(level=1),
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    return held, array


def _group_metadata(attributes: Mapping[str, Any]) -> bytes:
    about = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(about, indent=1).encode()


def _import_zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError(
            "models in folders (paths that end in .zarr) need zarr: pip install 'dask_petuum[zarr]'"
        ) from error
    return zarr
