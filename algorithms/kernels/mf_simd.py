"""Normal equations of one row of ratings for a block of 8 factors, as LLVM IR.

Row ``i`` has entries ``p`` with the other side's row ``j = index[p]`` and the residual ``r[p]``.
``pack[j]`` holds 16 numbers, one cache line: the other side's last change of the block before,
``d``, and its present values of this block, ``v``.

- `gather_row`: ``r <- r - d w`` with the row's own values ``w`` of the block before, then
  ``G = sum v v'``, ``b = sum r v`` and ``sum r^2``;
- `solve`: the ``x`` with ``(G + diag(l)) x = b - l u``, over the lanes that are free;
- `spread_row`: ``r <- r - v x``.

Functions named ``*_python`` say the same in numpy: the twins for the tests, and what runs when
numba's JIT is off.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from .mf_lanes import I64, LANE_F32, LANES, Lanes, data_of

__all__ = [
    "gather_row",
    "gather_row_python",
    "solve",
    "solve_python",
    "spread_row",
    "spread_row_python",
]

#: A pivot below this share of its diagonal is noise: the lane depends on those before it.
SINGULAR = 1e-6
#: Numbers of ``pack`` for one row of the other side.
PACK = 2 * LANES


def _places(builder: Any, index: Any, first: Any) -> list[Any]:
    """Offsets in ``pack`` of eight entries' rows."""
    out = []
    for lane in range(LANES):
        row = builder.load(builder.gep(index, [builder.add(first, I64(lane))]))
        out.append(builder.mul(builder.sext(row, I64), I64(PACK)))
    return out


def _half(builder: Any, place: Any) -> Any:
    return builder.add(place, I64(LANES))


@intrinsic
def _gather_tiles(
    typingctx: Any, index: Any, residual: Any, low: Any, high: Any, before: Any, pack: Any, out: Any
) -> Any:
    signature = types.void(index, residual, types.int64, types.int64, before, pack, out)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = Lanes(builder)
        index, residual = (data_of(context, builder, signature.args[k], args[k]) for k in (0, 1))
        before, pack, out = (
            data_of(context, builder, signature.args[k], args[k]) for k in (4, 5, 6)
        )
        own = lanes.load(before, I64(0))
        sums = [lanes.variable(lanes.zero()) for _ in range(LANES + 2)]
        with cgutils.for_range_slice(builder, args[2], args[3], I64(LANES)) as (first, _):
            places = _places(builder, index, first)
            moved = [builder.fmul(own, lanes.load(pack, place)) for place in places]
            r = builder.fsub(lanes.load(residual, first), lanes.sum_each(moved))
            lanes.store(r, residual, first)
            builder.store(lanes.fma(r, r, builder.load(sums[LANES + 1])), sums[LANES + 1])
            for lane, place in enumerate(places):
                v = lanes.load(pack, _half(builder, place))
                error = lanes.splat_lane(r, lane)
                builder.store(lanes.fma(error, v, builder.load(sums[LANES])), sums[LANES])
                for k in range(LANES):
                    total = lanes.fma(lanes.splat_lane(v, k), v, builder.load(sums[k]))
                    builder.store(total, sums[k])
        for k, total in enumerate(sums):
            lanes.store(builder.load(total), out, I64(k * LANES))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _spread_tiles(
    typingctx: Any, index: Any, residual: Any, low: Any, high: Any, change: Any, pack: Any
) -> Any:
    signature = types.void(index, residual, types.int64, types.int64, change, pack)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = Lanes(builder)
        index, residual = (data_of(context, builder, signature.args[k], args[k]) for k in (0, 1))
        change, pack = (data_of(context, builder, signature.args[k], args[k]) for k in (4, 5))
        own = lanes.load(change, I64(0))
        with cgutils.for_range_slice(builder, args[2], args[3], I64(LANES)) as (first, _):
            places = _places(builder, index, first)
            moved = [builder.fmul(own, lanes.load(pack, _half(builder, at))) for at in places]
            r = builder.fsub(lanes.load(residual, first), lanes.sum_each(moved))
            lanes.store(r, residual, first)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _sweep(typingctx: Any, sums: Any, penalty: Any, values: Any, free: Any, out: Any) -> Any:
    signature = types.void(sums, penalty, values, free, out)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = Lanes(builder)
        sums, penalty, values, free, out = (
            data_of(context, builder, kind, value)
            for kind, value in zip(signature.args, args, strict=True)
        )
        zero = lanes.zero()
        ridge = lanes.load(penalty, I64(0))
        rows = [lanes.load(sums, I64(k * LANES)) for k in range(LANES)]
        rows = [lanes.blend(row, builder.fadd(row, ridge), k) for k, row in enumerate(rows)]
        x = lanes.load(sums, I64(LANES * LANES))
        x = lanes.fma(lanes.negate(ridge), lanes.load(values, I64(0)), x)
        diagonal = zero
        for k, row in enumerate(rows):
            diagonal = lanes.blend(diagonal, row, k)
        least = builder.fmul(diagonal, ir.Constant(LANE_F32, [SINGULAR] * LANES))
        usable = lanes.load(free, I64(0))
        for k in range(LANES):
            pivot = lanes.splat_lane(rows[k], k)
            enough = builder.fcmp_ordered(">", pivot, lanes.splat_lane(least, k))
            inverse = builder.fdiv(lanes.splat_lane(usable, k), pivot)
            inverse = builder.select(enough, inverse, zero)
            factor = builder.fmul(rows[k], inverse)
            factor = lanes.blend(factor, lanes.negate(inverse), k)
            for i in range(k + 1, LANES):
                scale = lanes.negate(lanes.splat_lane(rows[i], k))
                rows[i] = lanes.fma(scale, factor, lanes.blend(rows[i], zero, k))
            found = builder.fmul(lanes.splat_lane(x, k), inverse)
            x = lanes.blend(lanes.fma(lanes.negate(found), rows[k], x), found, k)
        lanes.store(x, out, I64(0))
        return context.get_dummy_value()

    return signature, codegen


