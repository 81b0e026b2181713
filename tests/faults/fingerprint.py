"""Programs whose increments say where they come from.

`Fingerprints` makes every one that is lost, doubled, too late or from nowhere visible: partition p
adds in its clock c to row p of a table of integers and to no other, the number c + 1 to column c
modulo 64. Increments of one partition arrive in the order of its clocks; so its row must always be
that of some number of clocks, and each step checks it. Jepsen's counter, made sharper: nothing is
searched for. What each step has read is kept in its state, for `history`. `Secrets` moves bytes
that can be recognised on a wire.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_petuum.runtime.program import DataParallelProgram
from dask_petuum.store.spec import TableSpec

__all__ = ["SECRET", "Fingerprints", "Secrets", "clocks_of", "marks_of"]

#: Columns of the table of marks.
WIDTH = 64
#: Eight bytes that no protocol has by accident; each cell of a table of `Secrets` holds them.
SECRET = b"PETUUMS!"


def marks_of(n_clocks: Any) -> Any:
    """The rows when partitions have added in so many clocks: (n_partitions, WIDTH) int64."""
    column = np.arange(WIDTH)
    n_terms = np.maximum(np.asarray(n_clocks)[:, np.newaxis] - column + WIDTH - 1, 0) // WIDTH
    return n_terms * (column + 1) + WIDTH * (n_terms * (n_terms - 1) // 2)


def clocks_of(marks: Any) -> Any:
    """How many clocks of each partition rows hold, were they whole: (n_partitions,) int64."""
    return np.floor((np.sqrt(8 * marks.sum(axis=1) + 1) - 1) / 2).astype(np.int64)


@dataclass
class Fingerprints(DataParallelProgram):
    """Adds and checks; ``lag`` is the bound on staleness, None: there is none."""

    n_partitions: int
    lag: int | None
    metrics = ("n",)
    #: Clocks of each partition that a partition here has seen.
    seen: dict[int, Any] = field(default_factory=dict)
    #: Of this epoch on this worker: each rank gets the program anew.
    epoch: int = 0

    def tables(self) -> Sequence[TableSpec]:
        return [TableSpec("marks", (self.n_partitions, WIDTH), "int64")]

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        ctx.table("marks").view()
        reads = np.zeros((0, 1 + self.n_partitions), dtype=np.int64)
        return {"n": np.zeros(1, dtype=np.int64), "reads": reads}

    def step(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        clock, view = int(state["n"][0]), ctx.table("marks").view()
        found = self._check(view.values, partition.index, clock)
        self.epoch = self.epoch or secrets.randbits(62)
        state["reads"] = np.concatenate([state["reads"], [[self.epoch, *found]]])
        marks = np.zeros((1, WIDTH), dtype=np.int64)
        marks[0, clock % WIDTH] = clock + 1
        view.inc(marks, at=[partition.index])
        state["n"] += 1
        return {"n": 1.0}

    def finish(self, ctx: Any, partition: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"], "reads": state["reads"]}

    def _check(self, marks: Any, own: int, clock: int) -> Any:
        """What a read must hold; the error ends the run in this rank. Gives the clocks seen."""
        found = clocks_of(marks)
        wrong = (marks != marks_of(found)).any(axis=1)
        if wrong.any():
            p = int(np.argmax(wrong))
            raise AssertionError(f"partition {p} has {marks[p]} as seen by {own} in {clock}")
        if found[own] != clock:
            raise AssertionError(f"partition {own} sees {found[own]} of its own {clock} clocks")
        if self.lag is not None and found.min() < clock - self.lag:
            text = f"clocks {found} are seen by {own} in {clock}, the bound is {self.lag}"
            raise AssertionError(text)
        before = self.seen.get(own, found)
        if (found < before).any():
            raise AssertionError(f"clocks {before} were seen by {own}, now {found} in {clock}")
        self.seen[own] = found
        return found


class Secrets(DataParallelProgram):
    """Adds a secret to every cell of a table, once; the table and its copies then spell it."""

    def tables(self) -> Sequence[TableSpec]:
        return [TableSpec("secret", (64, 4), "int64")]

    def start(self, ctx: Any, partition: Any) -> dict[str, Any]:
        view = ctx.table("secret").view()
        if partition.index == 0:
            view.inc(np.full((64, 4), int.from_bytes(SECRET, "little")))
        return {"seen": np.zeros(1, dtype=np.int64)}

    def step(self, ctx: Any, partition: Any, state: dict[str, Any]) -> Mapping[str, float]:
        view = ctx.table("secret").view()
        state["seen"][0] = view.values[0, 0]
        view.inc(np.zeros((64, 4), dtype=np.int64))
        return {}
