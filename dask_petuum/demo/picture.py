"""The demo's picture: what was found, and how the fit got there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_petuum.demo.report import Progress, Topic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

INK, FAINT, GRID = "#22303c", "#7b8794", "#e4e7eb"
#: one colour a package; told apart in print and by most colour-blind readers (after Paul Tol)
COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#f4a261",
    "#5e6472",
    "#9a8c98",
)


def draw(
    path: Path,
    topics: Sequence[Topic],
    sources: Sequence[str],
    progress: Progress,
    perplexity: tuple[float, float],
    title: str,
) -> Path:
    """Draw topics and convergence into a PNG file; return its path.

    Parameters
    ----------
    path
        File to write; its folder is made.
    topics
        Largest first.
    sources
        Names that ``Topic.by_source`` is about.
    progress
        The curve of the fit.
    perplexity
        On held-out documents, before and after.
    title
        Second line of the heading.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(16, 12), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 2, height_ratios=(3.4, 1), width_ratios=(1, 1), hspace=0.16, wspace=0.06
    )
    figure.subplots_adjust(left=0.025, right=0.985, top=0.9, bottom=0.06)
    half = (len(topics) + 1) // 2
    longest = max((topic.share for topic in topics), default=1.0)
    for column, part in enumerate((topics[:half], topics[half:])):
        _bars(figure.add_subplot(grid[0, column]), part, half, longest, first=1 + column * half)
    inner = grid[1, :].subgridspec(1, 3, width_ratios=(0.08, 5, 1.5), wspace=0.14)
    _curve(figure.add_subplot(inner[0, 1]), progress)
    _before_and_after(figure.add_subplot(inner[0, 2]), perplexity)
    figure.text(
        0.025, 0.955, "What scientific Python writes about", size=22, color=INK, weight="bold"
    )
    figure.text(0.025, 0.927, title, size=12, color=FAINT)
    handles = [Patch(color=colour) for colour, _ in zip(COLOURS, sources, strict=False)]
    figure.legend(
        handles,
        list(sources),
        loc="upper right",
        bbox_to_anchor=(0.985, 0.985),
        ncols=min(5, len(sources)),
        frameon=False,
        fontsize=11,
        labelcolor=INK,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _bars(axes: Axes, topics: Sequence[Topic], n_lines: int, longest: float, *, first: int) -> None:
    """Draw one column of topics: a bar of its packages, its share, its words."""
    lines = np.arange(len(topics))
    left = np.zeros(len(topics))
    for widths, colour in zip(np.transpose([t.by_source for t in topics]), COLOURS, strict=False):
        axes.barh(lines, widths, left=left, height=0.66, color=colour, linewidth=0)
        left += widths
    indent = left.max(initial=0.0) + 0.32 * longest
    for line, topic in enumerate(topics):
        axes.text(-0.02 * longest, line, f"{first + line}", **_text(9, FAINT, ha="right"))
        share = f"{100 * topic.share:.1f} %"
        axes.text(indent - 0.05 * longest, line, share, **_text(9, FAINT, ha="right"))
        axes.text(indent, line, _fitting(topic.words), **_text(9.5, INK, ha="left"))
    axes.set_xlim(-0.1 * longest, longest * 3.6)
    axes.set_ylim(n_lines - 0.4, -0.6)
    axes.axis("off")


def _fitting(words: Sequence[str], width: int = 62) -> str:
    """Join as many words as stand in `width` characters."""
    line = ""
    for word in words:
        if len(line) + len(word) + 2 > width:
            break
        line += ("  " if line else "") + word
    return line


def _text(size: float, colour: str, *, ha: str) -> dict[str, Any]:
    return {"size": size, "color": colour, "ha": ha, "va": "center"}


def _curve(axes: Axes, progress: Progress) -> None:
    axes.plot(progress.seconds, progress.log_likelihood, color=COLOURS[0], linewidth=2.2)
    if len(progress.seconds):
        axes.fill_between(
            progress.seconds,
            progress.log_likelihood.min(),
            progress.log_likelihood,
            color=COLOURS[0],
            alpha=0.08,
            linewidth=0,
        )
    axes.set_title("Joint log-likelihood a token", **_title())
    axes.set_xlabel("seconds since the fit began", color=FAINT)
    _tidy(axes)


def _before_and_after(axes: Axes, perplexity: tuple[float, float]) -> None:
    bars = axes.bar(("before", "after"), perplexity, width=0.6, color=("#c5ced8", COLOURS[0]))
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, color=INK, fontsize=12)
    axes.set_ylim(0, max(perplexity) * 1.15)
    axes.set_title("Held-out perplexity", **_title())
    axes.set_yticks([])
    _tidy(axes)
    axes.spines["left"].set_visible(False)


def _title() -> dict[str, Any]:
    return {"loc": "left", "color": INK, "fontsize": 12, "pad": 10}


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=0)
