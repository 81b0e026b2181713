"""Squared distances of a tile of rows to centres, written as LLVM IR vectors.

numba vectorises the same loops with 256-bit vectors and separate multiplications, and keeps
partial sums in memory: 64 ns a row (20 features, 50 centres, float32); this takes 30. Four
centres and four vectors of rows make 16 sums that stay in registers; a feature costs a
subtraction and a fused multiply-add for each. No sum is reordered, and a fused multiply-add
is the same number on every machine, so results are too.

Functions named ``*_python`` say the same in numpy: the twins for the tests, and what runs when
numba's JIT is off.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "TILE",
    "tile_distances",
    "tile_distances_python",
    "tile_nearest",
    "tile_nearest_python",
]

#: Rows of a tile; a tile of 20 float32 features is 5 KB (L1).
TILE = 64
#: Centres handled together; their number is padded to a multiple of it.
BLOCK = 4
#: Vectors of rows handled together.
VECTORS = 4

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_ELEMENTS = {types.float32: (ir.FloatType(), 16), types.float64: (ir.DoubleType(), 8)}


class _Lanes:
    """Vectors of one element type: 64 bytes each."""

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder = builder
        self.element, self.n_lanes = _ELEMENTS[element]
        self.type = ir.VectorType(self.element, self.n_lanes)
        self.labels = ir.VectorType(_I32, self.n_lanes)
        bits = 32 if self.n_lanes == 16 else 64
        kind = ir.FunctionType(self.type, [self.type] * 3)
        name = f"llvm.fma.v{self.n_lanes}f{bits}"
        self.fma = cgutils.get_or_insert_function(builder.module, kind, name)

    def constant(self, value: float) -> Any:
        """Vector of equal numbers."""
        return ir.Constant(self.type, [value] * self.n_lanes)

    def splat(self, scalar: Any, kind: Any) -> Any:
        """Vector of one scalar."""
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, _I32(0))
        zeros = ir.Constant(self.labels, [0] * self.n_lanes)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def at(self, pointer: Any, index: Any, kind: Any) -> Any:
        """Address of the vector that starts at element ``index``."""
        return self.builder.bitcast(self.builder.gep(pointer, [index]), ir.PointerType(kind))

    def load(self, pointer: Any, index: Any) -> Any:
        """Vector that starts at element ``index``."""
        return self.builder.load(self.at(pointer, index, self.type), align=4)

    def minimum(self, a: Any, b: Any) -> Any:
        """Smaller of each lane."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        """Larger of each lane."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), b, a)


def _array(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, list[Any]]:
    """Data pointer and shape of an array argument."""
    proxy = cgutils.create_struct_proxy(kind)(context, builder, value)
    return proxy.data, cgutils.unpack_tuple(builder, proxy.shape)


def _distances(lanes: _Lanes, tile: Any, centers: Any, where: tuple[Any, Any, Any]) -> list[Any]:
    """Distances of VECTORS vectors of rows to BLOCK centres; vectors of a centre side by side."""
    builder = lanes.builder
    n_features, first_center, first_row = where
    sums = [cgutils.alloca_once(builder, lanes.type) for _ in range(BLOCK * VECTORS)]
    for total in sums:
        builder.store(lanes.constant(0.0), total)
    starts = [builder.mul(builder.add(first_center, _I64(i)), n_features) for i in range(BLOCK)]
    with cgutils.for_range(builder, n_features) as loop:
        row = builder.add(builder.mul(loop.index, _I64(TILE)), first_row)
        rows = [lanes.load(tile, builder.add(row, _I64(v * lanes.n_lanes))) for v in range(VECTORS)]
        for i, start in enumerate(starts):
            scalar = builder.load(builder.gep(centers, [builder.add(start, loop.index)]))
            center = lanes.splat(scalar, lanes.type)
            for v, values in enumerate(rows):
                total = sums[i * VECTORS + v]
                error = builder.fsub(values, center)
                builder.store(builder.call(lanes.fma, [error, error, builder.load(total)]), total)
    return [builder.load(total) for total in sums]


