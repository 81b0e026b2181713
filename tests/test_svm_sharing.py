"""How partitions share weights: ADMM's steps, balanced charges, few clocks with an intercept."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from dask_petuum.algorithms.linear_svc import LinearSVC
from dask_petuum.algorithms.svm_sharing import (
    FACTOR,
    FIRST,
    SHARE,
    guess_charge,
    origin,
    per_feature,
    settle,
    squares_moved,
)

RNG = np.random.default_rng(0)


def state_of(primal, charges, moved):
    return {
        "primal": np.array(primal, dtype=float),
        "charges": np.array(charges, dtype=float),
        "moved": np.array(moved, dtype=np.int8),
    }


def test_with_a_charge_of_n_partitions_it_is_cocoa():
    primal, totals = RNG.standard_normal((2, 3, 5))
    charges = np.full((3, 2), 4.0)
    np.testing.assert_allclose(origin(primal, totals, charges, 4), totals)


def test_charges_are_those_of_features_and_intercept():
    out = per_feature(np.array([[1.0, 2.0], [3.0, 4.0]]), 2)
    np.testing.assert_array_equal(out, [[1, 1, 2], [3, 3, 4]])
    np.testing.assert_array_equal(squares_moved(np.array([[3.0, 4.0, 2.0]])), [[25, 4]])


def test_the_first_clock_takes_the_guess_and_moves_nothing():
    state = state_of(np.ones((2, 3)), np.zeros((2, 2)), [0, 0])
    settle(state, np.zeros((2, 3)), np.array([[0, 0.3], [0, 0.4]]), 2)
    np.testing.assert_allclose(state["charges"], [[2 * FIRST, 0.3], [2 * FIRST, 0.4]])
    np.testing.assert_array_equal(state["primal"], 1)


def test_weights_go_to_the_totals_and_charges_to_where_both_residuals_are_alike():
    totals = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    state = state_of(np.zeros((3, 2)), np.full((3, 2), 0.5), [1, 1, 0])
    # The first task's feature disagrees, its intercept moves; the second's are balanced.
    balanced = 0.5 / 0.25  # |t - w|^2 / K = r^2 |D|^2
    moved = np.array([[1e-6, 1.0], [balanced, balanced], [1e-6, 1.0]])
    settle(state, totals, moved, 2)
    np.testing.assert_allclose(state["primal"], [[0.2, 0.0], [0.2, 0.2], [0.0, 0.0]])
    expected = [[0.5 * FACTOR, 0.5 / FACTOR], [0.5, 0.5], [0.5, 0.5]]
    np.testing.assert_allclose(state["charges"], expected)
    for _ in range(9):
        settle(state, totals + 10, np.zeros((3, 2)), 2)
    np.testing.assert_allclose(state["charges"], [[2, 2], [2, 2], [0.5, 0.5]])  # K at most


@pytest.mark.parametrize("sparse", [False, True])
def test_the_guess_grows_with_what_rows_share(sparse):
    rows = RNG.standard_normal((200, 5))
    rows -= rows.mean(axis=0)
    costs = np.full(200, 2.0)
    centred, shifted = (
        guess_charge(sp.csr_array(x) if sparse else x, costs, 1.0, 2)
        for x in (rows, rows + np.array([0.5, 0, 0, 0, 0]))
    )
    np.testing.assert_allclose(centred, SHARE * 0.25 / 200)
    np.testing.assert_allclose(shifted - centred, SHARE * 2 * 0.25)
    assert guess_charge(rows + 9, costs, 1.0, 2) == 2.0
    assert guess_charge(rows, np.zeros(200), 1.0, 2) == 2.0


def texts(n_rows=600, n_words=2000, n_classes=3):
    """Rows of unit length with common and rare words, and labels that some words tell."""
    rng = np.random.default_rng(5)
    share = 1.0 / np.arange(1, n_words + 1)
    labels = rng.integers(0, n_classes, n_rows)
    rows = np.zeros((n_rows, n_words))
    for i, label in enumerate(labels):
        weights = share * np.where(np.arange(n_words) % (2 * n_classes) == label, 4.0, 1.0)
        words = rng.choice(n_words, 40, p=weights / weights.sum())
        rows[i] = np.sqrt(np.bincount(words, minlength=n_words))
    return sp.csr_array(rows / np.linalg.norm(rows, axis=1, keepdims=True)), labels


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_intercept_does_not_make_partitions_slow(loss, n_classes):
    rows, labels = texts(n_classes=n_classes)
    model = LinearSVC(loss, dual=True, random_state=0, scheduler="local", max_iter=200)
    chunks = (250, 350)
    lazy = da.from_array(rows.toarray(), chunks=(chunks, -1)).map_blocks(
        sp.csr_array, meta=sp.csr_array(np.zeros((0, 0)))
    )
    model.fit(lazy, da.from_array(labels, chunks=(chunks,)))  # no warning: it converges
    alone = LinearSVC(loss, dual=True, random_state=0, tol=1e-5, scheduler="local")
    alone.fit(rows, labels)
    assert (model.dual_gap_ <= 1e-3 * model.objective_).all()
    assert (model.objective_ <= alone.objective_ * (1 + 1.1e-3)).all()
    assert (model.objective_ - model.dual_gap_ <= alone.objective_ * (1 + 1e-12)).all()
