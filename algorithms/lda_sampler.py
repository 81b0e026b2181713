"""One pass of Gibbs sampling over the tokens of a partition, in several threads.

Word-topic counts and document-topic counts are exact at every draw, whatever the number of
threads: cells of a diagonal share no word and no document. Only the topic totals lag, by what the
other cells of the same diagonal changed; they are merged after each diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln

from .kernels.lda import sample_cell
from .kernels.lda_model import document_likelihood, prior_sums, word_likelihood, word_sums
from .kernels.lda_simd import DEPTH, LANES
from .kernels.lda_sparse import sample_words
from .kernels.lda_tokens import collect_lists
from .lda_tokens import State

__all__ = [
    "FLOOR",
    "Lists",
    "Map",
    "Prior",
    "cell_sampler",
    "chunks_of",
    "doc_likelihood",
    "learnt",
    "lists",
    "minka_sums",
    "sample_pass",
    "total_likelihood",
    "word_log_likelihood",
    "word_prior_ratio",
    "word_prior_sum",
    "word_prior_terms",
    "words_likelihood",
]

Array = NDArray[Any]
#: Calls a function on each item, perhaps in threads; results in order.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]
Lists = tuple[Array, Array, Array, Array]
#: Least value of a learnt prior.
FLOOR = 1e-5


def sample_pass(
    state: State,
    n_wk: Array,
    n_k: Array,
    alpha: Array,
    beta: float,
    seeds: np.random.SeedSequence,
    threads: Map,
    n_active: int | None = None,
) -> int:
    """Draw a new topic for every token of a partition.

    Parameters
    ----------
    state
        From `lda_tokens.lay_out`; its ``topics`` (and lists) are changed in place.
    n_wk, n_k
        (n_words, n_padded) int32 and (n_padded,) int64 counts, changed in place.
    alpha
        (n_topics,) document-topic prior.
    beta
        Topic-word prior.
    seeds
        Root of the pass's random numbers.
    threads
        Runs the cells of a diagonal.
    n_active
        Document groups to sample, the first ones (None: all); their tokens alone are drawn.

    Returns
    -------
    Number of tokens whose topic changed.
    """
    n_groups = len(state["cuts"]) - 1
    n_active = n_groups if n_active is None else n_active
    streams = seeds.generate_state(n_groups * n_groups, np.uint64).reshape(n_groups, n_groups)
    prior = Prior.of(alpha, beta, n_wk.shape)
    cell = cell_sampler(state)
    changed = 0
    for diagonal in range(n_groups):
        totals = [n_k.copy() for _ in range(n_active)]

        def sample(group: int, diagonal: int = diagonal, totals: list[Array] = totals) -> int:
            column = (group + diagonal) % n_groups
            return cell(state, group, column, prior, streams[diagonal, group], n_wk, totals[group])

        changed += sum(threads(sample, range(n_active)))
        n_k += sum(part - n_k for part in totals)
    return changed


def cell_sampler(state: State) -> Callable[..., int]:
    """Which function samples a cell of such a state.

    It takes (state, document group, word group, prior, seed, n_wk, n_k) and returns the number of
    tokens whose topic changed.
    """
    return _sparse_cell if "docs" in state else _dense_cell


@dataclass(frozen=True)
class Prior:
    """The priors as the kernels take them; ``alpha`` is padded."""

    n_topics: int
    alpha: Array
    beta: np.float32
    v_beta: np.float32

    @classmethod
    def of(cls, alpha: Array, beta: float, shape: tuple[int, ...]) -> Prior:
        """Make it from (n_topics,) and the shape (n_words, n_padded) of the whole table."""
        smooth = np.zeros(shape[1], dtype=np.float32)
        smooth[: len(alpha)] = alpha
        return cls(len(alpha), smooth, np.float32(beta), np.float32(shape[0]) * np.float32(beta))


def _dense_cell(
    state: State, group: int, column: int, prior: Prior, seed: Any, n_wk: Array, n_k: Array
) -> int:
    alpha = prior.alpha
    n_dk = np.zeros(len(alpha), dtype=np.int32)
    scratch = np.empty((3, len(alpha)), dtype=np.float32)
    docs = state["cuts"][group : group + 2]
    changed: int = sample_cell(
        state["words"], state["topics"], state["bounds"], docs, column,
        prior.n_topics, alpha, prior.beta, prior.v_beta, seed, n_wk, n_k, n_dk, scratch,
    )  # fmt: skip
    return changed


def _sparse_cell(
    state: State, group: int, column: int, prior: Prior, seed: Any, n_wk: Array, n_k: Array
) -> int:
    alpha = prior.alpha
    n_buckets = -(-len(alpha) // (LANES * DEPTH)) * LANES
    zeros = np.zeros((1, n_buckets), dtype=np.int32)
    sums = np.zeros(n_buckets, dtype=np.float32)
    scratch = np.empty((4, len(alpha)), dtype=np.float32)
    words = state["word_cuts"][column : column + 2]
    changed: int = sample_words(
        state["docs"], state["topics"], state["word_order"], state["word_ptr"][group], words,
        prior.n_topics, alpha, prior.beta, prior.v_beta, seed, n_wk, n_k,
        state["list_ptr"], state["list_size"], state["list_topics"], state["list_counts"],
        zeros, sums, scratch,
    )  # fmt: skip
    return changed


def lists(state: State, n_topics: int, threads: Map) -> Lists:
    """Each document's topics and their counts: (list_ptr, list_size, list_counts, list_topics)."""
    ptr = state["list_ptr"]
    if "docs" in state:
        return ptr, state["list_size"], state["list_counts"], state["list_topics"]
    size = np.zeros(len(ptr) - 1, dtype=np.int32)
    topics, counts = (np.empty(int(ptr[-1]), dtype=np.int32) for _ in range(2))

    def collect(docs: Array) -> None:
        collect_lists(docs, state["bounds"], state["topics"], n_topics, ptr, size, topics, counts)

    threads(collect, _ranges(state["cuts"]))
    return ptr, size, counts, topics


