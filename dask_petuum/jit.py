"""The one wrapper through which every kernel is compiled.

A kernel releases the GIL (a Python loop beside the event loop costs 5 ms a message, a nogil
kernel 0.08 ms; measured 2026-10), cannot raise, and is cached on disk so that a second process
starts at once. Kernels get arrays whose dtype and layout their caller has fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["kernel"]


def kernel(*, fastmath: bool = False, inline: bool = False) -> Callable[[F], F]:
    """Compile a function with numba: no Python objects, no GIL, cached on disk.

    Parameters
    ----------
    fastmath
        Allow the compiler to reorder float sums (needed for SIMD reductions). Results then
        depend on the vector width of the machine, so never use it where two ranks must agree
        to the bit.
    inline
        Ask LLVM to inline the function into its callers.
    """

    def wrap(function: F) -> F:
        compiled = numba.njit(
            nogil=True,
            cache=True,
            fastmath=fastmath,
            error_model="numpy",
            forceinline=inline,
        )(function)
        return cast(F, compiled)

    return wrap
