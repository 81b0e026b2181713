"""LogisticRegression: partitions, ranks, certificates, kernels against naive twins, refusals."""

from __future__ import annotations

from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import log_softmax, softmax, xlogy
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning

from dask_petuum.algorithms.kernels.logistic import descend_quadratic, look_at_rows
from dask_petuum.algorithms.kernels.logistic_columns import (
    add_rows,
    balance,
    count_columns,
    dual_entropy,
    gather_columns,
    newton_on_columns,
    slopes,
)
from dask_petuum.algorithms.logistic_objective import LogisticObjective, lower_bound
from dask_petuum.algorithms.logistic_regression import LogisticRegression

ROWS, LABELS = make_classification(
    900, 20, n_informative=10, n_classes=4, class_sep=1.0, random_state=0
)
PARTS = (300, 250, 350)
NOTHING = np.empty(0, dtype=np.int32)


def lazy(values, sparse=False):
    chunks = (PARTS, -1) if values.ndim == 2 else (PARTS,)
    out = da.from_array(values, chunks=chunks)
    return out.map_blocks(sp.csr_array, meta=sp.csr_array(values[:0])) if sparse else out


def local(**parameters):
    return LogisticRegression(**{"scheduler": "local", "C": 0.05, **parameters})


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("sparse", [False, True])
def test_partitions_reach_the_same_solution(solver, l1_ratio, n_classes, sparse):
    labels = LABELS % n_classes
    parameters = {"solver": solver, "l1_ratio": l1_ratio, "tol": 1e-5}
    whole = local(**{**parameters, "solver": "auto"}).fit(ROWS, labels)
    parts = local(**parameters).fit(lazy(ROWS, sparse), lazy(labels))
    for model in (whole, parts):
        assert 0 <= model.dual_gap_ <= 1e-5 * model.objective_
    assert parts.objective_ == pytest.approx(whole.objective_, rel=2e-5)
    assert parts.objective_ - parts.dual_gap_ <= whole.objective_ * (1 + 1e-12)
    # Under an l1 penalty alone several weights of more than two classes are optimal.
    np.testing.assert_allclose(parts.predict_proba(ROWS), whole.predict_proba(ROWS), atol=0.01)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_ranks_of_a_cluster_give_what_this_process_gives(client, solver, l1_ratio, n_classes):
    labels = LABELS % n_classes
    parameters = {"solver": solver, "l1_ratio": l1_ratio, "tol": 1e-4}
    here = local(**parameters).fit(lazy(ROWS, True), lazy(labels))
    far = local(**{**parameters, "scheduler": None})
    far.client = client
    far.fit(lazy(ROWS, True), lazy(labels))
    np.testing.assert_allclose(far.coef_, here.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(far.intercept_, here.intercept_, rtol=1e-5, atol=1e-7)
    assert far.n_iter_ == here.n_iter_
    assert far.dual_gap_ <= 1e-4 * far.objective_


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "working-set"])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_gap_bounds_the_distance_to_the_optimum_all_along(solver, l1_ratio):
    if solver == "working-set" and l1_ratio == 0:
        pytest.skip("needs an l1 penalty")
    data = ROWS, LABELS % 2
    best = local(l1_ratio=l1_ratio, tol=1e-11).fit(*data).objective_
    model = local(l1_ratio=l1_ratio, tol=1e-6, solver=solver).fit(*data)
    for record in model.history_:
        assert record["primal"] >= best * (1 - 1e-9)
        assert record["dual"] <= best * (1 + 1e-9)
    values = [record["primal"] for record in model.history_]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(values))


def test_working_sets_stay_small_on_many_columns():
    rng = np.random.default_rng(0)
    rows = sp.random_array((400, 6000), density=0.01, format="csr", rng=rng)
    truth = np.zeros(6000)
    truth[:10] = 8.0
    labels = (rows @ truth - 0.4 + 0.2 * rng.standard_normal(400) > 0).astype(int)
    parameters = {"l1_ratio": 1.0, "C": 2.0, "tol": 1e-7}
    model = local(**parameters).fit(rows, labels)
    assert model.dual_gap_ <= 1e-7 * model.objective_
    assert model.history_[-1]["columns"] < 3000
    other = local(**{**parameters, "tol": 1e-4}, solver="lbfgs").fit(rows, labels)
    assert other.objective_ == pytest.approx(model.objective_, rel=2e-4)
    single = local(**parameters).fit(rows.astype(np.float32), labels)
    assert single.coef_.dtype == single.intercept_.dtype == np.float32
    assert single.objective_ == pytest.approx(model.objective_, rel=1e-4)
    again = local(**parameters, n_jobs=1).fit(rows, labels)
    np.testing.assert_array_equal(again.coef_, model.coef_)


