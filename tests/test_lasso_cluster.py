"""Lasso and ElasticNet on four worker processes give what they give in this process."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_petuum.algorithms import lasso_ranks
from dask_petuum.algorithms.lasso import ElasticNet, Lasso

RNG = np.random.default_rng(5)
WIDE = RNG.standard_normal((400, 700)) + 2.0
WIDE *= RNG.random(WIDE.shape) < 0.4
TARGET = WIDE[:, :8] @ RNG.standard_normal(8) + 0.3 * RNG.standard_normal(400) + 7.0
WEIGHTS = RNG.uniform(0.1, 2.0, 400)
PARTS = (50, 150, 100, 30, 70)


def lazy(values, sparse=False):
    chunks = (PARTS, -1) if values.ndim == 2 else (PARTS,)
    out = da.from_array(values, chunks=chunks)
    return out.map_blocks(sp.csr_array, meta=sp.csr_array(values[:0])) if sparse else out


def fit(model, client, *data, **keywords):
    model.client = client
    return model.fit(*data, **keywords)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_equal_to_the_fit_in_this_process(client, sparse, weighted):
    settings = {"alpha": 0.05, "l1_ratio": 0.9, "tol": 1e-11}
    weights = WEIGHTS if weighted else None
    here = ElasticNet(**settings, scheduler="local")
    here.fit(sp.csr_array(WIDE) if sparse else WIDE, TARGET, sample_weight=weights)
    data = lazy(WIDE, sparse), lazy(TARGET)
    far = fit(
        ElasticNet(**settings),
        client,
        *data,
        sample_weight=None if weights is None else lazy(weights),
    )
    np.testing.assert_allclose(far.coef_, here.coef_, rtol=0, atol=1e-8)
    assert far.intercept_ == pytest.approx(here.intercept_, abs=1e-8)
    assert far.dual_gap_ <= 1e-11 * TARGET.var() * 2


def test_rows_in_memory_go_to_the_workers(client):
    here = Lasso(alpha=0.1, tol=1e-10, scheduler="local").fit(WIDE, TARGET)
    far = fit(Lasso(alpha=0.1, tol=1e-10), client, WIDE, TARGET)
    np.testing.assert_allclose(far.coef_, here.coef_, rtol=0, atol=1e-8)
    assert far.history_[-1]["n_nonzero"] == np.count_nonzero(here.coef_)


def test_a_set_that_outgrows_its_table_gets_a_larger_one(client, monkeypatch):
    monkeypatch.setattr(lasso_ranks, "CAPACITY", 16)
    here = Lasso(alpha=0.02, tol=1e-10, scheduler="local").fit(WIDE, TARGET)
    assert np.count_nonzero(here.coef_) > 16
    far = fit(Lasso(alpha=0.02, tol=1e-10), client, lazy(WIDE), lazy(TARGET))
    np.testing.assert_allclose(far.coef_, here.coef_, rtol=0, atol=1e-8)
    clocks = [record["clock"] for record in far.history_]
    assert clocks == list(range(len(clocks)))


def test_warm_starts_and_float32(client):
    rows = WIDE.astype(np.float32)
    model = fit(Lasso(alpha=0.1, tol=1e-8, warm_start=True), client, lazy(rows), lazy(TARGET))
    assert model.coef_.dtype == np.float32
    model.set_params(tol=1e-6)
    again = fit(model, client, lazy(rows), lazy(TARGET))
    assert again.n_iter_ == 0
    here = Lasso(alpha=0.1, tol=1e-8, scheduler="local").fit(rows, TARGET)
    np.testing.assert_allclose(again.coef_, here.coef_, rtol=0, atol=1e-5)


def test_bad_values_are_found_where_they_lie(client):
    bad = WIDE.copy()
    bad[77, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit(Lasso(), client, lazy(bad), lazy(TARGET))
    with pytest.raises(ValueError, match="y contains NaN"):
        fit(Lasso(), client, lazy(WIDE), lazy(np.where(np.arange(400) == 3, np.nan, TARGET)))
