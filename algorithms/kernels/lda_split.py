"""Parting one topic of LDA in two, and sharing out the tokens of another among the rest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dask_petuum.jit import kernel

from .lda_model import log_gamma
from .lda_simd import uniform

__all__ = ["dissolve_topic", "part_topic"]


@kernel()
def part_topic(
    words: Any, docs: Any, n_words: Any, alpha: Any, beta: Any, seed: Any, n_passes: Any, half: Any
) -> Any:
    """Part the tokens of one topic in two by collapsed Gibbs sampling with K = 2.

    Half h of a token of word w in document d is drawn with probability proportional to
    (n_wh + beta) (n_dh + alpha) / (n_h + V beta), its own counts left out (Griffiths and Steyvers
    2004, eq. 5). To begin with, all the topic's tokens of a document have the same half.

    Parameters
    ----------
    words, docs : (n_tokens,) int32, the topic's tokens; those of a document are contiguous
    n_words : size V of the vocabulary
    alpha, beta : float, priors of a topic
    seed : uint64, stream of random numbers
    n_passes : passes over the tokens
    half : (n_tokens,) int8, out: 0 or 1

    Returns
    -------
    By how much the joint log-likelihood is larger with two topics than with one.
    """
    n_tokens = words.shape[0]
    n_wh = np.zeros((n_words, 2), dtype=np.int32)
    n_h = np.zeros(2, dtype=np.int64)
    previous, draw = np.int32(-1), np.int64(0)
    for i in range(n_tokens):
        if docs[i] != previous:
            previous = docs[i]
            draw = np.int64(uniform(seed, i) < np.float32(0.5))
        half[i] = draw
        n_wh[words[i], draw] += 1
        n_h[draw] += 1
    v_beta = n_words * beta
    for number in range(1, n_passes + 1):
        first = 0
        while first < n_tokens:
            last, n_0, n_1 = first, 0, 0
            while last < n_tokens and docs[last] == docs[first]:
                n_1 += half[last]
                last += 1
            n_0 = last - first - n_1
            for i in range(first, last):
                word, old = words[i], half[i]
                n_wh[word, old] -= 1
                n_h[old] -= 1
                n_1 -= old
                n_0 -= 1 - old
                mass_0 = (n_wh[word, 0] + beta) * (n_0 + alpha) * (n_h[1] + v_beta)
                mass_1 = (n_wh[word, 1] + beta) * (n_1 + alpha) * (n_h[0] + v_beta)
                share = uniform(seed + np.uint64(number), i)
                new = np.int64(share * (mass_0 + mass_1) >= mass_0)
                half[i] = new
                n_wh[word, new] += 1
                n_h[new] += 1
                n_1 += new
                n_0 += 1 - new
            first = last
    gain = log_gamma(v_beta) + log_gamma(n_tokens + v_beta)
    gain -= log_gamma(n_h[0] + v_beta) + log_gamma(n_h[1] + v_beta)
    base = log_gamma(beta)
    for word in range(n_words):
        n_0, n_1 = n_wh[word, 0], n_wh[word, 1]
        if n_0 > 0 and n_1 > 0:
            gain += log_gamma(n_0 + beta) + log_gamma(n_1 + beta)
            gain -= base + log_gamma(n_0 + n_1 + beta)
    base = log_gamma(alpha)
    first = 0
    while first < n_tokens:
        last, n_0, n_1 = first, 0, 0
        while last < n_tokens and docs[last] == docs[first]:
            n_1 += half[last]
            last += 1
        n_0 = last - first - n_1
        if n_0 > 0 and n_1 > 0:
            gain += log_gamma(n_0 + alpha) + log_gamma(n_1 + alpha)
            gain -= base + log_gamma(n_0 + n_1 + alpha)
        first = last
    return gain


@kernel(fastmath=True)
def dissolve_topic(
    words: Any,
    docs: Any,
    topic: Any,
    n_wk: Any,
    n_k: Any,
    doc_ptr: Any,
    doc_topics: Any,
    doc_counts: Any,
    alpha: Any,
    beta: Any,
    seed: Any,
    new: Any,
) -> Any:
    """Draw another topic for each token of one topic.

    With probability proportional to (n_wk + beta) (n_dk + alpha) / (n_k + V beta), the topic's own
    tokens left out (drawn and not the best: the state that it is compared with was drawn as well).
    Counts of the document follow as its tokens move; those of words and topics do not.

    Parameters
    ----------
    words, docs : (n_tokens,) int32, the topic's tokens; those of a document are contiguous
    topic : the topic
    n_wk : (n_words, n_padded) int32; n_k : (n_topics,) int64
    doc_ptr, doc_topics, doc_counts : CSR rows of topic counts of all documents
    alpha, beta : float, priors of a topic
    seed : uint64, stream of random numbers
    new : (n_tokens,) int32, out

    Returns
    -------
    By how much the joint log-likelihood changes.
    """
    n_topics, n_tokens = n_k.shape[0], words.shape[0]
    v_beta = n_wk.shape[0] * beta
    inverse = np.empty(n_topics, dtype=np.float32)
    weight = np.empty(n_topics, dtype=np.float32)
    for k in range(n_topics):
        inverse[k] = 0.0 if k == topic else 1.0 / (n_k[k] + v_beta)
    prior, smooth = np.float32(alpha), np.float32(beta)
    change = log_gamma(n_tokens + v_beta) - log_gamma(v_beta)
    for word in range(n_wk.shape[0]):
        if n_wk[word, topic] > 0:
            change -= log_gamma(n_wk[word, topic] + beta) - log_gamma(beta)
    first = 0
    while first < n_tokens:
        doc, last = docs[first], first
        while last < n_tokens and docs[last] == doc:
            last += 1
        change -= log_gamma(last - first + alpha) - log_gamma(alpha)
        for k in range(n_topics):
            weight[k] = prior * inverse[k]
        for j in range(doc_ptr[doc], doc_ptr[doc + 1]):
            k = doc_topics[j]
            weight[k] = (np.float32(doc_counts[j]) + prior) * inverse[k]
        for i in range(first, last):
            row = n_wk[words[i]]
            mass = np.float32(0.0)
            for k in range(n_topics):
                mass += (np.float32(row[k]) + smooth) * weight[k]
            goal = uniform(seed, i) * mass
            k, running = -1, np.float32(0.0)
            while k < n_topics - 1 and running <= goal:
                k += 1
                running += (np.float32(row[k]) + smooth) * weight[k]
            if k == topic:  # rounding at the very end
                k = 0 if topic > 0 else n_topics - 1
            change += math.log((np.float32(row[k]) + smooth) * weight[k])
            weight[k] += inverse[k]
            new[i] = k
        first = last
    return change
