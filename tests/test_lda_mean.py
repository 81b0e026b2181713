"""The mean of LDA's counts over passes: its formula, its parts in partitions, what it is for."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum import LDA
from dask_petuum.algorithms.kernels.lda_model import move_mean
from dask_petuum.algorithms.lda_infer import Topics, document_completion
from dask_petuum.algorithms.lda_mean import EVERY, add_sample, is_sample, row_share
from dask_petuum.algorithms.lda_program import LDAProgram


def one_by_one(function: Any, items: Any) -> list[Any]:
    return list(map(function, items))


def corpus(n_docs: int = 120, n_words: int = 40, seed: int = 0) -> Any:
    """Documents of one of two topics each, whose words overlap."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words, 0.2), 2)
    return np.stack([rng.multinomial(30, topics[doc % 2]) for doc in range(n_docs)])


def model(**options: Any) -> LDA:
    defaults: dict[str, Any] = {
        "n_components": 4, "max_iter": 9, "random_state": 0, "doc_topic_prior": 0.2,
        "topic_word_prior": 0.05, "n_jobs": 1, "scheduler": "local",
    }  # fmt: skip
    return LDA(**{**defaults, **options})


def lazy(data: Any, n: int) -> Any:
    return da.from_array(data, chunks=(-(-len(data) // n), -1))


@given(seed=st.integers(0, 100), n=st.integers(0, 9), k=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_the_kernel_equals_its_formula(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, (n, 32), dtype=np.int32)
    mean = rng.random((n, k), dtype=np.float32) * 100
    weight = np.float32(rng.random())
    expected = mean + weight * (counts[:, :k].astype(np.float32) - mean)
    expected[1:2] = mean[1:2]  # a row in neither range
    for rows in ([0, min(n, 1)], [2, max(n, 2)]):
        move_mean(counts, weight, np.array(rows), mean)
    np.testing.assert_array_equal(mean, expected)


def test_later_samples_weigh_more() -> None:
    samples = np.random.default_rng(0).integers(0, 50, (7, 5000, 16), dtype=np.int32)
    mean = np.full((5000, 3), np.float32(9))  # forgotten: the first sample has the weight 1
    for number, counts in enumerate(samples, 1):
        add_sample(mean, counts, number, one_by_one)
    s = np.arange(1, 8)
    expected = np.average(samples[:, :, :3], axis=0, weights=s * (s + 1))
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n_words", "n"), [(10, 1), (10, 3), (2, 5)])
def test_every_row_has_one_partition(n_words: int, n: int) -> None:
    shares = [np.arange(n_words)[row_share(n_words, part, n)] for part in range(n)]
    np.testing.assert_array_equal(np.concatenate(shares), np.arange(n_words))


def test_samples_begin_when_every_partition_has_topics() -> None:
    assert [clock for clock in range(9) if is_sample(clock)] == [2, 4, 6, 8]
    assert [clock for clock in range(9) if is_sample(clock, slack=1)] == [4, 6, 8]


@pytest.mark.parametrize("n_partitions", [1, 3])
@pytest.mark.parametrize("max_iter", [1, 2, 3, 8])
def test_the_mean_is_that_of_the_passes(
    monkeypatch: pytest.MonkeyPatch, n_partitions: int, max_iter: int
) -> None:
    seen: list[Any] = []
    step = LDAProgram.step

    def watch(self: Any, ctx: Any, partition: Any, state: Any) -> Any:
        if partition.index == 0:
            seen.append(np.array(self._view(ctx, "word_topic").values))
        return step(self, ctx, partition, state)

    monkeypatch.setattr(LDAProgram, "step", watch)
    data = corpus()
    fitted = model(max_iter=max_iter).fit(lazy(data, n_partitions) if n_partitions > 1 else data)
    samples = [counts[:, :4] for counts in seen[2::EVERY]] + [fitted.word_topic_counts_]
    s = np.arange(1, len(samples) + 1)
    expected = np.average(samples, axis=0, weights=s * (s + 1))
    np.testing.assert_allclose(fitted.word_topic_mean_, expected, rtol=1e-5, atol=1e-5)
    if max_iter == 1 and n_partitions == 1:
        np.testing.assert_array_equal(fitted.word_topic_mean_, fitted.word_topic_counts_)


@pytest.mark.parametrize("parallelism", ["data", "model"])
@pytest.mark.parametrize("sampler", ["dense", "sparse"])
def test_every_token_is_in_the_mean(parallelism: str, sampler: str) -> None:
    data = corpus()
    fitted = model(parallelism=parallelism, sampler=sampler).fit(lazy(data, 3))
    means = fitted.word_topic_mean_
    np.testing.assert_allclose(means.sum(axis=1), data.sum(axis=0), rtol=1e-5)
    assert (means != fitted.word_topic_counts_).any()
    # The rows are not mixed up: most of the mean lies near the last sample.
    assert np.abs(means - fitted.word_topic_counts_).sum() < data.sum()


@pytest.mark.parametrize("parallelism", ["data", "model"])
def test_a_cluster_has_the_same_mean(client: Any, parallelism: str) -> None:
    data = lazy(corpus(), 4)
    local = model(parallelism=parallelism).fit(data)
    spread = model(parallelism=parallelism, scheduler=None)
    spread.client = client
    spread.fit(data)
    np.testing.assert_array_equal(spread.word_topic_mean_, local.word_topic_mean_)


@pytest.mark.parametrize("parallelism", ["data", "model"])
def test_new_documents_are_added_to_the_mean(parallelism: str) -> None:
    first, second = corpus(), corpus(60, seed=3)
    fitted = model(parallelism=parallelism).fit(first)
    before = fitted.word_topic_mean_.copy()
    fitted.partial_fit(lazy(second, 2))
    added = fitted.word_topic_mean_ - before
    np.testing.assert_allclose(added.sum(axis=1), second.sum(axis=0), rtol=1e-4, atol=1e-3)
    assert added.min() > -1e-3


def test_a_warm_start_forgets_the_earlier_mean() -> None:
    fitted = model(warm_start=True).fit(corpus())
    data = corpus(40, seed=9)
    fitted.fit(data)
    np.testing.assert_allclose(fitted.word_topic_mean_.sum(axis=1), data.sum(axis=0), rtol=1e-5)


def test_the_mean_foretells_better_than_the_last_sample() -> None:
    rng = np.random.default_rng(1)
    topics = rng.dirichlet(np.full(1000, 0.05), 20)
    shares = rng.dirichlet(np.full(20, 0.1), 400)
    data = np.stack([rng.multinomial(40, share @ topics) for share in shares])
    fitted = model(n_components=20, max_iter=60).fit(data[:300])
    held_out = sp.csr_array(data[300:])
    last = Topics(fitted.word_topic_counts_, fitted.doc_topic_prior_, fitted.topic_word_prior_)
    total, n_scored = document_completion(last, held_out, seed=0)
    assert fitted.perplexity(held_out) < 0.99 * np.exp(-total / n_scored)


def test_a_fit_that_callbacks_end_has_the_mean_of_its_passes() -> None:
    data = corpus()
    ended = model(max_iter=50, evaluate_every=2, tol=100.0).fit(data)
    n_passes = ended.n_iter_
    assert n_passes < 50
    whole = model(max_iter=n_passes, evaluate_every=0).fit(data)
    np.testing.assert_array_equal(ended.word_topic_mean_, whole.word_topic_mean_)
    assert ended.components_.shape == (4, 40)
