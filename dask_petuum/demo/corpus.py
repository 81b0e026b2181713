"""The corpus of the demo: docstrings of installed packages, as a matrix of word counts.

Every machine with this package has this text: the documentation of numpy, scipy, scikit-learn and
their neighbours, one document per docstring. It is read from the imported modules rather than from
their source files, so that text which is put together at import (scipy.stats, pandas) and the
documentation of compiled code (ufuncs, Cython classes) are in. Importing everything that a package
contains has side effects; it is done in processes of its own, which end with the reading.

`read_docstrings` does the input; `clean`, `select` and `count_words` are pure.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import multiprocessing
import os
import pkgutil
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["PACKAGES", "Corpus", "clean", "count_words", "load", "read_docstrings", "select"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]
StrArray = np.ndarray[Any, np.dtype[np.str_]]

#: packages whose documentation is read, where they are installed
PACKAGES = (
    "scipy",
    "pandas",
    "sklearn",
    "numpy",
    "dask",
    "matplotlib",
    "xarray",
    "distributed",
    "numba",
)

#: words of the form of documentation rather than of its subject
FORM_WORDS = frozenset(
    """also attributes call called default defaults doc docs docstring documentation does don
    etc example examples false following given guide import instance like method need needs new
    none note notes optional param parameter parameters passed please raises ref reference
    references return returned returns see set specified true type types use used user uses
    using value values versionadded versionchanged want way will yields""".split()  # noqa: SIM905  a list of words reads better so
)

#: parts of a module's name that are not documentation, or not safe to import
_SKIPPED = re.compile(
    r"(^|\.)(tests?|testing|conftest|__main__|setup|cuda|_build_utils|_backends?|backends"
    r"|utils_test|_?vendored?|_?vendor|externals?|cli|sphinxext)(\.|$)"
)
_WORD = re.compile(r"[a-z]{3,}")
_CODE = re.compile(r"^\s*(>>>|\.\.\. |In \[|Out\[|\.\. )")
_MARKUP = re.compile(r"https?://\S+|:[a-z:+-]+:(?=`)|\[[0-9]+\]_?")


@dataclass(frozen=True)
class Corpus:
    """Documents as counts of words.

    Parameters
    ----------
    counts
        (n_documents, n_words) int32 CSR: how often document i holds word j.
    words
        (n_words,) the vocabulary in the order of the columns.
    sources
        The packages read.
    source_of
        (n_documents,) int64: number of the document's package in `sources`.
    n_read
        Words that were read, before stop words, repetitions and rare words were left out.
    """

    counts: sp.csr_array
    words: StrArray
    sources: tuple[str, ...]
    source_of: IntArray
    n_read: int = 0

    def hold_out(self, every: int = 20) -> tuple[Corpus, Corpus]:
        """Split into documents to learn from and every `every`-th one to be scored on."""
        held = np.arange(self.counts.shape[0]) % every == every - 1
        return self._take(~held), self._take(held)

    def _take(self, kept: np.ndarray[Any, np.dtype[np.bool_]]) -> Corpus:
        return replace(self, counts=self.counts[kept], source_of=self.source_of[kept])

    @property
    def n_tokens(self) -> int:
        """Number of words counted, with repetitions."""
        return int(self.counts.sum())


def read_docstrings(
    packages: Sequence[str] = PACKAGES, n_processes: int = 2
) -> dict[str, list[str]]:
    """Return the docstrings of every package: the same words in the same order in every call.

    The reading processes get a fixed hash seed: scipy puts some docstrings together from sets
    (and random numbers into the outputs of some examples, which are no words).

    Parameters
    ----------
    packages
        Names to import; one that is not installed is left out.
    n_processes
        How many processes read, each one package at a time.

    Returns
    -------
    dict
        Package name to its docstrings, each once.
    """
    context = multiprocessing.get_context("spawn")
    with (
        _environment("PYTHONHASHSEED", "0"),
        ProcessPoolExecutor(max_workers=n_processes, mp_context=context) as pool,
    ):
        found = list(pool.map(_read_package, packages))
    return {name: documents for name, documents in zip(packages, found, strict=True) if documents}


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for processes that are started in the ``with`` block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _read_package(package: str) -> list[str]:
    """Return the docstrings of one package; empty where it is not installed."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found: dict[str, None] = {}
        for module in _import_all(package):
            found.update(dict.fromkeys(_documents_of(module, package)))
    return list(found)


