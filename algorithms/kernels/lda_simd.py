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

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lda_ir import (
    DEPTH,
    F32,
    I1,
    I16,
    I32,
    I64,
    LANE_F32,
    LANE_I32,
    LANES,
    accumulate,
    accumulate_list,
    data_of,
    find_lane,
    find_row,
    iota,
    lanes_at,
    prefix_sum,
    splat,
)

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

JIT_IS_OFF = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]
GOLDEN = 0x9E3779B97F4A7C15


@intrinsic
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
        counts,
        types.int64,
        weight,
        running,
        types.float32,
        types.float32,
        types.int64,
        types.float32,
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counts, word, weight, running, beta, share, old, excess = args
        table = cgutils.create_struct_proxy(signature.args[0])(context, builder, counts)
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        row = builder.gep(
            builder.bitcast(table.data, ir.PointerType(I32)), [builder.mul(word, width)]
        )
        weight = data_of(context, builder, signature.args[2], weight, F32)
        running = data_of(context, builder, signature.args[3], running, F32)
        n_rows = builder.lshr(width, I64(4))
        lanes = accumulate(builder, row, weight, running, n_rows, beta)
        old_lane = builder.and_(old, I64(LANES - 1))
        is_old = builder.icmp_signed(
            "==", iota(), splat(builder, builder.trunc(old_lane, I32), LANE_I32)
        )
        zero = ir.Constant(LANE_F32, [0.0] * LANES)
        taken = builder.select(is_old, splat(builder, excess, LANE_F32), zero)
        lane, left = find_lane(builder, builder.fsub(lanes, taken), share)
        same = builder.icmp_signed("==", lane, old_lane)
        correction = builder.select(same, excess, F32(0.0))
        old_row = builder.ashr(old, I64(4))
        found = find_row(builder, running, lane, left, n_rows, (old_row, correction))
        return builder.add(builder.shl(found, I64(4)), lane)

    return signature, codegen


@intrinsic
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
        topics = builder.gep(data_of(context, builder, kinds[0], topics, I32), [start])
        counts = builder.gep(data_of(context, builder, kinds[1], counts, I32), [start])
        phi = data_of(context, builder, kinds[4], phi, F32)
        running = data_of(context, builder, kinds[5], running, F32)
        loop_args = (running, n_rows, old, without)
        lanes = accumulate_list(builder, topics, counts, phi, loop_args)
        total = builder.extract_element(prefix_sum(builder, lanes), I32(LANES - 1))
        goal = builder.fmul(builder.fadd(total, smooth), share)
        chosen = cgutils.alloca_once_value(builder, I64(-1))
        inside = builder.fcmp_ordered("<", goal, total)
        with builder.if_else(inside) as (listed, smoothed):
            with listed:
                lane, left = find_lane(builder, lanes, builder.fdiv(goal, total))
                nothing = (I64(0), F32(0.0))
                row = find_row(builder, running, lane, left, n_rows, nothing)
                builder.store(builder.add(builder.shl(row, I64(4)), lane), chosen)
            with smoothed:
                rest = builder.fdiv(builder.fsub(goal, total), smooth)
                builder.store(rest, running)
        return builder.load(chosen)

    return signature, codegen


