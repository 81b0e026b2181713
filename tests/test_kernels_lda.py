"""LDA's kernels: vector instructions against their twins, samplers against enumeration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma as scipy_digamma
from scipy.special import gammaln

from dask_petuum.algorithms.kernels import lda_model, lda_simd, lda_tokens
from dask_petuum.algorithms.lda_sampler import (
    doc_likelihood,
    lists,
    minka_sums,
    sample_pass,
    word_log_likelihood,
    word_prior_sum,
)
from dask_petuum.algorithms.lda_tokens import lay_out, padded
from dask_petuum.jit import kernel

SAMPLERS = ("dense", "sparse")


def one_by_one(function: Callable[[Any], Any], items: Any) -> list[Any]:
    return [function(item) for item in items]


# Intrinsics can be called from compiled code only.
@kernel()
def call_draw(counts, word, weight, running, beta, share, old, excess):
    return lda_simd.draw_topic(counts, word, weight, running, beta, share, old, excess)


@kernel()
def call_draw_listed(topics, counts, start, rows, phi, running, old, without, smooth, share):
    return lda_simd.draw_listed(
        topics, counts, start, rows, phi, running, old, without, smooth, share
    )


@kernel()
def call_find(topics, start, n_rows, topic):
    return lda_simd.find_listed(topics, start, n_rows, topic)


@kernel()
def call_prepare(counts, word, inverse, weight, beta, phi, sums):
    return lda_simd.prepare_word(counts, word, inverse, weight, beta, phi, sums)


@kernel()
def call_uniform(seed, index):
    return lda_simd.uniform(seed, index)


@settings(max_examples=50, deadline=None)
@given(
    n_rows=st.integers(1, 20), seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.9375, width=32)
)
def test_draw_topic_equals_its_twin(n_rows: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (3, 16 * n_rows)).astype(np.int32)
    weight = rng.random(16 * n_rows, dtype=np.float32)
    old = int(rng.integers(-1, 16 * n_rows))
    excess = np.float32(0)
    if old >= 0:
        excess = np.float32(0.3) * (counts[1, old] + np.float32(0.1)) * weight[old]
    args = (counts, 1, weight)
    rest = (np.float32(0.1), np.float32(share), old, excess)
    fast, slow = np.empty(16 * n_rows, np.float32), np.empty(16 * n_rows, np.float32)
    assert call_draw(*args, fast, *rest) == lda_simd.draw_topic_python(*args, slow, *rest)
    np.testing.assert_array_equal(fast, slow)


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(0, 70), seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.9375, width=32)
)
def test_draw_listed_and_find_equal_their_twins(size: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    n_rows = -(-size // 16)
    topics, counts = np.zeros(16 + 96, np.int32), np.zeros(16 + 96, np.int32)
    topics[16 : 16 + size] = rng.permutation(96)[:size]
    counts[16 : 16 + size] = rng.integers(1, 5, size)
    phi = rng.random(96, dtype=np.float32)
    old = int(topics[16]) if size else -1
    rest = (old, np.float32(0.01), np.float32(rng.random()), np.float32(share))
    fast, slow = np.zeros(112, np.float32), np.zeros(112, np.float32)
    found = call_draw_listed(topics, counts, 16, n_rows, phi, fast, *rest)
    assert found == lda_simd.draw_listed_python(topics, counts, 16, n_rows, phi, slow, *rest)
    if found < 0:
        assert fast[0] == slow[0]
    for topic in (0, old, 95):
        expected = lda_simd.find_listed_python(topics, 16, n_rows, topic)
        assert call_find(topics, 16, n_rows, topic) == expected


@pytest.mark.parametrize("n_rows", [1, 7, 8, 9, 20])
def test_prepare_word_equals_its_twin(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    counts = rng.integers(0, 9, (2, 16 * n_rows)).astype(np.int32)
    inverse, weight = rng.random((2, 16 * n_rows), dtype=np.float32)
    results = []
    for function in (call_prepare, lda_simd.prepare_word_python):
        phi, sums = np.zeros(16 * n_rows, np.float32), np.zeros(16 * -(-n_rows // 8), np.float32)
        total = function(counts, 1, inverse, weight, np.float32(0.1), phi, sums)
        results.append((np.float32(total), phi, sums))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(results[0][2], results[1][2])
    assert results[0][2].sum() == pytest.approx(results[0][0], rel=1e-5)


def test_uniform_equals_its_twin_and_is_uniform() -> None:
    seed = np.uint64(2**63 + 12345)
    fast = np.array([call_uniform(seed, i) for i in range(4000)])
    slow = np.array([lda_simd.uniform_python(int(seed), i) for i in range(4000)])
    np.testing.assert_array_equal(fast, slow)
    assert fast.min() >= 0
    assert fast.max() < 1
    assert np.histogram(fast, bins=10, range=(0, 1))[0].min() > 330


def test_special_functions() -> None:
    x = np.concatenate([np.geomspace(1e-5, 1e6, 200), [1.0, 2.0, 5.9999, 6.0]])
    ours = np.array([[lda_model.digamma(v), lda_model.log_gamma(v)] for v in x])
    np.testing.assert_allclose(ours[:, 0], scipy_digamma(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours[:, 1], gammaln(x), rtol=1e-9, atol=1e-9)


def corpus(seed: int = 0, n_docs: int = 30, n_words: int = 23, mean: float = 0.7) -> Any:
    counts = np.random.default_rng(seed).poisson(mean, (n_docs, n_words))
    counts[3] = 0
    return sp.csr_array(counts)


def empty_counts(n_words: int, n_topics: int) -> tuple[Any, Any]:
    wide = padded(n_topics)
    return np.zeros((n_words, wide), np.int32), np.zeros(wide, np.int64)


def token_words(state: dict[str, Any], n_groups: int) -> Any:
    """Word of each token, in the order of ``topics``."""
    if "words" in state:
        return state["words"]
    words = np.empty(len(state["docs"]), np.int64)
    for group in range(n_groups):
        for place, word in enumerate(state["word_order"]):
            words[state["word_ptr"][group, place] : state["word_ptr"][group, place + 1]] = word
    return words


def token_docs(state: dict[str, Any]) -> Any:
    if "docs" in state:
        return state["docs"]
    return np.repeat(np.arange(len(state["lengths"])), state["lengths"])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("group_tokens", [10**6, 40])
@pytest.mark.parametrize("n_topics", [1, 5, 16, 150])
def test_counts_stay_the_counts_of_the_topics(
    sampler: str, group_tokens: int, n_topics: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_petuum.algorithms.lda_tokens.GROUP_TOKENS", group_tokens)
    data = corpus()
    state = lay_out(data, n_topics, sampler)
    n_groups = len(state["cuts"]) - 1
    assert (n_groups > 4) == (group_tokens == 40)
    docs, words = token_docs(state), token_words(state, n_groups)
    again = sp.coo_array((np.ones(len(docs), int), (docs, words)), shape=data.shape)
    np.testing.assert_array_equal(again.toarray(), data.toarray())
    n_wk, n_k = empty_counts(data.shape[1], n_topics)
    alpha = np.full(n_topics, 0.1)
    for number in range(4):
        seeds = np.random.SeedSequence(number)
        sample_pass(state, n_wk, n_k, alpha, 0.01, seeds, one_by_one)
        topics = state["topics"]
        assert topics.min() >= 0
        assert topics.max() < n_topics
        expected = np.zeros_like(n_wk)
        np.add.at(expected, (words, topics), 1)
        np.testing.assert_array_equal(n_wk, expected)
        np.testing.assert_array_equal(n_k, expected.sum(axis=0))
        n_dk = np.zeros((data.shape[0], n_topics), int)
        np.add.at(n_dk, (docs, topics), 1)
        np.testing.assert_array_equal(dense_lists(state, n_topics), n_dk)


def dense_lists(state: dict[str, Any], n_topics: int) -> Any:
    ptr, size, counts, topics = lists(state, n_topics, one_by_one)
    out = np.zeros((len(size), n_topics), int)
    for doc in range(len(size)):
        part = slice(ptr[doc], ptr[doc] + size[doc])
        assert (counts[part] > 0).all()
        assert not counts[ptr[doc] + size[doc] : ptr[doc + 1]].any()
        out[doc, topics[part]] += counts[part]
    return out


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_likelihoods_and_prior_sums(sampler: str) -> None:
    data, n_topics, beta = corpus(1), 6, 0.05
    alpha = np.linspace(0.05, 0.5, n_topics)
    state = lay_out(data, n_topics, sampler)
    n_wk, n_k = empty_counts(data.shape[1], n_topics)
    sample_pass(state, n_wk, n_k, alpha, beta, np.random.SeedSequence(0), one_by_one)
    n_dk, n_wk_k = dense_lists(state, n_topics), n_wk[:, :n_topics]
    total, lengths = alpha.sum(), n_dk.sum(axis=1)
    expected = (gammaln(n_dk + alpha) - gammaln(alpha)).sum()
    expected += (gammaln(total) - gammaln(lengths + total)).sum()
    assert doc_likelihood(state, alpha, one_by_one) == pytest.approx(expected, rel=1e-9)
    v_beta = beta * len(n_wk)
    expected = (gammaln(n_wk_k + beta) - gammaln(beta)).sum()
    expected += (gammaln(v_beta) - gammaln(n_k[:n_topics] + v_beta)).sum()
    found = word_log_likelihood(n_wk, n_k, n_topics, beta, one_by_one)
    assert found == pytest.approx(expected, rel=1e-9)
    sums = minka_sums(state, alpha, one_by_one)
    above = (scipy_digamma(n_dk + alpha) - scipy_digamma(alpha)).sum(axis=0)
    np.testing.assert_allclose(sums[:-1], above, rtol=1e-8)
    below = (scipy_digamma(lengths + total) - scipy_digamma(total)).sum()
    assert sums[-1] == pytest.approx(below)
    above = (scipy_digamma(n_wk_k + beta) - scipy_digamma(beta)).sum()
    below = len(n_wk) * (scipy_digamma(n_k[:n_topics] + v_beta) - scipy_digamma(v_beta)).sum()
    found = word_prior_sum(n_wk, n_k, n_topics, beta, one_by_one)
    assert found == pytest.approx(above / below, rel=1e-8)


def joint(words: Any, docs: Any, topics: Any, alpha: Any, beta: float, n_words: int) -> float:
    n_dk = np.zeros((docs.max() + 1, len(alpha)))
    n_wk = np.zeros((n_words, len(alpha)))
    np.add.at(n_dk, (docs, topics), 1)
    np.add.at(n_wk, (words, topics), 1)
    value = gammaln(n_dk + alpha).sum() - gammaln(n_dk.sum(axis=1) + alpha.sum()).sum()
    return float(
        value + gammaln(n_wk + beta).sum() - gammaln(n_wk.sum(axis=0) + n_words * beta).sum()
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stationary_distribution_equals_enumeration(sampler: str) -> None:
    data = sp.csr_array(np.array([[2, 1, 0], [0, 1, 2]]))
    alpha, beta, n_passes = np.array([0.4, 0.7]), 0.3, 30_000
    state = lay_out(data, 2, sampler)
    words, docs = token_words(state, 1), np.asarray(token_docs(state))
    n_wk, n_k = empty_counts(3, 2)
    seen = np.zeros(2**6)
    powers = 2 ** np.arange(6)
    for number in range(n_passes):
        seeds = np.random.SeedSequence([7, number])
        sample_pass(state, n_wk, n_k, alpha, beta, seeds, one_by_one)
        seen[state["topics"] @ powers] += number >= 100
    logs = np.array(
        [
            joint(words, docs, np.array(topics[::-1]), alpha, beta, 3)
            for topics in product(range(2), repeat=6)
        ]
    )
    exact = np.exp(logs - logs.max())
    exact /= exact.sum()
    distance = 0.5 * np.abs(seen / seen.sum() - exact).sum()
    # Independent draws would give about 0.013; a wrong conditional gives 0.05 and more.
    assert distance < 0.03


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_planted_topics_are_recovered(sampler: str) -> None:
    rng = np.random.default_rng(0)
    n_topics, per_topic = 5, 30
    shares = rng.dirichlet(np.full(n_topics, 0.3), 300)
    data = np.zeros((300, n_topics * per_topic), int)
    for doc, share in enumerate(shares):
        topics = rng.choice(n_topics, 60, p=share)
        np.add.at(data[doc], topics * per_topic + rng.integers(0, per_topic, 60), 1)
    state = lay_out(sp.csr_array(data), n_topics, sampler)
    n_wk, n_k = empty_counts(data.shape[1], n_topics)
    alpha = np.full(n_topics, 0.3)
    for number in range(400):
        seeds = np.random.SeedSequence(number)
        sample_pass(state, n_wk, n_k, alpha, 0.01, seeds, one_by_one)
    blocks = n_wk[:, :n_topics].reshape(n_topics, per_topic, n_topics).sum(axis=1)
    assert (blocks.max(axis=0) / blocks.sum(axis=0)).min() > 0.95
    assert sorted(blocks.argmax(axis=0)) == list(range(n_topics))


def test_halve_takes_half_of_each_document_evenly() -> None:
    data = corpus(2, 200, 11, 2.0)
    counts, observed = data.data.astype(np.int32), np.empty(data.nnz, np.int32)
    lda_tokens.halve(data.indptr.astype(np.int64), counts, np.uint64(5), observed)
    assert (observed >= 0).all()
    assert (observed <= counts).all()
    halves = np.add.reduceat(np.append(observed, 0), data.indptr[:-1])
    halves[np.diff(data.indptr) == 0] = 0
    np.testing.assert_array_equal(halves, data.sum(axis=1) // 2)
    first = np.bincount(data.indices, weights=observed) / np.bincount(data.indices, weights=counts)
    assert np.abs(first - 0.5).max() < 0.08


def naive_fold_in(row_words: Any, row_counts: Any, phi: Any, alpha: Any, rounds: int) -> Any:
    """CVB0 with fixed topics, as in the paper."""
    own = phi[row_words] * alpha
    own /= own.sum(axis=1, keepdims=True)
    state = alpha + row_counts @ own
    for _ in range(rounds):
        for j, word in enumerate(row_words):
            new = phi[word] * np.maximum(state - own[j], alpha)
            new /= new.sum()
            state = state + row_counts[j] * (new - own[j])
            own[j] = new
    return state


def test_fold_in_equals_its_twin() -> None:
    rng = np.random.default_rng(3)
    data, n_topics = corpus(3), 5
    phi = np.zeros((data.shape[1], 16), np.float32)
    phi[:, :n_topics] = rng.dirichlet(np.ones(data.shape[1]), n_topics).T
    alpha = np.zeros(16, np.float32)
    alpha[:n_topics] = 0.2
    gamma = np.empty((data.shape[0], 16), np.float32)
    share = np.empty((data.shape[1], 16), np.float32)
    indptr, indices = data.indptr.astype(np.int64), data.indices.astype(np.int32)
    counts = data.data.astype(np.float32)
    docs = np.array([0, data.shape[0]])
    lda_model.fold_in(indptr, indices, counts, phi, alpha, docs, 5, np.float32(0), share, gamma)
    for doc in range(data.shape[0]):
        part = slice(indptr[doc], indptr[doc + 1])
        slow = naive_fold_in(
            indices[part], counts[part].astype(float), phi.astype(float)[:, :n_topics],
            alpha.astype(float)[:n_topics], 5,
        )  # fmt: skip
        np.testing.assert_allclose(gamma[doc, :n_topics], slow, rtol=1e-4)
    assert not gamma[:, n_topics:].any()
    score = lda_model.score_tokens(indptr, indices, counts, phi, gamma, docs)
    theta = gamma / gamma.sum(axis=1, keepdims=True)
    expected = (data.toarray() * np.log(theta @ phi.T)).sum()
    assert score == pytest.approx(expected, rel=1e-4)
