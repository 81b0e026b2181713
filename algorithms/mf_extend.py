"""New users and items for a fitted factorisation; what was learnt before stays as it is.

The rows of new users and new items are solved in turn, block by block, as in ``mf_ccd``, on
the ratings that a new user gave or a new item got. Ratings of an old item by an old user
teach nothing here: they would change old rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.data.kinds import dask_backed

from .input_values import check_width
from .kernels.mf_ccd import update_rows
from .kernels.mf_lanes import LANES
from .kernels.mf_rows import pad_rows, sum_squares
from .mf_ccd import padded_rows
from .mf_problem import Penalty, Problem
from .mf_ratings import open_ratings, places

if TYPE_CHECKING:
    from .matrix_factorization import MatrixFactorization

__all__ = ["Side", "extend", "extend_model"]

Floats = NDArray[np.float32]


class Side(NamedTuple):
    """One side of the model: the rows of all users or items, of which the last are new."""

    rows: Floats
    n_old: int


class _Work(NamedTuple):
    """The new rows of a side, blocked, and their ratings."""

    padded: tuple[NDArray[np.int64], NDArray[np.int32], Floats]
    counts: Floats
    #: (n_blocks, n_rows, 8) of all rows of the side
    values: Floats
    #: (n_rows, 8) last change of the side; 0 for old rows
    change: Floats
    n_old: int
    #: 0 for users, 1 for items
    side: int


def extend_model(estimator: MatrixFactorization, X: Any) -> None:
    """Learn the users and items that an estimator does not know, and set its attributes."""
    given = open_ratings(X)
    matrix: Any = given.matrix
    if dask_backed(matrix) is not None:
        raise TypeError("partial_fit works in this process: pass X.compute(), or the new ratings")
    check_width(estimator, max(matrix.shape))
    coo = sp.coo_array(matrix)
    numbers, ids = [], []
    for known, new, at, size in (
        (estimator.users_, given.users, coo.row, coo.shape[0]),
        (estimator.items_, given.items, coo.col, coo.shape[1]),
    ):
        number, joined = _join(known, np.arange(size) if new is None else new)
        numbers.append(number[at])
        ids.append(joined)
    users, items = ids
    matrix = sp.csr_array((coo.data, tuple(numbers)), shape=(len(users), len(items)))
    problem = _problem_of(estimator, matrix)
    rng = np.random.default_rng(estimator._seed(estimator.random_state))
    old_users = problem.pack(estimator.user_factors_, estimator.user_bias_, 0)
    old_items = problem.pack(estimator.item_factors_, estimator.item_bias_, 1)
    new_users = problem.first(len(users) - len(old_users), 0, rng)
    new_users[:, problem.factors] = 0
    new_items = problem.first(len(items) - len(old_items), 1, rng)
    # An item that old users have rated is solved from them; the others need a direction.
    rated = np.bincount(matrix[: len(old_users)].indices, minlength=len(items))[len(old_items) :]
    new_items[(rated > 0) | (problem.item_counts[len(old_items) :] == 0), problem.factors] = 0
    rows = extend(
        problem,
        matrix,
        Side(np.concatenate([old_users, new_users]), len(old_users)),
        Side(np.concatenate([old_items, new_items]), len(old_items)),
        (int(estimator.max_iter), float(estimator.tol)),
    )
    _keep(estimator, problem, rows, (users, items), matrix)


def _join(known: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Number ids with the unknown ones behind the known: numbers, and all ids in their order."""
    at = places(new, known)
    unknown = at < 0
    at[unknown] = len(known) + np.arange(int(unknown.sum()))
    added = new[unknown]
    if known.dtype == object and added.dtype != object:
        added = added.astype(object)
    return at, np.concatenate([known, added])


def _problem_of(estimator: MatrixFactorization, matrix: Any) -> Problem:
    biases = estimator.alpha if estimator.alpha_bias is None else estimator.alpha_bias
    return Problem(
        estimator.user_factors_.shape[1],
        bool(estimator.fit_biases),
        Penalty(float(estimator.alpha), float(biases), bool(estimator.weighted)),
        estimator.mean_,
        estimator._scale,
        np.bincount(matrix.indices, minlength=matrix.shape[1]),
        matrix.nnz,
        0,
        0.0,
        0,
    )


