"""LinearSVC: partitions, ranks, certificates, kernels against naive twins, what it refuses."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning

from dask_petuum.algorithms.kernels.svm import descend, measure, square_norms
from dask_petuum.algorithms.kernels.svm_block import LANES, descend_block, measure_block
from dask_petuum.algorithms.kernels.svm_newton import change_hessian, look_at_rows
from dask_petuum.algorithms.linear_svc import LinearSVC

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
    return LinearSVC(**{"random_state": 0, "scheduler": "local", "C": 0.05, **parameters})


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_partitions_reach_the_same_solution(loss, dual, sparse, n_classes):
    labels = LABELS % n_classes
    tol = 1e-3 if dual else 1e-5  # coordinate descent is slow on many rows of few features
    parameters = {"loss": loss, "dual": dual, "tol": tol}
    whole = local(**parameters).fit(ROWS, labels)
    parts = local(**parameters).fit(lazy(ROWS, sparse), lazy(labels))
    for model in (whole, parts):
        assert (model.dual_gap_ <= tol * model.objective_).all()
    np.testing.assert_allclose(parts.objective_, whole.objective_, rtol=2 * tol)
    assert (parts.objective_ - parts.dual_gap_ <= whole.objective_ * (1 + 1e-12)).all()


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_ranks_of_a_cluster_give_what_this_process_gives(client, loss, dual, n_classes):
    labels = LABELS % n_classes
    parameters = {"loss": loss, "dual": dual}
    here = local(**parameters).fit(lazy(ROWS, True), lazy(labels))
    far = local(**{**parameters, "scheduler": None})
    far.client = client
    far.fit(lazy(ROWS, True), lazy(labels))
    # sums round differently, and how many passes a clock has may turn on the last digit
    primals = [[record["primal"] for record in model.history_[:4]] for model in (far, here)]
    np.testing.assert_allclose(*primals, rtol=1e-9)
    for model in (far, here):
        assert (model.dual_gap_ <= 1e-3 * model.objective_).all()
    np.testing.assert_allclose(far.objective_, here.objective_, rtol=1e-3)


@pytest.mark.parametrize("dual", [False, True])
def test_gap_bounds_the_distance_to_the_optimum_all_along(dual):
    best = local(tol=1e-10).fit(ROWS, LABELS % 2).objective_[0]
    model = local(dual=dual, tol=1e-6).fit(ROWS, LABELS % 2)
    for record in model.history_:
        assert record["primal"] >= best * (1 - 1e-9)
        assert record["primal"] - record["gap"] <= best * (1 + 1e-9)


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_of_zero_drop_rows_and_odd_columns_do_no_harm(dual, loss, n_classes):
    labels = LABELS % n_classes
    weights = (np.arange(900) % 3 > 0).astype(float)
    rows = np.hstack([ROWS, np.zeros((900, 1)), ROWS[:, :1]])
    rows[5] = 0.0
    parameters = {"loss": loss, "dual": dual, "tol": 1e-5}
    model = local(**parameters).fit(sp.csr_array(rows), labels, sample_weight=weights)
    other = local(**parameters).fit(rows[weights > 0], labels[weights > 0])
    np.testing.assert_allclose(model.objective_, other.objective_, rtol=2e-5)
    np.testing.assert_array_equal(model.coef_[:, -2], 0)


@pytest.mark.parametrize("dual", [False, True])
def test_one_row_per_class_and_no_intercept(dual):
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    model = LinearSVC(dual=dual, C=100.0, scheduler="local").fit(rows, ["c", "a", "b"])
    np.testing.assert_array_equal(model.predict(rows), ["c", "a", "b"])
    model = LinearSVC(dual=dual, fit_intercept=False, scheduler="local").fit(rows[:2], [0, 1])
    np.testing.assert_array_equal(model.intercept_, 0)
    np.testing.assert_array_equal(model.predict(rows[:2]), [0, 1])


def test_hardly_any_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="did not converge in max_iter=2 clocks"):
        model = local(max_iter=2, tol=1e-9).fit(ROWS, LABELS)
    assert model.n_iter_ == 2
    assert (model.dual_gap_ > 0).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "logistic"}, "loss must be 'hinge' or 'squared_hinge'"),
        ({"dual": "no"}, "dual must be True, False or 'auto'"),
        ({"tol": -1}, "tol must be a number >= 0"),
        ({"C": 0}, "C must be a number > 0"),
        ({"intercept_scaling": 0}, "intercept_scaling must be a number > 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
        ({"class_weight": "equal"}, "class_weight must be a dict, 'balanced' or None"),
        ({"class_weight": {7: 1.0}}, "class_weight names 7, which is not among"),
        ({"class_weight": {1: -1.0}}, "class_weight must have finite factors >= 0"),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        local(**parameters).fit(ROWS, LABELS)


def test_refuses_rows_and_labels():
    with pytest.raises(ValueError, match="contains only one class"):
        local().fit(ROWS, np.zeros(900))
    with pytest.raises(ValueError, match="sample_weight must be finite and >= 0"):
        local().fit(ROWS, LABELS, sample_weight=-np.ones(900))
    with pytest.raises(ValueError, match="at least one non-zero"):
        local().fit(ROWS, LABELS, sample_weight=np.zeros(900))
    broken = ROWS.copy()
    broken[700, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        local().fit(lazy(broken), lazy(LABELS))


# The kernels.


def arrays(rows):
    if sp.issparse(rows):
        return rows.data, rows.indices, rows.indptr
    return rows, NOTHING, NOTHING


def draw(seed, below):
    mask = 2**64 - 1
    seed[0] = (seed[0] + 0x9E3779B97F4A7C15) & mask
    z = seed[0]
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return ((z >> 32) * below) >> 32


def naive_descend(rows, signs, costs, hinge, scales, n_passes, seed):
    """Naive twin, one task, nothing dropped; the change of alpha and u."""
    bias, s, charge = scales
    rows = np.hstack([rows, np.full((len(rows), 1), bias)])
    factors = np.append(np.full(rows.shape[1] - 1, s), charge)
    alpha, u, order = np.zeros(len(rows)), np.zeros(rows.shape[1]), list(range(len(rows)))
    for _ in range(n_passes):
        for k in range(len(rows)):
            other = k + draw(seed, len(rows) - k)
            order[k], order[other] = order[other], order[k]
        for i in order:
            box, ridge = (costs[i], 0.0) if hinge else (np.inf, 0.5 / costs[i])
            gradient = signs[i] * (rows[i] @ u) - 1 + ridge * alpha[i]
            new = np.clip(alpha[i] - gradient / (factors @ rows[i] ** 2 + ridge), 0, box)
            u += factors * (new - alpha[i]) * signs[i] * rows[i]
            alpha[i] = new
    return alpha, u


def small(n_rows=30, n_features=7):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((n_rows, n_features)) * (rng.random((n_rows, n_features)) < 0.5)
    return rows, rng.integers(0, 3, n_rows).astype(np.int32), rng.uniform(0.1, 2.0, (n_rows, 2))


@pytest.mark.parametrize("hinge", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_descent_equals_its_naive_twin(hinge, sparse):
    rows, codes, costs = small()
    given = arrays(sp.csr_array(rows) if sparse else rows)
    squares = np.empty(30)
    square_norms(*given, squares)
    np.testing.assert_allclose(squares, (rows**2).sum(1))
    start = np.array([5], dtype=np.uint64)
    alphas, us = np.zeros((30, LANES)), np.zeros((8, LANES))
    many = np.tile([np.inf, -np.inf, 0.0, 0.0], (LANES, 1))
    lanes, charges = np.ones(LANES, dtype=np.uint8), np.tile([2.0, 0.7], (LANES, 1))
    order = np.arange(30, dtype=np.int32)
    # One pass drops nothing, so that all tasks and the twin see the rows in the same order.
    visits = descend_block(
        *given, codes, costs, squares, hinge, 0.5, charges, 0, lanes, 1, order, many, start.copy(),
        alphas, us,
    )  # fmt: skip
    assert visits == 30
    for task in range(3):
        signs = np.where(codes == task, 1, -1).astype(np.int8)
        own = np.where(codes == task, costs[:, 1], costs[:, 0])
        twin = naive_descend(rows, signs, own, hinge, (0.5, 2.0, 0.7), 1, [5])
        np.testing.assert_allclose(alphas[:, task], twin[0], atol=1e-12)
        np.testing.assert_allclose(us[:, task], twin[1], atol=1e-12)
        alpha, u, limits = np.zeros(30), np.zeros(8), np.array([np.inf, -np.inf, 0, 0])
        order = np.arange(30, dtype=np.int32)
        descend(
            *given, signs, own, squares, hinge, (0.5, 2.0, 0.7), 1, order, limits, start.copy(),
            alpha, u,
        )  # fmt: skip
        np.testing.assert_allclose(alpha, twin[0], atol=1e-12)
        np.testing.assert_allclose(u, twin[1], atol=1e-12)
        check_measures(given, rows, (codes, signs, costs, own), hinge, (alphas, us, task))


def check_measures(given, rows, labels, hinge, point):
    codes, signs, costs, own = labels
    alphas, us, task = point
    alpha, u = alphas[:, task], us[:, task]
    short = np.maximum(0, 1 - signs * (rows @ u[:-1] + 0.5 * u[-1]))
    dual = alpha.sum() - (0 if hinge else 0.25 * (alpha**2 / own).sum())
    expected = [own @ (short if hinge else short**2), dual]
    out, block = np.empty(2), np.empty((LANES, 2))
    limits, active = np.tile([0.3, -0.2, 0, 0], (LANES, 1)), np.ones((30, LANES), dtype=np.uint8)
    measure(*given, signs, own, hinge, 0.5, alpha.copy(), u.copy(), out)
    measure_block(*given, codes, costs, hinge, 0.5, 0, alphas, us, limits, active, block)
    gradient = signs * (rows @ u[:-1] + 0.5 * u[-1]) - 1 + (0 if hinge else 0.5 * alpha / own)
    dropped = (alpha == 0) & (gradient > 0.3)
    dropped |= hinge & (alpha >= own) & (gradient < -0.2)
    np.testing.assert_array_equal(active[:, task], ~dropped)
    np.testing.assert_allclose(out, expected)
    np.testing.assert_allclose(block[task], expected)


@pytest.mark.parametrize("hinge", [False, True])
def test_dropping_rows_keeps_the_objective_rising(hinge):
    rows, codes, costs = small(200, 4)
    signs, own = np.where(codes > 0, 1, -1).astype(np.int8), costs[:, 0].copy()
    squares = (rows**2).sum(1)
    alpha, u, limits = np.zeros(200), np.zeros(5), np.array([np.inf, -np.inf, 0, 0])
    order, seed = np.arange(200, dtype=np.int32), np.array([3], dtype=np.uint64)
    before, visits = 0.0, 0
    for _ in range(30):
        visits += descend(
            rows, NOTHING, NOTHING, signs, own, squares, hinge, (0.0, 1.0, 1.0), 4, order,
            limits, seed, alpha, u,
        )  # fmt: skip
        ridge = 0.0 if hinge else 0.25 * (alpha**2 / own).sum()
        dual = alpha.sum() - ridge - 0.5 * u @ u
        assert dual >= before - 1e-12
        before = dual
        assert sorted(order) == list(range(200))
        assert (alpha >= 0).all()
        np.testing.assert_allclose(u[:-1], rows.T @ (signs * alpha), atol=1e-9)
    assert visits < 30 * 4 * 200


@pytest.mark.parametrize("hinge", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_smooth_losses_have_their_slopes_and_curvatures(hinge, sparse):
    rows, codes, costs = small(50, 4)
    given = arrays(sp.csr_array(rows) if sparse else rows)
    signs, weights = np.where(codes > 0, 1, -1).astype(np.int8), costs[:, 0].copy()
    box = weights if hinge else np.full(50, np.inf)
    reference = 0.3 * weights if hinge else np.zeros(50)

    def look(w):
        alpha, gradient, sums = np.empty(50), np.zeros(5), np.zeros(3)
        look_at_rows(
            *given, signs, reference, weights, 0.7, box, hinge, w, 0.5, (0, 50), alpha, gradient,
            sums,
        )  # fmt: skip
        return alpha, gradient, sums

    w = np.random.default_rng(2).standard_normal(5)
    alpha, gradient, sums = look(w)
    extended = np.hstack([rows, np.full((50, 1), 0.5)])
    short = 1 - signs * (extended @ w)
    np.testing.assert_allclose(alpha, np.clip(reference + short * weights / 0.7, 0, box))
    np.testing.assert_allclose(gradient, extended.T @ (signs * alpha))
    np.testing.assert_allclose(
        sums[2],
        alpha.sum() - (0 if hinge else 0.35 * alpha**2 / weights).sum()
        if not hinge
        else alpha.sum(),
    )
    if hinge:
        np.testing.assert_allclose(sums[1], weights @ np.maximum(short, 0))
    for f in range(5):
        step = 1e-6 * np.eye(5)[f]
        slope = (look(w + step)[2][0] - look(w - step)[2][0]) / 2e-6
        np.testing.assert_allclose(slope, -gradient[f], rtol=1e-4, atol=1e-6)
    if sparse:
        inside, hessian = np.zeros(50, dtype=np.uint8), np.zeros((5, 5))
        for point in (w, -w, w):  # rows come and go
            alpha = look(point)[0]
            change_hessian(*given, alpha, box, weights, 0.5, (0, 50), inside, hessian)
        now = (alpha > 0) & (alpha < box)
        expected = (extended[now] * weights[now, None]).T @ extended[now]
        np.testing.assert_allclose(np.tril(hessian), np.tril(expected), atol=1e-12)
