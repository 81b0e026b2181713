"""The soak's faults of links: hosts of their own, whose wires are bad, are cut, or lead to nothing.

Each kind of fault strikes each fit in turn, some clocks after its begin. While a partition lasts,
fits go on without that host; the one in whose midst it ends sees the host come back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import dask
import numpy as np
from hosts import HostCrew
from injector import Fault
from works import Calm, Outcome, Work, calm, fit

from benchmarks.links import Wire

__all__ = ["N_HOSTS", "LinkSoak", "link_report", "link_soak"]

N_HOSTS = 3
#: ``petuum.recovery.lease``, seconds. A partition of 5 s may be felt for 10: TCP's pauses double.
LEASE = 15.0


class LinkCrew(HostCrew):
    """Hosts that an `Injector` strikes: a method for each kind, given a host's worker."""

    def loss(self, address: str) -> None:
        """Lose 1 % of all frames, on every wire."""
        self.worsen(Wire(loss=0.01))

    def narrow(self, address: str) -> None:
        """Give every host 100 Mbit/s."""
        self.worsen(Wire(rate=100e6))

    def cut_5(self, address: str) -> None:
        self.part(address, 5.0)

    def cut_60(self, address: str) -> None:
        self.part(address, 60.0)

    def cut(self, address: str) -> None:
        self.part(address, None)


#: The methods, and what each is.
KINDS = {
    "loss": "1 % of the frames are lost, on every wire",
    "narrow": "100 Mbit/s for every host",
    "cut_5": "a partition of 5 s",
    "cut_60": "a partition of 60 s",
    "cut": "a partition for good",
    "vanish": "a host that vanishes",
}


@dataclass
class LinkSoak:
    """What is known so far; by kind of fault: the fits that it struck, and those that followed."""

    calm: dict[str, Calm] = field(default_factory=dict)
    struck: dict[str, list[Outcome]] = field(default_factory=dict)
    after: dict[str, list[Outcome]] = field(default_factory=dict)

    @property
    def outcomes(self) -> list[Outcome]:
        found = [*self.struck.values(), *self.after.values()]
        return [outcome for outcomes in found for outcome in outcomes]

    def is_good(self, outcome: Outcome) -> bool:
        return outcome.is_good(self.calm[outcome.work])


def link_soak(works: Sequence[Work], minutes: float, rng: random.Random) -> LinkSoak:
    """Fit on hosts with bad wires until the time is over; each kind at least once."""
    settings = {"petuum.checkpoint.clocks": 5}
    with LinkCrew(N_HOSTS, LEASE, settings) as crew, dask.config.set(settings):
        found = LinkSoak(calm(crew, works))
        until = time.monotonic() + 60 * minutes
        number = 0
        while number < len(KINDS) or time.monotonic() < until:
            kind = list(KINDS)[number % len(KINDS)]
            work = works[(number + number // len(KINDS)) % len(works)]
            number += 1
            fault = Fault(kind, rng.randint(1, work.n_clocks // 3), rng.randrange(4))
            _strike(crew, work, fault, found)
    return found


def _strike(crew: LinkCrew, work: Work, fault: Fault, found: LinkSoak) -> None:
    """Fit under a fault, and again while it lasts."""
    crew.refill()
    outcomes = [fit(crew, work, [fault], fills=False)]
    while crew.n_parted and not outcomes[-1].error:
        outcomes.append(fit(crew, work, (), fills=False))
    outcomes[-1] = _checked(crew, outcomes[-1])
    for outcome in outcomes:
        print(fault.what, outcome, flush=True)
    found.struck.setdefault(fault.what, []).append(outcomes[0])
    found.after.setdefault(fault.what, []).extend(outcomes[1:])


def _checked(crew: LinkCrew, outcome: Outcome) -> Outcome:
    try:
        crew.assert_free()
    except (AssertionError, TimeoutError) as error:
        return replace(outcome, error=outcome.error or repr(error))
    return outcome


def link_report(found: LinkSoak) -> list[str]:
    """The section of the report."""
    struck = [outcome for outcomes in found.struck.values() for outcome in outcomes]
    bad = [outcome for outcome in found.outcomes if not found.is_good(outcome)]
    worst = _worst(found, found.outcomes)
    lines = [
        "## Faults of links",
        "",
        f"{N_HOSTS} hosts in network namespaces, a worker of one thread on each, the scheduler and "
        f"the client on another; a lease of {LEASE:g} s. {len(struck)} fits were struck, "
        f"{len(found.outcomes) - len(struck)} followed while a partition lasted; {len(bad)} "
        f"failed. The largest deviation of an objective is {worst:.2e}.",
        "",
        "| fault | times | of them the fit was over before | new epochs | lost (s): median, most "
        "| fits while it lasted | their new epochs | largest deviation of the objective |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, text in KINDS.items():
        own, after = found.struck.get(kind, []), found.after.get(kind, [])
        met = [outcome for outcome in own if outcome.faults]
        lost = [outcome.seconds - found.calm[outcome.work].seconds for outcome in met]
        seconds = f"{np.median(lost):.1f}, {max(lost):.1f}" if lost else "-"
        lines.append(
            f"| {text} | {len(own)} | {len(own) - len(met)} | {_new_epochs(met)} | {seconds} "
            f"| {len(after)} | {_new_epochs(after)} | {_worst(found, own + after):.2e} |"
        )
    calms = ", ".join(f"{name} {value.seconds:.1f} s" for name, value in found.calm.items())
    lines += ["", f"Undisturbed, on these hosts: {calms}."]
    return [*lines, "", *(f"- **failed**: {outcome}" for outcome in bad)]


def _new_epochs(outcomes: Sequence[Outcome]) -> int:
    return sum(max(outcome.n_epochs - 1, 0) for outcome in outcomes)


def _worst(found: LinkSoak, outcomes: Sequence[Outcome]) -> float:
    whole = [outcome for outcome in outcomes if not outcome.error]
    return max((o.deviation(found.calm[o.work]) for o in whole), default=float("nan"))
