"""What a table is: its name, shape, type, labels, first values and update rule, as plain data.

A :class:`TableSpec` travels to every rank and to the scheduler; the owners of a table's rows make
their first values from it without anybody sending them (a fill or a seeded distribution), so a
table of gigabytes costs no traffic to create. Seeded values are drawn row block by row block from
counter-based streams: they do not depend on how rows are spread over ranks.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from dask_petuum.exceptions import TableError
from dask_petuum.store.numbers import checked_array, fitting, is_number, is_whole

__all__ = [
    "DTYPES",
    "Normal",
    "TableSpec",
    "Uniform",
    "UpdateRule",
    "initial_rows",
    "initial_values",
]

#: Element types that the kernels of the store know.
DTYPES = ("int32", "int64", "float32", "float64")
#: Rows drawn from one random stream: a shard of any size starts at a multiple of it.
SEED_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Normal:
    """First values drawn from a normal distribution.

    Parameters
    ----------
    mean, scale
        Mean and standard deviation.
    seed
        Root of the random streams.
    """

    mean: float = 0.0
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = is_number(self.mean) and is_number(self.scale) and self.scale >= 0
        if not numbers or not is_whole(self.seed):
            raise TableError(
                f"Normal needs a finite mean, a finite scale >= 0 and a seed >= 0, got {self!r}"
            )

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[Any]:
        """Draw a block of values of the given shape."""
        return rng.normal(self.mean, self.scale, size=shape)


@dataclass(frozen=True)
class Uniform:
    """First values drawn uniformly from [low, high)."""

    low: float = 0.0
    high: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = is_number(self.low) and is_number(self.high) and self.low <= self.high
        if not numbers or not np.isfinite(self.high - self.low) or not is_whole(self.seed):
            raise TableError(
                f"Uniform needs finite low <= high, less than 1.8e308 apart, and a seed >= 0, "
                f"got {self!r}"
            )

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[Any]:
        """Draw a block of values of the given shape."""
        return rng.uniform(self.low, self.high, size=shape)


@dataclass(frozen=True)
class UpdateRule:
    """How an owner applies an increment ``d`` to its value ``w``.

    ``add``: w + d. ``clip``: w + d, projected to [low, high]. ``soft_threshold``: the proximal
    step of the l1 norm, sign(w + d) max(abs(w + d) - threshold, 0), on the cells that an increment
    touches (Parikh and Boyd 2014, section 6.5.2). The last two are applied once per pushed batch.
    """

    kind: Literal["add", "clip", "soft_threshold"] = "add"
    low: float = -np.inf
    high: float = np.inf
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("add", "clip", "soft_threshold"):
            raise TableError(
                f"update rule must be 'add', 'clip' or 'soft_threshold', got {self.kind!r}"
            )
        bounds = {"low": self.low, "high": self.high, "threshold": self.threshold}
        for name, value in bounds.items():
            if not isinstance(value, Real):
                raise TableError(f"{name} of an update rule must be a number, got {value!r}")
        if self.kind == "clip" and not self.low <= self.high:
            raise TableError(f"clip needs low <= high, got [{self.low}, {self.high}]")
        if self.kind == "soft_threshold" and not self.threshold >= 0:
            raise TableError(f"threshold must be >= 0, got {self.threshold}")


@dataclass(frozen=True)
class TableSpec:
    """A named 2-d array of numbers, whose unit of addressing is the row.

    Parameters
    ----------
    name
        Unique within a session.
    shape
        (n_rows, n_cols).
    dtype
        int32, int64, float32 or float64.
    init
        First values: a number (fill), an array of the table's shape (also a sparse one),
        :class:`Normal` or :class:`Uniform`.
    dims
        Names of the two dimensions, as in xarray.
    coords
        Labels along the dimensions: a mapping from a dim's name to a sequence of its length.
    sparse
        Rows are stored and sent as (column, value) pairs; for tables that are mostly zero.
    rule
        How owners apply increments.
    staleness
        Bound of this table in clocks, where it differs from the run's (None: the run's).

    Raises
    ------
    TableError
        For a name, shape, dtype, label or first value that cannot be.
    """

    name: str
    shape: tuple[int, int]
    dtype: str = "float32"
    init: Any = 0
    dims: tuple[str, str] = ("row", "column")
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sparse: bool = False
    rule: UpdateRule = UpdateRule()
    staleness: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TableError(f"a table's name must be a non-empty string, got {self.name!r}")
        object.__setattr__(self, "shape", _checked_shape(self.name, self.shape))
        object.__setattr__(self, "dtype", _checked_dtype(self.name, self.dtype))
        object.__setattr__(self, "dims", _checked_dims(self.name, self.dims))
        if not isinstance(self.rule, UpdateRule):
            raise TableError(
                f"rule of table {self.name!r} must be an UpdateRule, got {self.rule!r}"
            )
        _check_coords(self)
        _check_init(self)
        if self.sparse and self.rule.kind != "add":
            raise TableError(
                f"table {self.name!r}: sparse rows know the update rule 'add' only, "
                f"got {self.rule.kind!r}; use sparse=False"
            )
        object.__setattr__(self, "staleness", _checked_staleness(self.name, self.staleness))

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def n_cols(self) -> int:
        """Number of columns."""
        return self.shape[1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one dense row."""
        return self.n_cols * np.dtype(self.dtype).itemsize


