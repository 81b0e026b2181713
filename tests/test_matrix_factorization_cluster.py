"""MatrixFactorization on worker processes gives what it gives in this process."""

from __future__ import annotations

import itertools

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from test_matrix_factorization import planted

from dask_petuum.algorithms.matrix_factorization import MatrixFactorization

PARTS = (50, 120, 60, 70)
RATINGS, FULL = planted(300, 200, noise=0.3)


def lazy(ratings=RATINGS, parts=PARTS):
    """The ratings as a Dask array of sparse chunks."""
    bounds = np.cumsum((0, *parts))
    empty = sp.csr_array((0, 0))
    return da.concatenate(
        [
            da.from_delayed(
                dask_value(ratings[low:high]), (high - low, ratings.shape[1]), meta=empty
            )
            for low, high in itertools.pairwise(bounds)
        ]
    )


def dask_value(value):
    from dask import delayed

    return delayed(value)


def model(solver, client=None, **keywords):
    scheduler = "local" if client is None else None
    settings = {"alpha": 0.01, "max_iter": 4, "tol": 0, "random_state": 0, "scheduler": scheduler}
    out = MatrixFactorization(6, solver=solver, **{**settings, **keywords})
    out.client = client
    return out


@pytest.mark.parametrize("solver", ["ccd", "sgd"])
def test_a_staleness_changes_when_a_fit_ends_and_no_factor(client, solver):
    exact = model(solver, client).fit(lazy())
    ahead = model(solver, client, consistency="essp", staleness=1).fit(lazy())
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if solver == "ccd" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(ahead.user_factors_, exact.user_factors_, **tolerance)
    np.testing.assert_allclose(ahead.item_factors_, exact.item_factors_, **tolerance)
    errors = [record["rmse"] for record in exact.history_]
    assert [record["rmse"] for record in ahead.history_] == pytest.approx(errors, rel=1e-4)
    stopping = {"tol": 1e-2, "max_iter": 60, "n_iter_no_change": 1}
    bsp = model(solver, client, **stopping).fit(lazy())
    essp = model(solver, client, consistency="essp", staleness=1, **stopping).fit(lazy())
    assert bsp.n_iter_ < 60
    assert essp.n_iter_ == bsp.n_iter_ + 1


def test_factors_that_move_need_a_bound():
    with pytest.raises(ValueError, match="cannot be 'asp'"):
        model("sgd", consistency="asp").fit(RATINGS)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["ccd", "sgd"])
def test_equals_a_local_fit_of_the_same_partitions(client, solver, early_stopping):
    local = model(solver, early_stopping=early_stopping).fit(lazy())
    far = model(solver, client, early_stopping=early_stopping).fit(lazy())
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if solver == "ccd" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(far.user_factors_, local.user_factors_, **tolerance)
    np.testing.assert_allclose(far.item_factors_, local.item_factors_, **tolerance)
    np.testing.assert_allclose(far.item_bias_, local.item_bias_, **tolerance)
    assert len(far.history_) == len(local.history_) == 4
    for a, b in zip(far.history_, local.history_, strict=True):
        assert a["rmse"] == pytest.approx(b["rmse"], rel=1e-4)
    np.testing.assert_array_equal(far.recommend(60)[0], local.recommend(60)[0])


@pytest.mark.parametrize("place", ["local", "cluster"])
def test_free_order_learns_as_much_a_pass_as_the_fixed_one(request, place):
    """One partition has most of the ratings: the others have its blocks in between."""
    client = request.getfixturevalue("client") if place == "cluster" else None
    uneven = lazy(parts=(210, 40, 30, 20))
    fixed, free = (
        model("sgd", client, schedule=schedule, max_iter=12).fit(uneven)
        for schedule in ("fixed", "free")
    )
    assert free.n_iter_ == fixed.n_iter_ == 12
    # the first passes end elsewhere in the descent: the cells are smaller
    for a, b in zip(free.history_[3:], fixed.history_[3:], strict=True):
        assert a["rmse"] < 1.05 * b["rmse"]
    assert rebuilt_error(free) < 1.05 * rebuilt_error(fixed)


def rebuilt_error(fitted):
    """Error of all entries, most of them never seen, without their noise."""
    product = fitted.user_factors_ @ fitted.item_factors_.T
    rebuilt = fitted.mean_ + fitted.user_bias_[:, None] + fitted.item_bias_ + product
    return float(np.sqrt(np.mean((rebuilt - FULL) ** 2)))


def test_free_order_of_one_partition_is_the_fixed_one():
    fixed, free = (model("sgd", schedule=schedule).fit(RATINGS) for schedule in ("fixed", "free"))
    np.testing.assert_array_equal(free.user_factors_, fixed.user_factors_)
    np.testing.assert_array_equal(free.item_factors_, fixed.item_factors_)


def test_ccd_in_partitions_is_ccd_in_one():
    whole = model("ccd").fit(RATINGS)
    parts = model("ccd").fit(lazy())
    np.testing.assert_allclose(parts.user_factors_, whole.user_factors_, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(parts.item_factors_, whole.item_factors_, rtol=1e-2, atol=1e-3)
    for a, b in zip(parts.history_, whole.history_, strict=True):
        assert a["rmse"] == pytest.approx(b["rmse"], rel=1e-3)


@pytest.mark.parametrize("solver", ["ccd", "sgd"])
def test_memory_and_frames_on_the_cluster(client, solver):
    coo = RATINGS.tocoo()
    frame = pd.DataFrame({"user": coo.row + 5, "item": coo.col.astype(str), "stars": coo.data})
    frame = frame.sample(frac=1.0, random_state=0)
    expected = -model(solver, max_iter=10).fit(RATINGS).score(RATINGS)
    for X in (frame, dd.from_pandas(frame, npartitions=3)):
        fitted = model(solver, client, max_iter=10).fit(X)
        np.testing.assert_array_equal(fitted.users_, np.arange(300) + 5)
        assert sorted(fitted.items_.astype(int).tolist()) == list(range(200))
        assert -fitted.score(frame) == pytest.approx(expected, rel=0.2)
        items, _ = fitted.recommend(65, 200)
        assert set(items) == set(fitted.items_) - set(frame.item[frame.user == 65])


def test_bad_pieces_are_refused_before_the_run(client):
    with pytest.raises(TypeError, match="dense matrix of ratings"):
        model("ccd", client).fit(da.ones((20, 5), chunks=(10, 5)))
    bad = RATINGS.copy()
    bad.data[7] = np.inf
    with pytest.raises(ValueError, match="must be finite"):
        model("sgd", client).fit(lazy(bad))
    frame = pd.DataFrame({"u": [1, 1, 2], "i": [3, 3, 4], "r": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="1 ratings of a pair"):
        model("ccd", client).fit(dd.from_pandas(frame, npartitions=2))
