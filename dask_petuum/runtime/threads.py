"""The threads of one rank: kernels that release the GIL, run over items, results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from numbers import Integral
from types import TracebackType
from typing import TypeVar

from dask_petuum.runtime.blas import one_blas_thread

__all__ = ["Threads", "check_n_jobs", "count_threads", "share_of_threads"]

T = TypeVar("T")
R = TypeVar("R")


def count_threads(n_jobs: int | None) -> int:
    """Turn scikit-learn's ``n_jobs`` into a number of threads.

    None means every core this process may use, or OMP_NUM_THREADS where that is smaller (joblib
    and the nannies of Dask set it so that nested parallel work does not multiply); negative
    numbers count back from all cores, as in joblib.

    Raises
    ------
    ValueError
        For what `check_n_jobs` refuses.
    """
    check_n_jobs(n_jobs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    available = cores or 1
    if n_jobs is None:
        limit = os.environ.get("OMP_NUM_THREADS", "")
        return max(1, min(available, int(limit))) if limit.isdigit() else available
    return share_of_threads(n_jobs, available)


def check_n_jobs(n_jobs: int | None) -> None:
    """Refuse a number of threads that cannot be.

    Raises
    ------
    ValueError
        For 0, or what is neither None nor an integer.
    """
    if n_jobs is None:
        return
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral):
        raise ValueError(f"n_jobs must be None or an integer, got {n_jobs!r}")
    if n_jobs == 0:
        raise ValueError("n_jobs must not be 0; use None for all cores or a positive number")


def share_of_threads(n_jobs: int, available: int) -> int:
    """Threads that a positive ``n_jobs`` names, or a negative one leaves of those available.

    Examples
    --------
    >>> [share_of_threads(n_jobs, 4) for n_jobs in (6, 1, -1, -2, -9)]
    [6, 1, 4, 3, 1]
    """
    return int(n_jobs) if n_jobs > 0 else max(1, available + 1 + int(n_jobs))


class Threads:
    """A pool of threads that ends with its ``with`` block.

    Safe for one caller at a time. On an exception (Ctrl-C included) nothing new is started and
    the kernels under way are waited for, so that nobody writes to the arrays afterwards.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._pool = (
            ThreadPoolExecutor(n_threads, thread_name_prefix="petuum-kernel")
            if n_threads > 1
            else None
        )

    def __enter__(self) -> Threads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call ``function`` on each item, in the pool's threads; results in the items' order.

        BLAS has one thread meanwhile, so that the number of ours never changes a result.
        """
        with one_blas_thread():
            if self._pool is None:
                return [function(item) for item in items]
            return self._map(self._pool, function, items)

    @staticmethod
    def _map(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            wait(futures)
            raise