def initial_rows(spec: TableSpec, start: int, stop: int) -> npt.NDArray[Any]:
    """Make the first values of rows start..stop-1.

    Returns
    -------
    ndarray of shape (stop - start, n_cols), C-contiguous, of the table's dtype; always a new array.
    The same values whatever the cut into blocks.
    """
    shape = (stop - start, spec.n_cols)
    if isinstance(spec.init, (Normal, Uniform)):
        return _drawn_rows(spec, start, stop)
    init: Any = spec.init
    if sp.issparse(spec.init):
        dense: npt.NDArray[Any] = init[start:stop].toarray().astype(spec.dtype)
        return dense
    if isinstance(spec.init, np.ndarray):
        return np.array(spec.init[start:stop], dtype=spec.dtype, order="C", copy=True)
    return np.full(shape, spec.init, dtype=spec.dtype)


def initial_values(spec: TableSpec, start: int, stop: int) -> Any:
    """Make the first values as the table stores them: an array, or a ``csr_array`` if sparse."""
    if not spec.sparse:
        return initial_rows(spec, start, stop)
    if np.ndim(spec.init) == 0 and not isinstance(spec.init, (Normal, Uniform)) and spec.init == 0:
        return sp.csr_array((stop - start, spec.n_cols), dtype=spec.dtype)
    init: Any = spec.init
    if sp.issparse(spec.init):
        return sp.csr_array(init[start:stop], dtype=spec.dtype, copy=True)
    return sp.csr_array(initial_rows(spec, start, stop))


def _drawn_rows(spec: TableSpec, start: int, stop: int) -> npt.NDArray[Any]:
    out = np.empty((stop - start, spec.n_cols), dtype=spec.dtype)
    block = start // SEED_BLOCK_ROWS
    while block * SEED_BLOCK_ROWS < stop:
        first = block * SEED_BLOCK_ROWS
        n_rows = min(SEED_BLOCK_ROWS, spec.n_rows - first)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([spec.init.seed, block])))
        values = spec.init.draw(rng, (n_rows, spec.n_cols))
        lo, hi = max(first, start), min(first + n_rows, stop)
        out[lo - start : hi - start] = values[lo - first : hi - first]
        block += 1
    return out


def _checked_shape(name: str, shape: Any) -> tuple[int, int]:
    try:
        n_rows, n_cols = (operator.index(n) for n in shape)
    except (TypeError, ValueError):
        raise TableError(
            f"shape of table {name!r} must be (n_rows, n_cols), got {shape!r}"
        ) from None
    if n_rows < 1 or n_cols < 1 or n_rows >= 2**31 or n_cols >= 2**31:
        raise TableError(f"shape of table {name!r} must be within 1 .. 2**31 - 1, got {shape!r}")
    return n_rows, n_cols


def _checked_dtype(name: str, dtype: Any) -> str:
    try:
        canonical = "None" if dtype is None else str(np.dtype(dtype).name)
    except TypeError:
        canonical = str(dtype)
    if canonical not in DTYPES:
        raise TableError(f"dtype of table {name!r} must be one of {DTYPES}, got {dtype!r}")
    return canonical


def _checked_dims(name: str, dims: Any) -> tuple[str, str]:
    names = tuple(dims) if isinstance(dims, Sequence) and not isinstance(dims, str) else ()
    if len(names) != 2 or not all(isinstance(n, str) for n in names) or names[0] == names[1]:
        raise TableError(f"dims of table {name!r} must be two different names, got {dims!r}")
    return names[0], names[1]


def _checked_staleness(name: str, staleness: Any) -> int | None:
    if staleness is None:
        return None
    try:
        bound = operator.index(staleness)
    except TypeError:
        raise TableError(
            f"staleness of table {name!r} must be an integer or None, got {staleness!r}"
        ) from None
    if bound < 0:
        raise TableError(
            f"staleness of table {name!r} must be >= 0, got {bound}; "
            'use consistency="asp" for no bound'
        )
    return bound


def _check_coords(spec: TableSpec) -> None:
    if not isinstance(spec.coords, Mapping):
        raise TableError(
            f"coords of table {spec.name!r} must be a mapping from a dim to its labels, "
            f"got {spec.coords!r}"
        )
    for dim, labels in spec.coords.items():
        if not hasattr(labels, "__len__"):
            raise TableError(
                f"coords of table {spec.name!r}: the labels of dim {dim!r} must be a sequence, "
                f"got {labels!r}"
            )
        if dim not in spec.dims:
            raise TableError(f"coords of table {spec.name!r}: no dim {dim!r} in {spec.dims}")
        expected = spec.shape[spec.dims.index(dim)]
        if len(labels) != expected:
            raise TableError(
                f"coords of table {spec.name!r}: dim {dim!r} has {expected} entries, "
                f"got {len(labels)} labels"
            )


def _check_init(spec: TableSpec) -> None:
    if isinstance(spec.init, (Normal, Uniform)):
        if spec.dtype.startswith("int"):
            raise TableError(f"table {spec.name!r}: random first values need a float dtype")
        return
    what = f"first values of table {spec.name!r}"
    init = checked_array(spec.init, what)
    sparse = sp.issparse(init)
    if init.dtype.kind not in "biuf":
        raise TableError(f"{what} must be numbers, got {spec.init!r}")
    if init.ndim and init.shape != spec.shape:
        raise TableError(f"{what} have shape {init.shape}, the table has {spec.shape}")
    fitting(init.data if sparse else init, spec.dtype, what)
    if init.ndim:
        object.__setattr__(spec, "init", init)
