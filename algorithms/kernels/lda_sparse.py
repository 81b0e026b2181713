"""Collapsed Gibbs sampling for LDA with many topics: exact, word by word, sparse documents.

The probability of topic k for a token of word w in document d is split in two (Yao, Mimno and
McCallum 2009, transposed as in Yu et al. 2015, "F+Nomad LDA", eq. 6):

    n_dk[d, k] * phi[k]  +  alpha[k] * phi[k],      phi[k] = (n_wk[w, k] + beta) / (n_k + V * beta)

The first part is summed over the topics that document d has (a list, gathered 16 at a time), the
second is one number per word that changes with two entries of phi per draw; only when the second
part is chosen are all K topics looked at. Tokens are visited word by word, so phi stays in the
first-level cache. Nothing is approximated: each draw uses the current counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_petuum.jit import kernel

from .lda_simd import DEPTH, draw_listed, draw_topic, find_listed, prefetch, prepare_word, uniform

__all__ = ["sample_words"]

#: Tokens between the prefetch of a document's list and its use.
_AHEAD = 4


@kernel(inline=True)
def bucket_of(topic: Any) -> Any:
    """Bucket of a topic (see `prepare_word`), -1 of topic -1."""
    if topic < 0:
        return -1
    return ((topic >> 4) // DEPTH << 4) + (topic & 15)


# A call that passes arrays costs a locked count of references per token, so the updates of the
# lists stand inside the loop.
# over the limit: half of the lines are arguments, the rest must not be calls
@kernel()
def sample_words(
    docs: Any,
    topics: Any,
    word_order: Any,
    word_ptr: Any,
    word_range: Any,
    n_topics: Any,
    alpha: Any,
    beta: Any,
    v_beta: Any,
    seed: Any,
    n_wk: Any,
    n_k: Any,
    list_ptr: Any,
    list_size: Any,
    list_topics: Any,
    list_counts: Any,
    zeros: Any,
    sums: Any,
    scratch: Any,
) -> Any:
    """Draw a new topic for every token of one cell (document group x word group) of the grid.

    Parameters
    ----------
    docs : (n_tokens,) int32, token documents, sorted by word inside a document group
    topics : (n_tokens,) int16 or int32, in and out; -1 is a token that has no topic yet
    word_order : (n_words,) int32, words in the order in which tokens are sorted
    word_ptr : (n_words + 1,) int64, first token of each word of ``word_order`` in this cell's
        document group
    word_range : (2,) int64, the part of ``word_order`` that the cell covers
    n_topics : number of topics K; columns K and above of the counts are padding
    alpha : (n_padded,) float32, document-topic prior, zero in the padding
    beta : float32, topic-word prior
    v_beta : float32, beta times the size of the whole vocabulary
    seed : uint64, stream of random numbers of this cell and pass
    n_wk : (n_rows, n_padded) int32, word-topic counts of the cell's words, in and out
    n_k : (n_padded,) int64, topic totals, in and out (this cell's own copy)
    list_ptr : (n_docs + 1,) int64, where each document's list of topics begins (multiples of 16)
    list_size : (n_docs,) int32, topics in each list, in and out
    list_topics, list_counts : (list_ptr[-1],) int32, in and out, zero beyond a list's size
    zeros : (1, n) int32, all zero, n >= n_padded / 16 a multiple of 16
    sums : (n,) float32, zero on entry
    scratch : (4, n_padded) float32, uninitialised
    """
    weight, inverse, phi, running = scratch[0], scratch[1], scratch[2], scratch[3]
    one = np.float32(1.0)
    n_rows_all = alpha.shape[0] >> 4
    n_last = docs.shape[0] - 1
    n_changed = 0
    for k in range(alpha.shape[0]):
        inverse[k] = one / (np.float32(n_k[k]) + v_beta)
        weight[k] = alpha[k] * inverse[k]
    for r in range(word_range[0], word_range[1]):
        begin, end = word_ptr[r], word_ptr[r + 1]
        if begin == end:
            continue
        word = np.int64(word_order[r])
        mass = prepare_word(n_wk, word, inverse, weight, beta, phi, sums)
        for i in range(begin, end):
            doc, old = np.int64(docs[i]), np.int64(topics[i])
            start = list_ptr[doc]
            without, excess = np.float32(0.0), np.float32(0.0)
            if old >= 0:
                without = (np.float32(n_wk[word, old]) - one + beta) / (
                    np.float32(n_k[old]) - one + v_beta
                )
                excess = alpha[old] * (phi[old] - without)
            ahead = list_ptr[docs[min(i + _AHEAD, n_last)]]
            for line in range(0, 64, 16):
                prefetch(list_topics, ahead + line)
                prefetch(list_counts, ahead + line)
            share = uniform(seed, i)
            n_rows = (np.int64(list_size[doc]) + 15) >> 4
            found = draw_listed(
                list_topics, list_counts, start, n_rows, phi, running, old, without,
                mass - excess, share,
            )  # fmt: skip
            if found >= 0:
                new = np.int64(list_topics[start + found])
            else:
                bucket = draw_topic(
                    zeros, 0, sums, running, one, running[0], bucket_of(old), excess
                )
                lane, first = bucket & 15, (bucket >> 4) * DEPTH
                total = np.float32(0.0)
                for row in range(first, min(first + DEPTH, n_rows_all)):
                    k = (row << 4) + lane
                    total += (np.float32(n_wk[word, k]) + beta) * weight[k]
                    total -= excess if k == old else np.float32(0.0)
                    running[row] = total
                goal = total * uniform(~seed, i)
                new = (first << 4) + lane
                for row in range(first, min(first + DEPTH, n_rows_all) - 1):
                    new += 16 * (running[row] <= goal)
            if new >= n_topics:  # rounding at the very end of the running sums
                new = old if old >= 0 else n_topics - 1
            if new == old:
                continue
            n_changed += 1
            if old >= 0:
                at = start + find_listed(list_topics, start, n_rows, old)
                list_counts[at] -= 1
                if list_counts[at] == 0:
                    list_size[doc] -= 1
                    last = start + list_size[doc]
                    list_topics[at], list_counts[at] = list_topics[last], list_counts[last]
                    list_topics[last], list_counts[last] = 0, 0
                n_wk[word, old] -= 1
                n_k[old] -= 1
                inverse[old] = one / (np.float32(n_k[old]) + v_beta)
                weight[old] = alpha[old] * inverse[old]
                mass -= excess
                sums[bucket_of(old)] -= excess
                phi[old] = without
            found = find_listed(list_topics, start, n_rows, new)
            if found < 0 or found >= list_size[doc]:
                found = list_size[doc]
                list_size[doc] += 1
                list_topics[start + found] = new
            list_counts[start + found] += 1
            n_wk[word, new] += 1
            n_k[new] += 1
            inverse[new] = one / (np.float32(n_k[new]) + v_beta)
            weight[new] = alpha[new] * inverse[new]
            fresh = (np.float32(n_wk[word, new]) + beta) * inverse[new]
            gain = alpha[new] * (fresh - phi[new])
            mass += gain
            sums[bucket_of(new)] += gain
            phi[new] = fresh
            topics[i] = new
    return n_changed
