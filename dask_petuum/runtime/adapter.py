"""Every name of ``distributed`` that is not a documented interface, in this one file.

Handlers of servers (``handlers``, ``stream_handlers``) are how Dask's own P2P shuffle talks from
worker to worker; they are not promised to stay. Checked with distributed 2026.8.

Two rules of theirs that cost a worker its life if they are broken: an exception in a *stream*
handler closes the worker, so those given here are wrapped to log instead; and an operation that
the other side does not know is answered with None, so a reply counts only with a status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import numpy as np
from distributed.comm import CommClosedError
from distributed.core import Status, rpc
from distributed.protocol.serialize import Serialized, register_serialization_family
from tornado.ioloop import PeriodicCallback

from dask_petuum.exceptions import TransportError

__all__ = [
    "add_handlers",
    "after",
    "around_retirement",
    "ask_for_life",
    "ask_scheduler",
    "broadcast",
    "call_scheduler",
    "call_worker",
    "call_worker_of",
    "cast_to_scheduler",
    "cast_to_workers",
    "every",
    "forget_lost_workers",
    "give_up_worker",
    "is_closing",
    "last_seen",
    "leaves",
    "on_loop",
    "paused_workers",
    "remove_handlers",
    "soon",
    "spawn",
    "start_on_loop",
    "stuck_tasks",
    "task_error",
    "unwatch",
    "wait_on_loop",
    "watch",
    "wrap_array",
]

logger = logging.getLogger(__name__)
Handler = Callable[..., Any]
T = TypeVar("T")

#: Time for a worker that does not answer to close before its nanny kills it, and for the nanny.
KILL_SECONDS = 1.0
NANNY_SECONDS = 5.0
#: Time between two looks whether a client still has its scheduler.
LOOK_SECONDS = 0.5
#: Name of our arrays' way through Dask's protocol.
ARRAY_FAMILY = "petuum-array"


def wrap_array(array: Any) -> Any:
    """Mark a C-contiguous array to travel as a frame of its own: no pickle, no copy.

    Dask's own way (``to_serialize``) pickles the array's type into the header of each.
    """
    header = {"serializer": ARRAY_FAMILY, "dtype": array.dtype.str, "shape": array.shape}
    return Serialized(header, [memoryview(array.reshape(-1)).cast("B")] if array.size else [])


def _no_dumps(value: Any) -> Any:
    raise NotImplementedError("only wrap_array makes these")


def _load_array(header: Mapping[str, Any], frames: Sequence[Any]) -> Any:
    dtype = np.dtype(header["dtype"])
    if dtype.kind not in "iufb":
        raise TypeError(f"an array of {dtype} is not taken")
    flat = np.frombuffer(frames[0], dtype=dtype) if frames else np.empty(0, dtype=dtype)
    return flat.reshape(header["shape"])


register_serialization_family(ARRAY_FAMILY, _no_dumps, _load_array)


def add_handlers(
    server: Any, calls: Mapping[str, Handler], casts: Mapping[str, Handler] | None = None
) -> None:
    """Let a scheduler or worker answer calls (with a reply) and casts (one way)."""
    server.handlers.update(calls)
    for name, handler in (casts or {}).items():
        server.stream_handlers[name] = _total(name, handler)


def remove_handlers(server: Any, calls: Iterable[str], casts: Iterable[str] = ()) -> None:
    """Undo :func:`add_handlers`."""
    for name in calls:
        server.handlers.pop(name, None)
    for name in casts:
        server.stream_handlers.pop(name, None)


async def call_worker(worker: Any, address: str, operation: str, **message: Any) -> dict[str, Any]:
    """Call another worker's handler.

    Raises
    ------
    TransportError
        Where the peer cannot be reached, or its answer carries no status.
    """
    try:
        reply = await getattr(worker.rpc(address), operation)(**message)
    except (OSError, CommClosedError) as error:
        raise TransportError(f"worker {address} cannot be reached: {error}") from error
    return _checked(reply, operation, address)


async def call_worker_of(
    scheduler: Any, address: str, operation: str, **message: Any
) -> dict[str, Any]:
    """Call a worker's handler from the scheduler, which passes on what it does not need to read.

    Raises as :func:`call_worker`.
    """
    try:
        reply = await getattr(scheduler.rpc(address), operation)(**message)
    except (OSError, CommClosedError) as error:
        raise TransportError(f"worker {address} cannot be reached: {error}") from error
    return _checked(reply, operation, address)


async def ask_for_life(worker: Any, address: str) -> None:
    """Return when another worker has answered; any worker answers at once, armed or not."""
    await worker.rpc(address).echo(data=0)


async def call_scheduler(node: Any, operation: str, **message: Any) -> dict[str, Any]:
    """Call the scheduler's handler from a worker; as :func:`call_worker`."""
    try:
        reply = await getattr(node.scheduler, operation)(**message)
    except (OSError, CommClosedError) as error:
        raise TransportError(f"the scheduler cannot be reached: {error}") from error
    return _checked(reply, operation, "scheduler")


