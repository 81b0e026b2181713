"""Vector instructions that the LDA samplers are built from, written as LLVM IR.

numba turns a scan over topics into scalar code, because the running sum is a dependency between
neighbours. Here the topics are laid out as rows of 16 lanes, topic ``k = 16 * row + lane``: the
running sum goes down each lane (one vector add a row, no dependency between lanes), the 16 lane
totals are summed by four shuffles, and the search takes first the lane, then the row. LLVM lowers
the 16-lane vectors to whatever the machine has (AVX-512, AVX2, SSE, NEON). No sum is reordered
(no fastmath), so the same seed gives the same topics on every machine.

Functions named ``*_python`` say the same in plain Python: the twins for the tests, and what runs
when numba's JIT is off.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "DEPTH",
    "LANES",
    "draw_listed",
    "draw_listed_python",
    "draw_topic",
    "draw_topic_python",
    "find_listed",
    "find_listed_python",
    "prefetch",
    "prepare_word",
    "prepare_word_python",
    "uniform",
    "uniform_python",
]

#: Topics handled by one vector; rows of counts are padded to a multiple of it.
LANES = 16
#: Rows of 16 topics whose lanes are summed into one bucket each by `prepare_word` (a power of 2).
DEPTH = 8

_I1, _I16, _I32, _I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_LANE_MASK = ir.VectorType(_I1, LANES)
_LANE_I32 = ir.VectorType(_I32, LANES)
_LANE_F32 = ir.VectorType(_F32, LANES)
_GOLDEN = 0x9E3779B97F4A7C15


def _data(context: Any, builder: Any, array_type: Any, array: Any, element: Any) -> Any:
    pointer = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(pointer, ir.PointerType(element))


def _lanes_at(builder: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """Address of the vector that starts at element ``index``."""
    return builder.bitcast(builder.gep(pointer, [index]), ir.PointerType(vector))


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _prefix_sum(builder: Any, lanes: Any) -> Any:
    """Inclusive prefix sum over the 16 lanes (Hillis and Steele 1986)."""
    zero = ir.Constant(_LANE_F32, [0.0] * LANES)
    for shift in (1, 2, 4, 8):
        order = [i - shift if i >= shift else LANES for i in range(LANES)]
        moved = builder.shuffle_vector(lanes, zero, ir.Constant(_LANE_I32, order))
        lanes = builder.fadd(lanes, moved)
    return lanes


def _count(builder: Any, mask: Any) -> Any:
    """Number of true lanes."""
    bits = builder.bitcast(mask, _I16)
    return builder.zext(builder.ctpop(bits), _I64)


def _iota() -> Any:
    return ir.Constant(_LANE_I32, list(range(LANES)))


def _accumulate(builder: Any, row: Any, weight: Any, running: Any, n_rows: Any, beta: Any) -> Any:
    """Write the lane-wise running sums of (count + beta) * weight; return the lane totals."""
    total = cgutils.alloca_once(builder, _LANE_F32)
    builder.store(ir.Constant(_LANE_F32, [0.0] * LANES), total)
    beta_lanes = _splat(builder, beta, _LANE_F32)
    with cgutils.for_range(builder, n_rows) as loop:
        at = builder.shl(loop.index, _I64(4))
        count = builder.load(_lanes_at(builder, row, at, _LANE_I32), align=4)
        factor = builder.load(_lanes_at(builder, weight, at, _LANE_F32), align=4)
        value = builder.fmul(builder.fadd(builder.sitofp(count, _LANE_F32), beta_lanes), factor)
        value = builder.fadd(builder.load(total), value)
        builder.store(value, total)
        builder.store(value, _lanes_at(builder, running, at, _LANE_F32), align=4)
    return builder.load(total)


def _find_lane(builder: Any, lanes: Any, share: Any) -> tuple[Any, Any]:
    """Lane whose part of the total holds ``share`` of it, and what is left inside the lane."""
    prefix = _prefix_sum(builder, lanes)
    goal = builder.fmul(builder.extract_element(prefix, _I32(LANES - 1)), share)
    passed = builder.fcmp_ordered("<=", prefix, _splat(builder, goal, _LANE_F32))
    lane = _count(builder, passed)
    last = builder.icmp_unsigned(">", lane, _I64(LANES - 1))
    lane = builder.select(last, _I64(LANES - 1), lane)
    zero = ir.Constant(_LANE_F32, [0.0] * LANES)
    order = ir.Constant(_LANE_I32, [LANES, *range(LANES - 1)])
    before = builder.shuffle_vector(prefix, zero, order)
    left = builder.fsub(goal, builder.extract_element(before, builder.trunc(lane, _I32)))
    return lane, left


def _find_row(builder: Any, running: Any, lane: Any, left: Any, n_rows: Any, fix: Any) -> Any:
    """Row inside a lane: how many running sums lie at or below ``left``."""
    old_row, correction = fix
    found = cgutils.alloca_once_value(builder, _I64(0))
    with cgutils.for_range(builder, builder.sub(n_rows, _I64(1))) as loop:
        at = builder.add(builder.shl(loop.index, _I64(4)), lane)
        value = builder.load(builder.gep(running, [at]))
        late = builder.icmp_signed(">=", loop.index, old_row)
        limit = builder.select(late, builder.fadd(left, correction), left)
        passed = builder.fcmp_ordered("<=", value, limit)
        builder.store(builder.add(builder.load(found), builder.zext(passed, _I64)), found)
    return builder.load(found)


@intrinsic  # type: ignore[untyped-decorator]
def _draw(
    typingctx: Any,
    counts: Any,
    word: Any,
    weight: Any,
    running: Any,
    beta: Any,
    share: Any,
    old: Any,
    excess: Any,
) -> Any:
    signature = types.int64(
        counts, types.int64, weight, running, types.float32, types.float32, types.int64, types.float32
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counts, word, weight, running, beta, share, old, excess = args
        table = cgutils.create_struct_proxy(signature.args[0])(context, builder, counts)
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        row = builder.gep(
            builder.bitcast(table.data, ir.PointerType(_I32)), [builder.mul(word, width)]
        )
        weight = _data(context, builder, signature.args[2], weight, _F32)
        running = _data(context, builder, signature.args[3], running, _F32)
        n_rows = builder.lshr(width, _I64(4))
        lanes = _accumulate(builder, row, weight, running, n_rows, beta)
        old_lane = builder.and_(old, _I64(LANES - 1))
        is_old = builder.icmp_signed(
            "==", _iota(), _splat(builder, builder.trunc(old_lane, _I32), _LANE_I32)
        )
        zero = ir.Constant(_LANE_F32, [0.0] * LANES)
        taken = builder.select(is_old, _splat(builder, excess, _LANE_F32), zero)
        lane, left = _find_lane(builder, builder.fsub(lanes, taken), share)
        same = builder.icmp_signed("==", lane, old_lane)
        correction = builder.select(same, excess, _F32(0.0))
        old_row = builder.ashr(old, _I64(4))
        found = _find_row(builder, running, lane, left, n_rows, (old_row, correction))
        return builder.add(builder.shl(found, _I64(4)), lane)

    return signature, codegen


def _gather(builder: Any, table: Any, index: Any) -> Any:
    """Load 16 floats of ``table`` at the 16 indices."""
    pointers = ir.VectorType(ir.PointerType(_F32), LANES)
    where = builder.gep(table, [_I32(0)])
    where.indices, where.type = [index], pointers  # llvmlite's builder knows scalar indices only
    kind = ir.FunctionType(_LANE_F32, [pointers, _I32, _LANE_MASK, _LANE_F32])
    name = f"llvm.masked.gather.v{LANES}f32.v{LANES}p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    all_lanes = ir.Constant(_LANE_MASK, [1] * LANES)
    zero = ir.Constant(_LANE_F32, [0.0] * LANES)
    return builder.call(function, [where, _I32(4), all_lanes, zero])


def _accumulate_list(builder: Any, topics: Any, counts: Any, phi: Any, loop_args: Any) -> Any:
    """Write the lane-wise running sums of count * phi[topic]; return the lane totals."""
    running, n_rows, old, without = loop_args
    total = cgutils.alloca_once(builder, _LANE_F32)
    builder.store(ir.Constant(_LANE_F32, [0.0] * LANES), total)
    old = _splat(builder, builder.trunc(old, _I32), _LANE_I32)
    without = _splat(builder, without, _LANE_F32)
    ones = ir.Constant(_LANE_I32, [1] * LANES)
    with cgutils.for_range(builder, n_rows) as loop:
        at = builder.shl(loop.index, _I64(4))
        topic = builder.load(_lanes_at(builder, topics, at, _LANE_I32), align=4)
        count = builder.load(_lanes_at(builder, counts, at, _LANE_I32), align=4)
        is_old = builder.icmp_signed("==", topic, old)
        count = builder.select(is_old, builder.sub(count, ones), count)
        factor = builder.select(is_old, without, _gather(builder, phi, topic))
        value = builder.fmul(builder.sitofp(count, _LANE_F32), factor)
        value = builder.fadd(builder.load(total), value)
        builder.store(value, total)
        builder.store(value, _lanes_at(builder, running, at, _LANE_F32), align=4)
    return builder.load(total)


@intrinsic  # type: ignore[untyped-decorator]
def _draw_listed(
    typingctx: Any,
    topics: Any,
    counts: Any,
    start: Any,
    n_rows: Any,
    phi: Any,
    running: Any,
    old: Any,
    without: Any,
    smooth: Any,
    share: Any,
) -> Any:
    integer, real = types.int64, types.float32
    signature = types.int64(
        topics, counts, integer, integer, phi, running, integer, real, real, real
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        topics, counts, start, n_rows, phi, running, old, without, smooth, share = args
        kinds = signature.args
        topics = builder.gep(_data(context, builder, kinds[0], topics, _I32), [start])
        counts = builder.gep(_data(context, builder, kinds[1], counts, _I32), [start])
        phi = _data(context, builder, kinds[4], phi, _F32)
        running = _data(context, builder, kinds[5], running, _F32)
        loop_args = (running, n_rows, old, without)
        lanes = _accumulate_list(builder, topics, counts, phi, loop_args)
        total = builder.extract_element(_prefix_sum(builder, lanes), _I32(LANES - 1))
        goal = builder.fmul(builder.fadd(total, smooth), share)
        chosen = cgutils.alloca_once_value(builder, _I64(-1))
        inside = builder.fcmp_ordered("<", goal, total)
        with builder.if_else(inside) as (listed, smoothed):
            with listed:
                lane, left = _find_lane(builder, lanes, builder.fdiv(goal, total))
                nothing = (_I64(0), _F32(0.0))
                row = _find_row(builder, running, lane, left, n_rows, nothing)
                builder.store(builder.add(builder.shl(row, _I64(4)), lane), chosen)
            with smoothed:
                rest = builder.fdiv(builder.fsub(goal, total), smooth)
                builder.store(rest, running)
        return builder.load(chosen)

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def _find_listed(typingctx: Any, topics: Any, start: Any, n_rows: Any, topic: Any) -> Any:
    signature = types.int64(topics, types.int64, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        topics = builder.gep(_data(context, builder, signature.args[0], args[0], _I32), [args[1]])
        wanted = _splat(builder, builder.trunc(args[3], _I32), _LANE_I32)
        found = cgutils.alloca_once_value(builder, _I64(-1))
        with cgutils.for_range(builder, args[2]) as loop:
            at = builder.shl(loop.index, _I64(4))
            lanes = builder.load(_lanes_at(builder, topics, at, _LANE_I32), align=4)
            bits = builder.bitcast(builder.icmp_signed("==", lanes, wanted), _I16)
            with builder.if_then(builder.icmp_unsigned("!=", bits, _I16(0)), likely=False):
                lane = builder.zext(builder.cttz(bits, _I1(1)), _I64)
                builder.store(builder.add(at, lane), found)
                loop.do_break()
        return builder.load(found)

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def _prepare_word(
    typingctx: Any,
    counts: Any,
    word: Any,
    inverse: Any,
    weight: Any,
    beta: Any,
    phi: Any,
    sums: Any,
) -> Any:
    signature = types.float32(
        counts, types.int64, inverse, weight, types.float32, phi, sums
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        start = builder.mul(args[1], width)
        row = builder.gep(builder.bitcast(table.data, ir.PointerType(_I32)), [start])
        inverse, weight, phi, sums = (
            _data(context, builder, signature.args[j], args[j], _F32) for j in (2, 3, 5, 6)
        )
        beta = _splat(builder, args[4], _LANE_F32)
        zero = ir.Constant(_LANE_F32, [0.0] * LANES)
        total = cgutils.alloca_once_value(builder, zero)
        bucket = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, builder.lshr(width, _I64(4))) as loop:
            at = builder.shl(loop.index, _I64(4))
            here = builder.mul(builder.udiv(loop.index, _I64(DEPTH)), _I64(LANES))
            count = builder.load(_lanes_at(builder, row, at, _LANE_I32), align=4)
            count = builder.fadd(builder.sitofp(count, _LANE_F32), beta)
            factor = builder.load(_lanes_at(builder, inverse, at, _LANE_F32), align=4)
            builder.store(
                builder.fmul(count, factor), _lanes_at(builder, phi, at, _LANE_F32), align=4
            )
            factor = builder.load(_lanes_at(builder, weight, at, _LANE_F32), align=4)
            value = builder.fmul(count, factor)
            builder.store(builder.fadd(builder.load(total), value), total)
            first = builder.icmp_unsigned(
                "==", builder.and_(loop.index, _I64(DEPTH - 1)), _I64(0)
            )
            value = builder.fadd(builder.select(first, zero, builder.load(bucket)), value)
            builder.store(value, bucket)
            builder.store(value, _lanes_at(builder, sums, here, _LANE_F32), align=4)
        return builder.extract_element(
            _prefix_sum(builder, builder.load(total)), _I32(LANES - 1)
        )

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    signature = types.void(array, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        step = cgutils.unpack_tuple(builder, table.strides)[0]
        where = builder.ptrtoint(table.data, _I64)
        where = builder.add(where, builder.mul(args[1], step))
        byte = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [builder.inttoptr(where, byte), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def _uniform(typingctx: Any, seed: Any, index: Any) -> Any:
    signature = types.float32(types.uint64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def mix(value: Any, shift: int, factor: int) -> Any:
            value = builder.xor(value, builder.lshr(value, _I64(shift)))
            return builder.mul(value, _I64(factor))

        value = builder.add(args[0], builder.mul(args[1], _I64(_GOLDEN)))
        value = mix(value, 30, 0xBF58476D1CE4E5B9)
        value = mix(value, 27, 0x94D049BB133111EB)
        value = builder.xor(value, builder.lshr(value, _I64(31)))
        bits = builder.trunc(builder.lshr(value, _I64(40)), _I32)
        return builder.fmul(builder.uitofp(bits, _F32), _F32(2.0**-24))

    return signature, codegen


def uniform_python(seed: int, index: int) -> np.float32:
    """Draw number ``index`` of the stream ``seed``, in [0, 1): 24 bits of SplitMix64."""
    full = (1 << 64) - 1
    value = (int(seed) + int(index) * _GOLDEN) & full
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & full
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & full
    return np.float32((value ^ (value >> 31)) >> 40) * np.float32(2.0**-24)


def draw_topic_python(
    counts: Any, word: int, weight: Any, running: Any, beta: Any, share: Any, old: int, excess: Any
) -> int:
    """Say what `draw_topic` does, in numpy float32, in the same order of sums."""
    beta, share, excess = np.float32(beta), np.float32(share), np.float32(excess)
    value = (counts[word].astype(np.float32) + beta) * weight[: counts.shape[1]]
    rows = np.cumsum(value.reshape(-1, LANES), axis=0, dtype=np.float32)
    running[: counts.shape[1]] = rows.ravel()
    lanes = rows[-1].copy()
    lanes[old % LANES] -= excess
    for shift in (1, 2, 4, 8):
        lanes = lanes + np.concatenate([np.zeros(shift, np.float32), lanes[:-shift]])
    goal = lanes[-1] * share
    lane = min(int(np.sum(lanes <= goal)), LANES - 1)
    left = goal - (lanes[lane - 1] if lane else np.float32(0))
    found = 0
    for row in range(len(rows) - 1):
        late = lane == old % LANES and row >= old // LANES
        found += int(rows[row, lane] <= (left + excess if late else left))
    return found * LANES + lane


def draw_listed_python(
    topics: Any,
    counts: Any,
    start: int,
    n_rows: int,
    phi: Any,
    running: Any,
    old: int,
    without: Any,
    smooth: Any,
    share: Any,
) -> int:
    """Say what `draw_listed` does, in numpy float32, in the same order of sums."""
    part = slice(start, start + n_rows * LANES)
    is_old = topics[part] == old
    value = (counts[part] - is_old).astype(np.float32)
    value *= np.where(is_old, np.float32(without), phi[topics[part]])
    rows = np.cumsum(value.reshape(-1, LANES), axis=0, dtype=np.float32)
    lanes = rows[-1].copy() if n_rows else np.zeros(LANES, np.float32)
    for shift in (1, 2, 4, 8):
        lanes = lanes + np.concatenate([np.zeros(shift, np.float32), lanes[:-shift]])
    total = lanes[-1]
    goal = (total + np.float32(smooth)) * np.float32(share)
    if not goal < total:
        running[0] = (goal - total) / np.float32(smooth)
        return -1
    goal = total * (goal / total)
    lane = min(int(np.sum(lanes <= goal)), LANES - 1)
    left = goal - (lanes[lane - 1] if lane else np.float32(0))
    return int(np.sum(rows[:-1, lane] <= left)) * LANES + lane


def find_listed_python(topics: Any, start: int, n_rows: int, topic: int) -> int:
    """Find the first place of ``topic`` in ``n_rows`` rows of 16 from ``start``, or -1."""
    at = np.flatnonzero(topics[start : start + n_rows * LANES] == topic)
    return int(at[0]) if len(at) else -1


def prepare_word_python(
    counts: Any, word: int, inverse: Any, weight: Any, beta: Any, phi: Any, sums: Any
) -> np.float32:
    """Fill phi and the bucket sums of (count + beta) * weight; return their total."""
    n = counts.shape[1]
    count = counts[word].astype(np.float32) + np.float32(beta)
    phi[:n] = count * inverse[:n]
    value = (count * weight[:n]).reshape(-1, LANES)
    for first in range(0, len(value), DEPTH):
        at = first // DEPTH * LANES
        sums[at : at + LANES] = np.cumsum(value[first : first + DEPTH], axis=0)[-1]
    lanes = np.cumsum(value, axis=0, dtype=np.float32)[-1]
    for shift in (1, 2, 4, 8):
        lanes = lanes + np.concatenate([np.zeros(shift, np.float32), lanes[:-shift]])
    return np.float32(lanes[-1])


def _no_prefetch(array: Any, index: int) -> None:
    """Do nothing: what a prefetch means to a program."""


if numba.config.DISABLE_JIT:
    draw_listed, find_listed = draw_listed_python, find_listed_python
    draw_topic, prefetch, uniform = draw_topic_python, _no_prefetch, uniform_python
    prepare_word = prepare_word_python
else:
    draw_listed, find_listed = _draw_listed, _find_listed
    draw_topic, prefetch, uniform = _draw, _prefetch, _uniform
    prepare_word = _prepare_word
