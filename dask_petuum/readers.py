"""Readers of text corpora for the command line: a file or folder becomes counts and a vocabulary.

=========  =========================================================================================
uci        ``docword.NAME.txt``: three header lines (documents, words, entries), then lines of
           ``document word count``, one-based; the vocabulary in ``vocab.NAME.txt`` beside it
svmlight   ``label word:count ...`` a line, the label is ignored
ldac       Blei's: ``n word:count ...`` a line with n pairs, zero-based
text       a file with one document a line, or a folder with one document a file
=========  =========================================================================================

Paths may be anything that fsspec opens (``s3://...``), and compressed (.gz, .bz2, .xz, .zip);
folders are local. Whether the counts make sense (whole, not negative) is for the estimator to say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import numpy as np
import scipy.io
import scipy.sparse as sp

__all__ = ["FORMATS", "Documents", "TextOptions", "guess_format", "read_documents"]

FORMATS = ("uci", "svmlight", "ldac", "text")

StrArray = np.ndarray[Any, np.dtype[np.str_]]

#: lower-case words of three letters and more (digits and underscores end a word)
TOKEN_PATTERN = r"[^\W\d_]{3,}"


@dataclass(frozen=True)
class Documents:
    """Documents as counts of words.

    Parameters
    ----------
    counts
        (n_documents, n_words) CSR: how often document i holds word j.
    words
        (n_words,) the vocabulary; ``"word 0"``, ... where the format has none.
    """

    counts: sp.csr_array
    words: StrArray


@dataclass(frozen=True)
class TextOptions:
    """How plain text is cut into words (for the format ``text`` only).

    Parameters
    ----------
    min_df
        Words in fewer documents are dropped.
    max_df
        Words in a larger share of the documents, 0 to 1, are dropped.
    stop_words
        ``"english"``, or None to keep all words.
    """

    min_df: int = 2
    max_df: float = 0.5
    stop_words: str | None = "english"


def guess_format(path: str) -> str:
    """Guess the format of a corpus from its name.

    Raises
    ------
    ValueError
        Where the name does not tell.

    Examples
    --------
    >>> [guess_format(name) for name in ("docword.nips.txt.gz", "a.svmlight", "ap.ldac", "b.txt")]
    ['uci', 'svmlight', 'ldac', 'text']
    """
    if Path(path).is_dir():
        return "text"
    name = re.sub(r"\.(gz|bz2|xz|zip)$", "", path.rsplit("/", 1)[-1].lower())
    if name.startswith("docword"):
        return "uci"
    for format_, endings in {
        "svmlight": (".svmlight", ".svm", ".libsvm"),
        "ldac": (".ldac", ".lda-c", ".ldac.dat"),
        "text": (".txt", ".text"),
    }.items():
        if name.endswith(endings):
            return format_
    raise ValueError(
        f"cannot tell the format of {path!r} from its name; say which: {', '.join(FORMATS)}"
    )


def read_documents(
    path: str,
    format: str | None = None,
    *,
    vocabulary: str | None = None,
    text: TextOptions | None = None,
) -> Documents:
    """Read a corpus.

    Parameters
    ----------
    path
        A file, or a folder of text files.
    format
        One of `FORMATS`; None: as the name says.
    vocabulary
        A file with one word a line, in the order of the columns. For ``uci`` the default is the
        ``vocab`` file beside the ``docword`` file, where there is one. Not for ``text``.
    text
        How text is cut into words; for ``text`` only.

    Raises
    ------
    ValueError
        Where the file is not in the format, with the line; or does not fit the vocabulary.
    FileNotFoundError
        Where there is no such file.
    """
    format = format or guess_format(path)
    if format == "text":
        if vocabulary is not None:
            raise ValueError("vocabulary does not go with the format text, which makes its own")
        return _read_text(path, text or TextOptions())
    if text is not None:
        raise ValueError(f"text options do not go with the format {format}")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "uci" and vocabulary is None:
        vocabulary = _vocabulary_beside(path)
    words = None if vocabulary is None else _read_words(vocabulary)
    try:
        counts = {"uci": _read_uci, "svmlight": _read_svmlight, "ldac": _read_ldac}[format](path)
    except ValueError as error:
        raise ValueError(f"{path} is not a {format} file: {error}") from error
    return _name_columns(counts, words, path)


def _name_columns(counts: sp.csr_array, words: StrArray | None, path: str) -> Documents:
    n_words = counts.shape[1]
    if words is None:
        return Documents(counts, np.array([f"word {j}" for j in range(n_words)], dtype=np.str_))
    if n_words > len(words):
        raise ValueError(f"{path} has {n_words} words, the vocabulary only {len(words)}")
    shape = (counts.shape[0], len(words))
    return Documents(sp.csr_array((counts.data, counts.indices, counts.indptr), shape), words)


def _open(path: str) -> IO[bytes]:
    stream: IO[bytes] = fsspec.open(path, "rb", compression="infer").open()
    return stream


def _read_words(path: str) -> StrArray:
    with _open(path) as stream:
        text = stream.read().decode("utf-8").replace("\r\n", "\n")
    return np.array(text.removesuffix("\n").split("\n"), dtype=np.str_)


def _vocabulary_beside(path: str) -> str | None:
    """Return the path of the ``vocab`` file that belongs to a ``docword`` file, if it is there."""
    folder, slash, name = path.rpartition("/")
    plain = re.sub(r"\.(gz|bz2|xz|zip)$", "", name).replace("docword", "vocab", 1)
    if not plain.startswith("vocab"):
        return None
    for candidate in (plain, f"{plain}.gz"):
        beside = f"{folder}{slash}{candidate}"
        filesystem, inner = fsspec.core.url_to_fs(beside)
        if filesystem.exists(inner):
            return beside
    return None


class _Chained(io.RawIOBase):
    """A stream that reads some bytes, then another stream."""

    def __init__(self, head: bytes, tail: IO[bytes]) -> None:
        self._parts: list[IO[bytes]] = [io.BytesIO(head), tail]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._parts:
            data = self._parts[0].read(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            self._parts.pop(0)
        return 0


def _read_uci(path: str) -> sp.csr_array:
    """Read as Matrix Market, which differs in the header only (scipy's reader is compiled)."""
    with _open(path) as stream:
        header = [stream.readline().strip() for _ in range(3)]
        if not all(field.isdigit() for field in header):
            raise ValueError(f"the first three lines must be whole numbers, got {header}")
        head = b"%%MatrixMarket matrix coordinate integer general\n" + b" ".join(header) + b"\n"
        try:
            entries: Any = scipy.io.mmread(cast(Any, _Chained(head, stream)), spmatrix=False)
        except ValueError as error:
            shifted = re.sub(r"Line (\d+)", lambda m: f"Line {int(m[1]) + 1}", str(error))
            raise ValueError(shifted) from error
    return sp.csr_array(entries)


def _read_svmlight(path: str) -> sp.csr_array:
    from sklearn.datasets import load_svmlight_file

    with _open(path) as stream:
        counts, _ = load_svmlight_file(stream)
    return sp.csr_array(counts)


def _read_ldac(path: str) -> sp.csr_array:
    with _open(path) as stream:
        rows = list(_ldac_rows(stream))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    pairs = np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)
    n_words = int(pairs[:, 0].max(initial=-1)) + 1
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    counts = sp.csr_array((pairs[:, 1], pairs[:, 0], indptr), shape=(len(rows), n_words))
    counts.sum_duplicates()
    return counts


