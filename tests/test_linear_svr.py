"""LinearSVR: scikit-learn's solution and checks, certificates, partitions, kernels, refusals."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVR as Peer
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_petuum.algorithms.kernels.svr import descend_svr, measure_svr
from dask_petuum.algorithms.linear_svr import LinearSVR

ROWS, TARGETS = make_regression(200, 6, noise=5.0, random_state=0)
TARGETS = TARGETS / 20 + 3
LOSSES = ("epsilon_insensitive", "squared_epsilon_insensitive")
#: Repeated rows are visited in another order than rows that weigh more.
EXCUSED = {
    f"check_sample_weight_equivalence_on_{kind}_data": "other order of rows"
    for kind in ("dense", "sparse")
}


def local(**parameters):
    return LinearSVR(**{"random_state": 0, "scheduler": "local", "epsilon": 0.3, **parameters})


def lazy(values, sparse=False):
    chunks = ((120, 80), -1) if values.ndim == 2 else ((120, 80),)
    out = da.from_array(values, chunks=chunks)
    return out.map_blocks(sp.csr_array, meta=sp.csr_array(values[:0])) if sparse else out


def primal(model, weights):
    """Objective from its definition."""
    errors = np.abs(TARGETS - ROWS @ model.coef_ - model.intercept_)
    beyond = np.maximum(errors - model.epsilon, 0)
    losses = beyond if model.loss == LOSSES[0] else beyond**2
    square = model.coef_ @ model.coef_ + (model.intercept_ / model.intercept_scaling) ** 2
    return 0.5 * square + model.C * weights @ losses


@pytest.mark.filterwarnings("ignore:LinearSVR did not converge")
@parametrize_with_checks(
    [LinearSVR(n_jobs=1, scheduler="local", random_state=0, tol=1e-6)],
    expected_failed_checks=lambda estimator: EXCUSED,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scaling", [1.0, 5.0])
def test_equals_scikit_learn_s_solution(loss, scaling):
    weights = np.random.default_rng(0).uniform(0, 2, 200) * (np.arange(200) % 5 > 0)
    parameters = {"loss": loss, "epsilon": 0.3, "C": 0.5, "intercept_scaling": scaling}
    peer = Peer(**parameters, dual=True, tol=1e-8, max_iter=100_000, random_state=0)
    peer.fit(ROWS, TARGETS, sample_weight=weights)
    model = local(**parameters, tol=1e-8).fit(ROWS, TARGETS, sample_weight=weights)
    np.testing.assert_allclose(primal(model, weights), model.objective_, rtol=1e-9)
    assert model.dual_gap_ <= 1e-8 * model.objective_
    assert model.objective_ - model.dual_gap_ <= primal(peer, weights) * (1 + 1e-9)
    np.testing.assert_allclose(model.coef_, peer.coef_, atol=2e-4)
    np.testing.assert_allclose(model.intercept_, peer.intercept_[0], atol=2e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sparse", [False, True])
def test_partitions_reach_the_same_solution(loss, sparse):
    whole = local(loss=loss, C=0.05, tol=1e-5).fit(ROWS, TARGETS)
    parts = local(loss=loss, C=0.05).fit(lazy(ROWS, sparse), lazy(TARGETS))
    assert parts.dual_gap_ <= 1e-3 * parts.objective_
    assert parts.objective_ - parts.dual_gap_ <= whole.objective_ * (1 + 1e-12)
    np.testing.assert_allclose(parts.objective_, whole.objective_, rtol=1.1e-3)


def test_predictions_on_dask_input_are_lazy_and_survive_a_pickle():
    model = pickle.loads(pickle.dumps(local().fit(ROWS, TARGETS)))
    found = model.predict(lazy(ROWS))
    assert isinstance(found, da.Array)
    np.testing.assert_allclose(found.compute(scheduler="sync"), model.predict(ROWS))
    np.testing.assert_allclose(
        model.score(lazy(ROWS), lazy(TARGETS)), model.score(ROWS, TARGETS), rtol=1e-9
    )


def test_ranks_of_a_cluster_give_what_this_process_gives(client):
    here = local(C=0.05).fit(lazy(ROWS, True), lazy(TARGETS))
    far = local(C=0.05, scheduler=None)
    far.client = client
    far.fit(lazy(ROWS, True), lazy(TARGETS))
    np.testing.assert_allclose(far.coef_, here.coef_, rtol=1e-6, atol=1e-8)
    assert far.n_iter_ == here.n_iter_


def test_errors_within_epsilon_cost_nothing():
    model = local(epsilon=100.0).fit(ROWS, TARGETS)
    assert model.objective_ == model.dual_gap_ == model.intercept_ == 0
    np.testing.assert_array_equal(model.coef_, 0)


def test_hardly_any_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="did not converge in max_iter=1 clocks"):
        local(max_iter=1, tol=1e-12).fit(ROWS, TARGETS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "hinge"}, "loss must be 'epsilon_insensitive' or"),
        ({"epsilon": -1}, "epsilon must be a number >= 0"),
        ({"tol": -1}, "tol must be a number >= 0"),
        ({"C": 0}, "C must be a number > 0"),
        ({"intercept_scaling": 0}, "intercept_scaling must be a number > 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        local(**parameters).fit(ROWS, TARGETS)


def test_refuses_targets_that_are_no_numbers():
    broken = TARGETS.copy()
    broken[150] = np.nan
    with pytest.raises(ValueError, match="y contains NaN"):
        local().fit(lazy(ROWS), lazy(broken))
    with pytest.raises(ValueError, match="requires y to be passed"):
        local().fit(ROWS, None)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_pass_makes_each_coordinate_exact_and_the_dual_never_falls(linear, sparse):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, 5)) * (rng.random((40, 5)) < 0.6)
    rows[7] = 0.0
    targets, costs = rng.standard_normal(40), rng.uniform(0.1, 2.0, 40)
    costs[3] = 0.0
    matrix = sp.csr_array(rows)
    nothing = np.empty(0, dtype=np.int32)
    given = (matrix.data, matrix.indices, matrix.indptr) if sparse else (rows, nothing, nothing)
    wide = np.hstack([rows, np.full((40, 1), 0.5)])
    ridge = np.zeros(40) if linear else 0.5 / np.maximum(costs, 1e-300)
    kind, squares = (linear, 0.2, 0.5), (rows**2).sum(1)

    def dual(b):
        rest = 0 if linear else 0.5 * (ridge * b**2)[costs > 0].sum()
        return targets @ b - 0.2 * np.abs(b).sum() - 0.5 * np.sum((wide.T @ b) ** 2) - rest

    beta, u, limits = np.zeros(40), np.zeros(6), np.array([np.inf])
    order, seed = np.arange(40, dtype=np.int32), np.array([3], dtype=np.uint64)
    before = 0.0
    for _ in range(200):
        descend_svr(
            *given, targets, costs, squares, kind, (1.0, 1.0), 1, order, limits, seed, beta, u
        )
        assert sorted(order) == list(range(40))
        np.testing.assert_allclose(u, wide.T @ beta, atol=1e-9)
        assert dual(beta) >= before - 1e-12
        before = dual(beta)
    assert beta[3] == 0
    assert not linear or (np.abs(beta) <= costs).all()
    for i in np.flatnonzero(costs):  # no step of one coordinate raises the optimum
        for step in (-1e-3, 1e-3):
            other = beta.copy()
            other[i] += step
            if not linear or abs(other[i]) <= costs[i]:
                assert dual(other) <= before + 1e-9
    out = np.empty(2)
    measure_svr(*given, targets, costs, kind, beta, u, out)
    beyond = np.maximum(np.abs(targets - wide @ u) - 0.2, 0)
    loss = costs @ (beyond if linear else beyond**2)
    np.testing.assert_allclose(out, [loss, before + 0.5 * u @ u], atol=1e-9)
    assert 0.5 * u @ u + loss - before <= 1e-3 * before  # weak duality, and hardly a gap