def doc_likelihood(state: State, alpha: Array, threads: Map) -> float:
    """Log p(z | alpha) of a partition's documents."""
    of = lists(state, len(alpha), threads)
    return float(
        sum(threads(lambda docs: document_likelihood(*of, alpha, docs), _ranges(state["cuts"])))
    )


def minka_sums(state: State, alpha: Array, threads: Map) -> Array:
    """Sums of Minka's fixed point over a partition's documents: (n_topics + 1,)."""
    of = lists(state, len(alpha), threads)

    def part(docs: Array) -> Array:
        sums = np.empty(len(alpha) + 1)
        prior_sums(*of, alpha, docs, sums)
        return sums

    return np.asarray(sum(threads(part, _ranges(state["cuts"]))))


def learnt(alpha: Array, sums: Array) -> Array:
    """One step of Minka's fixed point, from the sums over all documents (`minka_sums`)."""
    if sums[-1] <= 0:
        return alpha
    step: Array = np.maximum(alpha * sums[:-1] / sums[-1], FLOOR)
    return step


def word_log_likelihood(n_wk: Array, n_k: Array, n_topics: int, beta: float, threads: Map) -> float:
    """Log p(w | z, beta) of the whole corpus, from its counts."""
    total = words_likelihood(n_wk, n_topics, beta, threads)
    return total + total_likelihood(n_k, n_wk.shape[0], n_topics, beta)


def words_likelihood(n_wk: Array, n_topics: int, beta: float, threads: Map) -> float:
    """Give the part of log p(w | z, beta) that some words' counts have."""
    chunks = chunks_of(n_wk.shape[0])
    return float(sum(threads(lambda rows: word_likelihood(n_wk, n_topics, beta, rows), chunks)))


def total_likelihood(n_k: Array, n_words: int, n_topics: int, beta: float) -> float:
    """Give the part of log p(w | z, beta) that the topic totals have."""
    v_beta = n_words * beta
    return float(n_topics * gammaln(v_beta) - gammaln(n_k[:n_topics] + v_beta).sum())


def word_prior_sum(n_wk: Array, n_k: Array, n_topics: int, beta: float, threads: Map) -> float:
    """Factor by which Minka's fixed point changes the symmetric topic-word prior."""
    terms = word_prior_terms(n_wk, n_topics, beta, threads)
    return word_prior_ratio(terms, n_k, n_wk.shape[0], n_topics, beta)


def word_prior_terms(n_wk: Array, n_topics: int, beta: float, threads: Map) -> float:
    """Give some words' part of the numerator of that factor."""
    return float(
        sum(threads(lambda rows: word_sums(n_wk, n_topics, beta, rows), chunks_of(n_wk.shape[0])))
    )


def word_prior_ratio(terms: float, n_k: Array, n_words: int, n_topics: int, beta: float) -> float:
    """Make the factor of its numerator's sum over all words and the topic totals."""
    below = (digamma(n_k[:n_topics] + n_words * beta) - digamma(n_words * beta)).sum()
    return float(terms / (n_words * below)) if below > 0 and terms > 0 else 1.0


def _ranges(cuts: Array) -> list[Array]:
    return [cuts[i : i + 2] for i in range(len(cuts) - 1)]


def chunks_of(n: int, size: int = 4096) -> list[Array]:
    """Cut n rows into chunks: first and one past the last row of each, (2,) int64."""
    return [np.array([i, min(i + size, n)], dtype=np.int64) for i in range(0, n, size)]
