"""MatrixFactorization: what it finds, what it takes, what it refuses."""

from __future__ import annotations

import gzip
import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from dask_petuum.algorithms.matrix_factorization import MatrixFactorization

SOLVERS = ("ccd", "sgd")


def planted(n_users=300, n_items=200, rank=4, density=0.3, noise=0.05, seed=0):
    """A low-rank matrix with biases: ratings seen, and all of them without noise."""
    rng = np.random.default_rng(seed)
    full = rng.standard_normal((n_users, rank)) @ rng.standard_normal((rank, n_items))
    full += 3 + rng.normal(0, 0.5, (n_users, 1)) + rng.normal(0, 0.5, (1, n_items))
    seen = sp.csr_array(rng.random(full.shape) < density).tocoo()
    values = full[seen.row, seen.col] + noise * rng.standard_normal(seen.nnz)
    return sp.csr_array((values, (seen.row, seen.col)), shape=full.shape), full


def model(rank=4, **keywords):
    return MatrixFactorization(
        rank, **{"alpha": 1e-3, "random_state": 0, "scheduler": "local", "n_jobs": 1, **keywords}
    )


def rebuilt(fitted):
    product = fitted.user_factors_ @ fitted.item_factors_.T
    return fitted.mean_ + fitted.user_bias_[:, None] + fitted.item_bias_ + product


def objective(fitted, ratings, alpha, alpha_bias, weighted):
    """The documented objective, the slow way."""
    coo = ratings.tocoo()
    error = coo.data - rebuilt(fitted)[coo.row, coo.col]
    out = float((error**2).sum())
    for factors, bias, counts in (
        (fitted.user_factors_, fitted.user_bias_, np.bincount(coo.row, minlength=coo.shape[0])),
        (fitted.item_factors_, fitted.item_bias_, np.bincount(coo.col, minlength=coo.shape[1])),
    ):
        counts = counts if weighted else np.ones_like(counts)
        out += alpha * float(counts @ (factors.astype(float) ** 2).sum(axis=1))
        out += alpha_bias * float(counts @ bias.astype(float) ** 2)
    return out


@pytest.mark.parametrize("solver", SOLVERS)
def test_recovers_a_planted_matrix(solver):
    ratings, full = planted()
    fitted = model(solver=solver, max_iter=60 if solver == "sgd" else 30, tol=0).fit(ratings)
    error = rebuilt(fitted) - full  # all entries, most of them never seen
    assert np.sqrt(np.mean(error**2)) < (0.06 if solver == "ccd" else 0.2)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fit_biases", [True, False])
@pytest.mark.parametrize("rank", [1, 7, 12])
def test_ccd_never_raises_the_objective(weighted, fit_biases, rank):
    ratings, _ = planted(60, 40, noise=0.5)
    alpha, alpha_bias = (0.05, 0.02) if weighted else (1.0, 0.5)
    values = [
        objective(
            model(
                rank,
                alpha=alpha,
                alpha_bias=alpha_bias,
                weighted=weighted,
                fit_biases=fit_biases,
                tol=0,
                max_iter=n_passes,
            ).fit(ratings),
            ratings,
            alpha,
            alpha_bias,
            weighted,
        )
        for n_passes in (1, 2, 3, 5, 8, 40)
    ]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize("weighted", [True, False])
def test_ccd_ends_where_the_gradient_is_zero(weighted):
    ratings, _ = planted(40, 30, rank=2, noise=0.3)
    alpha = 0.05 if weighted else 1.0
    fitted = model(2, alpha=alpha, weighted=weighted, tol=0, max_iter=300).fit(ratings)
    coo = ratings.tocoo()
    error = coo.data - rebuilt(fitted)[coo.row, coo.col]
    residual = sp.csr_array((error, (coo.row, coo.col)), shape=coo.shape)
    for matrix, own, other, bias in (
        (residual, fitted.user_factors_, fitted.item_factors_, fitted.user_bias_),
        (residual.T, fitted.item_factors_, fitted.user_factors_, fitted.item_bias_),
    ):
        counts = np.diff(sp.csr_array(matrix).indptr) if weighted else np.ones(matrix.shape[0])
        gradient = matrix @ other - alpha * counts[:, None] * own
        assert np.abs(gradient).max() < 5e-3 * np.abs(matrix).sum(axis=1).max()
        slope = matrix.sum(axis=1) - alpha * counts * bias
        assert np.abs(slope).max() < 5e-3 * np.abs(matrix).sum(axis=1).max()