def gather_row_python(
    index: NDArray[np.int32],
    residual: NDArray[np.float32],
    low: int,
    high: int,
    before: NDArray[np.float32],
    pack: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    """Bring entries low..high up to date and add up their normal equations.

    Parameters
    ----------
    index : (n_entries,) int32, row of the other side
    residual : (n_entries,) float32, updated in place
    low, high : entries of the row; a multiple of 8
    before : (8,) float32, the row's own values of the block before
    pack : (n_others, 16) float32
    sums : (10, 8) float32, output: G, b, and lanes whose sum is that of the squared residuals
    """
    own, at = slice(low, high), index[low:high]
    residual[own] -= pack[at, :LANES] @ before
    v = pack[at, LANES:]
    sums[:LANES] = v.T @ v
    sums[LANES] = residual[own] @ v
    sums[LANES + 1] = (residual[own] ** 2).reshape(-1, LANES).sum(axis=0)


def spread_row_python(
    index: NDArray[np.int32],
    residual: NDArray[np.float32],
    low: int,
    high: int,
    change: NDArray[np.float32],
    pack: NDArray[np.float32],
) -> None:
    """Take a change of the row's own values (8,) into the residuals of entries low..high."""
    residual[low:high] -= pack[index[low:high], LANES:] @ change


def solve_python(
    sums: NDArray[np.float32],
    penalty: NDArray[np.float32],
    values: NDArray[np.float32],
    free: NDArray[np.float32],
    change: NDArray[np.float32],
) -> None:
    """Solve one row's normal equations.

    Parameters
    ----------
    sums : (10, 8) float32, of `gather_row`
    penalty, values, free : (8,) float32; ``free`` is 1 for lanes to solve for, else 0
    change : (8,) float32, output; 0 where a lane is not free or depends on those before it
    """
    matrix = sums[:LANES].astype(np.float64) + np.diag(penalty)
    right = sums[LANES].astype(np.float64) - penalty * values
    least = SINGULAR * np.diag(matrix).copy()
    kept: list[int] = []
    for k in range(LANES):
        pivot = matrix[k, k]
        if kept:
            part = np.linalg.solve(matrix[np.ix_(kept, kept)], matrix[kept, k])
            pivot = pivot - matrix[k, kept] @ part
        if free[k] and pivot > least[k]:
            kept.append(k)
    change[:] = 0
    if kept:
        change[kept] = np.linalg.solve(matrix[np.ix_(kept, kept)], right[kept])


_jit = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
gather_row: Any = _gather_tiles if _jit else gather_row_python
spread_row: Any = _spread_tiles if _jit else spread_row_python
solve: Any = _sweep if _jit else solve_python
