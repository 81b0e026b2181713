"""The scheduler's part: which workers are armed, which runs there are, and how each is doing.

Holds no table and runs no user code. One plugin per cluster; runs come and go by calls. It keeps
the vector clock of each run (ranks report every clock, one way), parks the ranks' joining until
all are there, tells every rank at once when a run fails, and answers the client's long polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import time
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from dask_petuum.exceptions import ProtocolError
from dask_petuum.runtime import adapter
from dask_petuum.runtime.board import Board, Failure
from dask_petuum.runtime.boards import Boards
from dask_petuum.runtime.checkpoint_calls import CheckpointCalls
from dask_petuum.runtime.checkpoint_desk import CheckpointDesk
from dask_petuum.runtime.free_loop import make_tasks
from dask_petuum.runtime.handover import Handover
from dask_petuum.runtime.lease import Leases
from dask_petuum.runtime.pauses import Pauses
from dask_petuum.runtime.refusal import refusing, refusing_casts
from dask_petuum.runtime.roster import Roster
from dask_petuum.runtime.shard_calls import ShardCalls
from dask_petuum.runtime.spec import rank_of_task
from dask_petuum.runtime.version import PLUGIN_NAME, version
from dask_petuum.store.messages import field_of, number_of

__all__ = ["PetuumScheduler"]

logger = logging.getLogger(__name__)

#: Longest wait of a client's poll before it is answered with "nothing new", seconds. In between
#: the client looks for tasks that are gone without the scheduler's having heard of them.
POLL_SECONDS = 1.0
#: Wait for the workers' word that they have closed a run, seconds.
CLOSE_SECONDS = 5.0
#: Time between two looks for workers that are silent, seconds.
LOOK_SECONDS = 0.5


class PetuumScheduler(SchedulerPlugin):  # type: ignore[misc]
    """Keeps the runs of a cluster together."""

    name = PLUGIN_NAME
    idempotent = True

    # The mutable state is `_boards`, what is known of workers, and the ledger; only the
    # scheduler's event loop changes them.

    def __init__(self) -> None:
        self._boards = Boards()
        self._roster = Roster()

    def __repr__(self) -> str:
        return f"<PetuumScheduler {version()}: {self._roster!r}, runs {self._boards}>"

    async def start(self, scheduler: Scheduler) -> None:
        """Add the handlers."""
        self._scheduler = scheduler
        self._desk = CheckpointDesk(scheduler, self._armed)
        self._silent: set[str] = set()
        self._heard = asyncio.Event()
        self._handover = Handover(scheduler, self._armed, self._desk, self._boards)
        self._restore = adapter.around_retirement(scheduler, self._handover.wait)
        self._leases = Leases(scheduler, 4 * LOOK_SECONDS, self._roster.expect_no_other)
        self._pauses = Pauses(scheduler, 4 * LOOK_SECONDS, self._fail)
        parts = CheckpointCalls(self._desk, self._boards)
        self._calls: dict[str, Callable[..., Any]] = {
            "petuum_hello": self.hello,
            "petuum_status": self.status,
            "petuum_create_run": self.create_run,
            "petuum_exchange": self.exchange,
            "petuum_next_task": self.next_task,
            "petuum_finish": self.finish,
            "petuum_fail": self.fail,
            "petuum_watch": self.watch,
            "petuum_stop": self.stop,
            "petuum_save": self.save,
            "petuum_saved": parts.add_part,
            "petuum_not_saved": parts.give_up_part,
            "petuum_checkpoint": self._desk.checkpoint,
            "petuum_forget_fit": self._desk.forget,
            "petuum_read": ShardCalls(scheduler, self._boards).read,
            "petuum_close_run": self.close_run,
            "petuum_uninstall": self.uninstall,
        }
        self._casts: dict[str, Callable[..., Any]] = {
            "petuum-clock": self.report,
            "petuum-silent": self.note_silence,
            "petuum-leaves": self.note_leave,
        }
        adapter.add_handlers(scheduler, refusing(self._calls), refusing_casts(self._casts))
        self._watching = adapter.every(scheduler, LOOK_SECONDS, self._look)

    async def hello(self, address: str, version: str, nanny: bool = False) -> dict[str, Any]:
        """Note an armed worker and its version."""
        if self._roster.add(address, version, nanny):
            self._cast_to_all("petuum-found", address=address)
        for run_id in self._boards:
            self._boards.notify(run_id)
        return {"status": "OK"}

    async def status(self, needed: Sequence[str] = ()) -> dict[str, Any]:
        """Tell versions and runs; look whether the workers that somebody waits for are silent."""
        _check_texts(needed)
        self._leases.need(needed)
        return {
            "status": "OK",
            "version": version(),
            "workers": dict(self._roster.versions),
            "there": list(self._scheduler.workers),
            "leaving": self._handover.leaving,
            "returning": self._roster.returning(time()),
            "doubtful": self._leases.suspects,
            "fits": self._desk.fits,
            **self._pauses.view(),
            "runs": {run_id: board.view(board.n_records) for run_id, board in self._boards.items()},
        }

    async def create_run(
        self,
        run_id: str,
        client: str,
        addresses: Sequence[str],
        machine: dict[str, Any] | None = None,
        fit_id: str | None = None,
    ) -> dict[str, Any]:
        """Begin a run on the given workers, one rank each; ``machine``: see `loops.machine_of`."""
        _check_texts(addresses)
        missing = [a for a in addresses if a not in self._scheduler.workers]
        if missing:
            return {"status": "lost", "text": f"workers {missing} are gone"}
        tasks = None if machine is None else make_tasks(**machine)
        board = Board(run_id, client, list(addresses), tasks=tasks, fit_id=fit_id)
        self._boards[run_id] = board
        if fit_id is not None:
            self._desk.begin(fit_id, client)
        return {"status": "OK"}

    async def exchange(self, run_id: str, rank: int, value: Any) -> dict[str, Any]:
        """Take a rank's value of its next exchange; answered with all ranks' when they are there.

        The first exchange is how ranks join: a run begins when all of them have a shard.
        """
        board = self._boards.get(run_id)
        if board is None:
            return {"status": "gone", "text": f"there is no run {run_id}"}
        number = board.tell(rank, value)
        self._boards.notify(run_id)
        while board.told(number) is None and board.failure is None and run_id in self._boards:
            await self._boards.wait(run_id)
        if board.failure is not None:
            return {"status": "failed", "text": board.failure.text}
        values = board.told(number)
        if values is None:
            return {"status": "gone", "text": f"run {run_id} was closed"}
        if board.stopping:  # asked for before this rank could hear of it
            self._cast(board, "petuum-stop")
        return {"status": "OK", "values": values}

    async def next_task(
        self, run_id: str, number: int, partitions: Sequence[int], done: Sequence[Any] | None
    ) -> dict[str, Any]:
        """Take a rank's finished task; give it the next one, or None where its pass is over.

        Waits where all blocks that the rank has not visited are at others.
        """
        board = self._boards.get(run_id)
        if board is None or board.tasks is None:
            return {"status": "gone", "text": f"there is no run {run_id} with tasks"}
        if done is not None:
            board.finish_task(done)
            self._boards.notify(run_id)
        while board.failure is None and run_id in self._boards:
            if board.pass_is_over(number):
                return {"status": "OK", "task": None}
            task = board.next_task(number, partitions)
            if task is not None:
                return {"status": "OK", "task": asdict(task)}
            await self._boards.wait(run_id)
        text = f"run {run_id} was closed" if board.failure is None else board.failure.text
        return {"status": "failed", "text": text}

    async def finish(self, run_id: str, rank: int) -> dict[str, Any]:
        """Note that a rank has ended well."""
        board = self._boards.get(run_id)
        if board is not None:
            board.finish(rank)
            self._boards.notify(run_id)
        return {"status": "OK"}

    async def fail(self, run_id: str, rank: int, text: str, kind: str = "error") -> dict[str, Any]:
        """Note a rank's error and end the run in all the others."""
        board = self._boards.get(run_id)
        if board is not None:
            board.check_rank(rank)
        self._fail(run_id, Failure(kind, rank, text))
        return {"status": "OK"}

    async def save(self, run_id: str) -> dict[str, Any]:
        """Let the ranks save after a common clock, soon."""
        board = self._boards.get(run_id)
        if board is not None:
            self._cast(board, "petuum-save")
        return {"status": "OK"}

    def report(
        self,
        run_id: str,
        rank: int,
        clock: int,
        state: dict[str, Any],
        records: Sequence[dict[str, Any]],
        **extra: Any,
    ) -> None:
        """Note a rank's clock, and records of finished clocks (one way)."""
        board = self._boards.get(run_id)
        if board is not None:
            board.report(rank, clock, state)
            for record in field_of({"records": records}, "records", (list, tuple)):
                board.add_record(record)
            if records:
                self._boards.notify(run_id)

    async def watch(self, run_id: str, since: int) -> dict[str, Any]:
        """Tell the client what is new; waits for news, but not for ever."""
        board = self._boards.get(run_id)
        number_of({"since": since}, "since")
        if board is None:
            return {"status": "gone", "text": f"there is no run {run_id}"}
        board.forget(since)
        if board.n_records <= since and not board.ended:
            await self._boards.wait(run_id, POLL_SECONDS)
        return {
            "status": "OK",
            **board.view(since),
            "workers": self._pauses.without(self._armed()),
            "leaving": self._handover.leaving,
            "exposed": not self._desk.is_held(board.fit_id or "", self._handover.staying),
        }

    async def stop(self, run_id: str, hard: bool) -> dict[str, Any]:
        """Let all ranks end: at a common clock, or (hard) wherever they wait."""
        board = self._boards.get(run_id)
        if board is None:
            return {"status": "gone", "text": f"there is no run {run_id}"}
        if hard:
            self._fail(run_id, Failure("interrupt", -1, f"run {run_id} was interrupted"))
        else:
            board.stopping = True
            self._cast(board, "petuum-stop")
        return {"status": "OK"}

    async def close_run(self, run_id: str) -> dict[str, Any]:
        """Forget a run, here and on its workers."""
        board = self._boards.pop(run_id, None)
        self._boards.notify(run_id)
        if board is not None:
            closing = adapter.broadcast(
                self._scheduler, board.addresses, "petuum_close", run_id=run_id
            )
            try:
                await asyncio.wait_for(closing, CLOSE_SECONDS)
            except TimeoutError:
                logger.warning("A worker of run %s does not answer; it is told to close", run_id)
        return {"status": "OK"}

    async def uninstall(self) -> dict[str, Any]:
        """Remove the handlers; the client unregisters the plugins.

        Only when each worker's last message has come: Dask drops the connection of a worker that
        sends one which nobody handles. A worker's messages come in order, so its word that it
        sends no more is the last.
        """
        self._watching.stop()
        self._restore()
        for run_id in list(self._boards):
            await self.close_run(run_id)
        for fit_id in self._desk.fits:
            await self._desk.forget(fit_id)
        self._silent.clear()
        try:
            await asyncio.wait_for(self._hush(), CLOSE_SECONDS)
        except TimeoutError:
            logger.warning("Not every worker has said that it sends no more")
        adapter.remove_handlers(self._scheduler, self._calls, self._casts)
        self._roster = Roster()  # nobody is told anything any more
        return {"status": "OK"}

    async def _hush(self) -> None:
        replies = await adapter.broadcast(self._scheduler, self._armed(), "petuum_be_silent")
        asked = {a for a, reply in replies.items() if isinstance(reply, dict)}  # others: no plugin
        while asked & set(self._armed()) - self._silent:
            self._heard.clear()
            await self._heard.wait()

    def note_silence(self, address: str, **extra: Any) -> None:
        """Note that a worker sends no more (one way)."""
        self._silent.add(address)
        self._heard.set()

    def note_leave(self, address: str, **extra: Any) -> None:
        """Note that a worker closes in good order: nobody starts another (one way)."""
        self._roster.expect_no_other(address)

    def transition(self, key: object, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """End a run whose rank failed without a word: before it began, or on its way here."""
        if finish != "erred":
            return
        task = rank_of_task(key)
        if task is not None:
            run_id, rank = task
            text = adapter.task_error(self._scheduler, str(key))
            # interrupted before anybody told of a failure: by the end of its worker, or a peer's
            kind = "lost" if "RunInterruptedError" in text else "error"
            self._fail(run_id, Failure(kind, rank, text))

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """End the runs that had a rank there."""
        self._roster.remove(worker, time(), str(kwargs.get("stimulus_id", "")).startswith("retire"))
        self._heard.set()
        adapter.forget_lost_workers(scheduler)
        self._desk.lose(worker)
        for run_id, board in self._boards.items():
            if board.lose_worker(worker):
                self._suspect_others(board)
                self._announce_failure(run_id, board)
        self._cast_to_all("petuum-lost", address=worker)

    def restart(self, scheduler: Scheduler) -> None:
        """End all runs: who restarts a cluster does not want them to go on."""
        for run_id in list(self._boards):
            text = f"the cluster of run {run_id} was restarted"
            self._fail(run_id, Failure("interrupt", -1, text))

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """End and forget the runs of a client that is gone."""
        for run_id, board in list(self._boards.items()):
            if board.client == client:
                self._fail(run_id, Failure("interrupt", -1, f"the client of run {run_id} is gone"))
                adapter.soon(scheduler, self.close_run, run_id)
        for fit_id in self._desk.of_client(client):
            adapter.soon(scheduler, self._desk.forget, fit_id)

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[Any]) -> list[Any]:
        """Spare the workers that have a rank of a run, or rows of a session's tables."""
        busy = {address for board in self._boards.values() for address in board.addresses}
        return [worker for worker in workers if worker.address not in busy]

    def _fail(self, run_id: str, failure: Failure) -> None:
        board = self._boards.get(run_id)
        if board is not None and board.fail(failure):
            if failure.kind == "lost":
                self._suspect_others(board)
            self._announce_failure(run_id, board)

    def _suspect_others(self, board: Board) -> None:
        """Look at whom the next epoch would need: who was lost may not be the only one."""
        needed = {*board.addresses, *self._desk.holders(board.fit_id or "")}
        self._leases.suspect(needed & set(self._armed()))

    def _announce_failure(self, run_id: str, board: Board) -> None:
        assert board.failure is not None
        logger.info("Run %s ends: %s", run_id, board.failure.text)
        self._cast(board, "petuum-interrupt", cause=board.failure.text)
        self._boards.notify(run_id)

    async def _look(self) -> None:
        """Give up workers that have a rank and are silent, before it began or not; see `Pauses`."""
        ranks = {a for board in self._boards.values() if not board.ended for a in board.addresses}
        self._leases.look(self._armed(), ranks, time())
        self._pauses.look(time())

    def _armed(self) -> list[str]:
        return self._roster.there(self._scheduler.workers)

    def _cast_to_all(self, operation: str, **message: Any) -> None:
        adapter.cast_to_workers(self._scheduler, self._armed(), operation, **message)

    def _cast(self, board: Board, operation: str, **message: Any) -> None:
        adapter.cast_to_workers(
            self._scheduler, board.addresses, operation, run_id=board.run_id, **message
        )


def _check_texts(values: Any) -> None:
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise ProtocolError(f"workers are named by texts, not {values!r:.80}")
