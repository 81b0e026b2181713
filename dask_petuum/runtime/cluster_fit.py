"""One run of a program on a cluster, over as many epochs as it takes.

An epoch is a :class:`~dask_petuum.runtime.cluster_run.ClusterRun`. When a rank is lost, the next
epoch begins at the last checkpoint, on the workers that are there then; see
docs/decisions/0015-recovery.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from distributed import Client

from dask_petuum.checkpoint.saved import Manifest
from dask_petuum.config import get
from dask_petuum.data import Partition
from dask_petuum.exceptions import DamagedPartError, RankLostError, TransportError
from dask_petuum.runtime import adapter, config
from dask_petuum.runtime.checkpoints import Checkpoints
from dask_petuum.runtime.cluster_partitions import PlacedPartitions
from dask_petuum.runtime.cluster_run import ClusterRun, new_run_id
from dask_petuum.runtime.cluster_wait import status_of, wait_for_workers
from dask_petuum.runtime.loops import check_consistency, hidden_tables, machine_of, run_program
from dask_petuum.runtime.membership import Membership, Reform
from dask_petuum.runtime.metrics import LoopPlan, RankResult
from dask_petuum.runtime.options import Monitor, RunOptions, RunResult
from dask_petuum.runtime.program import Program, Record
from dask_petuum.runtime.spec import Keeping, RunSpec
from dask_petuum.runtime.threads import share_of_threads
from dask_petuum.store.consistency import Consistency

__all__ = ["ClusterFit"]

logger = logging.getLogger(__name__)


class ClusterFit:
    """Runs a program in all ranks, and again after losses.

    Parameters
    ----------
    client
        Connected to the cluster.
    partitions
        The job's; placed anew after a loss.
    program, options
        What to run, and how.
    checkpoints
        Where they are files, if anywhere.

    Attributes
    ----------
    n_jobs
        Threads of each rank, as the estimators' parameter.
    """

    # The mutable state is the epoch, the checkpoint that it began at, those of which no copy is
    # whole, and how many losses there were since the last one.

    def __init__(
        self,
        client: Client,
        partitions: PlacedPartitions,
        program: Program,
        options: RunOptions,
        checkpoints: Checkpoints,
    ) -> None:
        self._client = client
        self._partitions = partitions
        self._program = program
        self._options = options
        self.n_jobs: int | None = None
        self._consistency = Consistency.parse(options.consistency, options.staleness)
        check_consistency(program, self._consistency)
        self._told = _Told(options.monitor)
        self._fit_id = new_run_id()
        self._checkpoints = checkpoints
        self._epoch = self._first_epoch = 0
        self._saved: Manifest | None = None
        self._damaged: set[tuple[str, int] | None] = set()
        self._n_losses = 0
        self._slowness: dict[str, float] | None = None
        self._began = time.monotonic()

    def __repr__(self) -> str:
        return f"<ClusterFit {self._fit_id}, epoch {self._epoch}, from {self._saved}>"

    def run(self) -> RunResult:
        """Run to the end.

        Raises
        ------
        RankLostError
            Where the fit cannot go on: too many losses in a row, no worker, or a checkpoint that
            was lost with two workers.
        CheckpointError
            Where the files to go on from are damaged, or of another fit; or where no copy of a part
            is whole, and there are no files.
        """
        self._saved = self._checkpoints.to_resume()
        self._epoch = self._first_epoch = self._checkpoints.begin()
        result: RunResult | None = None
        try:
            while True:
                try:
                    result = self._attempt()
                    break
                except RankLostError as error:
                    self._recover(error)
                except DamagedPartError as error:
                    self._damaged.add(_place_of(self._saved))
                    self._recover(error)
                except Reform as reform:
                    self._form_anew(reform)
        finally:
            self._forget(done=result is not None and self._checkpoints.ends_with(result))
        self._checkpoints.end(result)
        return result

    def _attempt(self) -> RunResult:
        """Run one epoch."""
        addresses = self._partitions.addresses
        seconds, clocks = config.save_seconds(), config.save_clocks(self._options.save_clocks)
        keeping = self._keeping(addresses, saves=seconds is not None or clocks is not None)
        if keeping is not None and keeping.is_lone:
            seconds = clocks = None  # lost with the worker: only for those that join, when they do
        plan = LoopPlan(
            self._options.max_clocks,
            self._consistency.high,
            self._partitions.ranks,
            save_clocks=clocks,
            save_seconds=seconds,
            bounded=self._consistency.bounded,
            elapsed=time.monotonic() - self._began if self._epoch > self._first_epoch else 0.0,
        )
        hidden = hidden_tables(self._program, plan)
        tables = (*self._program.tables(), *hidden)
        membership = Membership(self._partitions, keeping is not None)
        spec = RunSpec(
            f"{self._fit_id}.{self._epoch}",
            addresses,
            tables,
            self._consistency,
            self._options.seed,
            n_threads(self._client, self.n_jobs, addresses),
            epoch=self._epoch,
            keeping=keeping,
            saved=self._saved,
        )
        machine = machine_of(self._program, len(self._partitions.sizes))
        run = ClusterRun(self._client, spec, machine=machine)
        try:
            results = run.execute(
                partial(_loop, self._program, plan),
                self._partitions.by_rank(),
                on_record=self._told,
                on_status=partial(membership.look, run),
                soft_interrupt=True,
            )
            self._told.rest(results[0][0].history)
            values = {table.name: run.table(table.name) for table in tables[: -len(hidden)]}
        finally:
            run.close()
        return _merged([result for result, _ in results], values, run.interrupted)

    def _keeping(self, addresses: Sequence[str], saves: bool) -> Keeping | None:
        """Where this epoch's checkpoints go; None: nowhere."""
        if not self._program.resumable or (not saves and self._saved is None):
            return None
        others = [a for a in self._staying() if a not in addresses]
        ring = [*addresses, *others[:1]] if len(addresses) == 1 else list(addresses)
        buddies = tuple(ring[(rank + 1) % len(ring)] for rank in range(len(addresses)))
        if len(ring) == 1:
            buddies = ()
        url, identity = self._checkpoints.url, self._checkpoints.identity
        return Keeping(self._fit_id, buddies, url, identity)

    def _recover(self, error: RankLostError | DamagedPartError) -> None:
        """Get ready for the next epoch after a loss, or raise the error."""
        while True:
            newest = self._checkpoint_of(error)
            progress = _place_of(newest) != _place_of(self._saved)
            self._n_losses = 1 if progress else self._n_losses + 1
            self._saved = newest
            limit = int(get("recovery.attempts"))
            if self._n_losses > limit:
                if limit:
                    text = f"{error}; {limit} losses without a checkpoint between them are enough"
                    raise RankLostError(text) from error
                raise error
            logger.warning(
                "%s; the fit goes on from %s",
                error,
                "its start" if newest is None else f"the checkpoint at clock {newest.clock}",
            )
            self._epoch += 1
            wait_for_workers(self._client, len(self._partitions.addresses))
            self._saved = self._checkpoint_of(error)  # who was silent may be gone by now
            try:
                self._partitions.renew(slowness=self._slowness)
                return
            except RankLostError as again:
                error = again

    def _form_anew(self, reform: Reform) -> None:
        """Go on with other members: some have joined, some leave, or some are slow."""
        logger.info("Fit %s goes on with other workers: %s", self._fit_id, reform)
        self._slowness = reform.slowness
        self._epoch += 1
        try:
            self._saved = self._checkpoint_of(reform) or self._saved
            self._partitions.renew(reform.leaving, reform.slowness)
        except RankLostError as error:
            self._recover(error)

    def _checkpoint_of(self, error: Exception) -> Manifest | None:
        """The checkpoint to go on from; None: from the start.

        Raises
        ------
        RankLostError
            Where there was one and it is gone.
        CheckpointError
            Where the files are of another fit; or where no copy of a part is whole, and there are
            no files.
        """
        reply = self._client.sync(
            adapter.ask_scheduler, self._client, "petuum_checkpoint", fit_id=self._fit_id
        )
        found = reply["checkpoint"]
        if found is None:
            return self._saved_in_files() if self._checkpoints.url else self._saved
        if (found["run_id"], found["clock"]) in self._damaged:
            if self._checkpoints.url:
                return self._saved_in_files()
            raise DamagedPartError(
                f"{error}. With checkpoint=URL it would be in files, too"
            ) from error
        manifest = Manifest.from_dict({**found, "identity": dict(self._checkpoints.identity)})
        within_reach = manifest.held_by(reply["there"])
        lost = [part for part in within_reach.parts if not part.holders]
        if not lost or self._checkpoints.has_files_of(lost):
            return within_reach
        if self._checkpoints.url:
            return self._saved_in_files()
        if len(manifest.parts) == 1 and len(manifest.parts[0].holders) == 1:
            return None  # there was one worker only, and nothing was to be had of its loss
        kept = {part.rank: " and ".join(part.holders) for part in manifest.parts}
        parts = ", ".join(f"{part.rank} ({kept[part.rank]})" for part in lost)
        raise RankLostError(
            f"{error}; the checkpoint at clock {manifest.clock} was lost with the workers that "
            f"kept the parts of ranks {parts}. With checkpoint=URL it would be in files, too"
        ) from error

    def _saved_in_files(self) -> Manifest | None:
        """The newest checkpoint that is whole in files; None: the fit begins again.

        Raises
        ------
        CheckpointError
            Where the files are of another fit: this one must not write over them.
        """
        problems: list[str] = []
        found = self._checkpoints.newest(problems.append)
        if found is None:
            why = "; ".join(problems) or "there is none yet"
            url = self._checkpoints.url
            logger.warning("No checkpoint at %s is whole, the fit begins again: %s", url, why)
        return found

    def _staying(self) -> list[str]:
        status = status_of(self._client)
        return sorted(set(status["workers"]) - set(status["leaving"]))

    def _forget(self, done: bool) -> None:
        """Let the workers drop the fit's checkpoints; ``done``: those in files, too."""
        if self._client.status != "running":
            return
        try:
            self._client.sync(
                adapter.ask_scheduler,
                self._client,
                "petuum_forget_fit",
                fit_id=self._fit_id,
                done=done,
            )
        except TransportError as error:
            logger.warning("The checkpoints of fit %s stay: %s", self._fit_id, error)


