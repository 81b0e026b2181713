"""Corpora with a fixed seed for the topic-model benchmarks, and 20 Newsgroups where it is at hand.

The synthetic corpus is drawn from the model itself: topics from a symmetric Dirichlet over the
words, topic shares of each document from a symmetric Dirichlet over the topics, document lengths
from a Poisson distribution. Real text: 20 Newsgroups in svmlight format, read from the folder
named by the environment variable ``PETUUM_DATA`` (default ``../shared/data``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["DATA", "newsgroups", "newsgroups_tfidf", "split_documents", "split_tokens", "synthetic"]

DATA = Path(os.environ.get("PETUUM_DATA", "../shared/data"))


def synthetic(
    n_docs: int = 20_000,
    n_words: int = 10_000,
    n_topics: int = 100,
    *,
    length: float = 100.0,
    alpha: float = 0.1,
    beta: float = 0.01,
    seed: int = 0,
) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
    """Draw a corpus from the LDA model.

    Returns
    -------
    counts, topics
        ``counts``: (n_docs, n_words) CSR, int32; ``topics``: (n_topics, n_words), the true
        word distributions.
    """
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words, beta), n_topics)  # (n_topics, n_words)
    shares = rng.dirichlet(np.full(n_topics, alpha), n_docs)  # (n_docs, n_topics)
    lengths = rng.poisson(length, n_docs)
    doc = np.repeat(np.arange(n_docs), lengths)
    # One search in a single increasing array finds the topic of every token: row d of the
    # cumulated shares lies in (d, d + 1].
    ladder = (np.cumsum(shares, axis=1).clip(0, 1) + np.arange(n_docs)[:, None]).ravel()
    topic = np.searchsorted(ladder, doc + rng.random(len(doc))) - doc * n_topics
    topic = topic.clip(0, n_topics - 1)
    stairs = (np.cumsum(topics, axis=1).clip(0, 1) + np.arange(n_topics)[:, None]).ravel()
    word = np.searchsorted(stairs, topic + rng.random(len(doc))) - topic * n_words
    word = word.clip(0, n_words - 1)
    ones = np.ones(len(doc), dtype=np.int32)
    counts = sp.csr_matrix((ones, (doc, word)), shape=(n_docs, n_words))
    counts.sum_duplicates()
    return counts, topics


def newsgroups(part: str = "train") -> sp.csr_matrix:
    """Read the 20 Newsgroups counts of ``part`` ("train" or "test"): CSR int32, 17,507 words.

    Raises
    ------
    FileNotFoundError
        If the data folder is absent.
    """
    return labelled_newsgroups(part)[0].astype(np.int32)


def labelled_newsgroups(part: str) -> tuple[sp.csr_matrix, NDArray[np.int64]]:
    """Read counts and labels of a part."""
    from sklearn.datasets import load_svmlight_file

    path = DATA / "20news" / f"{part}.svmlight.gz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is absent; set PETUUM_DATA to the folder with 20news/")
    counts, labels = load_svmlight_file(str(path), n_features=17_507, zero_based=True)
    return sp.csr_matrix(counts), labels.astype(np.int64)


def newsgroups_tfidf() -> tuple[Any, Any, Any, Any]:
    """20 Newsgroups as float32 tf-idf: rows and labels to train on, rows and labels to test."""
    from sklearn.feature_extraction.text import TfidfTransformer

    (counts, y), (counts_test, y_test) = map(labelled_newsgroups, ("train", "test"))
    weights = TfidfTransformer(sublinear_tf=True).fit(counts)
    X, X_test = (weights.transform(part).astype(np.float32) for part in (counts, counts_test))
    return X, y, X_test, y_test


def split_documents(
    counts: sp.csr_matrix, held_out: int, seed: int = 0
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Take ``held_out`` random documents away: (training documents, held-out documents)."""
    order = np.random.default_rng(seed).permutation(counts.shape[0])
    return counts[np.sort(order[held_out:])], counts[np.sort(order[:held_out])]


def split_tokens(counts: sp.csr_matrix, seed: int = 0) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Halve every document's tokens at random: (observed, scored), for document completion."""
    rng = np.random.default_rng(seed)
    observed = counts.copy()
    observed.data = rng.binomial(counts.data, 0.5).astype(np.int32)
    scored = counts - observed
    observed.eliminate_zeros()
    scored.eliminate_zeros()
    return observed, scored
