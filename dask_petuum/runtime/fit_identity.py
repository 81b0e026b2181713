"""What makes a fit the same one, so that it may go on from a checkpoint: plain data for JSON.

The program's parameters are its attributes, as they are before a run: numbers, text, arrays (by
hash) and whatever holds these; names that begin with an underscore are a program's own affair.
Nothing here depends on a process or on where the fit runs. Floats count to seven digits: some are
sums over the data, whose last bits are those of the machine that they were made on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.data import PieceSize
from dask_petuum.runtime.options import RunOptions
from dask_petuum.runtime.program import Program
from dask_petuum.store.spec import TableSpec

__all__ = ["differences", "identity_of"]

#: Bits of a float's mantissa that count in an array.
MANTISSA_BITS = 22
_CSR = ("data", "indices", "indptr")
#: Nested objects at most; beyond it, only their types count.
DEPTH = 8
#: Longer values than that are shown, and kept, as their hash.
LONGEST = 120


def identity_of(
    program: Program, options: RunOptions, sizes: Sequence[PieceSize]
) -> Mapping[str, Any]:
    """Say what must agree so that one run may go on from another's checkpoint."""
    out = {
        "program": type(program).__name__,
        "tables": [_table(spec) for spec in program.tables()],
        "rows of partitions": [int(size.n_rows) for size in sizes],
        "seed": int(options.seed),
        "max_clocks": int(options.max_clocks),
        "consistency": [options.consistency, _plain(options.staleness)],
    }
    _flatten("program.", _attributes(program, 0), out)
    out["data of partitions"] = [f"{size.nnz} values {size.digest}" for size in sizes]
    return out


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name what differs, with both values; of lists, the first items that do."""
    out = []
    for name in [*here, *(name for name in there if name not in here)]:
        a, b = there.get(name), here.get(name)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            index = next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
            name, a, b = f"{name} [{index}]", a[index], b[index]
        out.append(f"{name}: {a!r} there, {b!r} here")
    return out


def _table(spec: TableSpec) -> list[Any]:
    shape = [int(n) for n in spec.shape]
    rest = {"sparse": spec.sparse, "init": spec.init, "rule": vars(spec.rule)}
    return [spec.name, shape, str(spec.dtype), _plain(rest)]


def _flatten(prefix: str, values: Mapping[str, Any], out: dict[str, Any]) -> None:
    """Lay nested names out as ``outer.inner``; long values become their hash."""
    for name, value in values.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}{name}.", value, out)
            continue
        text = json.dumps(value)
        out[f"{prefix}{name}"] = value if len(text) <= LONGEST else _hash(text.encode())


def _attributes(value: Any, depth: int) -> dict[str, Any]:
    """The public attributes of an object, and its type."""
    if dataclasses.is_dataclass(value) and not hasattr(value, "__dict__"):
        found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        found = dict(getattr(value, "__dict__", {}))
    public = {name: item for name, item in sorted(found.items()) if not name.startswith("_")}
    return {
        "type": type(value).__qualname__,
        **{name: _plain(item, depth + 1) for name, item in public.items()},
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """Turn a value into what JSON holds, the same in every process."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, np.ndarray):
        return _array(value)
    if sp.issparse(value):
        matrix: Any = value
        csr = matrix.tocsr()
        return {"shape": list(csr.shape), **{name: _array(getattr(csr, name)) for name in _CSR}}
    if depth >= DEPTH:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item, depth + 1) for item in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return _attributes(value, depth)


def _array(values: npt.NDArray[Any]) -> str:
    """Shape, type and hash of an array."""
    shown = f"{'x'.join(map(str, values.shape))} {values.dtype.name}"
    if values.dtype.kind == "f":
        mantissa, exponent = np.frexp(values)
        rounded = np.rint(mantissa * 2.0**MANTISSA_BITS).astype(np.float64)
        return f"{shown} {_hash((rounded + 0.0).tobytes() + exponent.tobytes())}"
    if values.dtype.kind in "iub":
        return f"{shown} {_hash(values.tobytes())}"
    texts = [f"{type(value).__name__} {value}" for value in values.reshape(-1).tolist()]
    kind = shown.partition(" ")[0]  # the width of text is no matter
    return f"{kind} {_hash(json.dumps(texts).encode())}"


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