def _place_of(manifest: Manifest | None) -> tuple[str, int] | None:
    return None if manifest is None else (manifest.run_id, manifest.clock)


def _loop(
    program: Program, plan: LoopPlan, ctx: Any, partitions: Sequence[Partition]
) -> RankResult:
    return run_program(ctx, program, partitions, plan)


def n_threads(client: Client, n_jobs: int | None, addresses: Sequence[str]) -> int | None:
    """Threads of each rank; None: all of its worker."""
    if n_jobs is None or n_jobs == -1:
        return None
    if n_jobs > 0:
        return int(n_jobs)
    of_workers = client.nthreads()
    found = [of_workers[address] for address in addresses if address in of_workers]
    return share_of_threads(n_jobs, min(found, default=1))


class _Told:
    """Tells a monitor of every clock once: records may come after the end of the run, or never."""

    def __init__(self, monitor: Monitor | None) -> None:
        self._monitor = monitor
        self._n_told = 0

    def __call__(self, record: Record) -> bool:
        if record["clock"] != self._n_told + 1:
            return False
        self._n_told += 1
        return self._monitor is not None and self._monitor(record)

    def rest(self, history: Sequence[Record]) -> None:
        for record in history[self._n_told :]:
            self(record)


def _merged(results: Sequence[RankResult], tables: Any, interrupted: bool) -> RunResult:
    outputs = {index: state for result in results for index, state in result.outputs.items()}
    blocks = {index: block for result in results for index, block in result.blocks.items()}
    return RunResult(
        tables=tables,
        outputs=[outputs[index] for index in sorted(outputs)],
        history=list(results[0].history),
        n_clocks=min(result.n_clocks for result in results),
        blocks=[blocks[index] for index in sorted(blocks)],
        block_bytes=[result.block_bytes for result in results],
        stopped_by="interrupt" if interrupted else results[0].stopped_by,
    )
