"""What a fitted LDA says of documents: their topics, and how well their words are foretold.

Topics are held fixed at their posterior mean, p(w | k) = (n_wk + beta) / (n_k + V beta). A
document's topics are found by CVB0's fixed point (Asuncion, Welling, Smyth and Teh 2009), which is
deterministic and needs no average over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.threads import Threads, count_threads

from .kernels.lda_model import fold_in, score_tokens
from .kernels.lda_tokens import halve
from .lda_tokens import as_counts, padded

__all__ = ["Topics", "document_completion", "infer", "score_partition"]

Array = NDArray[Any]

#: Rounds of the fixed point at most, and the mean move per token at which it has settled.
MAX_ROUNDS = 100
SETTLED = 1e-3
#: Documents of one call of a kernel.
SLICE = 256


@dataclass(frozen=True)
class Topics:
    """Fitted topics.

    Attributes
    ----------
    counts : (n_words, n_topics) int32, or float32 where they are a mean
    alpha : (n_topics,) float64
    beta : float
    """

    counts: Array
    alpha: Array
    beta: float

    def rows(self, words: Array) -> Array:
        """p(word | topic) of some words: (n, n_padded) float32, zero in the padding."""
        n_words, n_topics = self.counts.shape
        totals = self.counts.sum(axis=0, dtype=np.float64) + n_words * self.beta
        out = np.zeros((len(words), padded(n_topics)), dtype=np.float32)
        scale = (1.0 / totals).astype(np.float32)
        np.add(self.counts[words], np.float32(self.beta), out=out[:, :n_topics], casting="unsafe")
        out[:, :n_topics] *= scale
        return out

    def prior(self) -> Array:
        """The document prior, (n_padded,) float32, zero in the padding."""
        out = np.zeros(padded(len(self.alpha)), dtype=np.float32)
        out[: len(self.alpha)] = self.alpha
        return out


def infer(topics: Topics, X: Any, n_jobs: int | None = None) -> Array:
    """Infer each document's topics: (n_docs, n_topics) float64, rows sum to 1.

    A document without words gets the prior's mean.
    """
    indptr, indices, counts = as_counts(X)
    words, rows = np.unique(indices, return_inverse=True)
    gamma = _fold(topics.rows(words), topics.prior(), (indptr, rows, counts), n_jobs)
    shares = gamma[:, : len(topics.alpha)].astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def document_completion(
    topics: Topics, X: Any, seed: int, n_jobs: int | None = None
) -> tuple[float, int]:
    """Score half of each document's tokens, its topics inferred from the other half.

    Parameters
    ----------
    topics
        The model.
    X
        (n_docs, n_words) counts.
    seed
        Chooses the halves; of an odd number of tokens the scored half is the larger.
    n_jobs
        Threads.

    Returns
    -------
    sum over scored tokens of log p(w | theta_d, phi), number of scored tokens
    """
    indptr, indices, counts = as_counts(X)
    observed = np.empty_like(counts)
    halve(indptr, counts, np.uint64(seed), observed)
    words, rows = np.unique(indices, return_inverse=True)
    phi = topics.rows(words)
    gamma = _fold(phi, topics.prior(), (indptr, rows, observed), n_jobs)
    rows = rows.astype(np.int32)
    scored = (counts - observed).astype(np.float32)
    total = _sliced(
        lambda docs: score_tokens(indptr, rows, scored, phi, gamma, docs), len(indptr) - 1, n_jobs
    )
    return float(sum(total)), int(scored.sum(dtype=np.int64))


def score_partition(
    topics: Topics, seed: int, n_jobs: int | None, partition: Partition
) -> tuple[float, int]:
    """Document completion where a partition lies."""
    return document_completion(topics, partition.data, seed + partition.index, n_jobs)


def _fold(
    phi: Array, alpha: Array, documents: tuple[Array, Array, Array], n_jobs: int | None
) -> Array:
    indptr, rows, counts = documents
    rows, counts = rows.astype(np.int32), counts.astype(np.float32)
    n_docs = len(indptr) - 1
    gamma = np.empty((n_docs, phi.shape[1]), dtype=np.float32)
    sizes = np.diff(indptr)

    def part(docs: Array) -> None:
        longest = int(sizes[docs[0] : docs[1]].max(initial=1))
        share = np.empty((longest, phi.shape[1]), dtype=np.float32)
        fold_in(
            indptr, rows, counts, phi, alpha, docs, MAX_ROUNDS, np.float32(SETTLED), share, gamma
        )

    _sliced(part, n_docs, n_jobs)
    return gamma


def _sliced(function: Callable[[Array], Any], n_docs: int, n_jobs: int | None) -> list[Any]:
    items: Iterable[Array] = [
        np.array([i, min(i + SLICE, n_docs)], dtype=np.int64) for i in range(0, n_docs, SLICE)
    ]
    with Threads(count_threads(n_jobs)) as threads:
        return threads.map(function, items)
