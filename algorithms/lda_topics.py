"""Fitted topics for people and for files: top words, coherence, labelled arrays, saving.

A saved model is one npz file: arrays, and a JSON text for everything else. Nothing is pickled, so
a file from a stranger can be loaded.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.results import table_to_xarray
from dask_petuum.store.spec import TableSpec

__all__ = ["npmi", "read_model", "to_dataset", "top_indices", "write_model"]

Array = NDArray[Any]
#: Version of the file format.
FORMAT = 2


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


def write_model(path: str | PathLike[str], about: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write arrays and a description that JSON can hold."""
    text = json.dumps({"format": FORMAT, **about})
    with Path(path).open("wb") as file:
        np.savez_compressed(file, about=np.array(text), **arrays)  # type: ignore[arg-type]


def read_model(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read what `write_model` wrote.

    Raises
    ------
    ValueError
        If the file is none of ours or of a later version.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "about" not in arrays:
        raise ValueError(f"{path} holds no saved LDA model: it lacks the entry 'about'")
    about = json.loads(str(arrays.pop("about")))
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} has format {about.get('format')!r}, this version reads {FORMAT}")
    return about, arrays
