"""The command line: ``dask-petuum`` and, through Dask's entry points, ``dask petuum``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from dask_petuum import __version__, config
from dask_petuum.exceptions import PetuumError
from dask_petuum.readers import FORMATS, Documents, TextOptions, read_documents

if TYPE_CHECKING:
    from dask_petuum.environment import Versions

__all__ = ["main"]

#: Files in the folder that ``lda --output`` makes.
MODEL, WORDS, TOPICS, DOCUMENTS = "model.npz", "words.txt", "topics.csv", "documents.npy"


@click.group(name="petuum", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dask-petuum")
def main() -> None:
    """Petuum on Dask: algorithms over a parameter store with bounded staleness."""


@main.command()
@click.option("--cluster", is_flag=True, help="Fit on a Dask cluster of worker processes here.")
@click.option("--workers", default=2, show_default=True, help="Processes, with --cluster.")
@click.option("--topics", "n_topics", default=50, show_default=True, type=click.IntRange(2))
@click.option("--passes", "n_passes", default=300, show_default=True, type=click.IntRange(2))
@click.option("--seed", default=0, show_default=True)
@click.option("--output", default="demo-output", show_default=True, type=click.Path(path_type=Path))
def demo(
    cluster: bool, workers: int, n_topics: int, n_passes: int, seed: int, output: Path
) -> None:
    """Find topics in the documentation of the packages installed here."""
    from rich import get_console

    from dask_petuum.demo.run import Settings, run_demo

    settings = Settings(n_topics, n_passes, cluster, workers, output, seed)
    run_demo(settings, get_console())


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--topics", "n_topics", required=True, type=click.IntRange(1))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: from the name.")
@click.option("--vocabulary", help="File with one word a line (uci, svmlight, ldac).")
@click.option("--min-df", type=click.IntRange(1), help="Text: drop words in fewer documents [2].")
@click.option("--max-df", type=click.FloatRange(0, 1), help="Text: ... in a larger share [0.5].")
@click.option("--passes", default=100, show_default=True, type=click.IntRange(1))
@click.option("--seed", type=int, help="Same seed, same result.")
@click.option("--jobs", type=int, help="Threads, -1 for all cores (of each worker).")
@click.option("--scheduler", help="Address of a Dask scheduler [this process].")
@click.option("--consistency", type=click.Choice(["bsp", "ssp", "essp", "asp"]))
@click.option("--staleness", type=click.IntRange(0), help="Clocks that a read may lag.")
def lda(source: str, output: Path, format_: str | None, **options: Any) -> None:
    """Find topics in a corpus: a file, a URL or a folder of text files.

    Makes a folder with the model, the vocabulary (words.txt), the topics (topics.csv) and the
    topics of every document (documents.npy).
    """
    texts = _text_options(options.pop("min_df"), options.pop("max_df"))
    with _user_errors():
        vocabulary = options.pop("vocabulary")
        documents = read_documents(source, format_, vocabulary=vocabulary, text=texts)
        model = _fit(documents.counts, **options)
    _write(output, model, documents)
    click.echo(f"model, words, topics and documents are in {output}")


@main.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--words", "n_words", default=10, show_default=True, type=click.IntRange(1))
def topics(model: Path, n_words: int) -> None:
    """Print the topics of MODEL, a folder made by the command lda."""
    from rich.console import Console

    import dask_petuum as petuum
    from dask_petuum.demo.report import topics as describe
    from dask_petuum.demo.screen import topics_table

    with _user_errors():
        fitted = petuum.LDA.load(model / MODEL)
        words = (model / WORDS).read_text(encoding="utf-8").split("\n")
    Console().print(topics_table(describe(fitted.components_, words, n_words=n_words)))


@main.command()
@click.option("--scheduler", help="Also look at this cluster's scheduler and workers.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to reach it.")
def info(scheduler: str | None, timeout: float) -> None:
    """Print versions here and on a cluster, and what is missing.

    The exit code is 1 where a fit would fail.
    """
    from rich.console import Console

    from dask_petuum.environment import compare, versions_here, versions_of_cluster

    places = {"here": versions_here()}
    if scheduler is not None:
        with _user_errors():
            places |= versions_of_cluster(scheduler, timeout)
    console = Console()
    console.print(_versions_table(places))
    findings = compare(places)
    for finding in findings:
        colour = "red" if finding.fatal else "yellow"
        console.print(f"[{colour}]{finding.place}[/]: {finding.text}", highlight=False)
    if not findings:
        console.print("[green]nothing is missing[/]")
    if any(finding.fatal for finding in findings):
        raise SystemExit(1)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn what a user can get wrong into one line instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, PetuumError) as error:
        raise click.ClickException(str(error)) from error


def _text_options(min_df: int | None, max_df: float | None) -> TextOptions | None:
    """Return how to cut text; None where the user says nothing of it."""
    if min_df is None and max_df is None:
        return None
    default = TextOptions()
    return TextOptions(
        min_df=default.min_df if min_df is None else min_df,
        max_df=default.max_df if max_df is None else max_df,
    )


def _fit(
    counts: Any, *, jobs: int | None, seed: int | None, scheduler: str | None, **options: Any
) -> Any:
    """Fit LDA with a progress bar."""
    from sklearn.callback import ProgressBar

    import dask_petuum as petuum

    consistency, staleness = config.consistency_and_staleness(
        options["consistency"], options["staleness"]
    )
    model = petuum.LDA(
        n_components=options["n_topics"],
        max_iter=options["passes"],
        random_state=seed,
        n_jobs=jobs,
        scheduler=scheduler or "local",
        consistency=consistency,
        staleness=staleness,
    )
    return model.set_callbacks(ProgressBar()).fit(counts).set_callbacks()


def _write(output: Path, model: Any, documents: Documents) -> None:
    """Write the model, its vocabulary, topics and documents into a folder."""
    from dask_petuum.demo.report import topics as describe

    output.mkdir(parents=True, exist_ok=True)
    model.save(output / MODEL)
    (output / WORDS).write_text("\n".join(documents.words), encoding="utf-8")
    np.save(output / DOCUMENTS, np.asarray(model.transform(documents.counts), dtype=np.float32))
    with (output / TOPICS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["topic", "share", "words"])
        for topic in describe(model.components_, list(documents.words), n_words=20):
            writer.writerow([topic.number, f"{topic.share:.6f}", " ".join(topic.words)])


def _versions_table(places: Mapping[str, Versions]) -> Any:
    """Lay out packages by place."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("")
    for place in places:
        table.add_column(place, overflow="fold")
    for name in places["here"]:
        table.add_row(name, *(places[place].get(name) or "-" for place in places))
    return table