def _import_all(package: str) -> Iterator[ModuleType]:
    """Import a package and its modules one by one; what cannot be imported is passed over."""
    names = [package]
    while names:
        name = names.pop(0)
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):  # noqa: BLE001  an optional dependency of theirs, mostly
            continue
        yield module
        path = vars(module).get("__path__")  # a lazy module would raise in getattr
        if path is not None:
            children = (f"{name}.{found.name}" for found in pkgutil.iter_modules(path))
            names.extend(child for child in children if not _SKIPPED.search(child))


def _documents_of(module: ModuleType, package: str) -> Iterator[str]:
    """Yield the docstrings of a module, its functions, its classes and their members."""
    yield from _docstring(module)
    for value in list(vars(module).values()):
        if not _belongs_to(value, package):
            continue
        yield from _docstring(value)
        if inspect.isclass(value):
            for member in list(vars(value).values()):
                yield from _docstring(member)


def _belongs_to(value: object, package: str) -> bool:
    """Tell whether an object is documented by this package (ufuncs do not say where)."""
    if not (callable(value) or inspect.isclass(value)):
        return False
    try:
        home = getattr(value, "__module__", None) or package
    except Exception:  # noqa: BLE001  a lazy object of theirs whose attributes raise
        return False
    return str(home).split(".")[0] == package


def _docstring(value: object) -> Iterator[str]:
    try:
        text = getattr(value, "__doc__", None)
    except Exception:  # noqa: BLE001  as above
        return
    if isinstance(text, str) and text.strip():
        yield text


def clean(docstring: str) -> list[str]:
    """Return the lines of a docstring's prose, in lower case: no code, no directives, no links.

    Examples
    --------
    >>> clean('Sort :func:`rows`. See https://numpy.org\\n\\n>>> sort(x)\\n.. note:: slow')
    ['sort `rows`. see']
    """
    lines = (line for line in docstring.splitlines() if not _CODE.match(line))
    lines = (_MARKUP.sub("", line).strip().lower() for line in lines)
    return [line for line in lines if line]


def select(
    docstrings: Mapping[str, Sequence[str]], min_words: int = 8, max_repeats: int = 20
) -> tuple[list[list[str]], IntArray]:
    """Select the docstrings that say enough, and say it for the first time.

    Parameters
    ----------
    docstrings
        Package name to its docstrings as they were read.
    min_words
        Documents with fewer words, after stop words, are left out.
    max_repeats
        Lines that stand in more documents than this are form, not subject (headings, tables and
        paragraphs that a package puts everywhere), and are left out.

    Returns
    -------
    documents : list
        Words of every document that is left.
    source_of : (n_documents,) int64
        Number of its package, in the order of `docstrings`.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    dropped = ENGLISH_STOP_WORDS | FORM_WORDS
    first: dict[tuple[str, ...], int] = {}
    for number, texts in enumerate(docstrings.values()):
        for text in texts:
            first.setdefault(tuple(clean(text)), number)
    repeats = Counter(line for lines in first for line in set(lines))
    documents, source_of = [], []
    for lines, number in first.items():
        text = " ".join(line for line in lines if repeats[line] <= max_repeats)
        words = [word for word in _WORD.findall(text) if word not in dropped]
        if len(words) >= min_words:
            documents.append(words)
            source_of.append(number)
    return documents, np.asarray(source_of, dtype=np.int64)


def count_words(
    documents: Sequence[Sequence[str]], min_df: int = 10, max_df: float = 0.2
) -> tuple[sp.csr_array, StrArray]:
    """Count words per document.

    Parameters
    ----------
    documents
        Words of every document.
    min_df, max_df
        Words in fewer than `min_df` documents, or in more than this share of them, are dropped.

    Returns
    -------
    counts : (n_documents, n_words) int32 CSR
    words : (n_words,) the vocabulary, sorted
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=list, min_df=min_df, max_df=max_df, dtype=np.int32)
    counts = sp.csr_array(vectorizer.fit_transform(documents))
    return counts, vectorizer.get_feature_names_out().astype(str)


def load(packages: Sequence[str] = PACKAGES, n_processes: int = 2) -> Corpus:
    """Read the packages' docstrings and count their words."""
    found = read_docstrings(packages, n_processes)
    documents, source_of = select(found)
    counts, words = count_words(documents)
    n_read = sum(len(_WORD.findall(text.lower())) for texts in found.values() for text in texts)
    return Corpus(counts, words, tuple(found), source_of, n_read)
