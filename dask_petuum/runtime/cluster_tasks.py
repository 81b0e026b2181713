"""Tasks that belong to certain workers: waiting for them, but not for a worker that is gone.

Dask neither runs a task elsewhere that is pinned to a worker, nor fails it when that worker dies:
whoever waits for it waits for ever. So each wait of the client for pinned tasks is here, and asks
the scheduler from time to time whether their workers are still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client, Future

from dask_petuum.exceptions import RankLostError, RunError
from dask_petuum.runtime import adapter

__all__ = ["gather_pinned", "released_on_failure", "wait_for", "wait_pinned"]

#: Time between two looks at the workers, seconds.
LOOK_SECONDS = 0.5


@contextmanager
def released_on_failure(futures: Sequence[Future]) -> Iterator[None]:
    """Let go of futures where the block fails; what is added to the sequence meanwhile counts.

    A traceback that somebody keeps would hold them, and Dask would go on computing what failed.
    """
    try:
        yield
    except BaseException:
        for future in futures:
            future.release()
        raise


def wait_pinned(client: Client, futures: Sequence[Future], addresses: Sequence[str]) -> None:
    """Wait until all futures are done, leaving their results where they are.

    Parameters
    ----------
    addresses
        Workers without which they may never be done, by rank.

    Raises
    ------
    RankLostError
        Where one of the workers is gone, or has been paused for too long to begin its task.
    Exception
        What computing one of the futures raised.
    """
    for future in futures:
        while not future.done():
            try:
                future.exception(timeout=LOOK_SECONDS)
            except TimeoutError:
                client.sync(_look, client, addresses, futures)
    for future in futures:
        if future.status == "error":
            future.result()
        if future.status != "finished":
            client.sync(_look, client, addresses)
            raise RunError(f"{future.key} was {future.status}: was the client restarted?")


def gather_pinned(client: Client, futures: Sequence[Future], addresses: Sequence[str]) -> list[Any]:
    """Wait for all futures and bring their results here; as :func:`wait_pinned`."""
    wait_pinned(client, futures, addresses)
    results: list[Any] = wait_for(client, _gather, (client, list(futures)), addresses)
    return results


def wait_for(
    client: Client,
    function: Callable[..., Coroutine[Any, Any, Any]],
    arguments: Sequence[Any],
    addresses: Sequence[str],
) -> Any:
    """Run a coroutine function on the client's event loop, which some workers are needed for.

    Raises
    ------
    RankLostError
        Where one of the workers is gone.
    Exception
        What the function raised.
    """
    return client.sync(_wait_for, client, function, arguments, addresses)


async def _gather(client: Client, futures: list[Future]) -> Any:
    return await client.gather(futures, asynchronous=True)


async def _wait_for(
    client: Client,
    function: Callable[..., Coroutine[Any, Any, Any]],
    arguments: Sequence[Any],
    addresses: Sequence[str],
) -> Any:
    task = asyncio.ensure_future(function(*arguments))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=LOOK_SECONDS)
            if not task.done():
                await _look(client, addresses)
        if task.cancelled() or task.exception() is not None:
            # Also Dask's word ("cancelled", "already forgotten") for results that died with a
            # worker, or whose inputs did.
            await _look(client, addresses)
        return task.result()
    finally:
        task.cancel()


async def _look(client: Client, addresses: Sequence[str], futures: Sequence[Future] = ()) -> None:
    """Raise where a worker is gone, or holds up a future."""
    # the scheduler would not look at workers that have no rank, and a silent one may do nothing
    status = await adapter.ask_scheduler(client, "petuum_status", needed=list(addresses))
    there = status["workers"]
    lost = [f"rank {rank} with {a}" for rank, a in enumerate(addresses) if a not in there]
    if lost:
        raise RankLostError(f"workers were lost outside of a run: {', '.join(lost)}")
    for future in futures:
        if future.key in status["stuck"]:
            raise RankLostError(status["stuck"][future.key])
