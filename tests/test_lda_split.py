"""Exchanging topics at the start of LDA: fast == naive, nothing lost, merged topics are parted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln

from dask_petuum.algorithms.kernels.lda_split import dissolve_topic, part_topic
from dask_petuum.algorithms.lda_sampler import sample_pass
from dask_petuum.algorithms.lda_split import Tokens, choose_exchanges, regroup
from dask_petuum.algorithms.lda_start import exchange_topics, grow
from dask_petuum.algorithms.lda_tokens import lay_out, padded, token_docs, token_words

ALPHA, BETA = 0.1, 0.05


def in_turn(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in items]


def joint(words: Any, docs: Any, topics: Any, n_words: int, n_topics: int) -> float:
    """Joint log-likelihood of words and topics, document lengths left out (they stay)."""
    n_wk, n_dk = np.zeros((n_words, n_topics)), np.zeros((docs.max() + 1, n_topics))
    np.add.at(n_wk, (words, topics), 1)
    np.add.at(n_dk, (docs, topics), 1)
    v_beta = n_words * BETA
    value = (gammaln(n_wk + BETA) - gammaln(BETA)).sum()
    value += (gammaln(v_beta) - gammaln(n_wk.sum(axis=0) + v_beta)).sum()
    return float(value + (gammaln(n_dk + ALPHA) - gammaln(ALPHA)).sum())


def some_tokens(seed: int, n_topics: int, n_tokens: int = 400) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    docs = np.sort(rng.integers(0, 20, n_tokens)).astype(np.int32)
    return rng.integers(0, 30, n_tokens).astype(np.int32), docs, rng.integers(0, n_topics, n_tokens)


@pytest.mark.parametrize("seed", range(5))
def test_gain_of_parting_is_the_difference_of_the_likelihoods(seed: int) -> None:
    words, docs, _ = some_tokens(seed, 1)
    half = np.empty(len(words), dtype=np.int8)
    gain = part_topic(words, docs, 30, ALPHA, BETA, np.uint64(seed), 7, half)
    assert set(half.tolist()) == {0, 1}
    before = joint(words, docs, np.zeros_like(half), 30, 2)
    assert gain == pytest.approx(joint(words, docs, half, 30, 2) - before, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_change_of_dissolving_is_the_difference_of_the_likelihoods(seed: int) -> None:
    # the words' counts do not follow in the kernel, so few tokens move against many that stay
    words, docs, topics = some_tokens(seed, 4, 20_000)
    topics[:19_980] %= 3
    tokens = Tokens(words, docs, topics, 30, 4)
    n_wk = np.zeros((30, padded(4)), dtype=np.int32)
    np.add.at(n_wk, (words, topics), 1)
    candidates = np.array([3])
    root = np.random.SeedSequence(seed)
    changes, new = tokens.dissolve(candidates, n_wk, ALPHA, BETA, root, in_turn)
    own = slice(tokens.ptr[3], tokens.ptr[4])
    assert (new[: own.start] == -1).all()
    assert set(new[own].tolist()) <= {0, 1, 2}
    after = topics.copy()
    after[tokens.order[own]] = new[own]
    difference = joint(words, docs, after, 30, 4) - joint(words, docs, topics, 30, 4)
    assert changes[0] == pytest.approx(difference, abs=0.5)


def test_dissolved_tokens_are_drawn_in_proportion() -> None:
    n_draws = 20_000
    words, docs = np.zeros(n_draws, dtype=np.int32), np.arange(n_draws, dtype=np.int32)
    n_wk = np.array([[5, 2, 9], [1, 1, 1]], dtype=np.int32)
    n_k = np.array([6, 3, 10])
    ptr = np.arange(n_draws + 1)
    of = (ptr, np.ones(n_draws, dtype=np.int32), np.full(n_draws, 2))  # two tokens of topic 1
    new = np.empty(n_draws, dtype=np.int32)
    dissolve_topic(words, docs, 2, n_wk, n_k, *of, ALPHA, BETA, np.uint64(1), new)
    mass = np.array(
        [(5 + BETA) * ALPHA / (6 + 2 * BETA), (2 + BETA) * (2 + ALPHA) / (3 + 2 * BETA)]
    )
    share = mass[0] / mass.sum()
    assert np.bincount(new, minlength=3)[2] == 0
    error = np.sqrt(share * (1 - share) / n_draws)
    assert abs((new == 0).mean() - share) < 4 * error


def test_exchanges_raise_the_likelihood_and_share_no_topic() -> None:
    gains = np.array([10.0, -5.0, 30.0, 2.0, -1.0])
    chosen = choose_exchanges(gains, np.array([1, 4, 2]), np.array([-12.0, -8.0, -1.0]))
    # topic 2 is cheapest to dissolve, so it is not parted; 3 gains less than dissolving 4 costs
    assert chosen == [(0, 2)]
    assert choose_exchanges(np.array([5.0, -1.0]), np.array([1]), np.array([-6.0])) == []
    assert choose_exchanges(np.array([5.0]), np.array([0]), np.array([-1.0])) == []


def test_regroup_gives_the_freed_topic_one_half() -> None:
    words, docs, topics = some_tokens(3, 4)
    tokens = Tokens(words, docs, topics, 30, 4)
    half = (np.arange(len(words)) % 2).astype(np.int8)
    new = np.full(len(words), 2, dtype=np.int32)
    positions, chosen = regroup(tokens, half, new, [(0, 3)])
    assert len(set(positions.tolist())) == len(positions)
    assert set(topics[positions].tolist()) == {0, 3}
    assert (chosen[topics[positions] == 3] == 2).all()
    assert (chosen[topics[positions] == 0] == 3).all()
    assert (topics[positions] == 0).sum() == half[tokens.ptr[0] : tokens.ptr[1]].sum()


@pytest.mark.parametrize("sampler", ["dense", "sparse"])
def test_a_topic_of_two_subjects_is_parted(sampler: str) -> None:
    """Four subjects with words of their own; topic 0 has two of them, topic 3 strays of all."""
    rng = np.random.default_rng(0)
    subject = rng.integers(0, 4, 300)
    data = np.zeros((300, 40), dtype=np.int32)
    for doc, own in enumerate(subject):
        np.add.at(data[doc], own * 10 + rng.integers(0, 10, 60), 1)
    state = lay_out(data, 4, sampler)
    n_groups = len(state["cuts"]) - 1
    words, docs = token_words(state, n_groups), token_docs(state, n_groups)
    state["topics"][:] = np.array([0, 0, 1, 2])[words // 10]
    state["topics"][rng.random(len(words)) < 0.05] = 3
    n_wk = np.zeros((40, padded(4)), dtype=np.int32)
    np.add.at(n_wk, (words, state["topics"]), 1)
    n_k = n_wk.sum(axis=0, dtype=np.int64)
    if sampler == "sparse":
        from dask_petuum.algorithms.lda_start import list_topics

        list_topics(state, docs, state["topics"])
    args = (state, n_wk, n_k, np.full(4, ALPHA), BETA)
    assert exchange_topics(*args, np.random.SeedSequence(1), in_turn, n_groups) == 1
    for seed in np.random.SeedSequence(2).spawn(5):
        sample_pass(*args, seed, in_turn)
    np.testing.assert_array_equal(n_k, n_wk.sum(axis=0))
    np.testing.assert_array_equal(n_wk.sum(axis=1), data.sum(axis=0))
    main = [np.bincount(state["topics"][words // 10 == s], minlength=4).argmax() for s in range(4)]
    assert sorted(main) == [0, 1, 2, 3]
    if sampler == "sparse":
        counts = np.zeros((300, 4), dtype=np.int64)
        np.add.at(counts, (docs, state["topics"]), 1)
        ptr = state["list_ptr"]
        for doc in range(300):
            own = slice(ptr[doc], ptr[doc] + state["list_size"][doc])
            listed = dict(zip(state["list_topics"][own], state["list_counts"][own], strict=True))
            assert listed == {k: n for k, n in enumerate(counts[doc]) if n}


@pytest.mark.parametrize("learn", [False, True])
def test_a_start_learns_the_prior_in_place_or_leaves_it(learn: bool) -> None:
    rng = np.random.default_rng(0)
    n_topics, n_words = 4, 40
    # one subject a document: a prior far below the one that the start is given
    counts = np.zeros((2500, n_words), dtype=np.int32)
    for doc, subject in enumerate(rng.integers(0, n_topics, len(counts))):
        np.add.at(counts[doc], rng.integers(10 * subject, 10 * subject + 10, 50), 1)
    state = lay_out(counts, n_topics, "dense")
    n_wk = np.zeros((n_words, padded(n_topics)), dtype=np.int32)
    n_k = np.zeros(padded(n_topics), dtype=np.int64)
    alpha = np.full(n_topics, 1.0)
    seeds = np.random.SeedSequence(1)
    grow(state, n_wk, n_k, alpha, BETA, seeds, in_turn, 8.0, learn_alpha=learn)
    if learn:
        assert 0 < alpha.sum() < 1
    else:
        np.testing.assert_array_equal(alpha, 1.0)
