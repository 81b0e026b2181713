"""Fitted topics for people: top words, coherence, labelled arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.results import table_to_xarray
from dask_petuum.store.spec import TableSpec

__all__ = ["npmi", "to_dataset", "top_indices"]

Array = NDArray[Any]


def top_indices(counts: Array, n: int) -> Array:
    """The ``n`` most frequent words of each topic: (n_topics, n), ties to the lower number."""
    return np.argsort(-counts.T, axis=1, kind="stable")[:, :n]


def npmi(X: Any, words: Array) -> Array:
    """Coherence of sets of words: the mean NPMI of their pairs over documents.

    NPMI(a, b) = log(p(a, b) / (p(a) p(b))) / -log p(a, b), p being shares of the documents; -1
    for words that never meet, 1 for words that only come together (Bouma 2009; Roeder, Both and
    Hinneburg 2015).

    Parameters
    ----------
    X
        (n_docs, n_words) counts.
    words
        (n_sets, n) word numbers.

    Returns
    -------
    (n_sets,) float64
    """
    used, place = np.unique(words, return_inverse=True)
    place = place.reshape(words.shape)
    seen = (sp.csc_array(X)[:, used] > 0).astype(np.float64)
    n_docs = X.shape[0]
    together = np.asarray((seen.T @ seen).todense()) / n_docs  # (n_used, n_used)
    alone = together.diagonal()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(together / np.outer(alone, alone)) / -np.log(together)
    ratio[together == 0] = -1.0
    ratio[together == 1] = 1.0
    upper = np.triu_indices(words.shape[1], k=1)
    return np.array(
        [ratio[np.ix_(row, row)][upper].mean() if len(row) > 1 else 1.0 for row in place]
    )


def to_dataset(model: Any) -> Any:
    """A fitted model as an xarray.Dataset with dims topic and word."""
    components = model.components_
    names = getattr(model, "feature_names_in_", np.arange(components.shape[1]))
    spec = TableSpec(
        "topic_word",
        components.shape,
        "float64",
        dims=("topic", "word"),
        coords={"topic": range(len(components)), "word": list(names)},
    )
    shares = components / components.sum(axis=1, keepdims=True)
    dataset = table_to_xarray(spec, shares).to_dataset()
    totals = model.word_topic_mean_.sum(axis=0, dtype=np.float64)
    dataset["topic_share"] = ("topic", totals / (totals.sum() or 1.0))
    dataset["doc_topic_prior"] = ("topic", model.doc_topic_prior_)
    dataset["topic_word"].attrs["long_name"] = "probability of the word in the topic"
    dataset["topic_share"].attrs["long_name"] = "share of the corpus' tokens"
    dataset.attrs["topic_word_prior"] = float(model.topic_word_prior_)
    return dataset