async def ask_scheduler(client: Any, operation: str, /, **message: Any) -> dict[str, Any]:
    """Call the scheduler's handler from a client; ends when the client has lost its scheduler.

    Dask would try for the client's whole ``timeout`` to connect to a scheduler that is gone.
    """
    call = asyncio.ensure_future(call_scheduler(client, operation, **message))
    try:
        while not call.done():
            await asyncio.wait([call], timeout=LOOK_SECONDS)
            if not call.done() and client.status != "running":
                raise TransportError(f"the scheduler cannot be reached: client {client.status}")
        return call.result()
    finally:
        call.cancel()


def cast_to_scheduler(worker: Any, operation: str, **message: Any) -> None:
    """Send one message to the scheduler, without a reply. Call on the worker's event loop."""
    worker.batched_send({"op": operation, **message})


def cast_to_workers(
    scheduler: Any, addresses: Iterable[str], operation: str, **message: Any
) -> None:
    """Send one message to each worker, without a reply. Call on the scheduler's event loop."""
    scheduler.send_all({}, {address: [{"op": operation, **message}] for address in addresses})


def around_retirement(
    scheduler: Any, waiting: Callable[[list[str]], AbstractAsyncContextManager[None]]
) -> Callable[[], None]:
    """Retire workers that are asked for by name or address within a context; undo: the result.

    `LocalCluster.scale` asks for them by name, as addresses, and Dask finds none (2026.8).
    """
    retire = scheduler.handlers["retire_workers"]

    async def retire_in_context(
        workers: Sequence[Any] | None = None, names: Sequence[Any] | None = None, **options: Any
    ) -> Any:
        asked = {str(name) for name in (*(workers or ()), *(names or ()))}
        found = [
            address
            for address, state in scheduler.workers.items()
            if address in asked or str(state.name) in asked
        ]
        if not found:
            return await retire(workers=workers, names=names, **options)
        async with waiting(found):
            return await retire(workers=found, **options)

    def undo() -> None:
        if scheduler.handlers.get("retire_workers") is retire_in_context:
            scheduler.handlers["retire_workers"] = retire

    scheduler.handlers["retire_workers"] = retire_in_context
    return undo


async def broadcast(
    scheduler: Any, addresses: Iterable[str], operation: str, **message: Any
) -> dict[str, Any]:
    """Call a handler of several workers from the scheduler; workers that are gone are left out."""
    known = [address for address in addresses if address in scheduler.workers]
    replies: dict[str, Any] = await scheduler.broadcast(
        msg={"op": operation, **message}, workers=known, on_error="return"
    )
    return replies


