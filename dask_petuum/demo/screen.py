"""What the demo prints, as rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dask_petuum.demo.corpus import Corpus
from dask_petuum.demo.report import Topic

__all__ = ["corpus_line", "ranks_table", "summary_table", "topics_table"]

ACCENT = "#4477aa"
#: Of the longest bar, characters.
BAR_WIDTH = 8


def corpus_line(corpus: Corpus) -> Text:
    """Say in one line what was read."""
    n_documents, n_words = corpus.counts.shape
    return Text.assemble(
        (f"{n_documents:,}", "bold"),
        " docstrings of ",
        ", ".join(corpus.sources),
        f": {corpus.n_read:,} words, of which stop words and repeated lines leave ",
        (f"{corpus.n_tokens:,}", "bold"),
        f" tokens, {n_words:,} different words",
    )


def topics_table(topics: Sequence[Topic], sources: Sequence[str] = ()) -> Table:
    """Lay out the topics: share of the corpus, where it comes from, top words."""
    table = Table(title=f"{len(topics)} topics", box=None, header_style="bold", title_style="bold")
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", width=BAR_WIDTH, no_wrap=True)
    if sources:
        table.add_column("mostly in", style="dim", no_wrap=True)
    table.add_column("top words")  # the only one that gives way on a narrow screen
    longest = max((topic.share for topic in topics), default=1.0)
    for line, topic in enumerate(topics, start=1):
        cells: list[RenderableType] = [str(line), f"{100 * topic.share:.1f} %"]
        cells.append(Bar(longest, 0, topic.share, width=BAR_WIDTH, color=ACCENT))
        if sources:
            cells.append(sources[int(np.argmax(topic.by_source))])
        cells.append(Text(" ".join(topic.words), no_wrap=True, overflow="ellipsis"))
        table.add_row(*cells)
    return table


def summary_table(facts: Mapping[str, str]) -> Table:
    """Lay out named facts, one a line."""
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(style="bold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def ranks_table(clocks: Sequence[int], ranks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay out how far each rank is.

    Parameters
    ----------
    clocks
        Clocks that each rank has ended.
    ranks
        Rank (as text) to its counts: ``staleness`` (mean clocks that reads lagged),
        ``bytes_in``, ``bytes_out``, ``waited`` (seconds).
    """
    table = Table(box=None, header_style="dim")
    for column in ("rank", "clock", "staleness", "MB out", "MB in", "waited"):
        table.add_column(column, justify="right", min_width=9)
    for rank, clock in enumerate(clocks):
        counts = ranks.get(str(rank), {})
        table.add_row(
            str(rank),
            str(clock),
            f"{counts.get('staleness', 0.0):.2f}",
            f"{counts.get('bytes_out', 0.0) / 1e6:,.1f}",
            f"{counts.get('bytes_in', 0.0) / 1e6:,.1f}",
            f"{counts.get('waited', 0.0):.1f} s",
        )
    return table


def print_all(console: Console, *parts: RenderableType) -> None:
    """Print parts with a blank line between them."""
    console.print(Group(*(item for part in parts for item in (part, Text("")))))
