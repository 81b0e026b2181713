"""Kernels of softmax regression: minibatch steps and losses, dense and CSR rows.

For a row ``x`` with label ``y`` and weight ``s``: scores ``z_k = w_k'x + b_k``, probabilities
``p = softmax(z)``, loss ``-s log p_y``, gradient ``s (p_k - [k = y]) x`` for ``w_k``.

A step on a batch of ``B`` rows moves the weights along
``g = unit / B * sum_i s_i (p_ik - [k = y_i]) x_i + penalty * w`` (no penalty on ``b``):

- *sgd*: ``v <- momentum v + g``; ``w <- w - rate v``
- *adagrad* (Duchi et al. 2011): ``h <- h + g^2``; ``w <- w - rate g / (sqrt(h) + 1e-10)``

Dense rows: the weights lie class by class, (n_classes, n_features + 1), the intercept last; the
products run over eight rows at a time with SIMD over features, compiled with fastmath (sums are
reordered: results are those of the machine's vector width). CSR rows: the weights lie feature by
feature, (n_features + 1, n_classes).

References
----------
J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods", JMLR 12, 2011, figure 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.jit import kernel

__all__ = ["ADAGRAD", "SGD", "losses_csr", "losses_dense", "train_csr", "train_dense"]

SGD, ADAGRAD = 0, 1
#: Rows whose products are formed together: each load of a weight serves all of them.
BLOCK = 8

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@kernel(fastmath=True)
def _block_scores(rows: Floats, at: NDArray[np.int64], weights: Floats, scores: Floats) -> None:
    """Scores of BLOCK rows; scores : (BLOCK, n_classes), output."""
    n_features = rows.shape[1]
    r0, r1, r2, r3 = rows[at[0]], rows[at[1]], rows[at[2]], rows[at[3]]
    r4, r5, r6, r7 = rows[at[4]], rows[at[5]], rows[at[6]], rows[at[7]]
    for k in range(weights.shape[0]):
        weight = weights[k]
        bias = weight[n_features]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = bias
        for f in range(n_features):
            w = weight[f]
            s0 += r0[f] * w
            s1 += r1[f] * w
            s2 += r2[f] * w
            s3 += r3[f] * w
            s4 += r4[f] * w
            s5 += r5[f] * w
            s6 += r6[f] * w
            s7 += r7[f] * w
        scores[0, k], scores[1, k], scores[2, k], scores[3, k] = s0, s1, s2, s3
        scores[4, k], scores[5, k], scores[6, k], scores[7, k] = s4, s5, s6, s7


@kernel(fastmath=True)
def _block_gradient(rows: Floats, at: NDArray[np.int64], errors: Floats, gradient: Floats) -> None:
    """Add the BLOCK rows' products with their errors (BLOCK, n_classes) to the gradient."""
    n_features = rows.shape[1]
    r0, r1, r2, r3 = rows[at[0]], rows[at[1]], rows[at[2]], rows[at[3]]
    r4, r5, r6, r7 = rows[at[4]], rows[at[5]], rows[at[6]], rows[at[7]]
    for k in range(gradient.shape[0]):
        e0, e1, e2, e3 = errors[0, k], errors[1, k], errors[2, k], errors[3, k]
        e4, e5, e6, e7 = errors[4, k], errors[5, k], errors[6, k], errors[7, k]
        out = gradient[k]
        for f in range(n_features):
            out[f] += (e0 * r0[f] + e1 * r1[f] + e2 * r2[f] + e3 * r3[f]) + (
                e4 * r4[f] + e5 * r5[f] + e6 * r6[f] + e7 * r7[f]
            )
        out[n_features] += e0 + e1 + e2 + e3 + e4 + e5 + e6 + e7


@kernel()
def _loss_and_errors(scores: Floats, label: int, weight: float) -> Any:
    """Turn one row's scores into errors ``weight (p - [k = label])``; return its loss."""
    top = scores[0]
    for k in range(1, scores.shape[0]):
        top = max(top, scores[k])
    own = scores[label] - top
    total = 0.0
    for k in range(scores.shape[0]):
        value = np.exp(scores[k] - top)
        scores[k] = value
        total += value
    factor = weight / total
    for k in range(scores.shape[0]):
        scores[k] *= factor
    scores[label] -= weight
    return weight * (np.log(total) - own)


