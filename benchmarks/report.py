"""What a benchmark returns, and how the table of all benchmarks is written.

A benchmark is a module ``benchmarks/<name>.py`` with a function ``run(quick: bool) -> list[Row]``.
It runs its peer itself, on the same data and the same cores, and returns raw figures: medians,
ratios and verdicts are made here, in one place. Import it as ``from benchmarks.report import Row``.

Nothing here measures anything; nothing here reads a clock.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["COLUMNS", "Row", "cells", "to_json", "to_markdown"]

#: headings of the table, in the order of its cells
COLUMNS = ("work", "peer", "unit", "ours (raw)", "theirs (raw)", "ratio", "target", "reached")

_TARGET = re.compile(r"^(<=|>=|<|>)\s*([0-9.eE+-]+)\s*(.*)$")


@dataclass(frozen=True)
class Row:
    """One line of the table: one piece of work, ours against a peer's.

    Parameters
    ----------
    work
        What is done, with its sizes: ``"LDA, K=100, 20 Newsgroups: to the perplexity of ..."``.
    peer
        Who else does it, with the version: ``"tomotopy 0.14, 2 workers"``; ``"-"`` for nobody.
    ours, theirs
        The raw figures in `unit`, one per repetition (three or more of ours for a claim);
        `theirs` is empty where nobody else does it.
    target
        The aim: ``"<= 0.6"`` is about the ratio; with the row's unit behind it, as in
        ``"<= 4 ms"``, it is about the median of `ours`. Empty: reported only.
    unit
        Of the raw figures: ``"s"``, ``"ms"``, ``"tokens/s"``, ``"GB"``, ...
    ratio
        Ours by theirs. None: the medians divided, where there is a peer. Give it only where
        it is measured in another way (then say how in `note`).
    note
        What bounds it (profile, bytes, operations) where the target is missed; anything odd.

    Examples
    --------
    >>> row = Row("sort", "numpy 2.4", [1.0, 1.2, 1.1], [2.0, 2.2, 2.4], target="<= 0.6")
    >>> row.measured_ratio, row.reached
    (0.5, True)
    >>> Row("clock", "Bösen", ours=[5.0], theirs=[1.5], target="<= 4 ms", unit="ms").reached
    False
    """

    work: str
    peer: str = "-"
    ours: Sequence[float] = ()
    theirs: Sequence[float] = ()
    target: str = ""
    unit: str = "s"
    ratio: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a row that could not be judged."""
        if not self.ours:
            raise ValueError(f"{self.work!r}: ours is empty; a row needs one figure at least")
        aim = self._aim()
        if aim and not aim[2] and self.measured_ratio is None:
            raise ValueError(
                f"{self.work!r}: the target {self.target!r} is about a ratio and there is no peer; "
                f"give theirs, ratio, or a target in the row's unit such as '<= 9 {self.unit}'"
            )

    def _aim(self) -> tuple[str, float, str] | None:
        if not self.target:
            return None
        match = _TARGET.match(self.target.strip())
        if match is None or match[3] not in ("", self.unit):
            raise ValueError(
                f"{self.work!r}: target must read like '<= 0.6' or '<= 4 {self.unit}', "
                f"got {self.target!r}"
            )
        return match[1], float(match[2]), match[3]

    @property
    def ours_median(self) -> float:
        """Median of our raw figures."""
        return statistics.median(self.ours)

    @property
    def theirs_median(self) -> float | None:
        """Median of the peer's raw figures; None without a peer."""
        return statistics.median(self.theirs) if self.theirs else None

    @property
    def measured_ratio(self) -> float | None:
        """Ours by theirs: as given, or the medians divided; None without a peer."""
        if self.ratio is not None:
            return self.ratio
        theirs = self.theirs_median
        return None if theirs is None else self.ours_median / theirs

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        aim = self._aim()
        if aim is None:
            return None
        sign, limit, unit = aim
        figure = self.ours_median if unit else self.measured_ratio
        if figure is None:  # refused by __post_init__
            return None
        return {
            "<=": figure <= limit,
            "<": figure < limit,
            ">=": figure >= limit,
            ">": figure > limit,
        }[sign]

    def as_dict(self) -> dict[str, Any]:
        """Return the row with its medians and verdict, ready for JSON."""
        return asdict(self) | {
            "ours": list(self.ours),
            "theirs": list(self.theirs),
            "ours_median": self.ours_median,
            "theirs_median": self.theirs_median,
            "ratio": self.measured_ratio,
            "reached": self.reached,
        }


def to_json(rows: Sequence[Row], environment: dict[str, Any]) -> dict[str, Any]:
    """Return the whole report as plain data: the environment, then one entry per row."""
    return {"environment": environment, "rows": [row.as_dict() for row in rows]}


def to_markdown(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """Return the whole report as a markdown page.

    Parameters
    ----------
    rows
        The rows in the order of the table.
    environment
        Facts about the machine, name to value; printed above the table.
    """
    lines = ["# Benchmarks", ""]
    lines += [f"- {name}: {value}" for name, value in environment.items()]
    lines += [
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        escaped = (cell.replace("|", "\\|") for cell in cells(row))
        lines.append(f"| {' | '.join(escaped)} |")
    notes = [f"- **{row.work}**: {row.note}" for row in rows if row.note]
    if notes:
        lines += ["", "## Notes", "", *notes]
    return "\n".join(lines) + "\n"


def format_figure(value: float | None) -> str:
    """Return a figure with three significant digits, thousands separated.

    Examples
    --------
    >>> [format_figure(v) for v in (0.01234, 1234567.0, 8.0, None)]
    ['0.0123', '1,234,567', '8', '-']
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def format_figures(median: float | None, raw: Sequence[float]) -> str:
    """Return the median with the raw figures behind it."""
    if median is None:
        return "-"
    if len(raw) == 1:
        return format_figure(median)
    return f"{format_figure(median)} ({', '.join(format_figure(value) for value in raw)})"


def cells(row: Row) -> list[str]:
    """Return the cells of a row's line, in the order of `COLUMNS`."""
    return [
        row.work,
        row.peer,
        row.unit,
        format_figures(row.ours_median, row.ours),
        format_figures(row.theirs_median, row.theirs),
        format_figure(row.measured_ratio),
        row.target or "reported",
        {True: "yes", False: "no", None: "-"}[row.reached],
    ]
