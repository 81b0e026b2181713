"""What a decision of the model-parallel scheduler costs, for each policy at 10,000 blocks.

A decision is one ask that is answered with a task, and the report that a task is done; two tasks
are in flight for each rank (or for all ranks as one, where blocks are shared), so that the machine
is never empty. Tasks report changes that keep the priorities as uneven as those of a real run:
log-normal, a third of them zero. Nobody does the tasks; nothing is sent.

The check for correlated columns is measured apart, on dense columns of 2,000 rows: most of its time
goes into products of columns, some ninety a decision where no pair is known.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from benchmarks.report import Row
from dask_petuum.model_parallel import (
    Correlation,
    Machine,
    Policy,
    Priority,
    Random,
    Rotation,
    RoundRobin,
)

N_BLOCKS = 10_000
N_RANKS = 8
WIDTH = 8
N_ROWS = 2_000
REPETITIONS = 5

MOVING = [Rotation("fixed"), Rotation("free")]
SHARED = [
    Priority("sample", rho=None),
    Priority("greedy", rho=None),
    RoundRobin(),
    Random(),
]


def run(quick: bool) -> list[Row]:
    """Time every policy."""
    n_blocks = 1_000 if quick else N_BLOCKS
    n_decisions = 500 if quick else 5_000
    rows = [
        row_of(policy, Machine(n_blocks, N_RANKS, policy), n_decisions, "<= 50 us")
        for policy in MOVING
    ]
    for policy in SHARED:
        for width in (WIDTH, 32):
            machine = Machine(n_blocks, 1, policy, width=width, seed=1)
            rows.append(row_of(policy, machine, n_decisions, "<= 50 us"))
    return [*rows, *checked(n_blocks, n_decisions // 5)]


def checked(n_blocks: int, n_decisions: int) -> list[Row]:
    """Time `Priority` with the check, on columns of which ten each correlate."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((N_ROWS, n_blocks // 10), dtype=np.float32)
    noise = rng.standard_normal((N_ROWS, n_blocks), dtype=np.float32)
    X = np.asfortranarray(np.repeat(shared, 10, axis=1) + noise / 2)
    policy = Priority("sample", rho=0.3)
    rows = []
    for n_active, note in ((n_blocks, "nearly all pairs are new"), (200, "200 blocks move")):
        machine = Machine(n_blocks, 1, policy, interference=Correlation(X), width=WIDTH, seed=1)
        rows.append(row_of(policy, machine, n_decisions, "<= 50 us", n_active, note))
    return rows


def row_of(
    policy: Policy,
    machine: Machine,
    n_decisions: int,
    target: str,
    n_active: int | None = None,
    note: str = "",
) -> Row:
    """Time decisions in several goes, after one that is not counted."""
    rng = np.random.default_rng(2)
    changes = rng.lognormal(0, 3, machine.n_blocks) * (rng.random(machine.n_blocks) < 2 / 3)
    if n_active is not None:
        changes[rng.permutation(machine.n_blocks)[n_active:]] = 0.0
    if isinstance(policy, Priority):
        machine.prioritise(changes)
    driver = Driver(machine, changes.tolist())
    driver.decide(n_decisions)
    figures = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        driver.decide(n_decisions)
        figures.append((time.perf_counter() - begin) / n_decisions * 1e6)
    where = f"{machine.n_ranks} ranks" if policy.moves else f"{machine.width} blocks a task"
    work = f"a decision, {policy!r}, {machine.n_blocks:,} blocks, {where}"
    return Row(f"{work}{', ' + note if note else ''}", ours=figures, unit="us", target=target)


class Driver:
    """Asks in turn for each rank, and reports the oldest task as done."""

    def __init__(self, machine: Machine, changes: list[float]) -> None:
        self.machine = machine
        self.changes = changes
        self.flying: deque[tuple[int, tuple[int, ...]]] = deque()
        self.rank = 0

    def decide(self, n: int) -> None:
        """Make so many decisions."""
        machine, flying = self.machine, self.flying
        depth = 2 * machine.n_ranks
        while n:
            task = machine.ask(self.rank)
            self.rank = (self.rank + 1) % machine.n_ranks
            if task is not None:
                flying.append((task.number, task.blocks))
                n -= 1
            while len(flying) >= depth or (task is None and flying):
                number, blocks = flying.popleft()
                machine.done(number, [self.changes[block] for block in blocks], 1e-3)
            if machine.policy.moves and machine.pass_is_over:
                machine.end_pass()