@kernel(fastmath=True)
def _apply(
    weights: Floats,
    gradient: Floats,
    memory: Floats,
    scale: float,
    penalty: float,
    settings: tuple[int, float, float],
) -> None:
    """Step all weights of flat arrays; ``settings`` is (rule, rate, momentum)."""
    rule, rate, momentum = settings
    if rule == ADAGRAD:
        for i in range(weights.shape[0]):
            g = scale * gradient[i] + penalty * weights[i]
            memory[i] += g * g
            weights[i] -= rate * g / (np.sqrt(memory[i]) + 1e-10)
    elif momentum > 0:
        for i in range(weights.shape[0]):
            memory[i] = momentum * memory[i] + (scale * gradient[i] + penalty * weights[i])
            weights[i] -= rate * memory[i]
    else:
        for i in range(weights.shape[0]):
            weights[i] -= rate * (scale * gradient[i] + penalty * weights[i])


@kernel()
def train_dense(
    rows: Floats,
    labels: NDArray[np.int32],
    sample_weights: NDArray[np.float64],
    order: NDArray[np.int64],
    batch_size: int,
    scales: tuple[float, float],
    settings: tuple[int, float, float],
    fit_intercept: bool,
    weights: Floats,
    memory: Floats,
) -> float:
    """Do one step for each batch of the rows in ``order``.

    Parameters
    ----------
    rows : (n_rows, n_features), C-contiguous
    labels : (n_rows,), 0 .. n_classes - 1
    sample_weights : (n_rows,), or (0,) where every row weighs 1
    order : row numbers, cut into batches of equal size (but for one row), at most batch_size:
        a small last batch would make a step as long as the others from few rows
    scales : (unit, penalty) of the module's formula
    settings : (rule, rate, momentum)
    weights, memory : (n_classes, n_features + 1), the rows' dtype, updated in place; memory is
        the velocity or the sum of squared gradients
    fit_intercept : False leaves the last column as it is

    Returns
    -------
    Sum of the weighted losses of the rows, each before its own step.
    """
    n_classes, width = weights.shape
    gradient = np.zeros((n_classes, width), rows.dtype)
    scores = np.zeros((BLOCK, n_classes), rows.dtype)
    at = np.zeros(BLOCK, np.int64)
    loss = 0.0
    n_batches = (order.shape[0] + batch_size - 1) // batch_size
    for batch in range(n_batches):
        low = batch * order.shape[0] // n_batches
        high = (batch + 1) * order.shape[0] // n_batches
        gradient[:] = 0
        for first in range(low, high, BLOCK):
            used = min(BLOCK, high - first)
            for r in range(BLOCK):
                at[r] = order[first + min(r, used - 1)]
            _block_scores(rows, at, weights, scores)
            for r in range(used):
                weight = sample_weights[at[r]] if sample_weights.shape[0] else 1.0
                loss += _loss_and_errors(scores[r], labels[at[r]], weight)
            scores[used:] = 0
            _block_gradient(rows, at, scores, gradient)
        scale = scales[0] / (high - low)
        for k in range(n_classes):
            _apply(
                weights[k, : width - 1],
                gradient[k, : width - 1],
                memory[k, : width - 1],
                scale,
                scales[1],
                settings,
            )
            if fit_intercept:
                _apply(
                    weights[k, width - 1 :],
                    gradient[k, width - 1 :],
                    memory[k, width - 1 :],
                    scale,
                    0.0,
                    settings,
                )
    return loss


@kernel()
def losses_dense(
    rows: Floats, labels: NDArray[np.int32], weights: Floats, losses: NDArray[np.float64]
) -> None:
    """Measure each row's loss, unweighted.

    Parameters
    ----------
    rows, labels, weights
        As in `train_dense`.
    losses : (n_rows,), output
    """
    scores = np.zeros((BLOCK, weights.shape[0]), rows.dtype)
    at = np.zeros(BLOCK, np.int64)
    n_rows = rows.shape[0]
    for first in range(0, n_rows, BLOCK):
        used = min(BLOCK, n_rows - first)
        for r in range(BLOCK):
            at[r] = first + min(r, used - 1)
        _block_scores(rows, at, weights, scores)
        for r in range(used):
            losses[first + r] = _loss_and_errors(scores[r], labels[first + r], 1.0)


@kernel()
def _row_scores(
    data: Floats, indices: Ints, low: int, high: int, weights: Floats, scores: Floats
) -> None:
    """Scores of one CSR row; weights : (n_features + 1, n_classes)."""
    scores[:] = weights[weights.shape[0] - 1]
    for p in range(low, high):
        value = data[p]
        weight = weights[indices[p]]
        for k in range(scores.shape[0]):
            scores[k] += value * weight[k]


