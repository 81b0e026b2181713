"""The demo itself: read, fit, print, draw. Everything that decides is in its siblings."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

import dask_petuum as petuum
from dask_petuum import config
from dask_petuum.demo import corpus as corpora
from dask_petuum.demo import report, screen

__all__ = ["Settings", "run_demo"]


@dataclass(frozen=True)
class Settings:
    """What the demo does.

    Parameters
    ----------
    n_topics, n_passes
        Size of the model; passes over the corpus.
    on_cluster
        Fit on a Dask cluster of `n_workers` processes instead of in this one.
    n_workers
        Worker processes, where `on_cluster`.
    output
        Folder for the picture.
    seed
        ``random_state`` of the fit.
    """

    n_topics: int = 50
    n_passes: int = 300
    on_cluster: bool = False
    n_workers: int = 2
    output: Path = Path("demo-output")
    seed: int = 0


def run_demo(settings: Settings, console: Console) -> Path:
    """Find topics in the documentation of the installed packages; return the picture's path."""
    began = time.perf_counter()
    with console.status("reading the docstrings of the installed packages"):
        corpus = corpora.load()
    train, held_out = corpus.hold_out()
    console.print(screen.corpus_line(corpus))
    with console.status("compiling (the first time only) and scoring one topic for all"):
        before = _fit_one_topic(train).perplexity(held_out.counts)
    if settings.on_cluster:
        from dask_petuum.demo.cluster import cluster_address, start_cluster, watch_ranks

        console.print(f"starting a Dask cluster of {settings.n_workers} worker processes")
        with start_cluster(settings.n_workers) as client:
            model = _make_model(settings, cluster_address(client))
            _fit(model, train, watch_ranks(client, console))
    else:
        model = _make_model(settings, "local")
        _fit(model, train, nullcontext())
    after = model.perplexity(held_out.counts)
    return _show(settings, console, model, train, (before, after), began)


def _make_model(settings: Settings, scheduler: str) -> Any:
    """Make the estimator; the learnt prior lets a few topics take the words of all documents."""
    consistency, staleness = config.consistency_and_staleness()
    return petuum.LDA(
        n_components=settings.n_topics,
        doc_topic_prior="auto",
        max_iter=settings.n_passes,
        evaluate_every=5,
        random_state=settings.seed,
        scheduler=scheduler,
        consistency=consistency,
        staleness=staleness,
    )


def _fit_one_topic(train: corpora.Corpus) -> Any:
    """Fit the model that knows how frequent words are, and nothing else."""
    model = petuum.LDA(n_components=1, max_iter=1, random_state=0, scheduler="local")
    return model.fit(train.counts)


def _fit(model: Any, train: corpora.Corpus, watched: Any) -> None:
    from sklearn.callback import ProgressBar

    model.set_callbacks(ProgressBar())
    with watched:
        model.fit(train.counts)
    model.set_callbacks()


def _show(
    settings: Settings,
    console: Console,
    model: Any,
    train: corpora.Corpus,
    perplexity: tuple[float, float],
    began: float,
) -> Path:
    """Print the topics and figures, draw the picture."""
    n_tokens = np.asarray(train.counts.sum(axis=1), dtype=np.float64).ravel()
    by_source = report.tokens_by_source(
        model.transform(train.counts), n_tokens, train.source_of, len(train.sources)
    )
    topics = report.topics(model.components_, list(train.words), by_source)
    progress = report.progress(model.history_)
    rate = report.rate(model.history_, train.n_tokens)
    where = f"{settings.n_workers} worker processes" if settings.on_cluster else "this process"
    facts = {
        "fit": f"{model.n_iter_} passes over {train.n_tokens:,} tokens in {where}",
        "speed": f"{rate / 1e6:.1f} million tokens a second",
        "held-out perplexity": f"{perplexity[0]:,.0f} before (word frequencies alone), "
        f"{perplexity[1]:,.0f} after",
    }
    name = "topics-cluster.png" if settings.on_cluster else "topics.png"
    title = (
        f"{len(topics)} topics found by dask_petuum.LDA in {train.counts.shape[0]:,} docstrings "
        f"({train.n_tokens:,} tokens); {rate / 1e6:.1f} million tokens a second in {where}"
    )
    path = _draw(settings.output / name, topics, train.sources, progress, perplexity, title)
    facts["picture"] = str(path)
    facts["in all"] = f"{time.perf_counter() - began:.0f} seconds"
    parts = [screen.topics_table(topics, train.sources), screen.summary_table(facts)]
    screen.print_all(console, Text(""), *parts)
    return path


def _draw(path: Path, *content: Any) -> Path:
    from dask_petuum.demo.picture import draw

    return draw(path, *content)