def _keep(
    estimator: MatrixFactorization,
    problem: Problem,
    rows: tuple[Floats, Floats],
    ids: tuple[NDArray[Any], NDArray[Any]],
    matrix: Any,
) -> None:
    """Append the new rows; the old ones are not even rounded."""
    n_users, n_items = len(estimator.user_factors_), len(estimator.item_factors_)
    factors, biases = problem.unpack(rows[0][n_users:], 0)
    estimator.user_factors_ = np.concatenate([estimator.user_factors_, factors])
    estimator.user_bias_ = np.concatenate([estimator.user_bias_, biases])
    factors, biases = problem.unpack(rows[1][n_items:], 1)
    estimator.item_factors_ = np.concatenate([estimator.item_factors_, factors])
    estimator.item_bias_ = np.concatenate([estimator.item_bias_, biases])
    estimator.users_, estimator.items_ = ids
    if hasattr(estimator, "n_features_in_"):
        estimator.n_features_in_ = len(ids[1])
    if estimator._seen is not None:
        indptr, indices = estimator._seen
        indptr = np.concatenate([indptr, np.full(len(ids[0]) - n_users, indptr[-1])])
        before = sp.csr_array(
            (np.ones(len(indices), np.int8), indices, indptr), shape=(len(ids[0]), len(ids[1]))
        )
        now = before + sp.csr_array(
            (np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), shape=matrix.shape
        )
        estimator._seen = (now.indptr.astype(np.int64), now.indices)


def extend(
    problem: Problem, ratings: sp.csr_array[Any], users: Side, items: Side, stop: tuple[int, float]
) -> tuple[Floats, Floats]:
    """Learn the new rows.

    Parameters
    ----------
    problem
        As it was at ``fit``: mean, scale and penalties.
    ratings
        (n_users, n_items), old and new; values as given.
    users, items
        Rows of both sides; new rows come last, with their first values.
    stop
        Passes at most, and the share by which the error must fall in a pass.

    Returns
    -------
    rows of the users and of the items, old ones unchanged
    """
    csr = sp.csr_array(ratings)
    work = [_lay_out(problem, csr, users, items, side) for side in (0, 1)]
    lanes = problem.lanes()
    last = work[0].values.shape[0] - 1
    before = np.inf
    for _ in range(stop[0]):
        for block in range(len(work[0].values)):
            _solve(work[0], work[1], lanes, last, block)
            _solve(work[1], work[0], lanes, block, block)
            last = block
        _catch_up(work[0], work[1], lanes, last)
        error = sum(sum_squares(w.padded[2], 0, len(w.padded[2])) for w in work)
        if not error < before * (1 - stop[1]) ** 2:
            break
        before = error
    return _rows(work[0]), _rows(work[1])


def _lay_out(problem: Problem, csr: Any, users: Side, items: Side, side: int) -> _Work:
    own, other = (users, items) if side == 0 else (items, users)
    matrix = csr if side == 0 else sp.csr_array(csr.T)
    new = matrix[own.n_old :]
    counts = np.diff(new.indptr)
    padded = padded_rows(counts, len(other.rows))
    rows = np.repeat(np.arange(own.n_old, len(own.rows)), counts)
    product = np.einsum("ij,ij->i", own.rows[rows], other.rows[new.indices])
    residual = ((new.data - problem.mean) / problem.scale - product).astype(np.float32)
    pad_rows((residual, new.indices, new.indptr), *padded)
    blocked = own.rows.reshape(len(own.rows), -1, LANES).transpose(1, 0, 2)
    change = np.zeros((len(own.rows), LANES), np.float32)
    values = np.ascontiguousarray(blocked)
    return _Work(padded, problem.counts(counts), values, change, own.n_old, side)


def _solve(own: _Work, other: _Work, lanes: Floats, last: int, block: int) -> None:
    """Solve one block of a side's new rows; ``last`` is the block that the other changed last."""
    pack = np.zeros((len(other.change) + 1, 2 * LANES), np.float32)
    pack[:-1, :LANES] = other.change
    pack[:-1, LANES:] = other.values[block]
    values = own.values[block, own.n_old :]
    before = own.values[last, own.n_old :].copy()
    other.change[:] = 0
    cut = slice(block * LANES, (block + 1) * LANES)
    free, penalty = (np.ascontiguousarray(lanes[2 * own.side + k, cut]) for k in (0, 1))
    n_new, change = len(values), own.change[own.n_old :]
    update_rows(own.padded, 0, n_new, before, pack, own.counts, penalty, free, values, change)


def _catch_up(own: _Work, other: _Work, lanes: Floats, last: int) -> None:
    """Bring a side's residuals up to date: solve for nothing."""
    held = np.zeros_like(lanes)
    held[1::2] = lanes[1::2]
    _solve(own, other, held, last, last)


def _rows(work: _Work) -> Floats:
    blocked = work.values.transpose(1, 0, 2)
    return np.ascontiguousarray(blocked).reshape(blocked.shape[0], -1)
