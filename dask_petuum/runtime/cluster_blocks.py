"""Coarse blocks as Dask tasks: `run_blocks`.

Where the update of a block takes seconds (the fit of a group, a trial of a hyper-parameter
search), it may be a task of its own: Dask finds it a worker, computes it again if that is lost, and
lets other work of the cluster in between. The same `Machine` as elsewhere chooses the blocks; a
task's Dask priority is its block's. A task costs some 10 ms, so blocks of a few coefficients belong
into a `ModelParallelProgram`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from distributed import Client, Future, as_completed

from dask_petuum.model_parallel.machine import Machine, Task
from dask_petuum.model_parallel.picker import Policy
from dask_petuum.runtime.block_tasks import Neighbours, Update, drive, readers_of
from dask_petuum.runtime.sent import Sent

__all__ = ["BlocksResult", "run_blocks"]

#: ``(block, value, {other block: its value}, *args)`` to ``(new value, how far it moved)``.
UpdateBlock = Callable[..., tuple[Any, float]]


@dataclass(frozen=True)
class BlocksResult:
    """What `run_blocks` leaves."""

    #: Each block's last value, still on the cluster.
    values: list[Future]
    #: In the order in which they ended.
    updates: list[Update]


# over 7 arguments: the interface that users write against; four have defaults
def run_blocks(  # noqa: PLR0913
    client: Client,
    function: UpdateBlock,
    values: Sequence[Any],
    policy: Policy,
    n_updates: int,
    *,
    args: Sequence[Any] = (),
    reads: Mapping[int, Sequence[int]] | None = None,
    n_together: int | None = None,
    tol: float | None = None,
    seed: int = 0,
) -> BlocksResult:
    """Update blocks in Dask tasks, the most promising ones first.

    Values stay on the cluster and move worker to worker; only changes come to the client. Where the
    policy has a ``rho``, no block is in flight together with one that it reads or that reads it:
    then the values are those of the same updates done one by one, in the order of starting.

    Parameters
    ----------
    client
        Of the cluster.
    function
        Called in a task as ``function(block, value, others, *args)``, with the values of the blocks
        that it reads by number; returns the block's new value and how far it moved, its priority
        from then on. What it is given is not to be changed.
    values
        First value of each block: objects, or futures.
    policy
        `Priority`, `Random` or `RoundRobin`.
    n_updates
        Updates in all, at most.
    args
        More arguments for each call; futures come as their results.
    reads
        For a block, the blocks whose values it is given.
    n_together
        Tasks at a time; as many as the cluster has threads if None.
    tol
        End where every block has moved by at most this since the blocks that it reads moved by
        more; None: after `n_updates`.
    seed
        Of the policy.

    Raises
    ------
    ValueError
        For a policy whose blocks move, no blocks, or a number that is too small.
    Exception
        What `function` raised, with a note that names the block; the other tasks are cancelled.
    """
    _check(values, policy, reads or {}, n_updates, n_together)
    has_check = bool(reads) and policy.rho is not None
    machine = Machine(
        len(values),
        1,
        policy,
        interference=Neighbours(reads or {}) if has_check else None,
        seed=seed,
    )
    tasks = _Tasks(client, function, values, args, reads or {})
    together = n_together or sum(client.nthreads().values())
    try:
        limits = n_updates, together, tol
        updates = drive(machine, tasks.start, tasks.ended, limits, readers_of(reads or {}))
    finally:
        tasks.cancel()
    return BlocksResult(tasks.values, updates)


class _Tasks:
    """The tasks in flight and the blocks' last values; both change in `start` and `ended` only."""

    def __init__(
        self,
        client: Client,
        function: UpdateBlock,
        values: Sequence[Any],
        args: Sequence[Any],
        reads: Mapping[int, Sequence[int]],
    ) -> None:
        self._client = client
        self._function = Sent(function)
        self._args = args
        self._reads = reads
        self.values = [
            value if isinstance(value, Future) else client.scatter([value], hash=False)[0]
            for value in values
        ]
        self._name = f"petuum-block-{uuid.uuid4().hex[:12]}"
        #: By the future that tells of a task's change: the task, and what it is computed from. The
        #: scheduler takes graphs in beside the releases of keys: one that is released as soon as a
        #: task that needs it was submitted may be forgotten before that task is known.
        self._flying: dict[Future, tuple[Task, list[Future]]] = {}
        self._completed = as_completed(loop=client.loop)

    def start(self, task: Task, priority: float) -> None:
        """Submit the update of a task's block."""
        (block,) = task.blocks
        others = {other: self.values[other] for other in self._reads.get(block, ())}
        name = f"{self._name}-{block}-{task.number}"
        options = {"priority": priority, "pure": False}
        old = self.values[block]
        both = self._client.submit(
            self._function, block, old, others, *self._args, key=name, **options
        )
        self.values[block] = self._client.submit(
            itemgetter(0), both, key=f"{name}-value", **options
        )
        change = self._client.submit(itemgetter(1), both, key=f"{name}-change", **options)
        self._flying[change] = task, [old, both, *others.values()]
        self._completed.add(change)

    def ended(self) -> tuple[int, float]:
        """Wait for any task; give its number and how far its block moved."""
        future = next(self._completed)
        task, _ = self._flying.pop(future)
        try:
            return task.number, float(future.result())
        except Exception as error:
            error.add_note(f"in the update of block {task.blocks[0]}, task {task.number}")
            raise

    def cancel(self) -> None:
        """Give up what is still in flight."""
        if self._flying:
            self._client.cancel(list(self._flying), force=True)


def _check(
    values: Sequence[Any],
    policy: Policy,
    reads: Mapping[int, Sequence[int]],
    n_updates: int,
    n_together: int | None,
) -> None:
    if policy.moves:
        raise ValueError(f"blocks that are tasks have no place of their own, got {policy!r}")
    if n_updates < 0 or (n_together is not None and n_together < 1):
        raise ValueError(
            f"n_updates must be >= 0 and n_together >= 1, got {n_updates} and {n_together}"
        )
    named = {block for block, others in reads.items() for block in (block, *others)}
    if not named <= set(range(len(values))):
        raise ValueError(f"reads must name blocks 0 .. {len(values) - 1}, got {sorted(named)}")
