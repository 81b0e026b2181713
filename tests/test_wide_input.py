"""Dask arrays with chunks along both axes: linear models fit them, and the workers share them."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_petuum.algorithms.lasso import ElasticNet, Lasso
from dask_petuum.algorithms.linear_svc import LinearSVC
from dask_petuum.algorithms.logistic_regression import LogisticRegression
from dask_petuum.data import open_dataset
from dask_petuum.runtime.cluster_job import ClusterJob

RNG = np.random.default_rng(8)
X = RNG.standard_normal((120, 300)) * (RNG.random((120, 300)) < 0.5)
SCORES = X[:, :6] @ [3.0, -2.0, 2.0, 1.5, -1.0, 1.0] + 0.2 * RNG.standard_normal(120)
LABELS = (SCORES > 0).astype(int)
MODELS: dict[str, tuple[Any, Any]] = {
    "Lasso": (Lasso(alpha=0.05, tol=1e-10), SCORES),
    "ElasticNet": (ElasticNet(alpha=0.05, l1_ratio=0.6, tol=1e-10), SCORES),
    "LogisticRegression": (LogisticRegression(C=0.5, l1_ratio=1.0, tol=1e-8), LABELS),
    "LogisticRegression, l2": (LogisticRegression(C=0.5, tol=1e-8), LABELS),
    "LinearSVC": (LinearSVC(C=0.05, tol=1e-8), LABELS),
}
#: One row chunk and many column chunks; both.
CHUNKS = {"wide": (120, 75), "both": (60, 110)}


def lazy(chunks: tuple[int, int], is_sparse: bool) -> Any:
    out = da.from_array(X, chunks=chunks)
    return out.map_blocks(sp.csr_array, meta=sp.csr_array((0, 0))) if is_sparse else out


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("name", MODELS)
def test_a_wide_fit_is_that_of_the_same_data_in_memory(client: Any, name: str, chunks: str) -> None:
    model, target = MODELS[name]
    is_sparse = chunks == "both"
    here = type(model)(**{**model.get_params(), "scheduler": "local"})
    here.fit(sp.csr_array(X) if is_sparse else X, target)
    far = type(model)(**model.get_params())
    far.client = client
    far.fit(lazy(CHUNKS[chunks], is_sparse), da.from_array(target, chunks=50))
    np.testing.assert_allclose(far.coef_, here.coef_, atol=2e-4)
    predicted = far.predict(lazy(CHUNKS[chunks], is_sparse)).compute()
    np.testing.assert_allclose(predicted, here.predict(X), atol=2e-3)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_no_worker_holds_more_than_its_share(client: Any, chunks: str) -> None:
    with ClusterJob(client, open_dataset(lazy(CHUNKS[chunks], False))) as job:
        shares = job.map(lambda partition: partition.data.nbytes)
        assert len(set(job._partitions.ranks)) == 4
    assert shares == [X.nbytes // 4] * 4
