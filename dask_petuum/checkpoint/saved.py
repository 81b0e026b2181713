"""A checkpoint: what it holds, who has it, and how a rank reads its part of one. Pure.

A checkpoint is the state of a run at a cut (:mod:`dask_petuum.store.owner`): every rank's part is
a flat mapping of names to arrays. A name is ``kind/number/key``:

=======================  ===========================================================
``table/START/TABLE``    rows START, ... of a dense table
``csr.data/START/...``   of a sparse one, with ``csr.indices`` and ``csr.indptr``
``state/PARTITION/KEY``  an array of a partition's state
``block/BLOCK/KEY``      an array of a block that moves
``run/RANK/KEY``         what a rank has besides
=======================  ===========================================================

The manifest lists every array with its shape, dtype and digest, and every file with its size and
digest, so that nothing is taken on trust: an array that was changed, cut short or belongs to
another run is refused by name. Reading runs no code: arrays and JSON only. Parts need not fit the
ranks that read them: a table's rows are put together from whatever blocks they were saved in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.exceptions import CheckpointError
from dask_petuum.store.owner import Cut
from dask_petuum.store.rows import is_sparse
from dask_petuum.store.spec import TableSpec

__all__ = [
    "FILE_NAME",
    "FOLDER_NAME",
    "Manifest",
    "Saved",
    "SavedArray",
    "SavedFile",
    "SavedPart",
    "check_arrays",
    "cut_arrays",
    "describe",
    "digest",
]

Array = npt.NDArray[Any]

DIGEST_BYTES = 16
_CSR = ("data", "indices", "indptr")
#: Names of checkpoints' folders, ``checkpoint-CLOCK-RUN``, and of files of parts in them.
FOLDER_NAME = re.compile(
    r"checkpoint-(?P<clock>[0-9]{12,})-[0-9A-Za-z_-]+(\.(?P<epoch>[0-9]+))?", re.ASCII
)
FILE_NAME = re.compile(rf"(?P<folder>{FOLDER_NAME.pattern})/part-[0-9]{{4,}}\.npz", re.ASCII)
#: Kinds of numbers that a checkpoint may hold: no objects, no text.
KINDS = "iufbc"


@dataclass(frozen=True)
class SavedArray:
    """How an array must look."""

    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True)
class SavedFile:
    """A file of a part.

    Parameters
    ----------
    name
        Below the folder of all checkpoints, ``CHECKPOINT/part-RANK.npz``; any other is refused.
    size
        Bytes.
    digest
        Of these bytes.
    """

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class SavedPart:
    """What one rank saved.

    Parameters
    ----------
    rank
        Whose it is.
    arrays
        What it holds, by name.
    holders
        Addresses of the workers that keep a copy.
    file
        Its file, where there is one.
    """

    rank: int
    arrays: Mapping[str, SavedArray]
    holders: tuple[str, ...] = ()
    file: SavedFile | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SavedPart:
        """Read plain data.

        Raises
        ------
        CheckpointError
            Where it is not a part.
        """
        try:
            return _part(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"this is not a part of a checkpoint: {error!r}") from error


@dataclass(frozen=True)
class Manifest:
    """One checkpoint.

    Parameters
    ----------
    fit_id, run_id
        The fit, and its epoch's run.
    clock
        Of the cut: the first clock that is not in it.
    identity
        What a fit must agree with to go on from it.
    parts
        By rank.
    """

    fit_id: str
    run_id: str
    clock: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[SavedPart, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, once."""
        return sum(
            int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize
            for part in self.parts
            for array in part.arrays.values()
        )

    def held_by(self, there: Collection[str]) -> Manifest:
        """The same, without the holders that are gone: asking them would take a timeout each."""
        parts = tuple(
            replace(part, holders=tuple(a for a in part.holders if a in there))
            for part in self.parts
        )
        return replace(self, parts=parts)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a message or JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Read plain data.

        Raises
        ------
        CheckpointError
            Where it is not a manifest.
        """
        try:
            parts = tuple(_part(part) for part in data["parts"])
            fit_id, run_id = (_text(data[name]) for name in ("fit_id", "run_id"))
            return cls(fit_id, run_id, _count(data["clock"]), dict(data["identity"]), parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"this is not a checkpoint's manifest: {error!r}") from error


#: Gets arrays of a part by name, from a copy in which they are what the manifest says.
Fetch = Callable[[SavedPart, Sequence[str]], Mapping[str, Array]]


class Saved:
    """A checkpoint, as a rank that goes on from it reads it.

    Parameters
    ----------
    manifest
        Which.
    fetch
        Gets arrays of a part; raises where no copy of them is whole.
    """

    def __init__(self, manifest: Manifest, fetch: Fetch) -> None:
        self.manifest = manifest
        self._fetch = fetch
        self._where: dict[tuple[str, int], list[tuple[SavedPart, str, str]]] = {}
        for part in manifest.parts:
            for name in part.arrays:
                kind, number, key = name.split("/", 2)
                self._where.setdefault((kind, int(number)), []).append((part, name, key))

    def __repr__(self) -> str:
        return f"<Saved clock {self.clock} of fit {self.manifest.fit_id}>"

    @property
    def clock(self) -> int:
        """The first clock that is not in it."""
        return self.manifest.clock

    def numbers(self, kind: str) -> list[int]:
        """Numbers that there are of a kind, ascending."""
        return sorted(number for found, number in self._where if found == kind)

    def arrays(self, kind: str, number: int) -> dict[str, Array]:
        """Arrays of a state, a block or a rank, by key.

        Raises
        ------
        CheckpointError
            Where there are none.
        """
        found = self._where.get((kind, number))
        if found is None:
            raise CheckpointError(f"{self!r} has no {kind} {number}")
        out = {}
        for part in {id(part): part for part, _, _ in found}.values():
            names = {name: key for other, name, key in found if other is part}
            for name, array in self._fetch(part, list(names)).items():
                out[names[name]] = array
        return out

    def rows(self, spec: TableSpec, start: int, stop: int) -> Any:
        """Rows start .. stop-1 of a table, as it stores them.

        Raises
        ------
        CheckpointError
            Where some are missing.
        """
        pieces = []
        reached = start
        for first in self.numbers("csr.indptr" if spec.sparse else "table"):
            values = self._block(spec, first, start, stop)
            if values is not None:
                low, high = max(start, first), min(stop, first + values.shape[0])
                if low != reached:
                    break
                pieces.append(values[low - first : high - first])
                reached = high
        if reached != stop:
            raise CheckpointError(f"{self!r} lacks row {reached} of table {spec.name!r}")
        if spec.sparse:
            return sp.csr_array(sp.vstack(pieces, format="csr"))
        return np.concatenate(pieces) if len(pieces) > 1 else np.array(pieces[0])

    def _block(self, spec: TableSpec, first: int, start: int, stop: int) -> Any:
        """The block of a table that begins at a row, if it has rows of start .. stop-1."""
        if not spec.sparse:
            found = self._named("table", first, spec.name)
            if found is None or first >= stop:
                return None
            part, name = found
            if first + part.arrays[name].shape[0] <= start:
                return None
            return self._fetch(part, [name])[name]
        found = self._named("csr.indptr", first, spec.name)
        if found is None or first >= stop:
            return None
        part, name = found
        n_rows = part.arrays[name].shape[0] - 1
        if first + n_rows <= start:
            return None
        names = [f"csr.{what}/{first}/{spec.name}" for what in _CSR]
        arrays = self._fetch(part, names)
        return sp.csr_array(tuple(arrays[n] for n in names), shape=(n_rows, spec.n_cols))

    def _named(self, kind: str, number: int, key: str) -> tuple[SavedPart, str] | None:
        for part, name, found in self._where.get((kind, number), ()):
            if found == key:
                return part, name
        return None


def cut_arrays(cut: Cut) -> dict[str, Array]:
    """Name the arrays of a shard's copy."""
    arrays = {}
    for table, start, values in cut.blocks:
        if is_sparse(values):
            for what in _CSR:
                arrays[f"csr.{what}/{start}/{table}"] = getattr(values, what)
        else:
            arrays[f"table/{start}/{table}"] = values
    return arrays


