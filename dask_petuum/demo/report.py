"""What the demo has to say about a fitted model, as plain data.

Pure: nothing is read, printed or drawn here. Words of a topic are ranked by relevance (Sievert and
Shirley 2014, section 3.1): ``r(w, k) = 0.6 log p(w | k) + 0.4 log (p(w | k) / p(w))``, which puts
words that are common everywhere behind those that are the topic's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["RELEVANCE", "Progress", "Topic", "progress", "rate", "topics"]

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

#: weight of p(w | k) against its lift; 0.6 was best in the study of Sievert and Shirley
RELEVANCE = 0.6


@dataclass(frozen=True)
class Topic:
    """One topic, as a person reads it.

    Parameters
    ----------
    number
        Its row in ``components_``.
    share
        Its share of the corpus's tokens, 0 to 1.
    words
        Its most relevant words, best first.
    by_source
        (n_sources,) how the share is made up by the sources of the documents.
    """

    number: int
    share: float
    words: tuple[str, ...]
    by_source: FloatArray


def topics(
    components: FloatArray,
    words: Sequence[str],
    tokens_by_source: FloatArray | None = None,
    n_words: int = 10,
) -> list[Topic]:
    """Describe the topics, largest first.

    Parameters
    ----------
    components
        (n_topics, n_words) pseudo-counts of words in topics, as scikit-learn's ``components_``.
    words
        (n_words,) the vocabulary.
    tokens_by_source
        (n_sources, n_topics) tokens of each source's documents in each topic; None: one source.
    n_words
        How many words describe a topic.
    """
    if tokens_by_source is None:
        tokens_by_source = components.sum(axis=1)[np.newaxis]
    shares = tokens_by_source / tokens_by_source.sum()  # (n_sources, n_topics)
    ranked = np.argsort(-relevance(components), axis=1)[:, :n_words]
    total = shares.sum(axis=0)
    return [
        Topic(int(k), float(total[k]), tuple(str(words[w]) for w in ranked[k]), shares[:, k])
        for k in np.argsort(-total, kind="stable")
    ]


def relevance(components: FloatArray) -> FloatArray:
    """Return the relevance of every word to every topic, (n_topics, n_words); see the module."""
    tiny = np.finfo(np.float64).tiny
    in_topic = components / components.sum(axis=1, keepdims=True)
    overall = components.sum(axis=0) / components.sum()
    log_in_topic = np.log(np.maximum(in_topic, tiny))
    lift = log_in_topic - np.log(np.maximum(overall, tiny))
    relevances: FloatArray = RELEVANCE * log_in_topic + (1 - RELEVANCE) * lift
    return relevances


def tokens_by_source(
    doc_topic: FloatArray, n_tokens: FloatArray, source_of: np.ndarray[Any, Any], n_sources: int
) -> FloatArray:
    """Sum documents' topics over their sources.

    Parameters
    ----------
    doc_topic
        (n_documents, n_topics), rows sum to 1.
    n_tokens
        (n_documents,) length of the documents.
    source_of
        (n_documents,) number of their source.
    n_sources
        How many sources there are.

    Returns
    -------
    (n_sources, n_topics) float64
    """
    sums = np.zeros((n_sources, doc_topic.shape[1]))
    np.add.at(sums, source_of, doc_topic * n_tokens[:, np.newaxis])
    return sums


@dataclass(frozen=True)
class Progress:
    """How a fit went on, clock by clock.

    Parameters
    ----------
    seconds
        (n,) since the fit began, of the clocks at which it was evaluated.
    log_likelihood
        (n,) joint log-likelihood a token, in nats.
    """

    seconds: FloatArray
    log_likelihood: FloatArray


def progress(history: Sequence[dict[str, float]]) -> Progress:
    """Take the curve of a fit from an estimator's ``history_``."""
    told = np.array(
        [(record["seconds"], record.get("log_likelihood", np.nan)) for record in history]
    ).reshape(-1, 2)
    told = told[np.isfinite(told[:, 1])]
    return Progress(told[:, 0], told[:, 1])


def rate(history: Sequence[dict[str, float]], n_tokens: int) -> float:
    """Return tokens a second between the first clock and the last; nan for fewer than two.

    The first clock is left out: it may hold the compilation of the kernels.
    """
    if len(history) < 2:
        return float("nan")
    seconds = history[-1]["seconds"] - history[0]["seconds"]
    return n_tokens * (len(history) - 1) / seconds if seconds > 0 else float("nan")