@intrinsic
def _find_listed(typingctx: Any, topics: Any, start: Any, n_rows: Any, topic: Any) -> Any:
    signature = types.int64(topics, types.int64, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        topics = builder.gep(data_of(context, builder, signature.args[0], args[0], I32), [args[1]])
        wanted = splat(builder, builder.trunc(args[3], I32), LANE_I32)
        found = cgutils.alloca_once_value(builder, I64(-1))
        with cgutils.for_range(builder, args[2]) as loop:
            at = builder.shl(loop.index, I64(4))
            lanes = builder.load(lanes_at(builder, topics, at, LANE_I32), align=4)
            bits = builder.bitcast(builder.icmp_signed("==", lanes, wanted), I16)
            with builder.if_then(builder.icmp_unsigned("!=", bits, I16(0)), likely=False):
                lane = builder.zext(builder.cttz(bits, I1(1)), I64)
                builder.store(builder.add(at, lane), found)
                loop.do_break()
        return builder.load(found)

    return signature, codegen


@intrinsic
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
    signature = types.float32(counts, types.int64, inverse, weight, types.float32, phi, sums)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        start = builder.mul(args[1], width)
        row = builder.gep(builder.bitcast(table.data, ir.PointerType(I32)), [start])
        inverse, weight, phi, sums = (
            data_of(context, builder, signature.args[j], args[j], F32) for j in (2, 3, 5, 6)
        )
        beta = splat(builder, args[4], LANE_F32)
        zero = ir.Constant(LANE_F32, [0.0] * LANES)
        total = cgutils.alloca_once_value(builder, zero)
        bucket = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, builder.lshr(width, I64(4))) as loop:
            at = builder.shl(loop.index, I64(4))
            here = builder.mul(builder.udiv(loop.index, I64(DEPTH)), I64(LANES))
            count = builder.load(lanes_at(builder, row, at, LANE_I32), align=4)
            count = builder.fadd(builder.sitofp(count, LANE_F32), beta)
            factor = builder.load(lanes_at(builder, inverse, at, LANE_F32), align=4)
            builder.store(
                builder.fmul(count, factor), lanes_at(builder, phi, at, LANE_F32), align=4
            )
            factor = builder.load(lanes_at(builder, weight, at, LANE_F32), align=4)
            value = builder.fmul(count, factor)
            builder.store(builder.fadd(builder.load(total), value), total)
            first = builder.icmp_unsigned("==", builder.and_(loop.index, I64(DEPTH - 1)), I64(0))
            value = builder.fadd(builder.select(first, zero, builder.load(bucket)), value)
            builder.store(value, bucket)
            builder.store(value, lanes_at(builder, sums, here, LANE_F32), align=4)
        return builder.extract_element(prefix_sum(builder, builder.load(total)), I32(LANES - 1))

    return signature, codegen


@intrinsic
def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    signature = types.void(array, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        step = cgutils.unpack_tuple(builder, table.strides)[0]
        where = builder.ptrtoint(table.data, I64)
        where = builder.add(where, builder.mul(args[1], step))
        byte = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [builder.inttoptr(where, byte), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _uniform(typingctx: Any, seed: Any, index: Any) -> Any:
    signature = types.float32(types.uint64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def mix(value: Any, shift: int, factor: int) -> Any:
            value = builder.xor(value, builder.lshr(value, I64(shift)))
            return builder.mul(value, I64(factor))

        value = builder.add(args[0], builder.mul(args[1], I64(GOLDEN)))
        value = mix(value, 30, 0xBF58476D1CE4E5B9)
        value = mix(value, 27, 0x94D049BB133111EB)
        value = builder.xor(value, builder.lshr(value, I64(31)))
        bits = builder.trunc(builder.lshr(value, I64(40)), I32)
        return builder.fmul(builder.uitofp(bits, F32), F32(2.0**-24))

    return signature, codegen


def uniform_python(seed: int, index: int) -> np.float32:
    """Draw number ``index`` of the stream ``seed``, in [0, 1): 24 bits of SplitMix64."""
    full = (1 << 64) - 1
    value = (int(seed) + int(index) * GOLDEN) & full
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
    is_old = (topics[part] == old) & (counts[part] > 0)
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


#: What kernels call: an instruction, or its twin where the JIT is off.
draw_listed: Any = draw_listed_python if JIT_IS_OFF else _draw_listed
draw_topic: Any = draw_topic_python if JIT_IS_OFF else _draw
find_listed: Any = find_listed_python if JIT_IS_OFF else _find_listed
prefetch: Any = _no_prefetch if JIT_IS_OFF else _prefetch
prepare_word: Any = prepare_word_python if JIT_IS_OFF else _prepare_word
uniform: Any = uniform_python if JIT_IS_OFF else _uniform
