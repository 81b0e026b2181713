"""One thread of BLAS while a rank's own threads compute: else each of them would start more."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

__all__ = ["one_blas_thread"]


class _Limit:
    """How many are inside; the first sets the limit, the last takes it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_inside = 0
        self.limit: Any = None


_LIMIT = _Limit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread in this process; may be entered by several threads, and again."""
    with _LIMIT.lock:
        _LIMIT.n_inside += 1
        if _LIMIT.n_inside == 1:
            _LIMIT.limit = _controller(len(sys.modules)).limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.n_inside -= 1
            if _LIMIT.n_inside == 0:
                _LIMIT.limit.restore_original_limits()
                _LIMIT.limit = None


@lru_cache(maxsize=1)
def _controller(n_modules: int) -> Any:
    """The libraries that are loaded by now: they come with modules; looking takes milliseconds."""
    return ThreadpoolController()
