"""Predictions of linear classifiers: functions of scores, lazy where the rows are."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from dask_petuum.data.kinds import dask_backed
from dask_petuum.lazy import map_rows

from .inputs import Checked, rows_to_apply

__all__ = ["LinearScoresMixin", "OfScores", "ProbabilitiesMixin"]


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


class ProbabilitiesMixin(LinearScoresMixin):
    """Predictions where the scores are logits of a softmax, or of a logistic function."""

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, (n_rows, n_classes); lazy for lazy rows."""
        check_is_fitted(self)
        return self._of_scores(X, _proba, len(self.classes_))

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of the probability of each class, (n_rows, n_classes)."""
        check_is_fitted(self)
        return self._of_scores(X, _log_proba, len(self.classes_))


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


def _both(scores: NDArray[Any]) -> NDArray[Any]:
    """Scores of all classes: with two, the first has 0."""
    return np.hstack([np.zeros_like(scores), scores]) if scores.shape[1] == 1 else scores


def _proba(scores: NDArray[Any]) -> Any:
    return softmax(_both(scores), axis=1)


def _log_proba(scores: NDArray[Any]) -> Any:
    return log_softmax(_both(scores), axis=1)
