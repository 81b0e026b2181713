"""Moves that part a topic in two and dissolve another: out of the local modes of Gibbs sampling.

A Gibbs sampler moves one token at a time. Where two subjects share a topic, and another topic has
none but strays, every single move makes the likelihood worse, and it stays so for ever (split and
merge moves: Jain and Neal 2004). Here every topic is parted in two on trial, by a Gibbs sampler
over two halves; the tokens of small topics are shared out among all others on trial; and where
both together raise the joint log-likelihood, the freed topic takes one half. As part of the start
of a fit this is a search for a good first state, not a step of the Markov chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .kernels.lda_split import dissolve_topic, part_topic

__all__ = ["Exchange", "Tokens", "choose_exchanges", "regroup"]

Array = NDArray[Any]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]
#: Passes over the tokens of a topic that is parted on trial.
N_PASSES = 30
#: (topic that is parted, topic that is dissolved and then takes one half)
Exchange = tuple[int, int]


class Tokens:
    """Tokens with topics, sorted by (topic, document).

    Parameters
    ----------
    words, docs
        (n_tokens,) int32.
    topics
        (n_tokens,) topics, all >= 0.
    n_words, n_topics
        Sizes.
    """

    def __init__(
        self, words: Array, docs: Array, topics: Array, n_words: int, n_topics: int
    ) -> None:
        n_docs = int(docs.max(initial=-1)) + 1
        # Sorting twice by counting is linear in the tokens.
        by_doc = np.argsort(docs, kind="stable")
        self.order = by_doc[np.argsort(topics[by_doc], kind="stable")]
        self.words, self.docs = words[self.order], docs[self.order]
        sizes = np.bincount(topics, minlength=n_topics)
        self.ptr = np.concatenate([[0], np.cumsum(sizes)])
        self.n_words = n_words
        ones = np.ones(len(words), dtype=np.int64)
        topic = np.repeat(np.arange(n_topics), sizes)
        self._doc_topics = sp.csr_array((ones, (self.docs, topic)), shape=(n_docs, n_topics))

    def part(
        self, alpha: float, beta: float, seeds: np.random.SeedSequence, threads: Map
    ) -> tuple[Array, Array]:
        """Part every topic on trial.

        Returns
        -------
        gains
            (n_topics,) by how much two topics are likelier than one.
        half
            (n_tokens,) int8 in the order of ``words``: which half each token is in.
        """
        half = np.zeros(len(self.words), dtype=np.int8)
        streams = seeds.generate_state(len(self.ptr) - 1, np.uint64)

        def part(topic: int) -> float:
            own = slice(self.ptr[topic], self.ptr[topic + 1])
            args = (self.words[own], self.docs[own], self.n_words, alpha, beta)
            return float(part_topic(*args, streams[topic], N_PASSES, half[own]))

        return np.array(threads(part, range(len(self.ptr) - 1))), half

    def dissolve(
        self,
        candidates: Array,
        n_wk: Array,
        alpha: float,
        beta: float,
        seeds: np.random.SeedSequence,
        threads: Map,
    ) -> tuple[Array, Array]:
        """Share the tokens of each candidate out among all other topics, on trial.

        Returns
        -------
        changes
            (n_candidates,) of the joint log-likelihood.
        new
            (n_tokens,) int32 in the order of ``words``: the other topic; -1 where the topic is no
            candidate.
        """
        new = np.full(len(self.words), -1, dtype=np.int32)
        n_k = np.diff(self.ptr)
        streams = seeds.generate_state(len(n_k), np.uint64)
        of = (self._doc_topics.indptr, self._doc_topics.indices, self._doc_topics.data)

        def dissolve(topic: int) -> float:
            own = slice(self.ptr[topic], self.ptr[topic + 1])
            args = (self.words[own], self.docs[own], topic, n_wk, n_k, *of, alpha, beta)
            return float(dissolve_topic(*args, streams[topic], new[own]))

        return np.array(threads(dissolve, candidates.tolist())), new


def choose_exchanges(gains: Array, candidates: Array, changes: Array) -> list[Exchange]:
    """Pair the best partings with the cheapest dissolutions while the likelihood rises.

    Parameters
    ----------
    gains
        (n_topics,) from `Tokens.part`.
    candidates, changes
        Topics and what dissolving them changes, from `Tokens.dissolve`.

    Returns
    -------
    list of Exchange; no topic is in two of them.
    """
    parted = [k for k in np.argsort(-gains, kind="stable").tolist() if gains[k] > 0]
    out: list[Exchange] = []
    used: set[int] = set()
    for place in np.argsort(-changes, kind="stable").tolist():
        freed = int(candidates[place])
        split = next((k for k in parted if k not in used and k != freed), None)
        if split is None or gains[split] + changes[place] <= 0:
            break
        if freed not in used:
            out.append((split, freed))
            used |= {split, freed}
    return out


def regroup(
    tokens: Tokens, half: Array, new: Array, exchanges: Iterable[Exchange]
) -> tuple[Array, Array]:
    """Say which tokens get which topic.

    Returns
    -------
    positions, topics
        Of the tokens that change, in the order in which they were given to `Tokens`.
    """
    positions, topics = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for split, freed in exchanges:
        own = slice(tokens.ptr[freed], tokens.ptr[freed + 1])
        positions.append(tokens.order[own])
        topics.append(new[own])
        own = slice(tokens.ptr[split], tokens.ptr[split + 1])
        parted = tokens.order[own][half[own] == 1]
        positions.append(parted)
        topics.append(np.full(len(parted), freed))
    return np.concatenate(positions), np.concatenate(topics)
