"""Random faults for some minutes over four algorithms on four workers, and a report of it.

``make soak MINUTES=30``, or ``PYTHONPATH=. python tests/faults/soak.py --minutes 30``. Each fit is
made once undisturbed, then again and again under schedules of faults drawn from the seed. The
report goes to ``benchmarks/results/``; the exit code is 1 where a fit failed, or an objective is
more than 1 % from the undisturbed one. What it does not do: hosts of their own (see
``benchmarks/survival.py`` for what surviving costs).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
from crew import Crew
from injector import Fault, Injector

from benchmarks.corpora import split_documents, synthetic
from benchmarks.run import RESULTS, describe_machine
from dask_petuum import LDA
from dask_petuum.algorithms.lasso import Lasso
from dask_petuum.algorithms.matrix_factorization import MatrixFactorization
from dask_petuum.algorithms.softmax_regression import SoftmaxRegression

N_WORKERS = 4
N_CHUNKS = 8
#: How often each kind of fault is drawn; stops take a lease each.
WEIGHTS = {"kill": 8, "vanish": 3, "retire": 3, "join": 4, "stop": 1}
#: The furthest that an objective may be from the undisturbed one, as a share of it.
QUALITY = 0.01
#: A fit that takes longer hangs, seconds: the soak ends with all threads' stacks.
HANGS = 600


@dataclass(frozen=True)
class Work:
    """A fit, what is judged of it, and how many clocks it has, about."""

    name: str
    make: Callable[[], Any]
    data: Sequence[Any]
    objective: Callable[[Any], float]
    n_clocks: int


@dataclass
class Outcome:
    """One fit under faults."""

    work: str
    faults: list[str]
    n_epochs: int
    seconds: float
    objective: float = float("nan")
    error: str = ""


@dataclass
class Soak:
    """What is known so far."""

    calm: dict[str, tuple[float, float]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    #: Bytes of the workers' processes together, and of this one; at the start and at the end.
    memory: list[tuple[int, int]] = field(default_factory=list)

    def deviation(self, outcome: Outcome) -> float:
        """How far an objective is from the undisturbed one, as a share of it."""
        calm = self.calm[outcome.work][1]
        return abs(outcome.objective - calm) / max(abs(calm), 1e-12)

    def is_good(self, outcome: Outcome) -> bool:
        return not outcome.error and self.deviation(outcome) <= QUALITY


def chunked(values: Any) -> Any:
    return da.from_array(values, chunks=(-(-values.shape[0] // N_CHUNKS), *values.shape[1:]))


def works() -> list[Work]:
    """The four fits: some seconds each."""
    rng = np.random.default_rng(0)
    counts, _ = synthetic(4000, 2000)
    train, test = split_documents(counts, 400)
    rows = rng.standard_normal((40_000, 40))
    labels = (rows @ rng.standard_normal((40, 6)) + rng.gumbel(size=(40_000, 6))).argmax(axis=1)
    wide = rng.standard_normal((2000, 1500))
    target = wide[:, :40] @ rng.standard_normal(40) + rng.standard_normal(2000)
    ratings = np.where(
        rng.random((2000, 600)) < 0.1,
        rng.standard_normal((2000, 8)) @ rng.standard_normal((8, 600)),
        0.0,
    )
    return [
        Work(
            "LDA",
            lambda: LDA(20, max_iter=60, evaluate_every=0, random_state=0),
            [chunked(np.asarray(train.todense(), dtype=np.int32))],
            lambda model: float(model.perplexity(test)),
            60,
        ),
        Work(
            "SoftmaxRegression",
            lambda: SoftmaxRegression(max_iter=30, tol=0, random_state=0),
            [chunked(rows), chunked(labels)],
            lambda model: float(model.history_[-1]["loss"]),
            60,
        ),
        Work(
            "Lasso",
            lambda: Lasso(alpha=0.02, tol=1e-10),
            [chunked(wide), chunked(target)],
            lambda model: lasso_objective(model, wide, target, 0.02),
            40,
        ),
        Work(
            "MatrixFactorization",
            lambda: MatrixFactorization(8, max_iter=40, tol=0, random_state=0),
            [chunked_ratings(ratings)],
            lambda model: float(model.history_[-1]["rmse"]),
            40,
        ),
    ]


def chunked_ratings(ratings: Any) -> Any:
    import scipy.sparse as sp

    return chunked(ratings).map_blocks(sp.csr_array, meta=sp.csr_array((0, 0)))


def lasso_objective(model: Any, X: Any, y: Any, alpha: float) -> float:
    residual = y - X @ model.coef_ - model.intercept_
    return float(residual @ residual / (2 * len(y)) + alpha * np.abs(model.coef_).sum())


def draw(rng: random.Random, n_clocks: int) -> list[Fault]:
    """A schedule of one to three faults within a fit."""
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    n = rng.randint(1, 3)
    return [
        Fault(rng.choices(kinds, weights)[0], rng.randint(1, n_clocks // (2 * n)), rng.randrange(4))
        for _ in range(n)
    ]


def fit(crew: Crew, work: Work, schedule: Sequence[Fault]) -> Outcome:
    """Fit once; an error is an outcome, too."""
    crew.refill()
    model = work.make()
    model.client = crew.client
    injector = Injector(crew, schedule, ends=False)
    model._print = injector  # told of every clock
    began = time.perf_counter()
    outcome = Outcome(work.name, injector.done, 0, 0.0)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        model.fit(*work.data)
        outcome.objective = work.objective(model)
        outcome.seconds = time.perf_counter() - began
        crew.assert_free()
    except Exception as error:
        logging.exception("%s under %s", work.name, schedule)
        outcome.error = repr(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
    outcome.n_epochs = len(injector.epochs)
    return outcome


def memory(crew: Crew) -> tuple[int, int]:
    """Bytes of all workers' processes, and of this one."""
    workers = sum(psutil.Process(pid).memory_info().rss for pid in crew.processes)
    return workers, psutil.Process().memory_info().rss


