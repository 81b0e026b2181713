"""What a model's manifest holds: values as JSON, with their arrays put aside under names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FORMAT", "LARGEST_MANIFEST", "MANIFEST", "Arrays", "Refused", "check_head", "pack", "refuse",
    "unpack",
]  # fmt: skip

#: Version of the format; 1 was LDA's alone.
FORMAT = 2
#: Name of the file that says what the others are.
MANIFEST = "manifest.json"
#: A manifest holds no arrays: more than this is none of ours.
LARGEST_MANIFEST = 1 << 28
#: Nested lists and dicts of a manifest at most.
DEPTH = 32

Arrays = dict[str, NDArray[Any]]


class Refused(Exception):
    """Why a file is not read; the text goes into the error that users see."""


def refuse(why: str, cause: BaseException | None = None) -> NoReturn:
    """Say why a file is not read."""
    raise Refused(why) from cause


def check_head(manifest: Mapping[str, Any], kind: str) -> None:
    """Compare what wrote a model, and of which class, with what is to be read."""
    form, version = manifest["format"], manifest["version"]
    if form != FORMAT:
        newer = isinstance(form, int) and form > FORMAT
        refuse(
            f"it has format {form!r}, written by dask_petuum {version}; this version reads "
            f"{FORMAT}{', update dask_petuum' if newer else ''}",
        )
    if manifest["class"] != kind:
        refuse(f"it holds a {manifest['class']}, not a {kind}; use {manifest['class']}.load")


def pack(value: Any, where: str, arrays: Arrays, depth: int = 0) -> Any:
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
                    pack(key, where, arrays, depth + 1),
                    pack(item, key if isinstance(key, str) else where, arrays, depth + 1),
                ]
                for key, item in value.items()
            ]
        }
    elif isinstance(value, list):
        return [pack(item, where, arrays, depth + 1) for item in value]
    else:
        raise TypeError(
            f"{where} holds a {type(value).__name__}, which cannot be saved: only numbers, text, "
            "arrays, and lists, tuples and dicts of these"
        )
    return {form: pack(inner, where, arrays, depth + 1)}


def unpack(value: Any, arrays: Arrays) -> Any:
    """Turn what JSON held back into the value."""
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((form, inner),) = value.items()
    if form == "array":
        return arrays[inner]
    if form == "scalar":
        return arrays[inner][()]
    inner = unpack(inner, arrays)
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
