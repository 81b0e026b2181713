"""The worker's part: its shards of every run, and the handlers through which others reach them.

One plugin per worker process, for its whole life; runs come by tasks (one long-running task per
rank) and go by a call of the scheduler. What a message does is :mod:`.reception`'s.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import to_serialize

from dask_petuum.exceptions import (
    CheckpointError,
    ProtocolError,
    RunError,
    RunInterruptedError,
    TransportError,
)
from dask_petuum.runtime import adapter
from dask_petuum.runtime.interrupt import shield_from_interrupts
from dask_petuum.runtime.kept_parts import KeptParts
from dask_petuum.runtime.rank_run import RankRun
from dask_petuum.runtime.reach import Reach
from dask_petuum.runtime.spec import RunSpec
from dask_petuum.runtime.version import PLUGIN_NAME, version
from dask_petuum.store.messages import field_of

__all__ = ["PetuumWorker", "WorkerNode"]

logger = logging.getLogger(__name__)

#: Time between two looks for peers that do not answer, seconds.
LOOK_SECONDS = 0.5


class WorkerNode:
    """A Dask worker, as the transport of one run sees it; ``run_id`` None: as no run's.

    The mutable state is ``_is_closed``.
    """

    def __init__(self, worker: Worker, reach: Reach, run_id: str | None = None) -> None:
        self._worker = worker
        self._reach = reach
        self._run_id = run_id
        self._is_closed = False

    async def call(self, address: str, operation: str, message: Any) -> Mapping[str, Any]:
        """Call another worker's handler."""
        if self._is_closed:
            raise TransportError(f"run {self._run_id} is over", final=True)
        call = adapter.call_worker(self._worker, address, operation, message=message)
        reply: Mapping[str, Any] = await self._reach.call(address, call, self._run_id)
        return reply

    def cast(self, operation: str, message: Mapping[str, Any]) -> None:
        """Send one message to the scheduler."""
        adapter.cast_to_scheduler(self._worker, operation, **message)

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine soon on the event loop."""
        adapter.spawn(self._worker, coroutine)

    def soon(self, function: Any, *args: Any) -> None:
        """Run a function soon on the event loop."""
        adapter.on_loop(self._worker, function, *args)

    def wrap(self, array: Any) -> Any:
        """Mark an array to travel as a frame of its own."""
        return adapter.wrap_array(array)

    def watch(self, source: int, on_input: Any) -> None:
        """Call a function on the event loop whenever a pipe has something to read."""
        adapter.watch(self._worker, source, on_input)

    def unwatch(self, source: int, then: Any) -> None:
        """Undo `watch`; then call a function."""
        adapter.unwatch(self._worker, source, then)

    def close(self) -> None:
        """End the calls under way, and call nobody any more."""
        if self._run_id is not None and not self._is_closed:
            self._is_closed = True
            adapter.on_loop(self._worker, self._reach.end, self._run_id)


class PetuumWorker(WorkerPlugin):  # type: ignore[misc]
    """Holds this worker's shards."""

    name = PLUGIN_NAME
    idempotent = True

    # The mutable state is `_runs`; tasks add to it and the event loop takes away, one dict
    # operation each.

    def __repr__(self) -> str:
        return f"<PetuumWorker {version()}: runs {sorted(getattr(self, '_runs', {}))}>"

    async def setup(self, worker: Worker) -> None:
        """Add the handlers and tell the scheduler."""
        self._worker = worker
        self._runs: dict[str, RankRun] = {}
        self.reach = Reach(partial(adapter.ask_for_life, worker), pause=4 * LOOK_SECONDS)
        self._looking = adapter.every(worker, LOOK_SECONDS, self.reach.look)
        self.kept = KeptParts(
            worker.address,
            WorkerNode(worker, self.reach),
            lambda coroutine: adapter.wait_on_loop(worker, coroutine),
            lambda operation, **message: adapter.wait_on_loop(
                worker, adapter.call_scheduler(worker, operation, **message)
            ),
        )
        self._is_silent = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="petuum-owner")
        self._calls: dict[str, Callable[..., Any]] = {
            "petuum_push": self.push,
            "petuum_pull": self.pull,
            "petuum_open": self.open,
            "petuum_step": self.step,
            "petuum_block": self.block,
            "petuum_fetch": self.fetch,
            "petuum_fetched": self.fetched,
            "petuum_keep": self.keep,
            "petuum_kept": self.give_kept,
            "petuum_forget": self.forget,
            "petuum_read": self.read,
            "petuum_close": self.close_run,
            "petuum_be_silent": self.be_silent,
        }
        self._casts: dict[str, Callable[..., Any]] = {
            "petuum-interrupt": self.interrupt,
            "petuum-stop": self.stop,
            "petuum-save": self.save,
            "petuum-complete": self.note_complete,
            "petuum-lost": self.lose,
            "petuum-found": self.find,
        }
        adapter.add_handlers(worker, self._calls, self._casts)
        # only under a nanny, which ends its worker by other means; elsewhere SIGINT is its owner's
        self._unshield = shield_from_interrupts() if worker.nanny is not None else None
        await adapter.call_scheduler(
            worker,
            "petuum_hello",
            address=worker.address,
            version=version(),
            nanny=worker.nanny is not None,
        )

    def teardown(self, worker: Worker) -> None:
        """Remove the handlers; end what still runs here."""
        closes = adapter.is_closing(worker)
        if closes:
            adapter.cast_to_scheduler(worker, "petuum-leaves", address=worker.address)
        # a message of the scheduler that nobody takes would be an error of a worker that closes
        adapter.remove_handlers(worker, self._calls, () if closes else self._casts)
        self._looking.stop()
        self.reach.close()
        if self._unshield is not None:
            self._unshield()
        for run_id, run in list(self._runs.items()):
            self.interrupt(run_id, f"worker {worker.address} is closing")
            run.close()
        self._runs.clear()
        self._pool.shutdown(wait=False)

    async def be_silent(self) -> dict[str, Any]:
        """Send the scheduler nothing more after the word that this was the last."""
        self._is_silent = True
        adapter.cast_to_scheduler(self._worker, "petuum-silent", address=self._worker.address)
        return {"status": "OK"}

    def tell(self, operation: str, message: Mapping[str, Any]) -> None:
        """Tell the scheduler something of a run (one way), unless it is closed here."""
        if not self._is_silent and message["run_id"] in self._runs:
            adapter.cast_to_scheduler(self._worker, operation, **message)

    def start_run(self, spec: RunSpec, rank: int) -> RankRun:
        """Make this rank's shard and endpoint; from the rank's task."""
        before = self._runs.get(spec.after) if spec.after is not None else None
        if spec.after is not None and before is None:
            address = self._worker.address
            raise RunError(f"the values of the last run are gone: {address} was started again")
        node = WorkerNode(self._worker, self.reach, spec.run_id)
        run = RankRun(spec, rank, node, self._pool, before, self.kept)
        self._runs[spec.run_id] = run
        return run

    async def read(self, run_id: str, table: str) -> dict[str, Any]:
        """Give copies of this worker's blocks of a table, each with its first row."""
        run = self._runs.get(run_id)
        if run is None:
            text = f"the rows of run {run_id} are gone from worker {self._worker.address}"
            return {"status": "gone", "text": text}
        blocks = await asyncio.to_thread(run.service.block_values, table)
        return {
            "status": "OK",
            # lists: between threads of one process Dask looks for arrays in no tuple
            "blocks": [[int(start), to_serialize(values)] for start, values in blocks],
        }

    async def push(self, message: Mapping[str, Any]) -> Any:
        """Take another rank's batch."""
        return await self._serve("push", message)

    async def pull(self, message: Mapping[str, Any]) -> Any:
        """Answer another rank's read."""
        return await self._serve("pull", message)

    async def open(self, message: Mapping[str, Any]) -> Any:
        """Take another rank's access plan."""
        return await self._serve("open", message)

    async def step(self, message: Mapping[str, Any]) -> Any:
        """Take another rank's batch and answer its read."""
        return await self._serve("step", message)

    async def block(self, message: Mapping[str, Any]) -> Any:
        """Take a block of variables that another rank sends on.

        Answered when this rank's thread has taken it: the sender then sends the next one.
        """
        return await self._serve("block", message)

    async def fetch(self, message: Mapping[str, Any]) -> Any:
        """Give a block of variables that lies here to another rank."""
        return await self._serve("fetch", message)

    async def fetched(self, message: Mapping[str, Any]) -> Any:
        """Forget a block that has come to where it was fetched."""
        return await self._serve("fetched", message)

    async def keep(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a piece of another worker's part of a checkpoint."""
        try:
            return self.kept.take(message)
        except CheckpointError as error:
            logger.debug("A piece of a checkpoint comes too late: %s", error)
            return {"status": "gone", "text": str(error)}
        except ProtocolError as error:
            logger.warning("A piece of a checkpoint is refused: %s", error)
            return {"status": "refused", "text": str(error)}

    async def give_kept(self, message: Mapping[str, Any]) -> Any:
        """Give a piece of a part that is kept here."""
        try:
            return self.kept.give(message)
        except ProtocolError as error:
            logger.warning("A question for a piece of a checkpoint is refused: %s", error)
            return {"status": "refused", "text": str(error)}

    async def forget(self, fit_ids: Sequence[str], done: bool = False) -> dict[str, Any]:
        """Drop the checkpoints of fits; ``done``: they have ended well."""
        if not isinstance(fit_ids, (list, tuple)) or not all(isinstance(f, str) for f in fit_ids):
            return {"status": "refused", "text": f"fits are named by texts, not {fit_ids!r:.80}"}
        self.kept.forget(fit_ids, done is True)
        return {"status": "OK"}

    def save(self, run_id: str) -> None:
        """Let this worker's rank ask the others for a checkpoint (one way)."""
        run = self._runs.get(run_id)
        if run is not None:
            run.save_requested = True

    def note_complete(self, fit_id: str, run_id: str, clock: int) -> None:
        """Drop what came before a checkpoint that is complete (one way)."""
        self.kept.vault.keep_only(fit_id, run_id, clock)
        run = self._runs.get(run_id)
        if run is not None:
            run.note_kept(clock)

    async def close_run(self, run_id: str) -> dict[str, Any]:
        """Free what this worker has of a run."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            run.endpoint.interrupt(RunInterruptedError(f"run {run_id} was closed"))
            run.close()
        return {"status": "OK"}

    def interrupt(self, run_id: str, cause: str) -> None:
        """End every wait of a run with its cause (one way)."""
        run = self._runs.get(run_id)
        if run is not None:
            run.endpoint.interrupt(RunInterruptedError(cause))

    def lose(self, address: str) -> None:
        """End the calls to a worker that is gone (one way)."""
        self.reach.lose(address)

    def find(self, address: str) -> None:
        """Call a worker again that was gone (one way)."""
        self.reach.find(address)

    def stop(self, run_id: str) -> None:
        """Let this worker's rank ask the others for the end of the run (one way)."""
        run = self._runs.get(run_id)
        if run is not None:
            run.endpoint.stopping = True

    async def _serve(self, operation: str, message: Mapping[str, Any]) -> Any:
        try:
            run = self._runs.get(field_of(message, "run", str))
            if run is None:
                return {"status": "gone", "text": f"run {message['run']!r} is not on this worker"}
            sender = run.sender_of(message)
            message = run.transport.unpack(sender, message)
        except ProtocolError as error:
            logger.warning("A message petuum_%s is refused: %s", operation, error)
            return {"status": "refused", "text": str(error)}
        answered = _Answer(asyncio.get_running_loop())
        run.reception.take(f"petuum_{operation}", message, answered)
        return run.transport.pack(sender, await answered.future)


class _Answer:
    """A callback that can be called in any thread, and awaited on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self._thread = threading.get_ident()

    def __call__(self, reply: Mapping[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._set(reply)
            return
        try:
            self.loop.call_soon_threadsafe(self._set, reply)
        except RuntimeError as error:
            raise TransportError("the worker's event loop is closed") from error

    def _set(self, reply: Mapping[str, Any]) -> None:
        if not self.future.done():
            self.future.set_result(reply)