@pytest.mark.parametrize("solver", SOLVERS)
def test_history_is_the_error_and_falls(solver):
    ratings, _ = planted()
    fitted = model(solver=solver, tol=0, max_iter=12).fit(ratings)
    errors = [record["rmse"] for record in fitted.history_]
    assert [record["pass"] for record in fitted.history_] == list(range(1, 13))
    assert fitted.n_iter_ == 12
    assert errors[-1] < errors[0]
    if solver == "ccd":
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == pytest.approx(-fitted.score(ratings), rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_threads_do_not_change_the_result(solver):
    ratings, _ = planted(900, 700, density=0.35)
    one, three = (model(8, solver=solver, max_iter=3, n_jobs=n).fit(ratings) for n in (1, 3))
    np.testing.assert_array_equal(one.user_factors_, three.user_factors_)
    np.testing.assert_array_equal(one.item_factors_, three.item_factors_)
    np.testing.assert_array_equal(one.item_bias_, three.item_bias_)
    assert [r["rmse"] for r in one.history_] == [r["rmse"] for r in three.history_]


@pytest.mark.parametrize("solver", SOLVERS)
def test_unit_of_the_ratings_does_not_matter(solver):
    ratings, _ = planted()
    small = model(solver=solver, alpha=0.02, max_iter=10, alpha_bias=0.01).fit(ratings)
    # e^2 grows by 100^2, |p|^2 by 100, b^2 by 100^2
    large = model(solver=solver, alpha=2.0, max_iter=10, alpha_bias=0.01).fit(ratings * 100.0)
    np.testing.assert_allclose(rebuilt(large), 100 * rebuilt(small), rtol=0.02, atol=5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_biases_there_are_none(solver):
    ratings, _ = planted()
    fitted = model(5, solver=solver, fit_biases=False, max_iter=15).fit(ratings)
    assert fitted.mean_ == 0
    assert not fitted.user_bias_.any()
    assert not fitted.item_bias_.any()
    assert fitted.user_factors_.shape == (300, 5)
    assert fitted.item_factors_.shape == (200, 5)
    assert -fitted.score(ratings) < 1.0


def three_columns(ratings):
    coo = ratings.tocoo()
    users = np.array([f"u{k:04d}" for k in range(coo.shape[0])], object)[coo.row]
    return users, 7 * coo.col + 100, coo.data


@pytest.mark.parametrize("kind", ["tuple", "pandas", "array", "dask", "permuted"])
def test_three_columns_are_the_matrix(kind):
    ratings, _ = planted(60, 40)
    users, items, values = three_columns(ratings)
    expected = model(max_iter=5).fit(ratings)
    frame = pd.DataFrame({"who": users, "what": items, "stars": values})
    if kind == "array":
        coo = ratings.tocoo()
        users = coo.row
        X = np.column_stack([users, items, values])
    elif kind == "pandas":
        X = frame
    elif kind == "dask":
        import dask.dataframe as dd

        X = dd.from_pandas(frame, npartitions=3)
    elif kind == "permuted":
        order = np.argsort(users.astype(str), kind="stable")
        X = (users[order], items[order], values[order])
    else:
        X = (users, items, values)
    fitted = model(max_iter=5).fit(X)
    by_id = np.argsort(fitted.users_.astype(str) if kind != "array" else fitted.users_)
    np.testing.assert_array_equal(fitted.users_[by_id], np.unique(users))
    np.testing.assert_array_equal(fitted.items_, 7 * np.arange(40) + 100)
    assert -fitted.score(X) == pytest.approx(-expected.score(ratings), rel=1e-3)
    np.testing.assert_allclose(
        fitted.predict((users, items)), expected.predict(ratings).data, rtol=1e-2, atol=1e-2
    )


def test_ids_of_any_hashable_kind():
    users = [("a", 1), ("b", 2), ("a", 1), None.__class__]
    items = [frozenset({1}), "x", 3.5, "x"]
    pairs = np.empty(4, object), np.empty(4, object)
    for k in range(4):
        pairs[0][k], pairs[1][k] = users[k], items[k]
    fitted = model(2, max_iter=3).fit((*pairs, [1.0, 2.0, 3.0, 4.0]))
    assert len(fitted.users_) == 3
    assert len(fitted.items_) == 3
    assert fitted.recommend(("b", 2), 5)[0].tolist() == fitted.recommend(("b", 2), 5)[0].tolist()
    assert "x" not in fitted.recommend(("b", 2), 5)[0].tolist()
    assert fitted.predict(pairs).shape == (4,)


def test_rows_of_a_list_keep_the_types_of_their_ids():
    rows = [(7, "rum", 5.0), (7, "tea", 1.0), (8, "rum", 4.0), (9, "tea", 2.0)]
    fitted = model(2).fit(rows)
    columns = model(2).fit(tuple(zip(*rows, strict=True)))
    assert fitted.users_.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(fitted.user_factors_, columns.user_factors_)
    pairs = [(9, "rum"), (7, "tea"), (1, "tea")]
    users, items = zip(*pairs, strict=True)
    np.testing.assert_array_equal(fitted.predict(pairs), columns.predict((users, items)))
    assert fitted.predict([(7, "rum")])[0] != fitted.predict([("7", "rum")])[0]


def test_unknown_ids_are_predicted_from_what_is_known():
    ratings, _ = planted(60, 40)
    users, items, values = three_columns(ratings)
    fitted = model(max_iter=5).fit((users, items, values))
    found = fitted.predict((["u0003", "nobody", "nobody"], [-1, 107, -5]))
    np.testing.assert_allclose(
        found,
        [
            fitted.mean_ + fitted.user_bias_[3],
            fitted.mean_ + fitted.item_bias_[1],
            fitted.mean_,
        ],
        rtol=1e-6,
    )
    chosen, scores = fitted.recommend("nobody", 3)
    order = np.argsort(-fitted.item_bias_, kind="stable")[:3]
    np.testing.assert_array_equal(chosen, fitted.items_[order])
    assert scores[0] >= scores[1] >= scores[2]
    with pytest.raises(ValueError, match="item 'tea' is unknown"):
        fitted.similar_items("tea")


@pytest.mark.parametrize("solver", SOLVERS)
def test_empty_rows_and_columns_are_zero(solver):
    ratings, _ = planted(60, 40)
    wide = sp.csr_array((ratings.data, ratings.indices * 2, np.repeat(ratings.indptr, 2)[1:]))
    wide.resize((121, 85))
    fitted = model(solver=solver, max_iter=4).fit(wide)
    for factors, bias, counts in (
        (fitted.user_factors_, fitted.user_bias_, np.diff(wide.indptr)),
        (fitted.item_factors_, fitted.item_bias_, np.bincount(wide.indices, minlength=85)),
    ):
        assert np.isfinite(factors).all()
        assert not factors[counts == 0].any()
        assert not bias[counts == 0].any()
        assert factors[counts > 0].any(axis=1).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [0.0, 4.5])
def test_one_rating(solver, value):
    fitted = model(solver=solver, max_iter=3).fit((["me"], ["it"], [value]))
    assert fitted.predict((["me"], ["it"]))[0] == pytest.approx(value, abs=0.1)
    assert fitted.recommend("me")[0].tolist() == []
    assert fitted.recommend("me", exclude_seen=False)[0].tolist() == ["it"]


def test_stored_zeros_are_ratings():
    ratings = sp.csr_array((np.array([0.0, 5.0, 5.0, 0.0]), ([0, 0, 1, 1], [0, 1, 0, 1])))
    assert ratings.nnz == 4
    fitted = model(2, max_iter=20, alpha=1e-4).fit(ratings)
    assert fitted.mean_ == 2.5
    assert -fitted.score(ratings) < 0.1


def test_recommend_and_similar_items_against_all_scores():
    ratings, _ = planted(60, 40)
    fitted = model(max_iter=5).fit(ratings)
    for exclude in (True, False):
        items, scores = fitted.recommend(7, 5, exclude_seen=exclude)
        full = rebuilt(fitted)[7].copy()
        if exclude:
            full[ratings[[7]].indices] = -np.inf
        np.testing.assert_array_equal(items, np.argsort(-full, kind="stable")[:5])
        np.testing.assert_allclose(scores, full[items], rtol=1e-5)
    items, cosines = fitted.similar_items(3, 39)
    factors = fitted.item_factors_.astype(float)
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    assert 3 not in items
    assert len(items) == 39
    np.testing.assert_allclose(cosines, (unit @ unit[3])[items], rtol=1e-4, atol=1e-5)
    assert (np.diff(cosines) <= 0).all()
    bare = model(max_iter=2, keep_seen=False).fit(ratings)
    with pytest.raises(ValueError, match="keep_seen=False"):
        bare.recommend(0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_early_stopping_watches_held_out_ratings(solver):
    ratings, _ = planted(density=0.15, noise=1.0)
    keywords = {"alpha": 1e-4, "early_stopping": True, "max_iter": 50, "validation_fraction": 0.2}
    fitted = model(16, solver=solver, **keywords).fit(ratings)
    held = [record["validation_rmse"] for record in fitted.history_]
    assert fitted.n_iter_ < 50
    assert min(held[-2:]) > min(held[:-2]) * (1 - 1e-3)
    assert np.isfinite(held).all()
    assert held[-1] > fitted.history_[-1]["rmse"]
    assert fitted.recommend(0, 200)[0].size == 200 - len(ratings[[0]].indices)


def test_stops_when_the_error_stays():
    ratings, _ = planted()
    fitted = model(max_iter=200, tol=1e-2).fit(ratings)
    assert fitted.n_iter_ < 40
    errors = [record["rmse"] for record in fitted.history_]
    assert min(errors[-2:]) > min(errors[:-2]) * (1 - 1e-2)


def test_partial_fit_learns_new_users_and_items_only():
    ratings, full = planted(300, 200)
    fitted = model(tol=0, max_iter=30).fit(ratings[:270, :180])
    before = [a.copy() for a in (fitted.user_factors_, fitted.item_factors_, fitted.user_bias_)]
    assert fitted.partial_fit(ratings) is fitted
    np.testing.assert_array_equal(fitted.user_factors_[:270], before[0])
    np.testing.assert_array_equal(fitted.item_factors_[:180], before[1])
    np.testing.assert_array_equal(fitted.user_bias_[:270], before[2])
    assert fitted.user_factors_.shape == (300, 4)
    assert fitted.n_features_in_ == 200
    error = rebuilt(fitted) - full
    for part in (error[270:, :180], error[:270, 180:], error[270:, 180:]):
        assert np.sqrt(np.mean(part**2)) < 0.15
    assert fitted.recommend(299, 200)[0].size == 200 - len(ratings[[299]].indices)
    assert fitted.recommend(0, 200)[0].size == 200 - len(ratings[[0]].indices)


def test_partial_fit_with_ids_and_from_nothing():
    ratings, _ = planted(60, 40)
    users, items, values = three_columns(ratings)
    fitted = model(max_iter=8).partial_fit((users, items, values))
    old = fitted.user_factors_.copy()
    fitted.partial_fit((["new", "new", "u0001"], [100, 999, 999], [5.0, 1.0, 2.0]))
    assert fitted.users_[-1] == "new"
    assert fitted.items_[-1] == 999
    np.testing.assert_array_equal(fitted.user_factors_[:60], old)
    found = fitted.predict((["new", "new"], [100, 999]))
    assert found[0] > found[1] + 2
    assert 999 not in fitted.recommend("u0001", 50)[0]
    assert 999 not in fitted.recommend("new", 50)[0]
    assert 999 in fitted.recommend("u0002", 50)[0]
    n_users = len(fitted.users_)
    fitted.partial_fit((["u0001"], [100 + 7 * 39], [1.0]))
    assert len(fitted.users_) == n_users


def test_predictions_are_as_lazy_as_the_pairs():
    import dask.array as da
    import dask.dataframe as dd

    ratings, _ = planted(60, 40)
    fitted = model(max_iter=3).fit(ratings)
    coo = ratings.tocoo()
    expected = fitted.predict((coo.row, coo.col))
    np.testing.assert_array_equal(fitted.predict(ratings).data, expected)
    frame = dd.from_pandas(pd.DataFrame({"u": coo.row, "i": coo.col}), npartitions=3)
    found = fitted.predict(frame)
    assert hasattr(found, "dask")
    np.testing.assert_array_equal(found.compute().to_numpy(), expected)
    pairs = da.from_array(np.column_stack([coo.row, coo.col]), chunks=(100, 1))
    np.testing.assert_array_equal(fitted.predict(pairs).compute(), expected)
    lazy = da.from_array(ratings[:30], chunks=-1).map_blocks(
        sp.csr_array, meta=sp.csr_array((0, 0))
    )
    assert model(max_iter=2).fit(lazy).user_factors_.shape == (30, 4)


BAD_DATA = [
    (np.ones((5, 4)), "3 columns: user, item, rating"),
    (np.ones(5), "3 columns"),
    (([1, 2], [1, 2]), "got 2 columns"),
    (([1, 2], [1, 2], [1.0]), "columns of shapes"),
    (([1, 1], [2, 2], [1.0, 2.0]), "1 ratings of a pair"),
    (([1, 1], [2, 3], [1.0, np.nan]), "must be finite .*got nan"),
    (([1, 1], [2, 3], ["a", "b"]), "must be real numbers"),
    (([1.0, np.nan], [2, 3], [1.0, 2.0]), "user id that is missing"),
    ((["a", "b"], np.array(["x", None], object), [1.0, 2.0]), "item id that is missing"),
    (sp.csr_array((4, 3)), "no rating to train on"),
    (sp.csr_array((0, 3)), "a user and an item at least"),
    (sp.csr_array(np.array([[1j]])), "must be real numbers"),
    (sp.coo_array(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 2)), "1 ratings of a pair"),
    (pd.DataFrame({"a": [1], "b": [2]}), r"columns \['a', 'b'\]"),
]


@pytest.mark.parametrize(("X", "message"), BAD_DATA)
def test_bad_data_is_refused(X, message):
    with pytest.raises(ValueError, match=message):
        model().fit(X)


def test_unhashable_ids_are_refused():
    users = np.empty(2, object)
    users[:] = [[1], [2]]
    with pytest.raises(TypeError, match="user id must be hashable"):
        model().fit((users, [1, 2], [1.0, 2.0]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"alpha": -1}, "alpha must be"),
        ({"alpha_bias": -0.5}, "alpha_bias"),
        ({"solver": "als"}, "solver must be 'ccd' or 'sgd', got 'als'"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"n_iter_no_change": 0}, "n_iter_no_change"),
        ({"validation_fraction": 1.0}, "validation_fraction must be < 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"solver": "sgd", "schedule": "any"}, "schedule must be 'fixed' or 'free', got 'any'"),
        ({"schedule": "free"}, "schedule='free' needs solver='sgd', got 'ccd'"),
    ],
)
def test_bad_parameters_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        MatrixFactorization(scheduler="local").set_params(**keywords).fit(sp.eye_array(4).tocsr())


