"""Every estimator goes on from its files where an interrupted fit had come, to the same end."""

from __future__ import annotations

import itertools
import threading
from unittest.mock import patch

import dask
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import PATIENCE

from dask_petuum import (
    LDA,
    CheckpointError,
    KMeans,
    Lasso,
    LinearSVC,
    LinearSVR,
    LogisticRegression,
    MatrixFactorization,
    SoftmaxRegression,
)
from dask_petuum.checkpoint.folder import CheckpointFolder

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(600, 6))
LABELS = (ROWS @ np.arange(6.0) + RNG.normal(size=600) > 0).astype(int)
DOCUMENTS = sp.random_array((80, 50), density=0.3, rng=1, format="csr")
DOCUMENTS.data[:] = RNG.integers(1, 6, DOCUMENTS.nnz)
DOCUMENTS = DOCUMENTS.astype(np.int32)
RATINGS = sp.random_array((90, 40), density=0.2, rng=2, format="csr")

#: Estimator, its data, and what must be the same at the end.
CASES = {
    "LDA": (LDA(5, max_iter=400, random_state=0), (DOCUMENTS,), "word_topic_counts_"),
    "LDA by rotation": (
        LDA(5, max_iter=300, random_state=0, parallelism="model"),
        (DOCUMENTS,),
        "word_topic_counts_",
    ),
    "KMeans": (
        KMeans(40, max_iter=300, n_init=1, tol=0, random_state=0, init="random"),
        (RNG.normal(size=(30_000, 3)),),
        "cluster_centers_",
    ),
    "SoftmaxRegression": (
        SoftmaxRegression(max_iter=400, tol=0, random_state=0),
        (ROWS, LABELS),
        "coef_",
    ),
    "LogisticRegression": (
        LogisticRegression(C=1e4, tol=0, max_iter=4000),
        (RNG.normal(size=(400, 90)), LABELS[:400]),
        "coef_",
    ),
    "LinearSVC": (
        LinearSVC(C=100, tol=1e-12, max_iter=400, dual=True, random_state=0),
        (ROWS, LABELS),
        "coef_",
    ),
    "LinearSVR": (
        LinearSVR(C=100, tol=1e-12, max_iter=400, random_state=0),
        (ROWS, ROWS[:, 0] + 0.1),
        "coef_",
    ),
    "MatrixFactorization": (
        MatrixFactorization(4, max_iter=500, random_state=0),
        (RATINGS,),
        "item_factors_",
    ),
    "MatrixFactorization by SGD": (
        MatrixFactorization(4, max_iter=500, random_state=0, solver="sgd"),
        (RATINGS,),
        "item_factors_",
    ),
}


class Stopped(Exception):
    """Ends a fit as the end of its process does."""


def interrupt(estimator, data, folder):
    """Fit until a checkpoint is there; short fits wait for it, a disk may be slow."""
    written, calls, write = threading.Event(), itertools.count(1), CheckpointFolder.write_manifest

    def noted(self, manifest):
        write(self, manifest)
        written.set()

    def stop(record):
        if next(calls) >= 4:
            written.wait(PATIENCE)
        if next(folder.rglob("manifest.json"), None) is not None:
            raise Stopped
        return False

    estimator._print = stop
    with (
        dask.config.set({"petuum.checkpoint.clocks": 2}),
        patch.object(CheckpointFolder, "write_manifest", noted),
        pytest.raises(Stopped),
    ):
        estimator.fit(*data)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_fit_goes_on_where_it_was_interrupted(name, tmp_path):
    from sklearn.base import clone

    estimator, data, attribute = CASES[name]
    whole = clone(estimator).set_params(scheduler="local").fit(*data)
    first = clone(estimator).set_params(scheduler="local", checkpoint=str(tmp_path))
    interrupt(first, data, tmp_path)
    resumed = clone(estimator).set_params(scheduler="local").fit(*data, resume=str(tmp_path))
    np.testing.assert_array_equal(getattr(resumed, attribute), getattr(whole, attribute))
    assert len(resumed.history_) == len(whole.history_)
    assert not list(tmp_path.rglob("manifest.json"))


def test_another_fit_is_refused_with_what_differs(tmp_path):
    interrupt(
        LDA(5, max_iter=300, random_state=0, checkpoint=str(tmp_path), scheduler="local"),
        (DOCUMENTS,),
        tmp_path,
    )
    other = LDA(6, max_iter=300, random_state=0, scheduler="local")
    with pytest.raises(CheckpointError, match="is of another fit: tables"):
        other.fit(DOCUMENTS, resume=str(tmp_path))
    begun = LDA(5, max_iter=300, random_state=0, scheduler="local", checkpoint=str(tmp_path))
    with pytest.raises(CheckpointError, match="go on from them with"):
        begun.fit(DOCUMENTS)
    assert list(tmp_path.rglob("manifest.json")), "nothing was lost"


def test_resume_is_for_one_fit_only(tmp_path):
    model = LDA(5, max_iter=5, random_state=0, scheduler="local")
    with pytest.raises(CheckpointError, match="no checkpoint to go on from"):
        model.fit(DOCUMENTS, resume=str(tmp_path))
    assert model.fit(DOCUMENTS).n_iter_ == 5


def test_an_estimator_without_checkpoints_has_no_parameter_for_them():
    assert "checkpoint" not in Lasso().get_params()