@intrinsic
def _tile_distances(typingctx: Any, tile: Any, centers: Any, first: Any, out: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = _Lanes(builder, signature.args[0].dtype)
        tile, shape = _array(context, builder, signature.args[0], args[0])
        centers, _ = _array(context, builder, signature.args[1], args[1])
        out, _ = _array(context, builder, signature.args[3], args[3])
        for group in range(0, TILE, VECTORS * lanes.n_lanes):
            sums = _distances(lanes, tile, centers, (shape[0], args[2], _I64(group)))
            for place, value in enumerate(sums):
                i, v = divmod(place, VECTORS)
                at = _I64(i * TILE + group + v * lanes.n_lanes)
                builder.store(value, lanes.at(out, at, lanes.type), align=4)
        return context.get_dummy_value()

    return types.void(tile, centers, types.int64, out), codegen


def _nearest_group(
    lanes: _Lanes, tile: Any, centers: Any, group: int, sizes: tuple[Any, Any], out: Any
) -> None:
    """Nearest and second nearest of one group of rows among all centres."""
    builder = lanes.builder
    n_features, n_centers = sizes
    best = [cgutils.alloca_once(builder, lanes.type) for _ in range(VECTORS)]
    second = [cgutils.alloca_once(builder, lanes.type) for _ in range(VECTORS)]
    label = [cgutils.alloca_once(builder, lanes.labels) for _ in range(VECTORS)]
    for v in range(VECTORS):
        builder.store(lanes.constant(float("inf")), best[v])
        builder.store(lanes.constant(float("inf")), second[v])
        builder.store(ir.Constant(lanes.labels, [0] * lanes.n_lanes), label[v])
    with cgutils.for_range_slice(builder, _I64(0), n_centers, _I64(BLOCK)) as (center, _):
        sums = _distances(lanes, tile, centers, (n_features, center, _I64(group)))
        for place, value in enumerate(sums):
            i, v = divmod(place, VECTORS)
            number = builder.trunc(builder.add(center, _I64(i)), _I32)
            least = builder.load(best[v])
            nearer = builder.fcmp_ordered("<", value, least)
            loser = lanes.maximum(least, value)
            builder.store(lanes.minimum(builder.load(second[v]), loser), second[v])
            chosen = lanes.splat(number, lanes.labels)
            builder.store(builder.select(nearer, chosen, builder.load(label[v])), label[v])
            builder.store(builder.select(nearer, value, least), best[v])
    for v in range(VECTORS):
        at = _I64(group + v * lanes.n_lanes)
        for value, pointer, kind in zip(
            (best, second, label), out, (lanes.type, lanes.type, lanes.labels), strict=True
        ):
            builder.store(builder.load(value[v]), lanes.at(pointer, at, kind), align=4)


@intrinsic
def _tile_nearest(
    typingctx: Any, tile: Any, centers: Any, best: Any, second: Any, label: Any
) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = _Lanes(builder, signature.args[0].dtype)
        tile, tile_shape = _array(context, builder, signature.args[0], args[0])
        centers, centers_shape = _array(context, builder, signature.args[1], args[1])
        out = [
            _array(context, builder, kind, value)[0]
            for kind, value in zip(signature.args[2:], args[2:], strict=True)
        ]
        sizes = (tile_shape[0], centers_shape[0])
        for group in range(0, TILE, VECTORS * lanes.n_lanes):
            _nearest_group(lanes, tile, centers, group, sizes, out)
        return context.get_dummy_value()

    return types.void(tile, centers, best, second, label), codegen


def tile_distances_python(
    tile: NDArray[Any], centers: NDArray[Any], first: int, out: NDArray[Any]
) -> None:
    """Squared distances to centres first..first+3; out : (BLOCK, TILE)."""
    for i in range(BLOCK):
        out[i] = ((tile - centers[first + i][:, np.newaxis]) ** 2).sum(axis=0)


def tile_nearest_python(
    tile: NDArray[Any],
    centers: NDArray[Any],
    best: NDArray[Any],
    second: NDArray[Any],
    label: NDArray[np.int32],
) -> None:
    """Nearest and second nearest centre of each row of a tile; ties go to the lower number.

    Parameters
    ----------
    tile : (n_features, TILE), C-contiguous
    centers : (n_centers padded to BLOCK with infinities, n_features), C-contiguous
    best, second, label : (TILE,), output: squared distances and the nearest centre's number
    """
    distances = ((tile[np.newaxis] - centers[:, :, np.newaxis]) ** 2).sum(axis=1)
    label[:] = distances.argmin(axis=0)
    ordered = np.sort(distances, axis=0)
    best[:] = ordered[0]
    second[:] = ordered[1]


_jit = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
tile_distances: Any = _tile_distances if _jit else tile_distances_python
tile_nearest: Any = _tile_nearest if _jit else tile_nearest_python
