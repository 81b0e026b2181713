"""Random faults for some minutes over four algorithms on four workers, and a report of it.

``make soak MINUTES=30``, or ``PYTHONPATH=. python tests/faults/soak.py --minutes 30``. Each fit is
made once undisturbed, then again and again under schedules of faults drawn from the seed. The
report goes to ``benchmarks/results/``; the exit code is 1 where a fit failed, or an objective is
more than 1 % from the undisturbed one. A quarter of the time goes to faults of links, which need
root (:mod:`link_soak`). ``benchmarks/survival.py`` measures what surviving costs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import dask
import numpy as np
import psutil
from crew import Crew
from injector import Fault
from link_soak import LinkSoak, link_report, link_soak
from works import QUALITY, Calm, Outcome, Work, calm, fit, works

from benchmarks import namespaces
from benchmarks.run import RESULTS, describe_machine

N_WORKERS = 4
#: How often each kind of fault is drawn; stops take a lease each.
WEIGHTS = {"kill": 8, "vanish": 3, "retire": 3, "join": 4, "stop": 1}
#: Share of the minutes that faults of links take, on hosts of their own.
LINKS = 0.25


@dataclass
class Soak:
    """What is known so far."""

    calm: dict[str, Calm] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    #: Bytes of the workers' processes together, and of this one; at the start and at the end.
    memory: list[tuple[int, int]] = field(default_factory=list)

    def is_good(self, outcome: Outcome) -> bool:
        return outcome.is_good(self.calm[outcome.work])


def draw(rng: random.Random, n_clocks: int) -> list[Fault]:
    """A schedule of one to three faults within a fit."""
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    n = rng.randint(1, 3)
    return [
        Fault(rng.choices(kinds, weights)[0], rng.randint(1, n_clocks // (2 * n)), rng.randrange(4))
        for _ in range(n)
    ]


def memory(crew: Crew) -> tuple[int, int]:
    """Bytes of all workers' processes, and of this one."""
    workers = sum(psutil.Process(pid).memory_info().rss for pid in crew.processes)
    return workers, psutil.Process().memory_info().rss


def soak(fits: Sequence[Work], minutes: float, rng: random.Random) -> Soak:
    """Fit under faults until the time is over."""
    found = Soak()
    with Crew(N_WORKERS) as crew, dask.config.set({"petuum.checkpoint.clocks": 5}):
        found.calm = calm(crew, fits)
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


def report(found: Soak) -> list[str]:
    """The section of the report on faults of processes."""
    outcomes = found.outcomes
    kinds = Counter(text.split()[0] for outcome in outcomes for text in outcome.faults)
    n_bad = sum(not found.is_good(outcome) for outcome in outcomes)
    lines = [
        "## Faults of processes",
        "",
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
    for name, undisturbed in found.calm.items():
        own = [outcome for outcome in outcomes if outcome.work == name]
        if own:
            lost = sum(outcome.seconds - undisturbed.seconds for outcome in own)
            n_faults = sum(len(outcome.faults) for outcome in own)
            whole = [outcome for outcome in own if not outcome.error]
            worst = max((o.deviation(undisturbed) for o in whole), default=float("nan"))
            median = float(np.median([outcome.seconds for outcome in own]))
            lines.append(
                f"| {name} | {len(own)} | {n_faults} | {undisturbed.seconds:.1f} | {median:.1f} "
                f"| {lost / max(n_faults, 1):.1f} | {worst:.2e} |"
            )
    before, after = ([f"{n / 2**20:.0f} MiB" for n in pair] for pair in found.memory)
    more = (found.memory[1][1] - found.memory[0][1]) / max(kinds.total(), 1)
    lines += [
        "",
        f"Memory of the workers together: {before[0]} at the start, {after[0]} at the end; of the "
        f"process of scheduler and client: {before[1]} and {after[1]}, {more / 2**20:.2f} MiB a "
        "fault.",
    ]
    errors = [outcome for outcome in outcomes if not found.is_good(outcome)]
    return [*lines, "", *(f"- **failed**: {outcome}" for outcome in errors)]


def main() -> int:
    """Soak, keep the report, say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6)
    parser.add_argument("--only-links", action="store_true", help="all of the time for links")
    arguments = parser.parse_args()
    minutes, seed, name = arguments.minutes, arguments.seed, "soak"
    print(f"seed {seed}", flush=True)
    lines = [f"# Random faults for {minutes:g} minutes, seed {seed}", ""]
    lines += [f"- {key}: {value}" for key, value in describe_machine(False).items()]
    fits, rng, why_not = works(), random.Random(seed), namespaces.why_not()
    share = (0.0 if why_not else LINKS) if not arguments.only_links else 1.0
    parts: list[Soak | LinkSoak] = []
    if share < 1.0:
        parts.append(processes := soak(fits, (1.0 - share) * minutes, rng))
        lines += ["", *report(processes)]
    else:
        name = "soak-links"
    if share:
        parts.append(links := link_soak(fits, share * minutes, rng))
        lines += ["", *link_report(links)]
    else:
        lines += ["", f"No faults of links: {why_not}."]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    target = RESULTS / f"{time.strftime('%Y-%m-%d')}-{name}.md"
    target.write_text(text, encoding="utf-8")
    body = [asdict(part) for part in parts]
    target.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return int(not all(part.is_good(found) for part in parts for found in part.outcomes))


if __name__ == "__main__":
    sys.exit(main())