def _ldac_rows(stream: IO[bytes]) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Yield (n, 2) int64 pairs of word and count, one array a line."""
    for number, line in enumerate(stream, start=1):
        try:
            values = np.array(line.replace(b":", b" ").split(), dtype=np.int64)
        except ValueError as error:
            raise ValueError(f"Line {number}: {error}") from error
        if len(values) == 0:
            continue
        if 2 * values[0] != len(values) - 1:
            raise ValueError(f"Line {number}: {values[0]} pairs announced, got {line[:60]!r}")
        pairs = values[1:].reshape(-1, 2)
        if (pairs[:, 0] < 0).any():
            raise ValueError(f"Line {number}: word numbers must be >= 0")
        yield pairs


def _read_text(path: str, options: TextOptions) -> Documents:
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        stop_words=options.stop_words,
        token_pattern=TOKEN_PATTERN,
        min_df=options.min_df,
        max_df=options.max_df,
        dtype=np.int64,
    )
    counts = sp.csr_array(vectorizer.fit_transform(_texts(path)))
    return Documents(counts, vectorizer.get_feature_names_out().astype(np.str_))


def _texts(path: str) -> Iterator[str]:
    """Yield the documents of a file (a line each) or of a folder (a file each, by name)."""
    folder = Path(path)
    if folder.is_dir():
        for file in sorted(found for found in folder.rglob("*") if found.is_file()):
            with _open(str(file)) as stream:
                yield stream.read().decode("utf-8", errors="replace")
        return
    with _open(path) as stream:
        for line in stream:
            yield line.decode("utf-8", errors="replace")
