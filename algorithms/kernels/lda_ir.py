"""Pieces of LLVM IR that the instructions of ``lda_simd`` are put together from.

Each function appends instructions to a builder and returns the value they leave; `LANES` floats
are one vector. None of them reorders a sum.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

__all__ = [
    "DEPTH",
    "F32",
    "I1",
    "I16",
    "I32",
    "I64",
    "LANES",
    "LANE_F32",
    "LANE_I32",
    "LANE_MASK",
    "accumulate",
    "accumulate_list",
    "count_true",
    "data_of",
    "find_lane",
    "find_row",
    "gather",
    "iota",
    "lanes_at",
    "prefix_sum",
    "splat",
]

#: Topics handled by one vector; rows of counts are padded to a multiple of it.
LANES = 16
#: Rows of 16 topics whose lanes are summed into one bucket each by `prepare_word` (a power of 2).
DEPTH = 8

I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
LANE_MASK = ir.VectorType(I1, LANES)
LANE_I32 = ir.VectorType(I32, LANES)
LANE_F32 = ir.VectorType(F32, LANES)


def data_of(context: Any, builder: Any, array_type: Any, array: Any, element: Any) -> Any:
    pointer = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(pointer, ir.PointerType(element))


def lanes_at(builder: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """Address of the vector that starts at element ``index``."""
    return builder.bitcast(builder.gep(pointer, [index]), ir.PointerType(vector))


def splat(builder: Any, scalar: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def prefix_sum(builder: Any, lanes: Any) -> Any:
    """Inclusive prefix sum over the 16 lanes (Hillis and Steele 1986)."""
    zero = ir.Constant(LANE_F32, [0.0] * LANES)
    for shift in (1, 2, 4, 8):
        order = [i - shift if i >= shift else LANES for i in range(LANES)]
        moved = builder.shuffle_vector(lanes, zero, ir.Constant(LANE_I32, order))
        lanes = builder.fadd(lanes, moved)
    return lanes


def count_true(builder: Any, mask: Any) -> Any:
    """Number of true lanes."""
    bits = builder.bitcast(mask, I16)
    return builder.zext(builder.ctpop(bits), I64)


def iota() -> Any:
    return ir.Constant(LANE_I32, list(range(LANES)))


def accumulate(builder: Any, row: Any, weight: Any, running: Any, n_rows: Any, beta: Any) -> Any:
    """Write the lane-wise running sums of (count + beta) * weight; return the lane totals."""
    total = cgutils.alloca_once(builder, LANE_F32)
    builder.store(ir.Constant(LANE_F32, [0.0] * LANES), total)
    beta_lanes = splat(builder, beta, LANE_F32)
    with cgutils.for_range(builder, n_rows) as loop:
        at = builder.shl(loop.index, I64(4))
        count = builder.load(lanes_at(builder, row, at, LANE_I32), align=4)
        factor = builder.load(lanes_at(builder, weight, at, LANE_F32), align=4)
        value = builder.fmul(builder.fadd(builder.sitofp(count, LANE_F32), beta_lanes), factor)
        value = builder.fadd(builder.load(total), value)
        builder.store(value, total)
        builder.store(value, lanes_at(builder, running, at, LANE_F32), align=4)
    return builder.load(total)


def find_lane(builder: Any, lanes: Any, share: Any) -> tuple[Any, Any]:
    """Lane whose part of the total holds ``share`` of it, and what is left inside the lane."""
    prefix = prefix_sum(builder, lanes)
    goal = builder.fmul(builder.extract_element(prefix, I32(LANES - 1)), share)
    passed = builder.fcmp_ordered("<=", prefix, splat(builder, goal, LANE_F32))
    lane = count_true(builder, passed)
    last = builder.icmp_unsigned(">", lane, I64(LANES - 1))
    lane = builder.select(last, I64(LANES - 1), lane)
    zero = ir.Constant(LANE_F32, [0.0] * LANES)
    order = ir.Constant(LANE_I32, [LANES, *range(LANES - 1)])
    before = builder.shuffle_vector(prefix, zero, order)
    left = builder.fsub(goal, builder.extract_element(before, builder.trunc(lane, I32)))
    return lane, left


def find_row(builder: Any, running: Any, lane: Any, left: Any, n_rows: Any, fix: Any) -> Any:
    """Row inside a lane: how many running sums lie at or below ``left``."""
    old_row, correction = fix
    found = cgutils.alloca_once_value(builder, I64(0))
    with cgutils.for_range(builder, builder.sub(n_rows, I64(1))) as loop:
        at = builder.add(builder.shl(loop.index, I64(4)), lane)
        value = builder.load(builder.gep(running, [at]))
        late = builder.icmp_signed(">=", loop.index, old_row)
        limit = builder.select(late, builder.fadd(left, correction), left)
        passed = builder.fcmp_ordered("<=", value, limit)
        builder.store(builder.add(builder.load(found), builder.zext(passed, I64)), found)
    return builder.load(found)


def gather(builder: Any, table: Any, index: Any) -> Any:
    """Load 16 floats of ``table`` at the 16 indices."""
    pointers = ir.VectorType(ir.PointerType(F32), LANES)
    where = builder.gep(table, [I32(0)])
    where.indices, where.type = [index], pointers  # llvmlite's builder knows scalar indices only
    kind = ir.FunctionType(LANE_F32, [pointers, I32, LANE_MASK, LANE_F32])
    name = f"llvm.masked.gather.v{LANES}f32.v{LANES}p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    all_lanes = ir.Constant(LANE_MASK, [1] * LANES)
    zero = ir.Constant(LANE_F32, [0.0] * LANES)
    return builder.call(function, [where, I32(4), all_lanes, zero])


def accumulate_list(builder: Any, topics: Any, counts: Any, phi: Any, loop_args: Any) -> Any:
    """Write the lane-wise running sums of count * phi[topic]; return the lane totals."""
    running, n_rows, old, without = loop_args
    total = cgutils.alloca_once(builder, LANE_F32)
    builder.store(ir.Constant(LANE_F32, [0.0] * LANES), total)
    old = splat(builder, builder.trunc(old, I32), LANE_I32)
    without = splat(builder, without, LANE_F32)
    ones = ir.Constant(LANE_I32, [1] * LANES)
    with cgutils.for_range(builder, n_rows) as loop:
        at = builder.shl(loop.index, I64(4))
        topic = builder.load(lanes_at(builder, topics, at, LANE_I32), align=4)
        count = builder.load(lanes_at(builder, counts, at, LANE_I32), align=4)
        # Padding is topic 0 with count 0: it must not pass for the old topic.
        is_held = builder.icmp_signed(">", count, ir.Constant(LANE_I32, [0] * LANES))
        is_old = builder.and_(builder.icmp_signed("==", topic, old), is_held)
        count = builder.select(is_old, builder.sub(count, ones), count)
        factor = builder.select(is_old, without, gather(builder, phi, topic))
        value = builder.fmul(builder.sitofp(count, LANE_F32), factor)
        value = builder.fadd(builder.load(total), value)
        builder.store(value, total)
        builder.store(value, lanes_at(builder, running, at, LANE_F32), align=4)
    return builder.load(total)
