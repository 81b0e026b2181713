"""The estimator LDA: what it finds, what it refuses, and that nothing but the seed decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_petuum.algorithms.lda import LDA
from dask_petuum.algorithms.lda_infer import Topics, document_completion, infer
from dask_petuum.algorithms.lda_topics import npmi

N_TOPICS, PER_TOPIC = 4, 15


def corpus(n_docs: int = 200, seed: int = 0, length: int = 50) -> Any:
    """Documents of four topics with words of their own."""
    rng = np.random.default_rng(seed)
    data = np.zeros((n_docs, N_TOPICS * PER_TOPIC), dtype=np.int64)
    for doc, share in enumerate(rng.dirichlet(np.full(N_TOPICS, 0.3), n_docs)):
        topics = rng.choice(N_TOPICS, length, p=share)
        np.add.at(data[doc], topics * PER_TOPIC + rng.integers(0, PER_TOPIC, length), 1)
    return data


def model(**changes: Any) -> LDA:
    parameters: dict[str, Any] = dict(
        n_components=N_TOPICS, max_iter=60, random_state=0, n_jobs=1, doc_topic_prior=0.3,
        scheduler="local",
    )  # fmt: skip
    return LDA(**(parameters | changes))


def purity(fitted: LDA) -> float:
    """Share of tokens whose topic is that of most tokens of their block of words."""
    blocks = fitted.word_topic_counts_.reshape(N_TOPICS, PER_TOPIC, N_TOPICS).sum(axis=1)
    return float(blocks.max(axis=1).sum() / blocks.sum())


def true_topics() -> Topics:
    """The topics that the corpus was drawn from."""
    counts = np.kron(np.eye(N_TOPICS, dtype=np.int32), np.ones((PER_TOPIC, 1), np.int32)) * 10**6
    return Topics(counts, np.full(N_TOPICS, 0.3), 0.01)


def lazy(data: Any, n_parts: int = 4) -> Any:
    return da.from_array(data, chunks=(-(-len(data) // n_parts), -1))


@pytest.mark.parametrize("sampler", ["dense", "sparse", "auto"])
def test_planted_topics_are_found(sampler: str) -> None:
    data = corpus()
    fitted = model(sampler=sampler).fit(data)
    assert purity(fitted) > 0.95
    assert fitted.word_topic_counts_.sum() == fitted.n_tokens_ == data.sum()
    np.testing.assert_array_equal(fitted.word_topic_counts_.sum(axis=1), data.sum(axis=0))
    np.testing.assert_allclose(fitted.components_, fitted.word_topic_mean_.T + 0.01)
    np.testing.assert_allclose(fitted.word_topic_mean_.sum(axis=1), data.sum(axis=0), rtol=1e-4)
    held_out = corpus(100, seed=1)
    total, n_scored = document_completion(true_topics(), sp.csr_array(held_out), 0)
    assert fitted.perplexity(held_out) < 1.03 * np.exp(-total / n_scored)
    assert fitted.score(held_out) == pytest.approx(-np.log(fitted.perplexity(held_out)))


def test_partitions_of_a_collection_find_the_same_topics() -> None:
    fitted = model().fit(lazy(corpus(400)))
    assert purity(fitted) > 0.95
    assert fitted.n_tokens_ == 400 * 50
    assert fitted.n_iter_ == 61
    told = [r["log_likelihood"] for r in fitted.history_ if "log_likelihood" in r]
    assert len(told) == 6
    assert told[-1] == pytest.approx(fitted.log_likelihood() / fitted.n_tokens_, rel=0.02)


def test_result_does_not_depend_on_threads_or_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_petuum.algorithms.lda_tokens.GROUP_TOKENS", 1000)
    data = corpus()
    first = model(max_iter=5).fit(data)
    for other in (
        model(max_iter=5, n_jobs=2).fit(data),
        model(max_iter=5).fit(sp.csc_array(data)),
        model(max_iter=5).fit(sp.coo_matrix(data.astype(np.float32))),
    ):
        np.testing.assert_array_equal(first.word_topic_counts_, other.word_topic_counts_)
    other = model(max_iter=5, random_state=1).fit(data)
    assert (first.word_topic_counts_ != other.word_topic_counts_).any()


def test_threads_do_not_matter_over_partitions() -> None:
    data = lazy(corpus())
    first, second = model(max_iter=5).fit(data), model(max_iter=5, n_jobs=2).fit(data)
    np.testing.assert_array_equal(first.word_topic_counts_, second.word_topic_counts_)


def test_transform_sums_to_one_and_empty_documents_get_the_prior() -> None:
    data = corpus()
    fitted = model(doc_topic_prior="auto").fit(data)
    data = data.copy()
    data[5] = 0
    shares = fitted.transform(data)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    prior = fitted.doc_topic_prior_
    np.testing.assert_allclose(shares[5], prior / prior.sum(), rtol=1e-5)
    np.testing.assert_array_equal(shares, fitted.transform(data))
    out = fitted.transform(lazy(data))
    assert isinstance(out, da.Array)
    np.testing.assert_allclose(out.compute(scheduler="sync"), shares, atol=1e-6)


def test_unseen_words_and_empty_documents_are_fine() -> None:
    data = np.hstack([corpus(), np.zeros((200, 3), dtype=int)])
    data[0] = 0
    fitted = model(max_iter=5).fit(data)
    assert not fitted.word_topic_counts_[-3:].any()
    data[1, -1] = 7
    assert np.isfinite(fitted.perplexity(data))


def test_perplexity_of_one_topic_is_that_of_word_frequencies() -> None:
    data = corpus()
    fitted = model(n_components=1, max_iter=2).fit(data)
    phi = (data.sum(axis=0) + 0.01) / (data.sum() + 0.01 * data.shape[1])
    topics = Topics(fitted.word_topic_mean_, fitted.doc_topic_prior_, 0.01)
    total, count = document_completion(topics, sp.csr_array(data), 3)
    assert count == data.sum() // 2
    assert -total / count == pytest.approx(-(data @ np.log(phi)).sum() / data.sum(), rel=0.01)


def test_true_topics_foretell_as_well_as_an_oracle() -> None:
    data = corpus(300, length=400)
    topics = true_topics()
    shares = data.reshape(300, N_TOPICS, PER_TOPIC).sum(axis=2) / 400
    np.testing.assert_allclose(infer(topics, sp.csr_array(data)), shares, atol=0.01)


def test_log_likelihood_is_the_last_of_the_history() -> None:
    fitted = model(max_iter=6, evaluate_every=3).fit(corpus())
    told = [r["log_likelihood"] for r in fitted.history_ if "log_likelihood" in r]
    assert len(told) == 2
    assert fitted.log_likelihood() / fitted.n_tokens_ == pytest.approx(told[-1], rel=1e-9)
    assert told[1] > -10
    never = model(max_iter=3, evaluate_every=-1).fit(corpus())
    assert not any("log_likelihood" in record for record in never.history_)


def test_tol_ends_a_fit_early() -> None:
    fitted = model(max_iter=60, evaluate_every=2, tol=10.0).fit(corpus())
    assert fitted.n_iter_ == 4


@pytest.mark.parametrize(("split", "seed"), [(False, 1), (True, 2)])
def test_priors_are_learnt(split: bool, seed: int) -> None:
    rng = np.random.default_rng(0)
    true = np.array([0.05, 0.1, 0.3, 0.9])
    data = np.zeros((1500, N_TOPICS * PER_TOPIC), dtype=np.int64)
    for doc, share in enumerate(rng.dirichlet(true, len(data))):
        topics = rng.choice(N_TOPICS, 40, p=share)
        np.add.at(data[doc], topics * PER_TOPIC + rng.integers(0, PER_TOPIC, 40), 1)
    fitted = model(
        max_iter=100, doc_topic_prior="auto", topic_word_prior="auto", random_state=seed
    ).fit(lazy(data, 3) if split else data)
    np.testing.assert_allclose(np.sort(fitted.doc_topic_prior_), true, rtol=0.3)
    # Words are either of a topic, evenly, or not at all.
    assert 0.03 < fitted.topic_word_prior_ < 1.0


def test_partial_fit_adds_documents_and_keeps_topics() -> None:
    first, second = corpus(), corpus(100, seed=5)
    fitted = model().fit(first)
    before = fitted.word_topic_counts_.copy()
    fitted.partial_fit(second)
    added = fitted.word_topic_counts_ - before
    np.testing.assert_array_equal(added.sum(axis=1), second.sum(axis=0))
    assert added.min() >= 0
    assert fitted.n_tokens_ == first.sum() + second.sum()
    assert purity(fitted) > 0.95


def test_partial_fit_alone_is_a_fit() -> None:
    fitted, other = model(max_iter=5).partial_fit(corpus()), model(max_iter=5).fit(corpus())
    np.testing.assert_array_equal(fitted.word_topic_counts_, other.word_topic_counts_)


@pytest.mark.parametrize("split", [False, True])
def test_warm_start_goes_on_from_the_last_topics(split: bool) -> None:
    data = lazy(corpus()) if split else corpus()
    fitted = model(warm_start=True).fit(data)
    before = fitted.word_topic_counts_.argmax(axis=1)
    fitted.max_iter = 1
    fitted.fit(data)
    assert fitted.word_topic_counts_.sum() == fitted.n_tokens_ == 200 * 50
    assert (fitted.word_topic_counts_.argmax(axis=1) == before).mean() > 0.9
    with pytest.raises(ValueError, match="needs the words of the last fit"):
        fitted.fit(corpus()[:, :-1])


def test_coherence_is_higher_for_topics_than_for_random_words() -> None:
    data = corpus(length=12)
    found = model().fit(data).coherence(data, n_words=5)
    assert found.shape == (N_TOPICS,)
    mixed = np.arange(N_TOPICS * 5).reshape(5, N_TOPICS).T * 3
    assert found.mean() > npmi(data, mixed).mean() + 0.1


def test_npmi_of_known_pairs() -> None:
    data = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]])
    values = npmi(data, np.array([[0, 1], [0, 2], [0, 3]]))
    np.testing.assert_allclose(values, [1.0, -1.0, 0.0], atol=1e-12)


def test_save_and_load(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(corpus(), columns=[f"word{i}" for i in range(N_TOPICS * PER_TOPIC)])
    fitted = model(max_iter=5).fit(frame)
    fitted.save(tmp_path / "model")
    loaded = LDA.load(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params()
    np.testing.assert_array_equal(loaded.transform(frame), fitted.transform(frame))
    np.testing.assert_array_equal(loaded.top_words(3), fitted.top_words(3))
    assert loaded.log_likelihood() == fitted.log_likelihood()
    assert loaded.history_ == fitted.history_
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        LDA.load(tmp_path / "other.npz")


def test_to_xarray() -> None:
    fitted = model(max_iter=5).fit(corpus())
    dataset = fitted.to_xarray()
    assert dict(dataset.sizes) == {"topic": N_TOPICS, "word": N_TOPICS * PER_TOPIC}
    np.testing.assert_allclose(dataset["topic_word"].sum("word"), 1)
    assert float(dataset["topic_share"].sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1.0, r"Negative values in data passed to LDA.*-1\.0 in row 7.*column 2"),
        (0.5, r"whole numbers.*0\.5 in row 7.*column 2"),
        (np.nan, r"contains NaN.*row 7.*column 2"),
        (np.inf, r"infinity.*row 7.*column 2"),
        (2.0**40, r"whole numbers up to 2147483647"),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, lazy])
def test_bad_counts_are_named(value: float, text: str, kind: Any) -> None:
    data = corpus().astype(float)
    data[7, 2] = value
    with pytest.raises(ValueError, match=text):
        model(max_iter=1).fit(kind(data))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_components": 0},
        {"n_components": 2.5},
        {"max_iter": 0},
        {"doc_topic_prior": -0.1},
        {"doc_topic_prior": "learn"},
        {"topic_word_prior": 0},
        {"sampler": "alias"},
        {"tol": -1},
        {"evaluate_every": 0.5},
    ],
)
def test_bad_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        model(**wrong).fit(corpus())


def test_wrong_width_is_refused() -> None:
    fitted = model(max_iter=1).fit(corpus())
    for method in (fitted.transform, fitted.perplexity, fitted.partial_fit, fitted.coherence):
        with pytest.raises(ValueError, match="60 features"):
            method(corpus()[:, :-1])


def test_growing_start_counts_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_petuum.algorithms.lda_tokens.GROUP_TOKENS", 500)
    monkeypatch.setattr("dask_petuum.algorithms.lda_parameters.MIN_GROWTH_TOKENS", 0)
    data = corpus()
    fitted = model(max_iter=16).fit(data)
    np.testing.assert_array_equal(fitted.word_topic_counts_.sum(axis=1), data.sum(axis=0))
    short = model(max_iter=1).fit(data)  # less than a pass for some stages: still every token
    np.testing.assert_array_equal(short.word_topic_counts_.sum(axis=1), data.sum(axis=0))
    first, second = fitted.history_[0]["tokens"], fitted.history_[1]["tokens"]
    assert second == data.sum()
    assert first == pytest.approx(second * (1 + 5 * 2), rel=0.1)


@pytest.mark.parametrize("learnt", [False, True])
def test_sparse_rows_of_the_word_topic_table_change_nothing(
    monkeypatch: pytest.MonkeyPatch, learnt: bool
) -> None:
    data = da.from_array(corpus(), chunks=(100, -1))
    prior = "auto" if learnt else 0.05
    options = {"max_iter": 14, "topic_word_prior": prior, "scheduler": "local"}
    dense = model(**options).fit(data)
    monkeypatch.setattr("dask_petuum.algorithms.lda_program.SPARSE_TOPICS", 1)
    sparse = model(**options).fit(data)
    np.testing.assert_array_equal(sparse.word_topic_counts_, dense.word_topic_counts_)
    assert sparse.topic_word_prior_ == dense.topic_word_prior_
