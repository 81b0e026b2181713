"""One thread of BLAS while a rank's own threads compute: else each of them would start more."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

__all__ = ["one_blas_thread"]


def one_blas_thread() -> AbstractContextManager[Any]:
    """Let BLAS use one thread in this process, until the ``with`` block ends.

    Where another thread of this process has set a limit already, that one holds.
    """
    limit: AbstractContextManager[Any] = _controller(len(sys.modules)).limit(
        limits=1, user_api="blas"
    )
    return limit


@lru_cache(maxsize=1)
def _controller(n_modules: int) -> Any:
    """The libraries that are loaded by now: they come with modules; looking takes milliseconds."""
    return ThreadpoolController()