def describe(array: Array) -> SavedArray:
    """Say how an array looks."""
    return SavedArray(tuple(array.shape), array.dtype.str, digest(array))


def check_arrays(part: SavedPart, names: Sequence[str], arrays: Mapping[str, Array]) -> None:
    """Compare arrays of a copy of a part with what the manifest says of them.

    Raises
    ------
    CheckpointError
        Naming the first that is not there, or is another one.
    """
    for name in names:
        if name not in arrays or describe(arrays[name]) != part.arrays[name]:
            raise CheckpointError(
                f"{name!r} of rank {part.rank} is damaged: its contents do not fit the manifest"
            )


def digest(array: Array) -> str:
    """Hash an array's bytes; releases the GIL."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return hashlib.blake2b(flat.view(np.uint8).data, digest_size=DIGEST_BYTES).hexdigest()


def _part(data: Mapping[str, Any]) -> SavedPart:
    arrays = {}
    for name, info in data["arrays"].items():
        if len(name.split("/", 2)) != 3 or np.dtype(info["dtype"]).kind not in KINDS:
            raise ValueError(f"a part cannot hold {name!r} of {info['dtype']}")
        shape = tuple(_count(n) for n in info["shape"])
        arrays[_text(name)] = SavedArray(shape, _text(info["dtype"]), _text(info["digest"]))
    file = None if data["file"] is None else _file(data["file"])
    holders = tuple(_text(address) for address in data["holders"])
    return SavedPart(_count(data["rank"]), arrays, holders, file)


def _file(data: Mapping[str, Any]) -> SavedFile:
    name = _text(data["name"])
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a file of a checkpoint")
    return SavedFile(name, _count(data["size"]), _text(data["digest"]))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
