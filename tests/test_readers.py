"""Every corpus format, as it is found in the wild and as it is found broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from dask_petuum.readers import TextOptions, guess_format, read_documents

COUNTS = np.array([[2, 0, 1], [0, 0, 0], [0, 4, 3]])
UCI = "3\n3\n4\n1 1 2\n1 3 1\n3 2 4\n3 3 3\n"
WORDS = ["apple", "bear", "cloud"]


def write(path: Path, text: str) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return str(path)


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_uci_takes_the_vocabulary_beside_it(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "vocab.toy.txt", "\n".join(WORDS))  # no newline at the end, as UCI's are
    got = read_documents(write(tmp_path / f"docword.toy.{ending}", UCI))
    np.testing.assert_array_equal(got.counts.toarray(), COUNTS)
    assert got.words.tolist() == WORDS


def test_uci_without_a_vocabulary_numbers_the_words(tmp_path: Path) -> None:
    got = read_documents(write(tmp_path / "docword.toy.txt", UCI))
    assert got.words.tolist() == ["word 0", "word 1", "word 2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UCI.replace("3 2 4", "3 4 4"), "Line 6: Column index out of bounds"),
        (UCI.replace("1 3 1", "4 3 1"), "Line 5: Row index out of bounds"),
        (UCI.replace("1 3 1", "1 x 1"), "Line 5"),
        ("3\n3\n5\n" + UCI[6:], "Truncated"),
        ("one\n" + UCI, "first three lines"),
    ],
)
def test_uci_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "docword.bad.txt", text)
    with pytest.raises(ValueError, match=rf"docword\.bad\.txt is not a uci file: .*{message}"):
        read_documents(path)


def test_ldac_takes_unsorted_and_repeated_words(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.ldac", "3 2:1 0:1 0:1\n0\n2 1:4 2:3\n")
    np.testing.assert_array_equal(read_documents(path).counts.toarray(), COUNTS)


@pytest.mark.parametrize("line", ["3 0:1 1:1", "1 -1:2", "1 0:half"])
def test_ldac_errors_name_the_line(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "bad.ldac", f"1 0:1\n{line}\n")
    with pytest.raises(ValueError, match=r"bad\.ldac is not a ldac file: Line 2"):
        read_documents(path)


def test_svmlight_ignores_labels_and_widens_to_the_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.svmlight", "5 0:2 2:1\n7\n5 1:4 2:3\n")
    vocabulary = write(tmp_path / "words.txt", "\n".join([*WORDS, "never seen"]) + "\n")
    got = read_documents(path, vocabulary=vocabulary)
    np.testing.assert_array_equal(got.counts.toarray(), np.pad(COUNTS, ((0, 0), (0, 1))))
    assert got.words.tolist() == [*WORDS, "never seen"]


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.svmlight", "5 0:2 2:1\n")
    vocabulary = write(tmp_path / "words.txt", "apple\nbear\n")
    with pytest.raises(ValueError, match="has 3 words, the vocabulary only 2"):
        read_documents(path, vocabulary=vocabulary)


TEXTS = ["The apple, the APPLE and a cloud", "", "bears_bears bears. bears cloud cloud Cloud2"]


def test_text_file_has_one_document_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.txt", "\n".join(TEXTS) + "\n")
    got = read_documents(path, text=TextOptions(min_df=1, max_df=1.0))
    assert got.words.tolist() == ["apple", "bears", "cloud"]
    np.testing.assert_array_equal(got.counts.toarray(), [[2, 0, 1], [0, 0, 0], [0, 4, 3]])


def test_text_folder_has_one_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, text in zip(["a.txt", "b.txt.gz", "deep/c.txt"], TEXTS, strict=True):
        write(tmp_path / name, text)
    got = read_documents(str(tmp_path), text=TextOptions(min_df=1, max_df=1.0))
    np.testing.assert_array_equal(got.counts.toarray(), [[2, 0, 1], [0, 0, 0], [0, 4, 3]])


def test_text_drops_rare_and_common_words(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.txt", "apple cloud\nbear cloud\nbear cloud rain\n")
    got = read_documents(path, text=TextOptions(min_df=2, max_df=0.7))
    assert got.words.tolist() == ["bear"]


def test_misused_options_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.txt", "apple\n")
    with pytest.raises(ValueError, match="vocabulary does not go with"):
        read_documents(path, vocabulary="words.txt")
    with pytest.raises(ValueError, match="text options do not go with"):
        read_documents(path, "ldac", text=TextOptions())
    with pytest.raises(ValueError, match="must be one of uci, svmlight"):
        read_documents(path, "csv")
    with pytest.raises(FileNotFoundError):
        read_documents(str(tmp_path / "absent.ldac"))


def test_a_name_that_tells_nothing_asks_for_the_format() -> None:
    with pytest.raises(ValueError, match="say which: uci, svmlight, ldac, text"):
        guess_format("corpus.bin")