def test_strong_penalties_leave_the_intercept_only():
    labels = (LABELS == 0).astype(int)
    model = local(l1_ratio=1.0, C=1e-5, tol=1e-9).fit(ROWS, labels)
    np.testing.assert_array_equal(model.coef_, 0)
    np.testing.assert_allclose(model.intercept_, np.log(labels.mean() / (1 - labels.mean())))


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "working-set"])
def test_warm_start_goes_on_from_the_last_fit(solver):
    labels = LABELS % 2
    parameters = {"l1_ratio": 0.5, "solver": solver, "tol": 1e-6}
    model = local(**parameters, warm_start=True).fit(ROWS, labels)
    cold = model.n_iter_
    before = model.coef_
    model.fit(ROWS, labels)
    assert model.n_iter_ <= 3 < cold
    np.testing.assert_allclose(model.coef_, before, atol=1e-4)
    model.set_params(solver="auto").fit(
        ROWS[:, :5], LABELS
    )  # other classes and columns: from the beginning
    assert model.coef_.shape == (4, 5)


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "working-set"])
def test_weights_of_zero_drop_rows_and_odd_columns_do_no_harm(solver):
    labels = LABELS % 2
    weights = (np.arange(900) % 3 > 0).astype(float)
    rows = np.hstack([ROWS, np.zeros((900, 1)), np.ones((900, 1)), ROWS[:, :1]])
    rows[5] = 0.0
    parameters = {"l1_ratio": 0.5, "solver": solver, "tol": 1e-7}
    model = local(**parameters).fit(sp.csr_array(rows), labels, sample_weight=weights)
    other = local(**parameters).fit(rows[weights > 0], labels[weights > 0])
    assert model.objective_ == pytest.approx(other.objective_, rel=1e-6)
    assert model.coef_[0, 20] == 0


def test_one_row_per_class():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    model = LogisticRegression(C=100.0, scheduler="local").fit(rows, ["c", "a", "b"])
    np.testing.assert_array_equal(model.predict(rows), ["c", "a", "b"])
    model = LogisticRegression(fit_intercept=False, scheduler="local").fit(rows[:2], [0, 1])
    np.testing.assert_array_equal(model.intercept_, 0)


def test_hardly_any_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="did not converge in max_iter=2 clocks"):
        model = local(max_iter=2, tol=1e-9).fit(ROWS, LABELS)
    assert model.n_iter_ == 2
    assert model.dual_gap_ > 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"C": 0}, "C must be a number > 0"),
        ({"l1_ratio": 1.5}, "l1_ratio must be between 0 and 1"),
        ({"tol": -1}, "tol must be a number >= 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
        ({"solver": "saga"}, "solver must be 'auto', 'newton', 'lbfgs' or 'working-set'"),
        ({"solver": "working-set"}, "needs two classes"),
        ({"class_weight": {7: 1.0}}, "class_weight names 7, which is not among"),
        ({"class_weight": {0: 1.0, 1: 0, 2: 0, 3: 0}}, "at least 2 classes with weights above 0"),
    ],
)
def test_refuses_parameters(parameters, message):
    if "class_weight" in parameters and 1 in parameters["class_weight"]:
        weights = (LABELS == 0).astype(float)
        with pytest.raises(ValueError, match=message):
            local().fit(ROWS, LABELS, sample_weight=weights)
        return
    with pytest.raises(ValueError, match=message):
        local(**parameters).fit(ROWS, LABELS)


