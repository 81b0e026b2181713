"""What linear classifiers share: labels and their weights before a fit, scores after it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from dask_petuum.data import Partition
from dask_petuum.data.kinds import dask_backed
from dask_petuum.lazy import map_rows
from dask_petuum.runtime.job import Job

from .input_values import check_labels
from .inputs import Checked, check_rows, rows_to_apply, weights_in_memory
from .softmax_program import encode

__all__ = [
    "LinearScoresMixin",
    "OfScores",
    "check_labelled",
    "class_counts",
    "class_weights",
    "learn_classes",
]


def check_labelled(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Any, Any, NDArray[np.float64] | None]:
    """Check what ``fit`` was given; of lazy input only what is known without computing.

    Raises
    ------
    ValueError
        In scikit-learn's words.
    """
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"{name} requires y to be passed, but the target y is None")
    if dask_backed(X) is not None:
        return check_rows(estimator, X, reset=True), y, sample_weight
    X, y = check_rows(estimator, X, y, reset=True)
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


def class_counts(job: Job, classes: NDArray[Any]) -> NDArray[np.float64]:
    """Sum the weights of each class's rows."""
    counts: NDArray[np.float64] = np.sum(job.map(partial(_class_counts, classes)), axis=0)
    return counts


def class_weights(job: Job, given: Any, classes: NDArray[Any]) -> NDArray[np.float64]:
    """Turn ``class_weight`` into a factor for each class; "balanced" counts the rows' weights.

    Raises
    ------
    ValueError
        For a word or a label that is not known, a factor that is negative, and where no row
        is left any weight.
    """
    counts = class_counts(job, classes)
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


class LinearScoresMixin:
    """Predictions from ``coef_``, ``intercept_`` and ``classes_``; lazy where the rows are."""

    classes_: NDArray[Any]
    coef_: NDArray[Any]
    intercept_: NDArray[Any]

    def decision_function(self, X: Any) -> Any:
        """Return the scores, (n_rows, n_classes); two classes: (n_rows,), > 0 for the second."""
        check_is_fitted(self)
        columns = len(self.classes_) if len(self.classes_) > 2 else None
        return self._of_scores(X, _scores, columns)

    def predict(self, X: Any) -> Any:
        """Return the label with the highest score of each row; lazy for a Dask collection."""
        check_is_fitted(self)
        return self._of_scores(X, partial(_best, self.classes_), None, self.classes_.dtype)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows with the right label (weighted); reads lazy rows in pieces."""
        predicted = self.predict(X)
        if dask_backed(predicted) is None:
            return float(super().score(X, y, sample_weight))  # type: ignore[misc]
        right = predicted == (y if dask_backed(y) is None else dask_backed(y))
        if sample_weight is None:
            return float(right.mean().compute())
        return float(((right * sample_weight).sum() / sample_weight.sum()).compute())

    def _of_scores(self, X: Any, function: Any, n_columns: int | None, dtype: Any = None) -> Any:
        """Apply a picklable function of scores (n_rows, n_tasks) to the rows."""
        X, lazy = rows_to_apply(self, X)
        apply = OfScores(function, self.coef_, self.intercept_)
        if not lazy:
            return apply(X)
        chosen = self.coef_.dtype if dtype is None else dtype
        return map_rows(Checked(apply, self.coef_.shape[1]), X, n_columns=n_columns, dtype=chosen)


class OfScores:
    """A function of the scores of rows; picklable, without the estimator."""

    def __init__(self, function: Any, coef: NDArray[Any], intercept: NDArray[Any]) -> None:
        self.function = function
        self.coef = coef
        self.intercept = intercept

    def __call__(self, rows: Any) -> Any:
        scores = safe_sparse_dot(rows, self.coef.T, dense_output=True) + self.intercept
        return self.function(scores)


def _scores(scores: NDArray[Any]) -> NDArray[Any]:
    return scores[:, 0] if scores.shape[1] == 1 else scores


def _best(classes: NDArray[Any], scores: NDArray[Any]) -> NDArray[Any]:
    binary = scores.shape[1] == 1
    labels: NDArray[Any] = classes[
        (scores[:, 0] > 0).astype(np.intp) if binary else scores.argmax(axis=1)
    ]
    return labels
