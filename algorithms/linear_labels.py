"""Labels of linear classifiers before a fit: checks, classes, their weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.data.kinds import dask_backed
from dask_petuum.runtime.job import Job

from .input_values import check_labels
from .inputs import check_rows, weights_in_memory
from .softmax_program import encode

__all__ = ["check_labelled", "class_counts", "class_weights", "classes_to_come", "learn_classes"]


def check_labelled(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool = True
) -> tuple[Any, Any, NDArray[np.float64] | None]:
    """Check what ``fit`` was given; of lazy input only what is known without computing.

    ``reset``: learn the columns; else compare them with those of the last fit.

    Raises
    ------
    ValueError
        In scikit-learn's words.
    """
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"{name} requires y to be passed, but the target y is None")
    if dask_backed(X) is not None:
        return check_rows(estimator, X, reset=reset), y, sample_weight
    X, y = check_rows(estimator, X, y, reset=reset)
    check_labels(y)
    return X, y, weights_in_memory(X, sample_weight)


def learn_classes(job: Job, name: str) -> NDArray[Any]:
    """Collect the labels where they lie.

    Raises
    ------
    ValueError
        Where there is one class only.
    """
    classes = np.unique(np.concatenate(job.map(_labels)))
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs samples of at least 2 classes in the data, but the data "
            f"contains only one class: {classes[0]!r}"
        )
    return classes


def classes_to_come(given: Any, known: NDArray[Any] | None) -> NDArray[Any]:
    """All labels that will ever come, from a call of ``partial_fit``.

    Parameters
    ----------
    given
        What the call says, or None.
    known : (n_classes,)
        What the calls before said; None: this is the first.

    Raises
    ------
    ValueError
        Where neither says it, both say different things, or what is given is no list of two
        different labels at least.
    TypeError
        Labels that cannot be ordered.
    """
    if given is None:
        if known is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return known
    labels = np.asarray(given)
    if labels.ndim != 1:
        raise ValueError(f"classes must be a list of labels, got an array of shape {labels.shape}")
    if labels.dtype.kind in "US" and not all(isinstance(label, str | bytes) for label in given):
        labels = np.asarray(given, dtype=object)  # numpy has made text of numbers
    check_labels(labels, "classes")
    classes = np.unique(labels)
    if known is not None and not np.array_equal(classes, known):
        raise ValueError(
            f"`classes={classes}` is not the same as on last call to partial_fit, was: {known}"
        )
    if len(classes) < 2:
        raise ValueError(f"classes must be at least 2 different labels, got {classes.tolist()}")
    return classes


def class_counts(job: Job, classes: NDArray[Any]) -> NDArray[np.float64]:
    """Sum the weights of each class's rows."""
    counts: NDArray[np.float64] = np.sum(job.map(partial(_class_counts, classes)), axis=0)
    return counts


def class_weights(
    counts: NDArray[np.float64], given: Any, classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Turn ``class_weight`` into a factor for each class; "balanced" goes by the rows' weights.

    ``counts`` is what `class_counts` gave.

    Raises
    ------
    ValueError
        For a word or a label that is not known, a factor that is negative, and where no row
        is left any weight.
    """
    if given is None:
        factors = np.ones(len(classes))
    elif isinstance(given, str):
        if given != "balanced":
            raise ValueError(f"class_weight must be a dict, 'balanced' or None, got {given!r}")
        factors = counts.sum() / (len(classes) * np.maximum(counts, 1e-300))
        factors[counts == 0] = 1.0
    else:
        factors = _factors(given, list(classes))
    if not float(counts @ factors) > 0:
        raise ValueError("the rows' weights must not all be 0")
    return factors


def _factors(given: Any, labels: list[Any]) -> NDArray[np.float64]:
    unknown = [label for label in given if label not in labels]
    if unknown:
        raise ValueError(f"class_weight names {unknown[0]!r}, which is not among {labels}")
    factors = np.array([float(given.get(label, 1.0)) for label in labels])
    if not (np.isfinite(factors) & (factors >= 0)).all():
        raise ValueError(f"class_weight must have finite factors >= 0, got {given!r}")
    return factors


def _labels(partition: Partition) -> NDArray[Any]:
    if partition.y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    return np.unique(partition.y)


def _class_counts(classes: NDArray[Any], partition: Partition) -> NDArray[np.float64]:
    codes = encode(partition.y, classes)
    counts = np.bincount(codes, partition.sample_weight, minlength=len(classes))
    return counts.astype(np.float64)
