"""Weights in the safetensors format: 8 bytes of length, a JSON header, the arrays' bytes.

The format is Hugging Face's (github.com/huggingface/safetensors); nothing in it can run. Little
endian, rows first, no gaps between arrays. numpy has no bfloat16 (``BF16``): such arrays are read
as float32, which holds each of their numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_weights", "write_weights"]

TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
NAMES = {np.dtype(dtype): name for name, dtype in TYPES.items()}
#: A longer header is none of ours; the format's own limit.
LARGEST_HEADER = 100_000_000


def write_weights(path: str | PathLike[str], weights: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name; an older file is replaced at once.

    Raises
    ------
    TypeError
        For an array whose type the format has not.
    """
    header: dict[str, Any] = {}
    place, bodies = 0, []
    for name, values in weights.items():
        dtype = values.dtype.newbyteorder("<")
        if dtype not in NAMES:
            raise TypeError(f"{name!r} is {values.dtype}, which safetensors has not")
        body = np.ascontiguousarray(values, dtype).tobytes()
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(values.shape),
            "data_offsets": [place, place + len(body)],
        }
        bodies.append(body)
        place += len(body)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.writelines(bodies)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_weights(path: str | PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read arrays by name.

    Raises
    ------
    ValueError
        For a file that is not of the format, or cut short; with its name.
    """
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or length > min(LARGEST_HEADER, len(data) - 8):
            raise ValueError("its header is cut short")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        return {name: _array(data[8 + length :], told) for name, told in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no safetensors file, or damaged: {error!r}") from error


def _array(body: bytes, told: Mapping[str, Any]) -> NDArray[Any]:
    first, end = told["data_offsets"]
    if not 0 <= first <= end <= len(body):
        raise ValueError("an array reaches outside of it")
    if told["dtype"] == "BF16":  # the upper half of a float32
        upper = np.frombuffer(body[first:end], "<u2").astype("<u4")
        return (upper << 16).view("<f4").reshape(told["shape"])
    return np.frombuffer(body[first:end], TYPES[told["dtype"]]).reshape(told["shape"]).copy()
