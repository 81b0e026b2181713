"""The client's part of a run: start its ranks, follow them, collect what they leave, free it all.

All traffic of the client goes to the scheduler (calls, which it passes on where they read tables),
never to a worker: behind a gateway it could not be reached.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from distributed import Client, Future

from dask_petuum.exceptions import (
    DamagedPartError,
    PetuumError,
    RankError,
    RankLostError,
    RunInterruptedError,
    TransportError,
)
from dask_petuum.runtime import adapter
from dask_petuum.runtime.cluster_tasks import gather_pinned, wait_for
from dask_petuum.runtime.rank import run_rank
from dask_petuum.runtime.sent import Sent
from dask_petuum.runtime.spec import RunSpec

__all__ = ["ClusterRun", "new_run_id"]

logger = logging.getLogger(__name__)

#: Wait for the error that a rank raised, after its text has come, seconds.
CAUSE_SECONDS = 30
#: Longest wait for the scheduler's answer, seconds; it answers a poll after 1 s.
CALL_SECONDS = 120

#: Called with each finished clock's record; True asks the run to end.
OnRecord = Callable[[dict[str, Any]], bool]
#: Called with what the scheduler tells whenever there is news; what it raises ends the run.
OnStatus = Callable[[dict[str, Any]], None]


def new_run_id() -> str:
    """A name for a run, unique on any cluster."""
    return uuid.uuid4().hex[:16]


@dataclass
class ClusterRun:
    """One run on a cluster.

    Parameters
    ----------
    client
        Connected to the cluster.
    spec
        What every rank is told.
    """

    client: Client
    spec: RunSpec
    interrupted: bool = False
    #: What the scheduler needs to choose blocks; see `loops.machine_of`.
    machine: dict[str, Any] | None = None

    @property
    def table_names(self) -> list[str]:
        """Names of the run's tables."""
        return [table.name for table in self.spec.tables]

    def execute(
        self,
        function: Callable[[Any, Sequence[Any]], Any],
        pieces: Sequence[Sequence[Any]],
        on_record: OnRecord | None = None,
        on_status: OnStatus | None = None,
        soft_interrupt: bool = False,
    ) -> list[tuple[Any, dict[str, Any]]]:
        """Run ``function(ctx, pieces[rank])`` in every rank; results and statistics by rank.

        Parameters
        ----------
        soft_interrupt
            After Ctrl-C let the ranks end at a common clock and return their results with
            ``interrupted`` set; a second Ctrl-C (or False here) ends them where they are.

        Raises
        ------
        RankError, RankLostError, RunInterruptedError, DamagedPartError
            Why there is no result.
        """
        self._create()
        futures: list[Future] = []
        try:
            futures += self._submit(function, pieces)
            self._follow(futures, on_record, on_status, soft_interrupt)
            return gather_pinned(self.client, futures, self.spec.addresses)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._stop(hard=True)
            self._explain(error, futures)
            raise
        finally:
            for future in futures:
                future.release()

    def table(self, name: str) -> Any:
        """Read a table after the run: an array, or a ``csr_array`` of a sparse table.

        Raises
        ------
        RankLostError
            Where a worker that had some of it is gone.
        """
        replies = wait_for(self.client, self._read, (name,), self.spec.addresses)
        blocks = sorted(
            (block for reply in replies for block in reply["blocks"]),
            key=lambda block: block[0],
        )
        values = [block for _, block in blocks]
        if sp.issparse(values[0]):
            return sp.csr_array(sp.vstack(values, format="csr"))
        return np.concatenate(values) if len(values) > 1 else values[0]

    def request_save(self) -> None:
        """Ask the ranks for a checkpoint."""
        self._call("petuum_save")

    def close(self) -> None:
        """Free what the run holds on the scheduler and the workers."""
        if self.client.status != "running":
            return
        try:
            self._call("petuum_close_run")
        except TransportError as error:
            logger.warning("Run %s could not be closed: %s", self.spec.run_id, error)

    async def _read(self, table: str) -> list[dict[str, Any]]:
        """Ask for every rank's blocks of a table."""
        replies = await asyncio.gather(
            *(
                adapter.ask_scheduler(
                    self.client, "petuum_read", run_id=self.spec.run_id, rank=rank, table=table
                )
                for rank in range(len(self.spec.addresses))
            )
        )
        for reply in replies:
            if reply["status"] != "OK":
                raise RankLostError(f"table {table!r} cannot be read: {reply['text']}")
        return list(replies)

    def _create(self) -> None:
        reply = self._call(
            "petuum_create_run",
            client=self.client.id,
            addresses=list(self.spec.addresses),
            machine=self.machine,
            fit_id=None if self.spec.keeping is None else self.spec.keeping.fit_id,
        )
        if reply["status"] != "OK":
            raise RankLostError(reply["text"])

    def _submit(
        self, function: Callable[[Any, Sequence[Any]], Any], pieces: Sequence[Sequence[Any]]
    ) -> list[Future]:
        sent = Sent(function)
        return [
            self.client.submit(
                run_rank,
                self.spec,
                rank,
                sent,
                list(pieces[rank]),
                key=self.spec.task_key(rank),
                workers=[address],
                allow_other_workers=False,
                pure=False,
                retries=0,
            )
            for rank, address in enumerate(self.spec.addresses)
        ]

    def _follow(
        self,
        futures: Sequence[Future],
        on_record: OnRecord | None,
        on_status: OnStatus | None,
        soft_interrupt: bool,
    ) -> None:
        since, stopping = 0, False
        while True:
            try:
                news = self._watch(since)
                if on_status is not None:
                    on_status(news)
                for record in news["records"]:
                    since += 1
                    wants_end = on_record is not None and on_record(record)
                    if wants_end and not stopping:
                        stopping = True
                        self._stop(hard=False)
            except KeyboardInterrupt:
                if self.interrupted or not soft_interrupt:
                    raise
                self.interrupted = stopping = True
                self._stop(hard=False)
                continue
            if news["ended"]:
                if news["failure"] is not None:
                    raise _error_of(news["failure"])
                return
            _check_tasks(futures)

    def _watch(self, since: int) -> dict[str, Any]:
        news = self._call("petuum_watch", since=since)
        if news["status"] != "OK":
            raise RunInterruptedError(news["text"])
        return news

    def _stop(self, hard: bool) -> None:
        if self.client.status == "running":
            self._call("petuum_stop", hard=hard)

    def _explain(self, error: BaseException, futures: Sequence[Future]) -> None:
        """Let the error that the user's function raised be the cause of the run's."""
        if self.client.status != "running":
            return
        if isinstance(error, RankError) and error.__cause__ is None:
            try:
                error.__cause__ = futures[error.rank].exception(timeout=CAUSE_SECONDS)
            except (TimeoutError, CancelledError):
                logger.info("The error of rank %d cannot be had; its text is there", error.rank)
        self.client.cancel(list(futures), force=True)

    def _call(self, operation: str, **message: Any) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = self.client.sync(
                adapter.ask_scheduler,
                self.client,
                operation,
                run_id=self.spec.run_id,
                callback_timeout=CALL_SECONDS,
                **message,
            )
        except TimeoutError as error:
            raise TransportError(
                f"the scheduler did not answer {operation!r} within {CALL_SECONDS} s"
            ) from error
        return reply


def _check_tasks(futures: Sequence[Future]) -> None:
    """Raise where a rank's task ended without a word of its run.

    Because its function could not be loaded on the scheduler, say, or somebody cancelled it.
    """
    for rank, future in enumerate(futures):
        if future.status == "error":
            error = future.exception(timeout=CAUSE_SECONDS)
            if isinstance(error, RunInterruptedError):
                continue  # it is not the cause; the scheduler knows that, or is about to
            raise RankError(f"rank {rank} could not begin: {error!r}", rank) from error
        if future.status in ("cancelled", "lost"):
            raise RunInterruptedError(f"the task of rank {rank} was {future.status}")


def _error_of(failure: dict[str, Any]) -> PetuumError:
    if failure["kind"] == "lost":
        return RankLostError(failure["text"])
    if failure["kind"] == "damaged":
        return DamagedPartError(failure["text"])
    if failure["kind"] == "error":
        last = failure["text"].strip().splitlines()[-1]
        return RankError(
            f"rank {failure['rank']} raised {last}\n\n{failure['text']}", failure["rank"]
        )
    return RunInterruptedError(failure["text"])
