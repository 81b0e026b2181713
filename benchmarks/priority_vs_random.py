"""How many coordinates the lasso must update, by priority and in random order.

Both run through the model-parallel runtime, in this process: the same program, width and check for
dependent columns; only the policy differs. Columns come in groups with |r| = 0.9, which is hard
for both: coordinates of a group take from each other. Counted are coordinates updated until the
duality gap is 1e-4 of the objective at zero. The gap needs the correlation of every column with the
residual, once a clock (a quarter of a pass over the coordinates); the priorities come from the same
products. Seconds are reported beside it.

Without the check, a wide batch has several columns of one group: each takes what is there for one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.report import Row
from dask_petuum.data import open_dataset
from dask_petuum.model_parallel import Correlation, Policy, Priority, Random
from dask_petuum.runtime.block_program import BlockSpec, ModelParallelProgram
from dask_petuum.runtime.job import LocalJob, RunOptions

N_ROWS = 400
GROUP = 10
#: Columns of the true model.
N_TRUE = 20
STRENGTH = 0.9
#: Share of the smallest penalty at which all coefficients are zero.
ALPHA_SHARE = 0.1
#: From which correlation on two columns are not updated together.
RHO = 0.5
WIDTH = 16
WIDE = 64
GAP = 1e-4
#: A run whose gap is beyond this has diverged.
DIVERGED = 1e3
#: Clocks in which all coordinates could be updated once.
CLOCKS_PER_PASS = 4
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Problem:
    """Data of a lasso: minimise ``|y - X w|^2 / 2 + alpha |w|_1``."""

    X: Any  # (n_rows, n_columns)
    y: Any  # (n_rows,)
    alpha: float


def make_problem(n_columns: int, alpha_share: float, seed: int) -> Problem:
    """Draw columns of norm 1 in groups, and a sparse truth with noise of a tenth of the signal."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((N_ROWS, n_columns // GROUP))
    own = rng.standard_normal((N_ROWS, n_columns))
    X = np.sqrt(STRENGTH) * np.repeat(shared, GROUP, axis=1) + np.sqrt(1 - STRENGTH) * own
    X /= np.linalg.norm(X, axis=0)
    truth = np.zeros(n_columns)
    truth[rng.permutation(n_columns)[:N_TRUE]] = rng.standard_normal(N_TRUE) * 10
    y = X @ truth
    y += rng.standard_normal(N_ROWS) * np.linalg.norm(y) / np.sqrt(N_ROWS) / 10
    return Problem(np.asfortranarray(X), y, alpha_share * float(np.abs(X.T @ y).max()))


def shrink(values: Any, alpha: float) -> Any:
    """Move values by `alpha` towards zero, and no further."""
    return np.sign(values) * np.maximum(np.abs(values) - alpha, 0.0)


