"""The demo's decisions: what is read, what is said, what is drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dask_petuum.demo import corpus, report, screen

SORTS = "Sort the rows of a matrix by columns.\n\n>>> sort(x)\n\nStable quick merge heap radix."
FILTERS = "Filter a signal with poles and zeros of transfer function digital analog."


def test_select_keeps_what_says_enough_and_says_it_first() -> None:
    found = {"first": [SORTS, "Too short."], "second": [SORTS, FILTERS]}
    documents, source_of = corpus.select(found, min_words=5)
    assert source_of.tolist() == [0, 1]
    assert documents[0][:4] == ["sort", "rows", "matrix", "columns"]
    assert "signal" in documents[1]


def test_select_drops_lines_that_stand_everywhere() -> None:
    boilerplate = "This paragraph stands wherever somebody pasted something."
    texts = [f"Word{chr(97 + i)} {FILTERS}\n{boilerplate}" for i in range(6)]
    documents, _ = corpus.select({"package": texts}, min_words=3, max_repeats=5)
    assert len(documents) == 6
    assert not any("paragraph" in words for words in documents)


def test_count_words_bounds_the_vocabulary() -> None:
    documents = [["rare", "common"], ["common", "middle"], ["common", "middle", "middle"]]
    counts, words = corpus.count_words([*documents, []], min_df=2, max_df=0.6)
    assert words.tolist() == ["middle"]
    np.testing.assert_array_equal(counts.toarray().ravel(), [0, 1, 2, 0])


def test_docstrings_are_read_in_processes_of_their_own() -> None:
    found = corpus.read_docstrings(["click", "a_package_that_is_not_there"], n_processes=1)
    assert list(found) == ["click"]
    assert any("command" in text.lower() for text in found["click"])
    assert len(set(found["click"])) == len(found["click"])


def test_hold_out_splits_the_documents() -> None:
    counts, words = corpus.count_words([[f"word{i}"] for i in range(10)], min_df=1, max_df=1.0)
    whole = corpus.Corpus(counts, words, ("package",), np.zeros(10, dtype=np.int64))
    train, held_out = whole.hold_out(every=5)
    assert (train.n_tokens, held_out.n_tokens) == (8, 2)


COMPONENTS = np.array([[8.0, 1.0, 1.0, 0.0], [0.0, 2.0, 1.0, 2.0]])
WORDS = ("apple", "bear", "common", "dog")


def test_topics_are_ranked_by_share_and_words_by_relevance() -> None:
    first, second = report.topics(COMPONENTS, WORDS, n_words=2)
    assert (first.number, second.number) == (0, 1)
    assert first.share == pytest.approx(10 / 15)
    assert first.words[0] == "apple"
    # "bear" and "dog" are equally frequent in it, "dog" stands nowhere else
    assert second.words == ("dog", "bear")


def test_relevance_is_sievert_and_shirleys() -> None:
    in_topic, overall = 2 / 5, 3 / 15
    expected = 0.6 * np.log(in_topic) + 0.4 * np.log(in_topic / overall)
    assert report.relevance(COMPONENTS)[1, 1] == pytest.approx(expected)


def test_tokens_by_source_sums_documents() -> None:
    doc_topic = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    got = report.tokens_by_source(doc_topic, np.array([10.0, 4.0, 1.0]), np.array([0, 1, 1]), 3)
    np.testing.assert_array_equal(got, [[10.0, 0.0], [2.0, 3.0], [0.0, 0.0]])


def test_rate_leaves_the_first_clock_out() -> None:
    history = [{"seconds": 100.0}, {"seconds": 101.0}, {"seconds": 102.0}]
    assert report.rate(history, n_tokens=500) == 500.0
    assert np.isnan(report.rate(history[:1], n_tokens=500))


def test_progress_is_told_where_it_was_evaluated() -> None:
    history = [
        {"seconds": 1.0, "log_likelihood": -9.0},
        {"seconds": 2.0},
        {"seconds": 3.0, "log_likelihood": np.nan},
        {"seconds": 4.0, "log_likelihood": -8.0},
    ]
    got = report.progress(history)
    assert (got.seconds.tolist(), got.log_likelihood.tolist()) == ([1.0, 4.0], [-9.0, -8.0])
    assert len(report.progress([]).seconds) == 0


def test_the_picture_is_drawn_and_the_tables_are_printed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from dask_petuum.demo.picture import draw

    topics = report.topics(COMPONENTS, WORDS, np.array([[6.0, 2.0], [4.0, 3.0]]))
    curve = report.Progress(np.array([0.0, 1.0]), np.array([-9.0, -8.0]))
    sources = ("one", "two")
    path = draw(tmp_path / "deep" / "topics.png", topics, sources, curve, (900.0, 300.0), "Title")
    assert path.read_bytes().startswith(b"\x89PNG")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(screen.topics_table(topics, sources))
    console.print(screen.ranks_table([7, 8], {"1": {"bytes_out": 2.5e6, "staleness": 0.5}}))
    text = console.export_text()
    assert re.search(r"1\s+66\.7 %.*one\s+apple", text)
    assert re.search(r"1\s+8\s+0\.50\s+2\.5", text)
