"""The softmax kernels against naive twins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_petuum.algorithms.kernels.softmax_regression import (
    ADAGRAD,
    SGD,
    losses_csr,
    losses_dense,
    train_csr,
    train_dense,
)


def batches(order, size):
    n_batches = -(-len(order) // size)
    cuts = [b * len(order) // n_batches for b in range(n_batches + 1)]
    return [order[low:high] for low, high in pairwise(cuts)]


def naive_losses(rows, labels, weights):
    """Losses and probabilities of rows; weights : (n_features + 1, n_classes)."""
    scores = rows.astype(float) @ weights[:-1] + weights[-1]
    odds = np.exp(scores - scores.max(1, keepdims=True))
    proba = odds / odds.sum(1, keepdims=True)
    return -np.log(proba[np.arange(len(rows)), labels]), proba


def naive_train(problem, order, size, scales, rule, fit_intercept, weights, memory, lazy):
    """Naive twin: whole gradients; ``lazy``: the penalty at the end, as CSR rows have it."""
    rows, labels, row_weights = problem
    kind, rate, momentum = rule
    unit, penalty = scales
    total = 0.0
    parts = batches(order, size)

    def shrink():
        own = np.full_like(weights[:-1], rate)
        if kind == ADAGRAD:
            with np.errstate(divide="ignore"):
                own = np.where(memory[:-1] > 0, rate / np.sqrt(memory[:-1]), 0)
        weights[:-1] /= 1 + own * 0.5 * penalty * len(parts)

    if lazy:
        shrink()
    for part in parts:
        losses, errors = naive_losses(rows[part], labels[part], weights)
        factor = row_weights[part]
        total += factor @ losses
        errors[np.arange(len(part)), labels[part]] -= 1
        errors *= factor[:, None]
        padded = np.hstack([rows[part], np.ones((len(part), 1))])
        gradient = unit / len(part) * padded.T @ errors
        gradient[:-1] += 0 if lazy else penalty * weights[:-1]
        gradient[-1] *= fit_intercept
        if kind == ADAGRAD:
            memory += gradient**2
            weights -= rate * gradient / (np.sqrt(memory) + 1e-10)
        else:
            step = momentum * memory + gradient
            weights -= rate * step
            memory[:] = step if momentum else 0
    if lazy:
        shrink()
    return total


def make(seed, n_rows=53, n_features=11, n_classes=4, density=1.0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features))
    rows *= rng.random(rows.shape) < density
    labels = rng.integers(0, n_classes, n_rows).astype(np.int32)
    weights = rng.normal(size=(n_features + 1, n_classes)) * 0.1
    return rng, rows, labels, rng.uniform(0.5, 2, n_rows), weights


RULES = [(SGD, 0.3, 0.0), (SGD, 0.1, 0.9), (ADAGRAD, 0.2, 0.0)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 60),
    n_classes=st.integers(2, 5),
    n_features=st.integers(1, 20),
)
def test_training_equals_naive(
    rule, fit_intercept, weighted, sparse, seed, size, n_classes, n_features
):
    rng, rows, labels, factors, weights = make(
        seed, n_features=n_features, n_classes=n_classes, density=0.4 if sparse else 1.0
    )
    order = rng.permutation(len(rows))[:40]
    weights[-1] *= fit_intercept
    memory = np.zeros_like(weights)
    given_weights = factors if weighted else np.empty(0)
    factors = factors if weighted else np.ones(len(rows))
    scales = (0.8, 0.05)
    mine, state = (weights.copy(), memory.copy())
    if sparse:
        csr = sp.csr_array(rows)
        rest = (order, size, scales, rule, fit_intercept, mine, state)
        loss = train_csr((csr.data, csr.indices, csr.indptr), labels, given_weights, *rest)
    else:
        mine, state = mine.T.copy(), state.T.copy()
        rest = (order, size, scales, rule, fit_intercept, mine, state)
        loss = train_dense(rows, labels, given_weights, *rest)
        mine = mine.T
    lazy = sparse and not rule[2]
    problem = (rows, labels, factors)
    expected = naive_train(problem, order, size, scales, rule, fit_intercept, weights, memory, lazy)
    assert loss == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(mine, weights, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 8, 13])
def test_losses_equal_naive(dtype, n_rows):
    _, rows, labels, _, weights = make(0, n_rows=n_rows, density=0.5)
    rows, weights = rows.astype(dtype), weights.astype(dtype)
    expected, _ = naive_losses(rows, labels, weights)
    dense, sparse = np.empty(n_rows), np.empty(n_rows)
    losses_dense(rows, labels, np.ascontiguousarray(weights.T), dense)
    csr = sp.csr_array(rows)
    losses_csr(csr.data, csr.indices, csr.indptr, labels, weights, sparse)
    np.testing.assert_allclose(dense, expected, rtol=1e-5)
    np.testing.assert_allclose(sparse, expected, rtol=1e-5)


def test_large_scores_do_not_overflow():
    rows = np.array([[1000.0], [-1000.0]])
    weights = np.array([[1.0, -1.0], [0.0, 0.0]])
    losses = np.empty(2)
    losses_dense(rows, np.array([0, 0], np.int32), weights.T.copy(), losses)
    np.testing.assert_allclose(losses, [0, 2000])
