"""The tokens of one partition, laid out for a sampler: plain arrays in a dict.

The partition's documents are cut into groups of about equal numbers of tokens, and so are its
words; a sampler works through the grid of groups diagonal by diagonal (Yan, Xu and Qi 2009), the
cells of a diagonal at once. The number of groups depends on the data alone, so that results do
not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .kernels.lda_simd import LANES
from .kernels.lda_tokens import count_lists, fill_by_document, fill_by_word, word_offsets

__all__ = [
    "WordGroups",
    "as_counts",
    "choose_sampler",
    "deal_words",
    "lay_out",
    "padded",
    "token_docs",
    "token_words",
]

Array = NDArray[Any]
State = dict[str, Array]

#: Tokens of a document group: its lists of topics fit the second-level cache (2 MB; 2026-11).
GROUP_TOKENS = 250_000
#: Tokens from which there are four groups: the start works on a quarter and half of them.
FEW_TOKENS = 100_000
#: Groups at most; more would leave too few tokens of a word in a cell.
MAX_GROUPS = 32


def padded(n_topics: int) -> int:
    """Round a number of topics up to whole vectors."""
    return -(-n_topics // LANES) * LANES


def choose_sampler(n_topics: int, n_tokens: int, n_docs: int) -> str:
    """Choose "dense" or "sparse": what samples faster (both draw from the same distribution).

    The dense sampler looks at all K topics, the sparse one at those of the document: measured
    2026-11 they are equal at K = 32 for documents of 100 tokens.
    """
    long_documents = n_tokens > 5 * n_topics * max(n_docs, 1)
    return "dense" if n_topics <= 32 or (n_topics <= 128 and long_documents) else "sparse"


def as_counts(data: Any) -> tuple[Array, Array, Array]:
    """Turn rows of counts into (indptr int64, indices int32, counts int32)."""
    rows: Any = data if sp.issparse(data) else sp.csr_array(data)
    return (
        rows.indptr.astype(np.int64, copy=False),
        rows.indices.astype(np.int32, copy=False),
        np.rint(rows.data).astype(np.int32),
    )


@dataclass(frozen=True)
class WordGroups:
    """Which words are sampled together, where that is not the partition's own choice.

    Attributes
    ----------
    group : (n_words,) int32, group of each word
    row : (n_words,) int32, its row in the table of counts that the sampler is given
    n_groups : number of groups
    """

    group: Array
    row: Array
    n_groups: int


def deal_words(frequency: Array, n_blocks: int, n_groups: int) -> WordGroups:
    """Deal words into blocks of ``n_groups`` groups each; a row is a word's place in its block."""
    group = _deal(frequency, n_blocks * n_groups)
    block = group // n_groups
    order = np.argsort(block, kind="stable")
    row = np.empty(len(frequency), dtype=np.int32)
    sizes = np.bincount(block, minlength=n_blocks)
    row[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return WordGroups(group, row, n_blocks * n_groups)


def lay_out(data: Any, n_topics: int, sampler: str, words: WordGroups | None = None) -> State:
    """Make the state of a partition: every token, none with a topic yet.

    Parameters
    ----------
    data
        (n_docs, n_words) counts, dense or CSR.
    n_topics
        Number of topics K.
    sampler
        "dense" or "sparse".
    words
        Groups of the words; None: as many as there are document groups, of about equal tokens.

    Returns
    -------
    dict of ndarray: ``topics`` (n_tokens,), ``lengths`` (n_docs,), ``cuts`` (n_groups + 1,)
    documents of each group, ``list_ptr`` (n_docs + 1,), and what the sampler needs besides.
    """
    indptr, indices, counts = as_counts(data)
    n_docs, n_words = data.shape
    lengths = np.add.reduceat(np.append(counts, 0), indptr[:-1], dtype=np.int64)
    lengths = np.where(np.diff(indptr) > 0, lengths, 0)
    n_tokens = int(lengths.sum())
    n_groups = _count_groups(n_tokens)
    dtype = np.int16 if n_topics < 2**15 else np.int32
    list_ptr = np.empty(n_docs + 1, dtype=np.int64)
    count_lists(lengths, n_topics, list_ptr)
    state: State = {
        "topics": np.full(n_tokens, -1, dtype=dtype),
        "lengths": lengths,
        "cuts": _cut(lengths, n_groups),
        "list_ptr": list_ptr,
    }
    if words is None:
        frequency = np.bincount(indices, weights=counts, minlength=n_words)
        row = np.arange(n_words, dtype=np.int32)
        words = WordGroups(_deal(frequency, n_groups), row, n_groups)
    group = words.group
    if sampler == "dense":
        state["bounds"] = np.empty((n_docs, words.n_groups + 1), dtype=np.int64)
        state["words"] = np.empty(n_tokens, dtype=np.int32)
        fill_by_document(indptr, indices, counts, group, state["bounds"], state["words"])
        state["words"] = words.row[state["words"]]
        return state
    order = np.lexsort((np.arange(n_words), group)).astype(np.int32)
    rank = np.empty(n_words, dtype=np.int32)
    rank[order] = np.arange(n_words, dtype=np.int32)
    state["word_order"] = words.row[order]
    cuts = np.searchsorted(group[order], np.arange(words.n_groups + 1))
    state["word_cuts"] = cuts.astype(np.int64)
    state["word_ptr"] = np.empty((n_groups, n_words + 1), dtype=np.int64)
    word_offsets(indptr, indices, counts, state["cuts"], rank, state["word_ptr"])
    state["docs"] = np.empty(n_tokens, dtype=np.int32)
    fill_by_word(indptr, indices, counts, state["cuts"], rank, state["word_ptr"], state["docs"])
    state["list_size"] = np.zeros(n_docs, dtype=np.int32)
    state["list_topics"] = np.zeros(int(list_ptr[-1]), dtype=np.int32)
    state["list_counts"] = np.zeros(int(list_ptr[-1]), dtype=np.int32)
    return state


def token_words(state: State, n_groups: int) -> Array:
    """Row of the counts of each token of the first document groups, in the sampler's order."""
    if "docs" not in state:
        return state["words"][: int(state["lengths"][: state["cuts"][n_groups]].sum())]
    sizes = np.diff(state["word_ptr"][:n_groups], axis=1)
    return np.concatenate([np.repeat(state["word_order"], size) for size in sizes])


def token_docs(state: State, n_groups: int) -> Array:
    """Document of each token of the first ``n_groups`` document groups, in the same order."""
    lengths = state["lengths"][: state["cuts"][n_groups]]
    if "docs" in state:
        return state["docs"][: int(lengths.sum())]
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def _count_groups(n_tokens: int) -> int:
    groups = 1 if n_tokens < FEW_TOKENS else 4
    while groups < MAX_GROUPS and groups * GROUP_TOKENS < n_tokens:
        groups *= 2
    return groups


def _cut(lengths: Array, n_groups: int) -> Array:
    """Cut documents into runs of about equal numbers of tokens."""
    ends = np.cumsum(lengths)
    total = ends[-1] if len(ends) else 0
    inner = np.searchsorted(ends, np.arange(1, n_groups) * (total / n_groups))
    return np.concatenate([[0], inner, [len(lengths)]]).astype(np.int64)


def _deal(frequency: Array, n_groups: int) -> Array:
    """Deal words, most frequent first, to and fro over the groups: about equal tokens each."""
    place = np.arange(len(frequency))
    forth, back = place % n_groups, n_groups - 1 - place % n_groups
    group = np.empty(len(frequency), dtype=np.int32)
    group[np.argsort(-frequency, kind="stable")] = np.where(place // n_groups % 2, back, forth)
    return group