class Descent(ModelParallelProgram):
    """The lasso by coordinate descent; a block is a coefficient, columns have norm 1.

    With one partition, which has all rows: its correlations with the residual are the totals.
    """

    metrics = ("updates", "gap")

    def __init__(self, problem: Problem, policy: Policy, n_together: int) -> None:
        self.problem = problem
        self.policy = policy
        self.n_together = n_together

    def blocks(self) -> Sequence[BlockSpec]:
        """Start from zero."""
        return [BlockSpec({"w": np.zeros(1)})] * self.problem.X.shape[1]

    def schedule(self) -> Policy:
        """Give the policy that is measured."""
        return self.policy

    def width(self) -> int:
        """Update so many together, at most."""
        return self.n_together

    def rounds_per_clock(self) -> int:
        """Look at all columns a few times in each pass."""
        n_columns: int = self.problem.X.shape[1]
        return max(1, n_columns // self.n_together // CLOCKS_PER_PASS)

    def interference(self) -> Correlation | None:
        """Keep columns of a group apart, where the policy checks for that."""
        return None if self.policy.rho is None else Correlation(self.problem.X)

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        """Begin with the residual of zero coefficients."""
        n_columns = partition.data.shape[1]
        state = {"r": partition.y.astype(float), "w": np.zeros(n_columns)}
        return state | {"X": np.asfortranarray(partition.data)}

    def push(self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any) -> Any:
        """Correlate the batch's columns with the residual."""
        return (state["X"][:, batch.blocks].T @ state["r"])[:, np.newaxis]

    def pull(self, ctx: Any, batch: Any, total: Any) -> Any:
        """Minimise over each coefficient of the batch, as if it were alone."""
        old = np.concatenate([values["w"] for values in batch.values])
        new = shrink(total[:, 0] + old, self.problem.alpha)
        for values, w in zip(batch.values, new, strict=True):
            values["w"][:] = w
        return new - old

    def sync(
        self, ctx: Any, partition: Any, state: dict[str, Any], batch: Any
    ) -> Mapping[str, float]:
        """Bring the residual up to date; count the coordinates."""
        blocks = list(batch.blocks)
        state["w"][blocks] += batch.update
        state["r"] -= state["X"][:, blocks] @ batch.update
        return {"updates": len(blocks)}

    def measure(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        """Give the duality gap as a share of the objective at zero coefficients."""
        r, alpha, y = state["r"], self.problem.alpha, partition.y
        primal = r @ r / 2 + alpha * np.abs(state["w"]).sum()
        point = r * min(1.0, alpha / np.abs(state["X"].T @ r).max())
        dual = (y @ y - (y - point) @ (y - point)) / 2
        return {"gap": (primal - dual) / (y @ y / 2)}

    def converged(self, history: Sequence[Mapping[str, float]]) -> bool:
        """End at the gap that is asked for, or where there is no hope."""
        return not GAP < history[-1]["gap"] < DIVERGED


class DescentByViolation(Descent):
    """The same, with a look at all columns at the start of each clock."""

    n_violations = 1

    def violations(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Any:
        """Correlate all columns with the residual."""
        return (state["X"].T @ state["r"])[:, np.newaxis]

    def priorities(self, totals: Any, values: Sequence[Mapping[str, Any]]) -> Any:
        """Say how far each coefficient would move."""
        old = np.concatenate([block["w"] for block in values])
        return shrink(totals[:, 0] + old, self.problem.alpha) - old


@dataclass(frozen=True)
class Course:
    """What a run took: coordinates updated, seconds, and the gap at the end."""

    updates: float
    seconds: float
    gap: float


def descend(problem: Problem, policy: Policy, width: int, n_passes: int) -> Course:
    """Run until the gap is reached or so many passes have been made."""
    kind = DescentByViolation if isinstance(policy, Priority) else Descent
    with LocalJob(open_dataset(problem.X, problem.y), n_jobs=1) as job:
        begin = time.perf_counter()
        result = job.run(
            kind(problem, policy, width), RunOptions(n_passes * CLOCKS_PER_PASS, seed=1)
        )
        seconds = time.perf_counter() - begin
    updates = sum(record["updates"] for record in result.history)
    return Course(updates, seconds, result.history[-1]["gap"])


def run(quick: bool) -> list[Row]:
    """Compare policies, and what the check does for wide batches."""
    n_columns, n_passes = (200, 60) if quick else (1000, 200)
    problems = [make_problem(n_columns, ALPHA_SHARE, seed) for seed in SEEDS]
    n_unchecked = n_passes // 10
    return [
        *by_updates(problems, n_passes),
        without_check(problems, WIDTH, n_unchecked, Priority(rho=None), Priority(rho=RHO)),
        without_check(problems, WIDE, n_unchecked, Priority(rho=None), Priority(rho=RHO)),
        without_check(problems, WIDE, n_unchecked, Random(), Random(rho=RHO)),
    ]


def by_updates(problems: Sequence[Problem], n_passes: int) -> list[Row]:
    """Compare what both orders take to the gap."""
    ours = [descend(problem, Priority(rho=RHO), WIDTH, n_passes) for problem in problems]
    theirs = [descend(problem, Random(rho=RHO), WIDTH, n_passes) for problem in problems]
    if any(course.gap > GAP for course in ours):
        raise RuntimeError(f"the gap of {GAP} was not reached by priority: {ours}")
    late = sum(course.gap > GAP for course in theirs)
    note = f"{late} of {len(theirs)} were ended before the gap was reached" if late else ""
    work = f"{_described(problems[0])}, {WIDTH} at once, to a gap of {GAP}"
    peer = "Random, with the same check"
    return [
        Row(
            f"{work}: updates by Priority",
            peer,
            [course.updates for course in ours],
            [course.updates for course in theirs],
            target="<= 0.5",
            unit="coordinates",
            note=note,
        ),
        Row(
            f"{work}: seconds by Priority",
            peer,
            [course.seconds for course in ours],
            [course.seconds for course in theirs],
            note="Priority looks at all columns once a clock besides; the gap does so in both",
        ),
    ]


def without_check(
    problems: Sequence[Problem], width: int, n_passes: int, policy: Policy, checked: Policy
) -> Row:
    """Compare the gaps that are left without and with the check."""
    ours = [descend(problem, policy, width, n_passes).gap for problem in problems]
    theirs = [descend(problem, checked, width, n_passes).gap for problem in problems]
    n_diverged = sum(not gap < DIVERGED for gap in ours)
    name = type(policy).__name__
    return Row(
        f"{_described(problems[0])}, {width} at once by {name} without the check: "
        f"gap after at most {n_passes} passes",
        f"{name} with the check (|r| < {RHO})",
        ours,
        theirs,
        unit="of the objective at zero",
        note=f"{n_diverged} of {len(ours)} diverged and were ended" if n_diverged else "",
    )


def _described(problem: Problem) -> str:
    n_rows, n_columns = problem.X.shape
    return f"lasso, {n_rows} x {n_columns}, groups of {GROUP} with |r| = {STRENGTH}"
