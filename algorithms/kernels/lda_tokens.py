"""Token arrays for the LDA samplers: counting sorts from rows of counts, and back.

A count c of word w in document d becomes c tokens. The dense sampler wants each document's tokens
together, ordered by word group; the sparse one wants, inside a group of documents, each word's
tokens together. Both orders are found by counting, in time linear in the tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_petuum.jit import kernel

from .lda_simd import LANES, uniform

__all__ = [
    "collect_lists",
    "count_lists",
    "fill_by_document",
    "fill_by_word",
    "halve",
    "word_offsets",
]


@kernel()
def fill_by_document(
    indptr: Any, indices: Any, counts: Any, group: Any, bounds: Any, words: Any
) -> Any:
    """Write the tokens of each document, ordered by word group.

    Parameters
    ----------
    indptr, indices, counts : CSR rows of counts, all counts >= 0; int64, int32, int32
    group : (n_words,) int32, word group of each word
    bounds : (n_docs, n_groups + 1) int64, out: where each group of each document begins
    words : (n_tokens,) int32, out
    """
    n_groups = bounds.shape[1] - 1
    place = np.zeros(n_groups + 1, dtype=np.int64)
    first = 0
    for doc in range(bounds.shape[0]):
        place[:] = 0
        for j in range(indptr[doc], indptr[doc + 1]):
            place[group[indices[j]] + 1] += counts[j]
        place[0] = first
        for g in range(n_groups):
            place[g + 1] += place[g]
        for g in range(n_groups + 1):
            bounds[doc, g] = place[g]
        first = place[n_groups]
        for j in range(indptr[doc], indptr[doc + 1]):
            g = group[indices[j]]
            for _ in range(counts[j]):
                words[place[g]] = indices[j]
                place[g] += 1


@kernel()
def word_offsets(indptr: Any, indices: Any, counts: Any, cuts: Any, rank: Any, offsets: Any) -> Any:
    """Find where the tokens of each word begin inside each document group.

    Parameters
    ----------
    indptr, indices, counts : CSR rows of counts
    cuts : (n_groups + 1,) int64, document groups: rows cuts[g] .. cuts[g + 1] - 1
    rank : (n_words,) int32, place of each word in the order of the tokens
    offsets : (n_groups, n_words + 1) int64, out
    """
    n_words = rank.shape[0]
    first = 0
    for g in range(offsets.shape[0]):
        offsets[g, :] = 0
        for j in range(indptr[cuts[g]], indptr[cuts[g + 1]]):
            offsets[g, rank[indices[j]] + 1] += counts[j]
        offsets[g, 0] = first
        for r in range(n_words):
            offsets[g, r + 1] += offsets[g, r]
        first = offsets[g, n_words]


@kernel()
def fill_by_word(
    indptr: Any, indices: Any, counts: Any, cuts: Any, rank: Any, offsets: Any, docs: Any
) -> Any:
    """Write the documents of the tokens, ordered by (document group, word, document).

    Parameters
    ----------
    indptr, indices, counts, cuts, rank : as in `word_offsets`
    offsets : (n_groups, n_words + 1) int64, from `word_offsets`
    docs : (n_tokens,) int32, out
    """
    place = np.empty(rank.shape[0], dtype=np.int64)
    for g in range(offsets.shape[0]):
        for r in range(rank.shape[0]):
            place[r] = offsets[g, r]
        for doc in range(cuts[g], cuts[g + 1]):
            for j in range(indptr[doc], indptr[doc + 1]):
                r = rank[indices[j]]
                for _ in range(counts[j]):
                    docs[place[r]] = doc
                    place[r] += 1


@kernel()
def count_lists(lengths: Any, n_topics: Any, list_ptr: Any) -> Any:
    """Place a list of topics for each document: min(length, K) entries, rounded up to 16.

    Parameters
    ----------
    lengths : (n_docs,) int64, tokens of each document
    n_topics : number of topics K
    list_ptr : (n_docs + 1,) int64, out
    """
    list_ptr[0] = 0
    for doc in range(lengths.shape[0]):
        rows = (min(lengths[doc], n_topics) + LANES - 1) // LANES
        list_ptr[doc + 1] = list_ptr[doc] + rows * LANES


@kernel()
def halve(indptr: Any, counts: Any, seed: Any, observed: Any) -> Any:
    """Choose half of each document's tokens (rounded down) at random, all choices alike.

    Selection sampling (Knuth 1997, section 3.4.2, algorithm S) over the tokens.

    Parameters
    ----------
    indptr, counts : CSR rows of counts, int64 and int32
    seed : uint64
    observed : like ``counts``, out: how many of each count were chosen
    """
    for doc in range(indptr.shape[0] - 1):
        remaining = 0
        for j in range(indptr[doc], indptr[doc + 1]):
            remaining += counts[j]
        wanted = remaining // 2
        draw = np.int64(doc) << 32
        for j in range(indptr[doc], indptr[doc + 1]):
            observed[j] = 0
            for _ in range(counts[j]):
                if uniform(seed, draw) * np.float32(remaining) < np.float32(wanted):
                    observed[j] += 1
                    wanted -= 1
                draw += 1
                remaining -= 1


@kernel()
def collect_lists(
    docs: Any,
    bounds: Any,
    topics: Any,
    n_topics: Any,
    list_ptr: Any,
    list_size: Any,
    list_topics: Any,
    list_counts: Any,
) -> Any:
    """Count the topics of some documents whose tokens lie together, as lists.

    Parameters
    ----------
    docs : (2,) int64, first and one past the last document
    bounds : (n_docs, n_groups + 1) int64, from `fill_by_document`
    topics : (n_tokens,) int16 or int32; -1 is a token without a topic
    n_topics : number of topics K
    list_ptr : (n_docs + 1,) int64, from `count_lists`
    list_size : (n_docs,) int32, out
    list_topics, list_counts : (list_ptr[-1],) int32, out, zero beyond a list's size
    """
    place = np.full(n_topics, -1, dtype=np.int64)
    last = bounds.shape[1] - 1
    for doc in range(docs[0], docs[1]):
        start = list_ptr[doc]
        size = 0
        for j in range(start, list_ptr[doc + 1]):
            list_topics[j] = 0
            list_counts[j] = 0
        for i in range(bounds[doc, 0], bounds[doc, last]):
            k = topics[i]
            if k < 0:
                continue
            if place[k] < 0:
                place[k] = start + size
                list_topics[start + size] = k
                size += 1
            list_counts[place[k]] += 1
        list_size[doc] = size
        for j in range(start, start + size):
            place[list_topics[j]] = -1