def soak(minutes: float, seed: int) -> Soak:
    """Fit under faults until the time is over."""
    rng, found = random.Random(seed), Soak()
    with Crew(N_WORKERS) as crew, dask.config.set({"petuum.checkpoint.clocks": 5}):
        fits = works()
        for work in fits:
            fit(crew, work, ())  # compile
            calm = fit(crew, work, ())
            found.calm[work.name] = calm.seconds, calm.objective
            print(f"{work.name}: {calm.seconds:.1f} s, {calm.objective:.6g} undisturbed")
        found.memory.append(memory(crew))
        until = time.monotonic() + 60 * minutes
        number = 0
        while time.monotonic() < until:
            work = fits[number % len(fits)]
            number += 1
            outcome = fit(crew, work, draw(rng, work.n_clocks))
            found.outcomes.append(outcome)
            print(outcome, flush=True)
        found.memory.append(memory(crew))
    return found


def report(found: Soak, minutes: float, seed: int) -> str:
    """The report as a markdown page."""
    outcomes = found.outcomes
    kinds = Counter(text.split()[0] for outcome in outcomes for text in outcome.faults)
    n_bad = sum(not found.is_good(outcome) for outcome in outcomes)
    lines = [f"# Random faults for {minutes:g} minutes, seed {seed}", ""]
    lines += [f"- {name}: {value}" for name, value in describe_machine(False).items()]
    lines += [
        f"- workers: {N_WORKERS}, one thread each; a checkpoint every 5 clocks",
        f"- fits: {len(outcomes)}, of which {n_bad} failed or are further than {QUALITY:.0%} from "
        "the undisturbed objective",
        f"- faults: {sum(kinds.values())}: {', '.join(f'{n} {k}' for k, n in kinds.items())}",
        f"- new epochs: {sum(max(outcome.n_epochs - 1, 0) for outcome in outcomes)}",
        "",
        "| fit | fits | faults | undisturbed (s) | median under faults (s) | lost per fault (s) "
        "| largest deviation of the objective |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (calm, _) in found.calm.items():
        own = [outcome for outcome in outcomes if outcome.work == name]
        if own:
            lost = sum(outcome.seconds - calm for outcome in own)
            n_faults = sum(len(outcome.faults) for outcome in own)
            worst = max((found.deviation(o) for o in own if not o.error), default=float("nan"))
            median = float(np.median([outcome.seconds for outcome in own]))
            lines.append(
                f"| {name} | {len(own)} | {n_faults} | {calm:.1f} | {median:.1f} "
                f"| {lost / max(n_faults, 1):.1f} | {worst:.2e} |"
            )
    before, after = ([f"{n / 2**20:.0f} MiB" for n in pair] for pair in found.memory)
    lines += [
        "",
        f"Memory of the workers together: {before[0]} at the start, {after[0]} at the end; of the "
        f"process of scheduler and client: {before[1]} and {after[1]}.",
    ]
    errors = [outcome for outcome in outcomes if not found.is_good(outcome)]
    lines += ["", *(f"- **failed**: {outcome}" for outcome in errors)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Soak, keep the report, say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    found = soak(arguments.minutes, arguments.seed)
    text = report(found, arguments.minutes, arguments.seed)
    print(text)
    target = RESULTS / f"{time.strftime('%Y-%m-%d')}-soak.md"
    target.write_text(text, encoding="utf-8")
    body = {"calm": found.calm, "outcomes": [asdict(o) for o in found.outcomes]}
    target.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return int(not all(found.is_good(outcome) for outcome in found.outcomes))


if __name__ == "__main__":
    sys.exit(main())
