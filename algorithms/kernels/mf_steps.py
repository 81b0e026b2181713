"""One step of stochastic gradient descent on one rating, as LLVM IR with 8 float32 lanes.

With ``e = r - p'q``, both rows step against their gradients at once:

``t_p = m_p * e q - l_p * s_p p``, ``p <- p + rate / sqrt(g_p) t_p``, ``g_p <- g_p + |t_p|^2 / k``

and likewise for ``q``. ``m`` is 0 for lanes that are held (the ones that stand beside a bias),
``l`` the penalties by lane; both vary in the first vector only: behind it ``m`` is 1 and ``l``
that of the last lane (lanes that pad a row are 0 on both sides and stay so). ``s`` is the row's
factor of the penalties, ``k`` the number of lanes.
One rate for a whole row is the "reduced per-coordinate schedule" of Chin et al. 2015.

References
----------
W.-S. Chin, Y. Zhuang, Y.-C. Juan, C.-J. Lin, "A learning-rate schedule for stochastic gradient
methods to matrix factorization", PAKDD 2015.
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

from .mf_lanes import F32, I32, I64, LANES, Lanes, data_of

__all__ = ["fetch", "fetch_python", "step", "step_python"]

#: Bytes of a cache line.
LINE = 64


@intrinsic
def _fetch(typingctx: Any, rows: Any, row: Any) -> Any:
    """See `fetch_python`."""
    signature = types.void(rows, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, array.shape)[1]
        byte = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        first = builder.mul(args[1], width)
        step = I64(LINE // 4)
        with cgutils.for_range_slice(builder, I64(0), width, step) as (at, _):
            place = builder.gep(array.data, [builder.add(first, at)])
            # to be written, to stay in all caches, data
            builder.call(prefetch, [builder.bitcast(place, byte), I32(1), I32(3), I32(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _step(
    typingctx: Any, users: Any, items: Any, lanes: Any, where: Any, rating: Any, rate: Any
) -> Any:
    signature = types.float32(users, items, lanes, where, types.float32, types.float32)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        factors, speeds = zip(
            *(_two_arrays(context, builder, kinds[side], args[side]) for side in (0, 1)),
            strict=True,
        )
        tables = data_of(context, builder, kinds[2], args[2])
        shape = cgutils.create_struct_proxy(kinds[0][0])(
            context, builder, builder.extract_value(args[0], 0)
        ).shape
        width = cgutils.unpack_tuple(builder, shape)[1]
        rows = [builder.extract_value(args[3], side) for side in (0, 1)]
        v = Lanes(builder)
        starts = [builder.mul(row, width) for row in rows]
        product = v.variable(v.zero())
        with cgutils.for_range_slice(builder, I64(0), width, I64(LANES)) as (at, _):
            p, q = (
                v.load(array, builder.add(start, at))
                for array, start in zip(factors, starts, strict=True)
            )
            builder.store(v.fma(p, q, builder.load(product)), product)
        error = builder.fsub(v.splat(args[4]), v.sum(builder.load(product)))
        _move(v, (factors, starts), (speeds, rows), (tables, width), (error, args[5]))
        return builder.extract_element(error, I64(0))

    return signature, codegen


def _two_arrays(context: Any, builder: Any, kind: Any, pair: Any) -> tuple[Any, Any]:
    return tuple(data_of(context, builder, kind[k], builder.extract_value(pair, k)) for k in (0, 1))


def _move(v: Lanes, where: Any, memory: Any, lanes: tuple[Any, Any], scalars: Any) -> None:
    """Step both rows and their speeds."""
    builder = v.builder
    (factors, starts), (speeds, rows), (tables, width), (error, rate) = (
        where,
        memory,
        lanes,
        scalars,
    )
    root = cgutils.get_or_insert_function(builder.module, _unary_kind(), "llvm.sqrt.f32")
    paces, scales, places = [], [], []
    for speed, row in zip(speeds, rows, strict=True):
        place = builder.mul(row, I64(2))
        places.append(place)
        scales.append(v.splat(v.scalar(speed, builder.add(place, I64(1)))))
        paces.append(v.splat(builder.fdiv(rate, builder.call(root, [v.scalar(speed, place)]))))
    totals = [v.variable(v.zero()) for _ in (0, 1)]
    row = (factors, starts, paces, totals)
    held, ridges = [], []
    for side in (0, 1):
        held.append(v.load(tables, builder.mul(width, I64(2 * side))))
        ridge = v.load(tables, builder.mul(width, I64(2 * side + 1)))
        ridges.append(builder.fmul(ridge, scales[side]))
    _move_lanes(v, row, I64(0), [builder.fmul(free, error) for free in held], ridges)
    rest = [
        builder.fmul(
            v.splat(v.scalar(tables, builder.sub(builder.mul(width, I64(k)), I64(1)))), scale
        )
        for k, scale in ((2, scales[0]), (4, scales[1]))
    ]
    with cgutils.for_range_slice(builder, I64(LANES), width, I64(LANES)) as (at, _):
        _move_lanes(v, row, at, [error, error], rest)
    for side in (0, 1):
        size = builder.uitofp(width, F32)
        total = builder.extract_element(v.sum(builder.load(totals[side])), I64(0))
        speed = builder.fadd(v.scalar(speeds[side], places[side]), builder.fdiv(total, size))
        builder.store(speed, builder.gep(speeds[side], [places[side]]))


def _move_lanes(v: Lanes, row: Any, at: Any, errors: list[Any], ridges: list[Any]) -> None:
    """Step eight lanes of both rows, and add up the squares of the steps."""
    factors, starts, paces, totals = row
    builder = v.builder
    places = [builder.add(start, at) for start in starts]
    values = [v.load(array, place) for array, place in zip(factors, places, strict=True)]
    for side in (0, 1):
        pull = builder.fmul(ridges[side], values[side])
        move = v.fma(errors[side], values[1 - side], v.negate(pull))
        builder.store(v.fma(move, move, builder.load(totals[side])), totals[side])
        v.store(v.fma(paces[side], move, values[side]), factors[side], places[side])


def _unary_kind() -> Any:
    return ir.FunctionType(F32, [F32])


def step_python(
    users: tuple[NDArray[np.float32], NDArray[np.float32]],
    items: tuple[NDArray[np.float32], NDArray[np.float32]],
    lanes: NDArray[np.float32],
    where: tuple[int, int],
    rating: float,
    rate: float,
) -> np.float32:
    """Step both rows of one rating; return its error before the step.

    Parameters
    ----------
    users, items : factors (n_rows, width) and speeds (n_rows, 2): ``g`` and ``s`` of each row;
        float32, updated in place
    lanes : (4, width) float32: ``m`` and ``l`` of the users, ``m`` and ``l`` of the items; beyond
        the first 8 lanes ``m`` is 1 and ``l`` that of the last lane
    where : row of the user, row of the item
    rating, rate : float32
    """
    (factors_p, speeds_p), (factors_q, speeds_q) = users, items
    u, i = where
    p, q = factors_p[u].copy(), factors_q[i].copy()
    error = np.float32(rating) - np.float32(p @ q)
    move_p = lanes[0] * error * q - lanes[1] * speeds_p[u, 1] * p
    move_q = lanes[2] * error * p - lanes[3] * speeds_q[i, 1] * q
    factors_p[u] += np.float32(rate) / np.sqrt(speeds_p[u, 0]) * move_p
    factors_q[i] += np.float32(rate) / np.sqrt(speeds_q[i, 0]) * move_q
    speeds_p[u, 0] += move_p @ move_p / np.float32(len(p))
    speeds_q[i, 0] += move_q @ move_q / np.float32(len(q))
    return np.float32(error)


def fetch_python(rows: NDArray[np.float32], row: int) -> None:
    """Ask for a row (n_rows, width) to be brought into the cache; changes nothing.

    Rows come in random order: without it, most of a step is waiting for them (48 ns a rating
    against 33 at 1 MB of rows; 297 against 47 at 6 MB beside seven other processes, 2026-11).
    """


fetch: Any = fetch_python if numba.config.DISABLE_JIT else _fetch  # type: ignore[attr-defined]
step: Any = step_python if numba.config.DISABLE_JIT else _step  # type: ignore[attr-defined]
