"""Vector instructions of matrix factorisation, written as LLVM IR with 8 float32 lanes.

Sums go down the lanes and the lanes are added in a fixed tree: nothing is reordered, and a fused
multiply-add is the same number on every machine, so results are too. numba's own vectoriser needs
fastmath for a scalar product, and then the result depends on the machine's vector width.

The functions of this file append instructions to a builder; ``mf_blocks`` and ``mf_steps`` make
kernels of them.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

__all__ = [
    "F32",
    "I32",
    "I64",
    "LANES",
    "LANE_F32",
    "Lanes",
    "data_of",
]

#: Factors handled by one vector; ranks are padded to a multiple of it.
LANES = 8

I32, I64 = ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
LANE_F32 = ir.VectorType(F32, LANES)
LANE_I32 = ir.VectorType(I32, LANES)


def data_of(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Pointer to an array's first element."""
    return cgutils.create_struct_proxy(array_type)(context, builder, array).data


class Lanes:
    """Instructions on vectors of 8 floats, appended to one builder."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        kind = ir.FunctionType(LANE_F32, [LANE_F32] * 3)
        self._fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")

    def zero(self) -> Any:
        """Eight zeros."""
        return ir.Constant(LANE_F32, [0.0] * LANES)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``, rounded once."""
        return self.builder.call(self._fma, [a, b, c])

    def negate(self, a: Any) -> Any:
        """Change the sign."""
        return self.builder.fneg(a)

    def splat(self, scalar: Any) -> Any:
        """Eight times one number."""
        undefined = ir.Constant(LANE_F32, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, I32(0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(LANE_I32, [0] * LANES))

    def splat_lane(self, vector: Any, lane: int) -> Any:
        """Eight times one lane."""
        order = ir.Constant(LANE_I32, [lane] * LANES)
        return self.builder.shuffle_vector(vector, ir.Constant(LANE_F32, ir.Undefined), order)

    def blend(self, vector: Any, other: Any, lane: int) -> Any:
        """Return the vector with one lane taken from the other."""
        order = [LANES + i if i == lane else i for i in range(LANES)]
        return self.builder.shuffle_vector(vector, other, ir.Constant(LANE_I32, order))

    def at(self, pointer: Any, index: Any) -> Any:
        """Address of the vector that starts at element ``index``."""
        where = self.builder.gep(pointer, [index])
        return self.builder.bitcast(where, ir.PointerType(LANE_F32))

    def load(self, pointer: Any, index: Any) -> Any:
        """Vector that starts at element ``index``."""
        return self.builder.load(self.at(pointer, index), align=4)

    def store(self, value: Any, pointer: Any, index: Any) -> None:
        """Write a vector to element ``index`` and the next seven."""
        self.builder.store(value, self.at(pointer, index), align=4)

    def scalar(self, pointer: Any, index: Any) -> Any:
        """Load one number."""
        return self.builder.load(self.builder.gep(pointer, [index]))

    def variable(self, value: Any) -> Any:
        """Make a variable that LLVM keeps in a register."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place

    def sum_each(self, vectors: list[Any]) -> Any:
        """Sum of the lanes of each of eight vectors, as the eight lanes of one.

        Neighbours are added first, then pairs, then halves.
        """
        for width in (1, 2, 4):
            low = [i if i % (2 * width) < width else i + LANES - width for i in range(LANES)]
            high = [i + width for i in low]
            vectors = [
                self.builder.fadd(
                    self.builder.shuffle_vector(a, b, ir.Constant(LANE_I32, low)),
                    self.builder.shuffle_vector(a, b, ir.Constant(LANE_I32, high)),
                )
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    def sum(self, vector: Any) -> Any:
        """Sum of the lanes, in the order of `sum_each`, as eight equal lanes."""
        for width in (1, 2, 4):
            order = ir.Constant(LANE_I32, [i ^ width for i in range(LANES)])
            other = self.builder.shuffle_vector(vector, ir.Constant(LANE_F32, ir.Undefined), order)
            vector = self.builder.fadd(vector, other)
        return vector
