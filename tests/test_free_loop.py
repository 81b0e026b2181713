"""The free order's loop, with ranks whose time is counted: nobody waits for a slow one.

Ranks are threads of which one runs at a time: the one whose own time is least. So a rank is slow
because it is given more work, and everything happens in the same order in every run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE

from dask_petuum.data import Partition
from dask_petuum.model_parallel.rotation import home
from dask_petuum.runtime.free_loop import Assignment, Tasks, make_tasks, run_pass
from dask_petuum.runtime.shelf import Shelf

N_BLOCKS, N_PASSES = 8, 3
#: Time of a look at whether something has come.
LOOK = 0.0625


class Turns:
    """Lets the rank with the least time go on."""

    def __init__(self, n_ranks: int) -> None:
        self._changed = threading.Condition()
        self.times = [0.0] * n_ranks
        self._over = [False] * n_ranks
        self.failed = False

    def spend(self, rank: int, seconds: float) -> None:
        with self._changed:
            self.times[rank] += seconds
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._next() == rank, PATIENCE)

    def leave(self, rank: int) -> None:
        with self._changed:
            self._over[rank] = True
            self._changed.notify_all()

    def wait(self, rank: int, ready: Callable[[], bool]) -> float:
        """Wait; give the time that it took."""
        began = self.times[rank]
        while not ready():
            assert not self.failed, "another rank failed"
            self.spend(rank, LOOK)
        return self.times[rank] - began

    def _next(self) -> int:
        left = [rank for rank, over in enumerate(self._over) if not over]
        return min(left, key=lambda rank: (self.times[rank], rank)) if left else -1


@dataclass
class Question:
    """A question for a task; answered when there is one, in the order of asking."""

    ctx: Rank
    number: int
    partitions: list[int]
    is_answered: bool = False
    task: Assignment | None = None

    def wait(self) -> Assignment | None:
        shared = self.ctx.shared
        waited = shared.turns.wait(self.ctx.rank, lambda: self.is_answered)
        self.ctx.waited.append(waited)
        return self.task


@dataclass
class Shared:
    """What is in the scheduler, and all ranks' shelves."""

    tasks: Tasks
    turns: Turns
    shelves: list[Shelf]
    questions: list[Question] = field(default_factory=list)

    def answer(self) -> None:
        for question in list(self.questions):
            over = self.tasks.is_over(question.number)
            task = None if over else self.tasks.ask(question.partitions)
            if over or task is not None:
                question.task, question.is_answered = task, True
                self.questions.remove(question)
                question.ctx.fetch(task)


@dataclass
class Rank:
    """A rank of the run."""

    rank: int
    shared: Shared
    fetched: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)

    @property
    def shelf(self) -> Shelf:
        return self.shared.shelves[self.rank]

    def ask_task(self, number: int, partitions: list[int], done: Any, homes: Any) -> Question:
        if done is not None:
            self.shared.tasks.finish(done)
        question = Question(self, number, partitions)
        self.shared.questions.append(question)
        self.shared.answer()
        return question

    def tell_done(self, done: Any) -> None:
        self.shared.tasks.finish(done)
        self.shared.answer()

    def fetch(self, task: Assignment | None) -> None:
        if task is not None and task.source != self.rank:
            arrays = self.shared.shelves[task.source].take(task.block)
            self.fetched[task.block, task.task] = arrays

    def fetched_block(self, block: int, task: int) -> dict[str, Any]:
        return self.fetched.pop((block, task))

    def seed(self, partition: Partition) -> np.random.SeedSequence:
        return np.random.SeedSequence(0)


@dataclass
class Work:
    """A program whose visits take the time of the partition; says who holds what, and when."""

    seconds: tuple[float, ...]
    turns: Turns
    metrics: tuple[str, ...] = ("visits",)
    log: list[tuple[int, int, int]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)

    def push(self, ctx: Any, partition: Partition, state: Any, batch: Any) -> None:
        block = batch.blocks[0]
        assert block not in self.held, f"block {block} is at two ranks"
        self.held.add(block)
        self.log.append((batch.number, partition.index, block))
        batch.values[0]["n"] += 1
        self.turns.spend(ctx.rank, self.seconds[partition.index])
        self.held.remove(block)

    def pull(self, ctx: Any, batch: Any, total: Any) -> None:
        return None

    def sync(self, ctx: Any, partition: Any, state: Any, batch: Any) -> Mapping[str, float]:
        return {"visits": 1.0}


