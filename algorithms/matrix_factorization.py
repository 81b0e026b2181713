"""Matrix factorisation of ratings: observed entries only, biases, two solvers.

.. math:: \\min \\sum_{(u, i)} (r_{ui} - \\mu - b_u - c_i - p_u' q_i)^2
          + \\alpha \\left(\\sum_u n_u |p_u|^2 + \\sum_i n_i |q_i|^2\\right)
          + \\beta \\left(\\sum_u n_u b_u^2 + \\sum_i n_i c_i^2\\right)

with ``n`` the number of a row's ratings, or 1 (``weighted=False``). The solvers are in
``mf_ccd`` and ``mf_sgd``. Not here: implicit feedback (all entries, with weights), and features
of users and items.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted

from dask_petuum.base import PetuumEstimator
from dask_petuum.data.blocks import check_container
from dask_petuum.data.kinds import dask_backed, is_dask_frame
from dask_petuum.runtime.where import find_client
from dask_petuum.store.consistency import Consistency, Staleness
from dask_petuum.unchanged import unchanged_by_errors

from .input_values import check_width
from .inputs import check_number
from .mf_extend import extend_model
from .mf_fit import run_fit
from .mf_model import Model, Predictions, best, predict_pairs
from .mf_ratings import check_piece, columns_of, one_id, open_ratings, places, rated_pairs

__all__ = ["MatrixFactorization"]

SOLVERS = ("ccd", "sgd")
SCHEDULES = ("fixed", "free")


class MatrixFactorization(PetuumEstimator):
    """Low-rank model of ratings with biases, here or on a Dask cluster.

    Parameters
    ----------
    n_components
        Number of factors.
    alpha
        Penalty of the factors.
    alpha_bias
        Penalty of the biases; None: ``alpha``.
    weighted
        Whether a row's penalty counts once for each of its ratings, or once.
    fit_biases
        Whether there are a mean and biases of users and items.
    solver
        "ccd": cyclic descent in blocks of 8 factors, exact in each; no step size. "sgd":
        stochastic gradient descent by cells that share no user and no item, with a step
        size of its own for each user and item.
    max_iter
        Passes over the ratings at most.
    tol
        Share of the root mean squared error by which it must fall to count as progress.
    n_iter_no_change
        Passes in a row without progress that end the fit.
    early_stopping
        Whether progress is that of held-out ratings, not of those trained on.
    validation_fraction
        Share of the ratings to hold out for ``early_stopping``.
    learning_rate
        Of "sgd": step size of a row that has not moved yet, for ratings of unit variance.
    schedule
        Of "sgd": "fixed": blocks of items go round the partitions in a fixed order, and the result
        is the same on any number of ranks. "free": a rank that is idle takes the next block that
        its users have not met in this pass, so that nobody waits for a slow rank before the
        pass ends; the order, and so the result, depends on the clock.
    keep_seen
        Keep which items each user has rated (4 bytes a rating), for ``recommend``.
    random_state
        Seed of the first factors and of all orders.
    n_jobs
        Threads of this process in a local run (None: all cores); no effect on the result.
    verbose
        1: print each clock.
    consistency, staleness
        How far a rank may be ahead of the sums that decide when a fit ends: "bsp", "ssp" or "essp",
        and by how many clocks (a pass of "sgd", 8 factors of "ccd"). Factors are exchanged exactly
        all the same; with a staleness, ranks do not wait for each other between clocks, and a
        fit on a cluster ends that many clocks after ``tol`` is reached.
    scheduler
        None: the active Dask client, else this process; "local"; or a scheduler's address.
    checkpoint
        URL of a folder (anything that fsspec opens) in which checkpoints of a fit are files; None:
        a fit on a cluster keeps them in the memory of its workers. See :doc:`/recovery`.

    Attributes
    ----------
    user_factors_ : ndarray (n_users, n_components) float32
    item_factors_ : ndarray (n_items, n_components) float32
    user_bias_, item_bias_ : ndarray (n_users,) and (n_items,) float32
    mean_ : float, mean of the ratings trained on; 0 without biases
    users_, items_ : ndarray of ids, in the order of the rows
    n_iter_ : int, passes made
    history_ : list of dict, one record a pass: ``rmse`` of the ratings trained on ("ccd": after the
        pass; "sgd": of each rating before its own step), ``validation_rmse``
    n_features_in_ : int, items of a matrix; only where X was one

    Notes
    -----
    A user or an item without ratings has factors and bias 0. Of unknown ids in ``predict`` what is
    known counts: the mean and the other side's bias.

    References
    ----------
    H.-F. Yu et al., "Scalable coordinate descent approaches to parallel matrix factorization for
    recommender systems", ICDM 2012 (CCD++). Y. Koren, R. Bell, C. Volinsky, "Matrix factorization
    techniques for recommender systems", Computer 42(8), 2009.

    Examples
    --------
    >>> from dask_petuum.algorithms.matrix_factorization import MatrixFactorization
    >>> users, items = ["ann", "ann", "bob", "cat"], ["tea", "rum", "tea", "rum"]
    >>> model = MatrixFactorization(2, random_state=0, scheduler="local")
    >>> model.fit((users, items, [5.0, 1.0, 4.0, 2.0])).predict((["bob"], ["rum"])).shape
    (1,)
    """

    user_factors_: NDArray[np.float32]
    item_factors_: NDArray[np.float32]
    user_bias_: NDArray[np.float32]
    item_bias_: NDArray[np.float32]
    mean_: float
    users_: NDArray[Any]
    items_: NDArray[Any]
    n_iter_: int
    _scale: float
    _seen: tuple[NDArray[np.int64], NDArray[Any]] | None

    def __init__(
        self,
        n_components: int = 40,
        *,
        alpha: float = 0.1,
        alpha_bias: float | None = None,
        weighted: bool = True,
        fit_biases: bool = True,
        solver: str = "ccd",
        max_iter: int = 30,
        tol: float = 1e-3,
        n_iter_no_change: int = 2,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        learning_rate: float = 0.3,
        schedule: str = "fixed",
        keep_seen: bool = True,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        consistency: str = "bsp",
        staleness: Staleness = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.alpha_bias = alpha_bias
        self.weighted = weighted
        self.fit_biases = fit_biases
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.keep_seen = keep_seen
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.consistency = consistency
        self.staleness = staleness
        self.scheduler = scheduler
        self.checkpoint = checkpoint

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = False
        return tags

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, *, resume: str | None = None) -> Self:
        """Learn the factors.

        Parameters
        ----------
        X
            Ratings: scipy.sparse (n_users, n_items), stored zeros are ratings; a Dask array of
            such chunks; or three columns user, item, rating: an array (n_ratings, 3), a tuple of
            columns, a list of rows, a pandas or Dask DataFrame. Ids may be anything hashable.
        y
            Ignored.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        self._check_parameters()
        lazy = find_client(self.scheduler, self.client) is not None
        ratings = open_ratings(X, lazy=lazy)
        check_width(self, max(ratings.matrix.shape))
        check = None if dask_backed(ratings.matrix) is None else check_piece
        with self._open_job(ratings.matrix, check=check, dtype=np.float32) as job:
            run_fit(self, job)
        n_users, n_items = len(self.user_factors_), len(self.item_factors_)
        self.users_ = np.arange(n_users) if ratings.users is None else ratings.users
        self.items_ = np.arange(n_items) if ratings.items is None else ratings.items
        self.__dict__.pop("n_features_in_", None)
        if ratings.items is None:
            self.n_features_in_ = n_items
        return self

    @unchanged_by_errors
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn users and items that are new, in this process; old factors stay as they are.

        Parameters
        ----------
        X
            Ratings as in ``fit``, in memory or small enough for it. Those of an old item by an old
            user teach nothing. Rows and columns of a matrix beyond the old shape are new.
        y
            Ignored.
        """
        if not hasattr(self, "user_factors_"):
            self.fit(X)
            return self
        self._check_parameters()
        extend_model(self, X)
        return self

    def predict(self, X: Any) -> Any:
        """Predict ratings.

        Parameters
        ----------
        X
            Pairs of user and item: an array (n_pairs, 2 or 3; a third column is left alone), a
            tuple of columns, a pandas or Dask DataFrame, a Dask array; or scipy.sparse: its
            stored entries.

        Returns
        -------
        ndarray (n_pairs,) float32, lazy for a Dask collection; for scipy.sparse a csr_array
        """
        check_is_fitted(self, "user_factors_")
        model = self._model()
        if sp.issparse(X):
            csr = sp.csr_array(check_container(X))
            rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
            values = predict_pairs(model, (rows, csr.indices))
            return sp.csr_array((values, csr.indices, csr.indptr), shape=csr.shape)
        collection = dask_backed(X)
        if collection is None:
            columns = columns_of(X, 2)
            return predict_pairs(model, (columns.users, columns.items))
        if is_dask_frame(collection):
            meta = ("prediction", np.float32)
            shared = Predictions(model)
            return collection.map_partitions(shared.series, meta=meta)
        if collection.numblocks[1] > 1:
            collection = collection.rechunk({1: -1})
        return collection.map_blocks(
            Predictions(model), drop_axis=1, dtype=np.float32, meta=np.empty(0, np.float32)
        )

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the root mean squared error of ratings as in ``fit``; computes a lazy X."""
        check_is_fitted(self, "user_factors_")
        users, items, ratings = rated_pairs(X)
        assert ratings is not None
        error = predict_pairs(self._model(), (users, items)) - ratings.astype(np.float64)
        return -float(np.sqrt(np.mean(error**2)))

    def recommend(
        self, user: Any, n: int = 10, *, exclude_seen: bool = True
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Find the items with the highest predicted ratings.

        Parameters
        ----------
        user
            Id of a user; for an unknown one the items' biases decide.
        n
            Items at most.
        exclude_seen
            Leave out items that the user has rated.

        Returns
        -------
        ids of the items and their predicted ratings, best first; equal ones in the order of
        ``items_``
        """
        check_is_fitted(self, "user_factors_")
        check_number("n", n, Integral, 1)
        place = int(places(one_id(user), self.users_)[0])
        scores = self.mean_ + self.item_bias_
        seen = np.empty(0, np.int64)
        if place >= 0:
            scores = (
                scores + self.user_bias_[place] + self.item_factors_ @ self.user_factors_[place]
            )
            if exclude_seen:
                seen = self._seen_by(place)
        found = best(scores, n, seen)
        return self.items_[found], scores[found].astype(np.float32)

    def similar_items(self, item: Any, n: int = 10) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Find the items whose factors point the same way.

        Returns
        -------
        ids of the items (not the item itself) and the cosines of their factors, best first

        Raises
        ------
        ValueError
            For an unknown item.
        """
        check_is_fitted(self, "user_factors_")
        check_number("n", n, Integral, 1)
        place = int(places(one_id(item), self.items_)[0])
        if place < 0:
            raise ValueError(f"item {item!r} is unknown: it was in none of the ratings of fit")
        norms = np.linalg.norm(self.item_factors_, axis=1)
        products = self.item_factors_ @ self.item_factors_[place]
        cosines = products / np.maximum(norms * norms[place], np.finfo(np.float32).tiny)
        found = best(cosines, n, np.array([place]))
        return self.items_[found], cosines[found].astype(np.float32)

    def _model(self) -> Model:
        return Model(
            self.user_factors_,
            self.item_factors_,
            self.user_bias_,
            self.item_bias_,
            self.mean_,
            self.users_,
            self.items_,
        )

    def _seen_by(self, place: int) -> NDArray[Any]:
        if self._seen is None:
            raise ValueError(
                "which items a user has rated was not kept (keep_seen=False); "
                "pass exclude_seen=False"
            )
        indptr, indices = self._seen
        return indices[indptr[place] : indptr[place + 1]]

    def _check_parameters(self) -> None:
        check_number("n_components", self.n_components, Integral, 1)
        check_number("alpha", self.alpha, Real, 0)
        if self.alpha_bias is not None:
            check_number("alpha_bias", self.alpha_bias, Real, 0)
        check_number("max_iter", self.max_iter, Integral, 1)
        check_number("tol", self.tol, Real, 0)
        check_number("n_iter_no_change", self.n_iter_no_change, Integral, 1)
        check_number("learning_rate", self.learning_rate, Real, 0, strict=True)
        check_number("validation_fraction", self.validation_fraction, Real, 0, strict=True)
        if not self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be < 1, got {self.validation_fraction!r}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be 'ccd' or 'sgd', got {self.solver!r}")
        if not Consistency.parse(self.consistency, self.staleness).bounded:
            raise ValueError("factors that move need a bound: consistency cannot be 'asp'")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be 'fixed' or 'free', got {self.schedule!r}")
        if self.schedule == "free" and self.solver != "sgd":
            raise ValueError(
                f"schedule='free' needs solver='sgd', got {self.solver!r}: no blocks move there"
            )
