"""LDA by rotation: exact counts, the same on any number of ranks, as good as local LDA."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_petuum import LDA
from dask_petuum.algorithms.lda_rotation import LDARotation, n_blocks_of
from dask_petuum.algorithms.lda_tokens import deal_words


def corpus(n_docs: int = 400, n_words: int = 60, n_topics: int = 4, seed: int = 0) -> Any:
    """Documents of mostly one of few topics, whose words do not overlap."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((n_docs, n_words), dtype=np.int32)
    for doc in range(n_docs):
        main = rng.integers(n_topics)
        topics = np.where(rng.random(40) < 0.9, main, rng.integers(n_topics, size=40))
        words = topics * (n_words // n_topics) + rng.integers(n_words // n_topics, size=40)
        np.add.at(counts[doc], words, 1)
    return counts


def model(**options: Any) -> LDA:
    defaults: dict[str, Any] = {
        "n_components": 4, "max_iter": 40, "random_state": 0, "topic_word_prior": 0.05,
        "parallelism": "model", "scheduler": "local",
    }  # fmt: skip
    return LDA(**{**defaults, **options})


def chunked(data: Any, n: int) -> Any:
    return da.from_array(data, chunks=(len(data) // n, -1))


@pytest.mark.parametrize("sampler", ["dense", "sparse"])
@pytest.mark.parametrize("n_partitions", [1, 4])
def test_every_token_is_counted_once(sampler: str, n_partitions: int) -> None:
    data = corpus()
    data[7] = 0
    data[:, 3] = 0
    fitted = model(sampler=sampler, max_iter=3).fit(chunked(data, n_partitions))
    np.testing.assert_array_equal(fitted.word_topic_counts_.sum(axis=1), data.sum(axis=0))
    assert fitted.n_tokens_ == data.sum()
    assert fitted.n_iter_ == (3 if n_partitions == 1 else 4)
    tokens = [record["tokens"] for record in fitted.history_]
    assert tokens[-1] == data.sum()


@pytest.mark.parametrize("n_partitions", [1, 2, 4])
def test_planted_topics_are_found(n_partitions: int) -> None:
    data, test = corpus(), corpus(seed=1)
    fitted = model().fit(chunked(data, n_partitions))
    found = sorted(sorted(row.tolist()) for row in fitted.top_words(15))
    assert found == [list(range(k * 15, k * 15 + 15)) for k in range(4)]
    local = model(parallelism="data").fit(data)
    assert fitted.perplexity(test) == pytest.approx(local.perplexity(test), rel=0.02)


@pytest.mark.parametrize("sampler", ["dense", "sparse"])
def test_a_cluster_gives_what_this_process_gives(client: Any, sampler: str) -> None:
    data = chunked(corpus(), 4)
    options = {"sampler": sampler, "max_iter": 12, "topic_word_prior": "auto"}
    local = model(**options).fit(data)
    spread = model(**options, n_jobs=1)
    spread.scheduler = None
    spread.client = client
    spread.fit(data)
    np.testing.assert_array_equal(spread.word_topic_counts_, local.word_topic_counts_)
    np.testing.assert_array_equal(spread.doc_topic_prior_, local.doc_topic_prior_)
    assert spread.topic_word_prior_ == local.topic_word_prior_ != 0.01
    assert spread.log_likelihood() == pytest.approx(local.log_likelihood(), rel=1e-12)
    assert spread.history_[-1]["bytes_out"] > 0


def test_first_topics_from_frequent_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_petuum.algorithms.lda_tokens.FEW_TOKENS", 1000)
    monkeypatch.setattr("dask_petuum.algorithms.lda_parameters.MIN_GROWTH_TOKENS", 0)
    data = corpus(800)
    for sampler in ("dense", "sparse"):
        fitted = model(sampler=sampler, max_iter=16).fit(chunked(data, 2))
        np.testing.assert_array_equal(fitted.word_topic_counts_.sum(axis=1), data.sum(axis=0))
        assert fitted.history_[0]["tokens"] > fitted.history_[-1]["tokens"] / 2
        found = sorted(sorted(row.tolist()) for row in fitted.top_words(15))
        assert found == [list(range(k * 15, k * 15 + 15)) for k in range(4)]


def test_the_log_likelihood_of_the_history_is_that_of_the_model() -> None:
    data = corpus()
    fitted = model(max_iter=11, evaluate_every=10, doc_topic_prior=0.2).fit(data)
    shown = fitted.history_[-1]["log_likelihood"]
    assert shown == pytest.approx(fitted.log_likelihood() / fitted.n_tokens_, rel=1e-6)


def test_warm_start_and_partial_fit() -> None:
    data = corpus()
    fitted = model(warm_start=True).fit(chunked(data, 2))
    before = fitted.top_words(15)
    fitted.set_params(max_iter=2).fit(chunked(data, 2))
    np.testing.assert_array_equal(fitted.word_topic_counts_.sum(axis=1), data.sum(axis=0))
    for now, then in zip(fitted.top_words(15), before, strict=True):
        assert set(now.tolist()) == set(then.tolist())
    more = corpus(100, seed=5)
    fitted.partial_fit(chunked(more, 2))
    both = data.sum(axis=0) + more.sum(axis=0)
    np.testing.assert_array_equal(fitted.word_topic_counts_.sum(axis=1), both)


def test_the_table_is_shared_out_evenly() -> None:
    frequency = np.random.default_rng(0).integers(0, 100, 1000)
    words = deal_words(frequency, 8, 4)
    block = words.group // 4
    sizes = np.bincount(block)
    assert sizes.min() >= 120
    for number in range(8):
        rows = np.sort(words.row[block == number])
        np.testing.assert_array_equal(rows, np.arange(sizes[number]))
    tokens = np.bincount(block, weights=frequency)
    assert tokens.max() < 1.1 * tokens.mean()
    assert n_blocks_of(1) == 1
    assert n_blocks_of(4) == 96


def test_blocks_begin_without_memory() -> None:
    fitted = model(max_iter=1).fit(sp.csr_array(corpus()))
    assert fitted.n_iter_ == 1
    from dask_petuum.algorithms.lda_program import LDAProblem

    problem = LDAProblem(4, 1000, np.full(4, 0.1), 0.01, "dense", n_partitions=2)
    specs = LDARotation(problem, np.ones(1000)).blocks()
    assert all(spec.arrays["counts"].strides == (0, 0) for spec in specs)


def test_another_parallelism_is_refused() -> None:
    with pytest.raises(ValueError, match="parallelism must be 'data' or 'model', got 'both'"):
        model(parallelism="both").fit(corpus())
