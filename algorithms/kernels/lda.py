"""Collapsed Gibbs sampling for LDA while the number of topics is small: exact, dense, SIMD.

Token i of document d with word w takes topic k with probability proportional to

    (n_wk[w, k] + beta) * (n_dk[d, k] + alpha[k]) / (n_k[k] + V * beta)

where the counts leave token i out (Griffiths and Steyvers 2004, eq. 5). Per document the kernel
keeps ``weight[k] = (n_dk + alpha[k]) / (n_k + V * beta)``, of which one draw changes two entries,
so a token costs one multiply and two adds per topic. The token's own count is not taken out
before the draw: its excess is subtracted from the running sums, so that nothing is written when
the topic stays (after burn-in most do) and the next token's vector work overlaps with this one's.

Two threads never touch the same count: documents and words are cut into groups, and the cells of
one diagonal of the grid are sampled at once (Yan, Xu and Qi 2009). Only ``n_k`` lags, by at most
the other cells of the diagonal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_petuum.jit import kernel

from .lda_simd import draw_topic, prefetch, uniform

__all__ = ["sample_cell"]

#: Tokens between the prefetch of a row of counts and its use.
_AHEAD = 3


@kernel()
def sample_cell(
    words: Any,
    topics: Any,
    bounds: Any,
    doc_range: Any,
    group: Any,
    n_topics: Any,
    alpha: Any,
    beta: Any,
    v_beta: Any,
    seed: Any,
    n_wk: Any,
    n_k: Any,
    n_dk: Any,
    scratch: Any,
) -> Any:
    """Draw a new topic for every token of one cell (document group x word group) of the grid.

    Parameters
    ----------
    words : (n_tokens,) int32, token words; a document's tokens are contiguous and sorted by group
    topics : (n_tokens,) int16 or int32, in and out; -1 is a token that has no topic yet
    bounds : (n_docs, n_groups + 1) int64, where each word group of each document begins
    doc_range : (2,) int64, first and one past the last document of the cell
    group : word group of the cell
    n_topics : number of topics K; columns K and above of the counts are padding
    alpha : (n_padded,) float32, document-topic prior, zero in the padding
    beta : float32, topic-word prior
    v_beta : float32, beta times the size of the whole vocabulary
    seed : uint64, stream of random numbers of this cell and pass
    n_wk : (n_rows, n_padded) int32, word-topic counts of the cell's words, in and out
    n_k : (n_padded,) int64, topic totals, in and out (this cell's own copy)
    n_dk : (n_padded,) int32, scratch, zero on entry and on return
    scratch : (3, n_padded) float32, uninitialised
    """
    weight, inverse, running = scratch[0], scratch[1], scratch[2]
    one = np.float32(1.0)
    n_changed = 0
    for k in range(alpha.shape[0]):
        inverse[k] = one / (np.float32(n_k[k]) + v_beta)
    n_last = words.shape[0] - 1
    for doc in range(doc_range[0], doc_range[1]):
        begin, end = bounds[doc, group], bounds[doc, group + 1]
        if begin == end:
            continue
        first, last = bounds[doc, 0], bounds[doc, bounds.shape[1] - 1]
        for i in range(first, last):
            if topics[i] >= 0:
                n_dk[topics[i]] += 1
        for k in range(alpha.shape[0]):
            weight[k] = (np.float32(n_dk[k]) + alpha[k]) * inverse[k]
        for i in range(begin, end):
            word, old = np.int64(words[i]), np.int64(topics[i])
            prefetch(n_wk, np.int64(words[min(i + _AHEAD, n_last)]))
            excess = np.float32(0.0)
            if old >= 0:
                count = np.float32(n_wk[word, old])
                without = (np.float32(n_dk[old]) - one + alpha[old]) / (
                    np.float32(n_k[old]) - one + v_beta
                )
                excess = (count + beta) * weight[old] - (count - one + beta) * without
            share = uniform(seed, i)
            new = draw_topic(n_wk, word, weight, running, beta, share, old, excess)
            if new >= n_topics:  # rounding at the very end of the running sums
                new = old if old >= 0 else n_topics - 1
            if new == old:
                continue
            n_changed += 1
            if old >= 0:
                n_wk[word, old] -= 1
                n_dk[old] -= 1
                n_k[old] -= 1
                inverse[old] = one / (np.float32(n_k[old]) + v_beta)
                weight[old] = (np.float32(n_dk[old]) + alpha[old]) * inverse[old]
            n_wk[word, new] += 1
            n_dk[new] += 1
            n_k[new] += 1
            inverse[new] = one / (np.float32(n_k[new]) + v_beta)
            weight[new] = (np.float32(n_dk[new]) + alpha[new]) * inverse[new]
            topics[i] = new
        for i in range(first, last):
            if topics[i] >= 0:
                n_dk[topics[i]] = 0
    return n_changed