def run(seconds: tuple[float, ...]) -> tuple[Work, Shared, list[Rank]]:
    """Let every rank do its passes, one partition each."""
    n_ranks = len(seconds)
    turns = Turns(n_ranks)
    shared = Shared(make_tasks([1.0] * N_BLOCKS, n_ranks), turns, [Shelf() for _ in seconds])
    for block in range(N_BLOCKS):
        shared.shelves[home(block, N_BLOCKS, n_ranks)].put(block, {"n": np.zeros(1)})
    program, ranks = Work(seconds, turns), [Rank(rank, shared) for rank in range(n_ranks)]
    errors: list[BaseException] = []

    def live(ctx: Rank) -> None:
        part = Partition(np.zeros((1, 1)), None, None, ctx.rank, ctx.rank)
        try:
            turns.spend(ctx.rank, 0.0)
            for number in range(N_PASSES):
                totals = run_pass(
                    ctx, program, {ctx.rank: part}, {ctx.rank: {}}, range(n_ranks), (number, number)
                )
                assert totals == {"visits": N_BLOCKS}
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            errors.append(error)
            turns.failed = True
        finally:
            turns.leave(ctx.rank)

    threads = [threading.Thread(target=live, args=(ctx,), daemon=True) for ctx in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return program, shared, ranks


SPEEDS = [(1.0, 1.0), (3.0, 1.0), (1.0, 5.0), (1.0, 2.0, 4.0), (2.0, 1.0, 1.0, 1.5)]


@pytest.mark.parametrize("seconds", SPEEDS)
def test_every_partition_meets_every_block_once_a_pass(seconds: tuple[float, ...]) -> None:
    program, shared, _ = run(seconds)
    assert sorted(program.log) == [
        (number, part, block)
        for number in range(N_PASSES)
        for part in range(len(seconds))
        for block in range(N_BLOCKS)
    ]
    blocks = [item for shelf in shared.shelves for item in shelf.take_all().items()]
    assert sorted(block for block, _ in blocks) == list(range(N_BLOCKS))
    assert all(arrays["n"] == N_PASSES * len(seconds) for _, arrays in blocks)


@pytest.mark.parametrize("slow", [0, 1])
def test_a_rank_that_is_behind_gives_blocks_away(slow: int) -> None:
    """Eight times the work: the other one takes blocks that lie there and were not visited."""
    seconds = (8.0, 1.0) if slow == 0 else (1.0, 8.0)
    program, _, _ = run(seconds)
    first: dict[int, int] = {}
    for number, part, block in program.log:
        if number == 0:
            first.setdefault(block, part)
    its_own = [block for block in range(N_BLOCKS) if home(block, N_BLOCKS, 2) == slow]
    given_away = [block for block in its_own if first[block] != slow]
    # the slow one keeps what it works on and the next; in fixed order it would keep all four
    assert len(its_own) == 4
    assert len(given_away) == 2


@pytest.mark.parametrize("seconds", SPEEDS)
def test_nobody_waits_for_an_answer_before_the_end_of_a_pass(seconds: tuple[float, ...]) -> None:
    _, shared, ranks = run(seconds)
    slowest = int(np.argmax(seconds))
    # what the slowest has to do is what a pass takes, but for visits at its end that must wait
    busy = N_PASSES * N_BLOCKS * max(seconds)
    assert busy <= shared.turns.times[slowest] <= 1.2 * busy
    # an answer is here when a visit ends: the first question of a pass is put without one before
    for ctx in ranks:
        waits = np.reshape(ctx.waited, (N_PASSES, N_BLOCKS + 1))
        assert (waits[:, 1 : N_BLOCKS // 2] == 0).all()