def test_refuses_rows_and_labels():
    with pytest.raises(ValueError, match="contains only one class"):
        local().fit(ROWS, np.zeros(900))
    broken = ROWS.copy()
    broken[700, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        local().fit(lazy(broken), lazy(LABELS))


# The kernels.


def arrays(rows):
    if sp.issparse(rows):
        return rows.data, rows.indices, rows.indptr
    return rows, NOTHING, NOTHING


def small(n_classes, n_rows=40, n_features=6):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((n_rows, n_features)) * (rng.random((n_rows, n_features)) < 0.5)
    codes = rng.integers(0, n_classes, n_rows).astype(np.int32)
    return rows, codes, rng.uniform(0.1, 2.0, n_rows)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_rows_equal_their_naive_twin(n_classes, sparse, scale):
    rows, codes, costs = small(n_classes)
    n_columns = 1 if n_classes == 2 else n_classes
    w = scale * np.random.default_rng(2).standard_normal((7, n_columns))
    errors, gradient, sums = np.empty((40, n_columns)), np.zeros((7, n_columns)), np.zeros(2)
    given = arrays(sp.csr_array(rows) if sparse else rows)
    look_at_rows(*given, codes, costs, True, w, (0, 40), errors, gradient, sums)
    scores = rows @ w[:-1] + w[-1]
    if n_columns == 1:
        scores = np.hstack([np.zeros((40, 1)), scores])
    proba, logs = softmax(scores, axis=1), log_softmax(scores, axis=1)
    np.testing.assert_allclose(sums[0], -(costs * logs[np.arange(40), codes]).sum())
    np.testing.assert_allclose(sums[1], costs @ xlogy(proba, proba).sum(1), atol=1e-12)
    expected = costs[:, None] * (proba - np.eye(n_classes)[codes])
    np.testing.assert_allclose(errors, expected[:, -n_columns:], atol=1e-12)
    extended = np.hstack([rows, np.ones((40, 1))])
    np.testing.assert_allclose(gradient, extended.T @ errors, atol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_lower_bound_is_below_every_value(n_classes, l1_ratio, fit_intercept):
    rows, codes, costs = small(n_classes)
    objective = LogisticObjective(
        1.0, l1_ratio, 1 - l1_ratio, fit_intercept, np.arange(n_classes), np.ones(n_classes)
    )
    model = LogisticRegression(l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-10)
    best = model.fit(rows, codes, sample_weight=costs).objective_
    hot = costs[:, None] * np.eye(n_classes)[codes]
    moments = np.vstack([rows.T @ hot, hot.sum(0)])
    rng = np.random.default_rng(3)
    for scale in (0.0, 0.1, 1.0, 5.0):
        w = scale * rng.standard_normal((7, objective.n_columns))
        w[-1] *= fit_intercept
        errors, gradient, sums = np.empty((40, w.shape[1])), np.zeros_like(w), np.zeros(2)
        look_at_rows(*arrays(rows), codes, costs, fit_intercept, w, (0, 40), errors, gradient, sums)
        assert lower_bound(objective, gradient, sums[1], moments) <= best * (1 + 1e-12)


def test_quadratic_satisfies_its_optimality_conditions():
    rng = np.random.default_rng(4)
    root = rng.standard_normal((8, 8))
    matrix, slope, x = root @ root.T + np.eye(8), rng.standard_normal(8), rng.standard_normal(8)
    x[:3] = 0
    l1, d = np.full(8, 0.7), np.empty(8)
    descend_quadratic(matrix, slope, l1, x, 1e-24, d)
    gradient = slope + matrix @ d
    zero = x + d == 0
    assert (np.abs(gradient[zero]) <= 0.7 + 1e-9).all()
    np.testing.assert_allclose(gradient[~zero], -0.7 * np.sign(x + d)[~zero], atol=1e-8)


def test_columns_are_gathered_and_rows_added():
    rows = sp.csr_array(small(2)[0])
    chosen = np.array([4, 1, 5])
    places = np.full(6, -1, dtype=np.int32)
    places[chosen] = np.arange(3)
    ptr = np.empty(4, dtype=np.int64)
    count_columns(rows.indices, places, ptr)
    at, out = np.empty(ptr[-1], dtype=np.int32), np.empty(ptr[-1])
    gather_columns(*arrays(rows), places, ptr, at, out)
    found = sp.csc_array((out, at, ptr), shape=(40, 3)).toarray()
    np.testing.assert_array_equal(found, rows.toarray()[:, chosen])
    factors = np.random.default_rng(5).standard_normal(40)
    for given in (rows, rows.toarray()):
        total = np.zeros(6)
        add_rows(*arrays(given), factors, 10, 30, total)
        np.testing.assert_allclose(total, rows.toarray()[10:30].T @ factors[10:30])


def test_residuals_balance_and_the_entropy_is_that_of_the_dual():
    _, codes, costs = small(2)
    signs = np.where(codes == 1, 1, -1).astype(np.int8)
    scores = np.random.default_rng(6).normal(0, 3, 40)
    residual, bend = np.empty(40), np.empty(40)
    before = scores.copy()
    shift = balance(signs, costs, scores, residual, bend)
    np.testing.assert_allclose(scores, before + shift)
    assert abs(residual.sum()) < 1e-12
    loss = slopes(signs, costs, scores, residual, bend)
    margins = signs * scores
    np.testing.assert_allclose(loss, costs @ np.log1p(np.exp(-margins)))
    wrong = 1 / (1 + np.exp(margins))
    np.testing.assert_allclose(residual, costs * signs * wrong)
    np.testing.assert_allclose(bend, costs * wrong * (1 - wrong))
    p = 0.7 * wrong
    np.testing.assert_allclose(
        dual_entropy(costs, residual, 0.7), -costs @ (xlogy(p, p) + xlogy(1 - p, 1 - p))
    )


@pytest.mark.parametrize("l2", [0.0, 0.5])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_newton_on_columns_reaches_the_optimum(l2, fit_intercept):
    rows, codes, costs = small(2)
    signs = np.where(codes == 1, 1, -1).astype(np.int8)
    columns = sp.csc_array(rows)
    at, ptr = columns.indices.astype(np.int32), columns.indptr.astype(np.int64)
    beta, scores = np.zeros(6), np.zeros(40)
    shift, _, _ = newton_on_columns(
        columns.data, at, ptr, signs, costs, (0.8, l2), fit_intercept, 1e-12, 100, beta, scores
    )
    np.testing.assert_allclose(scores, rows @ beta + shift, atol=1e-10)
    residual = costs * signs / (1 + np.exp(signs * scores))
    slope = rows.T @ residual - l2 * beta
    zero = beta == 0
    assert zero.any()
    assert (np.abs(slope[zero]) <= 0.8 + 1e-5).all()
    np.testing.assert_allclose(slope[~zero], 0.8 * np.sign(beta[~zero]), atol=1e-5)
    assert fit_intercept or shift == 0
    assert not fit_intercept or abs(residual.sum()) < 1e-5