def test_clone_pickle_and_names():
    ratings, _ = planted(60, 40)
    fitted = model(max_iter=3).fit(ratings)
    again = clone(fitted).fit(ratings)
    np.testing.assert_array_equal(again.user_factors_, fitted.user_factors_)
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.predict(ratings).data, fitted.predict(ratings).data)
    assert "alpha=0.001" in repr(fitted)
    with pytest.raises(NotFittedError):
        model().predict(ratings)


@pytest.mark.parametrize(
    "name",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_scikit_learn_checks_that_need_no_table(name):
    """The others fit dense tables, which are no ratings."""
    check = getattr(estimator_checks, name)
    estimator = MatrixFactorization()
    if name in ("check_estimator_cloneable", "check_estimator_repr"):
        check(type(estimator).__name__, estimator)
    else:
        check(type(estimator).__name__, estimator)


def movielens():
    folder = Path(os.environ.get("PETUUM_DATA", "../shared/data"))
    file = folder / "movielens-small" / "ratings.csv.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with gzip.open(file) as stream:
        frame = pd.read_csv(stream)[["userId", "movieId", "rating"]]
    order = np.random.default_rng(0).permutation(len(frame))
    cut = len(frame) * 9 // 10
    return frame.iloc[order[:cut]], frame.iloc[order[cut:]]


@pytest.mark.parametrize("solver", SOLVERS)
def test_movielens_is_predicted_as_well_as_by_others(solver):
    train, test = movielens()
    fitted = model(40, alpha=0.12, solver=solver, max_iter=30).fit(train)
    assert -fitted.score(test) < (0.872 if solver == "ccd" else 0.89)  # cmfrec's best: 0.868
    biases = model(1, alpha=10.0, alpha_bias=0.03, solver=solver, max_iter=30).fit(train)
    assert -fitted.score(test) < -biases.score(test)