def soon(scheduler: Any, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
    """Run a coroutine function soon; the scheduler waits for it when it closes."""
    scheduler._ongoing_background_tasks.call_soon(function, *args)


def every(
    scheduler: Any, seconds: float, function: Callable[[], Coroutine[Any, Any, None]]
) -> PeriodicCallback:
    """Call a coroutine function every so many seconds, until it is stopped or the scheduler is."""
    callback = PeriodicCallback(function, seconds * 1000)
    scheduler.periodic_callbacks[f"petuum-{function.__name__}"] = callback
    callback.start()
    return callback


def last_seen(scheduler: Any, address: str) -> float | None:
    """When a worker was last heard of, seconds since the epoch; None: it is not there."""
    worker = scheduler.workers.get(address)
    return None if worker is None else float(worker.last_seen)


def paused_workers(scheduler: Any) -> set[str]:
    """Workers that begin no task, since their memory is nearly full."""
    workers = scheduler.workers
    return {address for address in workers if workers[address].status == Status.paused}


def stuck_tasks(scheduler: Any, prefix: str) -> dict[str, str]:
    """Tasks whose keys begin with ``prefix`` and which a paused worker has to begin; its address.

    Dask neither runs a task elsewhere that is pinned to a worker, nor says that it waits.
    """
    paused = paused_workers(scheduler)
    if not paused:
        return {}
    stuck = {}
    for address in paused:
        state = scheduler.workers[address]
        begun = {*state.executing, *state.long_running}
        stuck.update({task.key: address for task in state.processing if task not in begun})
    for task in scheduler.unrunnable:
        homes = sorted(paused & set(task.worker_restrictions or ()))
        if homes:
            stuck[task.key] = homes[0]
    return {key: address for key, address in stuck.items() if str(key).startswith(prefix)}


async def give_up_worker(
    scheduler: Any, address: str, reason: str, on_silence: Callable[[str], None]
) -> None:
    """Remove a worker that does not answer; its nanny, if it has one, starts another.

    The nanny first: a worker that is merely slow, and finds that the scheduler has dropped it,
    closes for good and takes its nanny with it. ``on_silence`` is called with the address where the
    nanny does not answer either: the whole host is out of reach, so nobody starts another.
    """
    worker = scheduler.workers.get(address)
    if worker is None:
        return
    if worker.nanny is not None:
        try:
            async with rpc(worker.nanny, connection_args=scheduler.connection_args) as remote:
                kill = remote.kill(reason=reason, timeout=KILL_SECONDS)
                await asyncio.wait_for(kill, NANNY_SECONDS)
        except (OSError, CommClosedError) as error:  # TimeoutError is one
            logger.info("The nanny of %s does not answer: %r", address, error)
            on_silence(address)
    if scheduler.workers.get(address) is worker:
        await scheduler.remove_worker(address, stimulus_id=reason, close=worker.nanny is None)


def forget_lost_workers(scheduler: Any) -> None:
    """Let Dask's work stealing forget the workers that are gone; call when one has been removed.

    It counts the tasks on their way by worker and never drops a worker, which holds the tasks that
    it executed when it was last heard of, what they need, and data of their graph (2026.8).
    """
    stealing = scheduler.extensions.get("stealing")
    for name in ("in_flight_occupancy", "in_flight_tasks"):
        counts = getattr(stealing, name, {})
        for worker in [w for w in counts if scheduler.workers.get(w.address) is not w]:
            del counts[worker]


def leaves(worker_state: Any) -> bool:
    """Whether a worker has been told to retire."""
    return bool(worker_state.status == Status.closing_gracefully)


def is_closing(worker: Any) -> bool:
    """Whether a worker's process is about to end."""
    return bool(worker.status in (Status.closing, Status.closing_gracefully, Status.closed))


def task_error(scheduler: Any, key: str) -> str:
    """Traceback and error of a task that failed, as text."""
    task = scheduler.tasks.get(key)
    return "" if task is None else f"{task.traceback_text or ''}{task.exception_text or ''}"


def on_loop(node: Any, function: Callable[..., Any], *args: Any) -> None:
    """Run a function soon on the event loop of a worker, from any thread."""
    loop: asyncio.AbstractEventLoop = node.loop.asyncio_loop
    loop.call_soon_threadsafe(function, *args)


def after(node: Any, seconds: float, function: Callable[[], None]) -> None:
    """Run a function after a time on the event loop of a worker, from any thread."""
    loop: asyncio.AbstractEventLoop = node.loop.asyncio_loop
    loop.call_soon_threadsafe(loop.call_later, seconds, function)


def watch(node: Any, source: int, on_input: Callable[[], None]) -> None:
    """Call a function on the event loop of a worker whenever a file has something to read."""
    loop: asyncio.AbstractEventLoop = node.loop.asyncio_loop
    loop.call_soon_threadsafe(loop.add_reader, source, on_input)


def unwatch(node: Any, source: int, then: Callable[[], None]) -> None:
    """Undo :func:`watch`, from any thread; then call a function."""
    loop: asyncio.AbstractEventLoop = node.loop.asyncio_loop

    def stop() -> None:
        loop.remove_reader(source)
        then()

    try:
        loop.call_soon_threadsafe(stop)
    except RuntimeError:  # the loop is closed: it watches nothing any more
        then()


def spawn(node: Any, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine soon on the event loop of a worker, from any thread."""
    asyncio.run_coroutine_threadsafe(coroutine, node.loop.asyncio_loop)


def start_on_loop(node: Any, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the event loop of a worker, from another thread; its result to come."""
    return asyncio.run_coroutine_threadsafe(coroutine, node.loop.asyncio_loop)


def wait_on_loop(node: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop of a worker and wait for it, from another thread."""
    return start_on_loop(node, coroutine).result()


def _checked(reply: Any, operation: str, address: str) -> dict[str, Any]:
    if not isinstance(reply, dict) or "status" not in reply:
        raise TransportError(
            f"{address} gave no proper answer to {operation!r} (got {type(reply).__name__}); "
            "is dask_petuum armed there?"
        )
    return reply


def _total(name: str, handler: Handler) -> Handler:
    def total(**message: Any) -> None:
        try:
            handler(**message)
        except Exception:
            logger.exception("Exception while handling %s", name)

    return total
