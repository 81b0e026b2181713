"""Likelihoods, prior updates and fold-in for LDA, given counts.

Digamma and log-gamma functions are taken by recurrence up to 6 and Stirling's series beyond
(Abramowitz and Stegun 1964, 6.1.41 and 6.3.18); relative errors are below 1e-10.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dask_petuum.jit import kernel

__all__ = [
    "digamma",
    "document_likelihood",
    "fold_in",
    "log_gamma",
    "move_mean",
    "prior_sums",
    "score_tokens",
    "word_likelihood",
    "word_sums",
]


@kernel()
def digamma(x: Any) -> Any:
    """Digamma function of x > 0."""
    shift = 0.0
    while x < 6.0:
        shift -= 1.0 / x
        x += 1.0
    y = 1.0 / (x * x)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132)))))
    return shift + math.log(x) - 0.5 / x - series


@kernel()
def log_gamma(x: Any) -> Any:
    """Log of the gamma function of x > 0."""
    shift = 1.0
    while x < 8.0:
        shift *= x
        x += 1.0
    y = 1.0 / (x * x)
    series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / x
    return (x - 0.5) * math.log(x) - x + 0.9189385332046727 + series - math.log(shift)


@kernel()
def document_likelihood(
    list_ptr: Any, list_size: Any, list_counts: Any, list_topics: Any, alpha: Any, docs: Any
) -> Any:
    """Sum log p(z_d | alpha) over the documents docs[0] .. docs[1] - 1 (Dirichlet-multinomial).

    Parameters
    ----------
    list_ptr : (n_docs + 1,) int64; list_size : (n_docs,) int32, topics of each document
    list_counts, list_topics : int32, counts per topic of each document
    alpha : (n_topics,) float64
    docs : (2,) int64
    """
    base = np.empty(alpha.shape[0])
    total = 0.0
    for k in range(alpha.shape[0]):
        base[k] = log_gamma(alpha[k])
        total += alpha[k]
    result = 0.0
    for doc in range(docs[0], docs[1]):
        length = 0
        for j in range(list_ptr[doc], list_ptr[doc] + list_size[doc]):
            k = list_topics[j]
            result += log_gamma(list_counts[j] + alpha[k]) - base[k]
            length += list_counts[j]
        result += log_gamma(total) - log_gamma(length + total)
    return result


@kernel()
def prior_sums(
    list_ptr: Any,
    list_size: Any,
    list_counts: Any,
    list_topics: Any,
    alpha: Any,
    docs: Any,
    sums: Any,
) -> Any:
    """Add the sums of Minka's fixed point for alpha (Minka 2000, eq. 55) over some documents.

    Parameters
    ----------
    list_ptr, list_size, list_counts, list_topics, alpha, docs : as in `document_likelihood`
    sums : (n_topics + 1,) float64, out: sum over d of psi(n_dk + alpha_k) - psi(alpha_k), and
        last the sum over d of psi(n_d + sum alpha) - psi(sum alpha)
    """
    base = np.empty(alpha.shape[0])
    total = 0.0
    sums[:] = 0.0
    for k in range(alpha.shape[0]):
        base[k] = digamma(alpha[k])
        total += alpha[k]
    for doc in range(docs[0], docs[1]):
        length = 0
        for j in range(list_ptr[doc], list_ptr[doc] + list_size[doc]):
            k = list_topics[j]
            sums[k] += digamma(list_counts[j] + alpha[k]) - base[k]
            length += list_counts[j]
        if length > 0:
            sums[alpha.shape[0]] += digamma(length + total) - digamma(total)


@kernel()
def word_sums(n_wk: Any, n_topics: Any, beta: Any, rows: Any) -> Any:
    """Sum psi(n_wk + beta) - psi(beta) over some words (numerator of Minka's step for beta)."""
    base = digamma(beta)
    result = 0.0
    for word in range(rows[0], rows[1]):
        for k in range(n_topics):
            if n_wk[word, k] > 0:
                result += digamma(n_wk[word, k] + beta) - base
    return result


@kernel()
def word_likelihood(n_wk: Any, n_topics: Any, beta: Any, rows: Any) -> Any:
    """Sum log Gamma(n_wk + beta) - log Gamma(beta) over some words; zero counts add nothing."""
    base = log_gamma(beta)
    result = 0.0
    for word in range(rows[0], rows[1]):
        for k in range(n_topics):
            if n_wk[word, k] > 0:
                result += log_gamma(n_wk[word, k] + beta) - base
    return result


@kernel()
def move_mean(counts: Any, weight: Any, rows: Any, mean: Any) -> Any:
    """Move some rows of a mean towards counts: mean + weight * (counts - mean).

    Parameters
    ----------
    counts : (n, n_padded) int32
    weight : float32, in [0, 1]
    rows : (2,) int64, first and one past the last row
    mean : (n, n_topics) float32, n_topics <= n_padded, in and out
    """
    for row in range(rows[0], rows[1]):
        for k in range(mean.shape[1]):
            mean[row, k] += weight * (np.float32(counts[row, k]) - mean[row, k])


@kernel(fastmath=True)
def fold_in(
    indptr: Any,
    indices: Any,
    counts: Any,
    phi: Any,
    alpha: Any,
    docs: Any,
    max_iter: Any,
    tol: Any,
    share: Any,
    gamma: Any,
) -> Any:
    """Infer the topics of documents for fixed topics, by CVB0's fixed point.

    r_wk is proportional to phi[w, k] * (alpha_k + n_dk less this token's r), n_dk the sum of r
    over the document's tokens (Asuncion, Welling, Smyth and Teh 2009, eq. 10, phi held fixed).

    Parameters
    ----------
    indptr, indices, counts : CSR rows, int64, int32, float32; indices are rows of ``phi``
    phi : (n_rows, n_padded) float32, p(word | topic), zero in the padding
    alpha : (n_padded,) float32, zero in the padding
    docs : (2,) int64, first and one past the last document
    max_iter, tol : rounds at most; stop when no n_dk moves by more than ``tol`` per token
    share : (longest row, n_padded) float32, scratch
    gamma : (n_docs, n_padded) float32, out: alpha + expected topic counts
    """
    n = phi.shape[1]
    for doc in range(docs[0], docs[1]):
        begin, size = indptr[doc], indptr[doc + 1] - indptr[doc]
        length = np.float32(0.0)
        for j in range(size):
            length += counts[begin + j]
        state = gamma[doc]
        for k in range(n):
            state[k] = alpha[k] * np.float32(1.0)
        for j in range(size):
            row, own = phi[indices[begin + j]], share[j]
            total = np.float32(0.0)
            for k in range(n):
                own[k] = alpha[k] * row[k]
                total += own[k]
            scale = np.float32(1.0) / total
            for k in range(n):
                own[k] *= scale
                state[k] += counts[begin + j] * own[k]
        for _ in range(max_iter):
            moved = np.float32(0.0)
            for j in range(size):
                row, own = phi[indices[begin + j]], share[j]
                total = np.float32(0.0)
                for k in range(n):
                    total += row[k] * max(state[k] - own[k], alpha[k])
                scale = np.float32(1.0) / total
                count = counts[begin + j]
                change = np.float32(0.0)
                for k in range(n):
                    new = row[k] * max(state[k] - own[k], alpha[k]) * scale
                    step = new - own[k]
                    own[k] = new
                    state[k] += count * step
                    change += abs(step)
                moved += count * change
            if moved <= tol * length:
                break


@kernel(fastmath=True)
def score_tokens(indptr: Any, indices: Any, counts: Any, phi: Any, gamma: Any, docs: Any) -> Any:
    """Sum log p(w | theta_d, phi) over the tokens of some documents, theta = gamma / sum gamma."""
    result = 0.0
    for doc in range(docs[0], docs[1]):
        total = np.float32(0.0)
        for k in range(phi.shape[1]):
            total += gamma[doc, k]
        for j in range(indptr[doc], indptr[doc + 1]):
            if counts[j] <= 0:
                continue
            mass = np.float32(0.0)
            for k in range(phi.shape[1]):
                mass += gamma[doc, k] * phi[indices[j], k]
            result += counts[j] * math.log(mass / total)
    return result