@kernel()
def losses_csr(
    data: Floats,
    indices: Ints,
    indptr: Ints,
    labels: NDArray[np.int32],
    weights: Floats,
    losses: NDArray[np.float64],
) -> None:
    """Measure each CSR row's loss, unweighted; arguments as in `train_csr`."""
    scores = np.zeros(weights.shape[1], weights.dtype)
    for i in range(labels.shape[0]):
        _row_scores(data, indices, indptr[i], indptr[i + 1], weights, scores)
        losses[i] = _loss_and_errors(scores, labels[i], 1.0)


@kernel()
def train_csr(
    csr: tuple[Floats, Ints, Ints],
    labels: NDArray[np.int32],
    sample_weights: NDArray[np.float64],
    order: NDArray[np.int64],
    batch_size: int,
    scales: tuple[float, float],
    settings: tuple[int, float, float],
    fit_intercept: bool,
    weights: Floats,
    memory: Floats,
) -> float:
    """Do one step for each batch of the CSR rows in ``order``.

    Parameters
    ----------
    csr : the data, indices and indptr of the rows
    weights, memory : (n_features + 1, n_classes), the rows' dtype, updated in place
    labels, sample_weights, order, batch_size, scales, settings, fit_intercept
        As in `train_dense`. Without momentum only the weights of features that a batch holds
        are stepped; the penalty's proximal step, ``w <- w / (1 + rate penalty n_batches)``, is
        then made on all weights, half of it before the batches and half after (Strang 1968),
        with the rates that AdaGrad has reached there.

    Returns
    -------
    Sum of the weighted losses of the rows, each before its own step.
    """
    data, indices, indptr = csr
    width, n_classes = weights.shape
    gradient = np.zeros((width, n_classes), weights.dtype)
    errors = np.zeros(n_classes, weights.dtype)
    touched = np.empty(width, np.int64)
    is_touched = np.zeros(width, np.bool_)
    rule, _, momentum = settings
    dense_steps = rule == SGD and momentum > 0
    loss = 0.0
    n_batches = (order.shape[0] + batch_size - 1) // batch_size
    half = 0.0 if dense_steps else 0.5 * scales[1] * n_batches
    _shrink(weights[: width - 1], memory[: width - 1], half, settings)
    for batch in range(n_batches):
        low = batch * order.shape[0] // n_batches
        high = (batch + 1) * order.shape[0] // n_batches
        n_touched = 0
        for place in range(low, high):
            i = order[place]
            _row_scores(data, indices, indptr[i], indptr[i + 1], weights, errors)
            weight = sample_weights[i] if sample_weights.shape[0] else 1.0
            loss += _loss_and_errors(errors, labels[i], weight)
            for p in range(indptr[i], indptr[i + 1]):
                f = indices[p]
                if not is_touched[f]:
                    is_touched[f] = True
                    touched[n_touched] = f
                    n_touched += 1
                for k in range(n_classes):
                    gradient[f, k] += data[p] * errors[k]
            for k in range(n_classes):
                gradient[width - 1, k] += errors[k]
        scale = scales[0] / (high - low)
        if dense_steps:
            for f in range(width - 1):
                _apply(weights[f], gradient[f], memory[f], scale, scales[1], settings)
                gradient[f] = 0
        else:
            for t in range(n_touched):
                f = touched[t]
                _apply(weights[f], gradient[f], memory[f], scale, 0.0, settings)
                gradient[f] = 0
        for t in range(n_touched):
            is_touched[touched[t]] = False
        if fit_intercept:
            last = width - 1
            _apply(weights[last], gradient[last], memory[last], scale, 0.0, settings)
        gradient[width - 1] = 0
    _shrink(weights[: width - 1], memory[: width - 1], half, settings)
    return loss


@kernel()
def _shrink(
    weights: Floats, memory: Floats, penalty: float, settings: tuple[int, float, float]
) -> None:
    """Do the penalty's proximal step: ``w <- w / (1 + rate penalty)``, with each weight's rate.

    AdaGrad has no rate yet for a weight whose gradient was always 0: it stays.
    """
    rule, rate, _ = settings
    if penalty == 0:
        return
    for f in range(weights.shape[0]):
        for k in range(weights.shape[1]):
            own = rate
            if rule == ADAGRAD:
                own = rate / np.sqrt(memory[f, k]) if memory[f, k] > 0 else 0.0
            weights[f, k] /= 1.0 + own * penalty
