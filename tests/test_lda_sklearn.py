"""LDA keeps scikit-learn's rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.lda import LDA


@parametrize_with_checks([LDA(n_components=3, max_iter=5, n_jobs=1, random_state=0)])
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def counts(n_docs: int = 40) -> Any:
    return np.random.default_rng(0).poisson(1.0, (n_docs, 12))


def test_pipeline_and_grid_search() -> None:
    model = make_pipeline(LDA(n_components=2, max_iter=3, n_jobs=1, random_state=0), Normalizer())
    assert model.fit_transform(counts()).shape == (40, 2)
    search = GridSearchCV(
        LDA(max_iter=3, n_jobs=1, random_state=0), {"n_components": [2, 3]}, cv=2
    ).fit(counts())
    assert search.best_params_["n_components"] in (2, 3)


def test_feature_names_out_and_frames() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(counts(), columns=[f"w{i}" for i in range(12)])
    model = LDA(n_components=2, max_iter=3, n_jobs=1, random_state=0).set_output(transform="pandas")
    out = model.fit(frame).transform(frame)
    assert list(out.columns) == ["lda0", "lda1"]
    assert all(name in frame.columns for row in model.top_words(3) for name in row)


def test_clone_has_no_fitted_state() -> None:
    model = LDA(n_components=2, max_iter=3, n_jobs=1).fit(counts())
    assert not hasattr(clone(model), "components_")
