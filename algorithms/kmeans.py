"""K-means: centres that minimise the weighted sum of squared distances to the nearest one.

.. math:: \\min_{c_1 .. c_k} \\sum_i w_i \\min_j |x_i - c_j|^2

Lloyd's algorithm with Hamerly's bounds (exact: the same labels in every pass as without), or
mini-batches; the programs are in ``kmeans_program``, the seeding in ``kmeans_seed``. Not here:
other distances than the Euclidean one, and scikit-learn's random reassignment of small clusters
in mini-batches.
"""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.callback import with_callbacks
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils.validation import _check_sample_weight

from dask_petuum.base import PetuumEstimator
from dask_petuum.lazy import map_rows
from dask_petuum.store.consistency import Consistency, Staleness
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import (
    Checked,
    check_choice,
    check_number,
    check_rows,
    float_dtype,
    open_rows,
    rows_to_apply,
    weights_in_memory,
)
from .kmeans_fit import KMeansFit
from .kmeans_rows import Rows, pack_centers

__all__ = ["KMeans"]

INITS = ("k-means++", "k-means||", "random")


class KMeans(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    PetuumEstimator,
):
    """K-means clustering of dense or sparse rows, in this process or on a Dask cluster.

    The sums of the clusters are exact, so that the result depends neither on the threads nor, in
    BSP, on the ranks; from given first centres it does not depend on the partitions either.

    Parameters
    ----------
    n_clusters
        Number of clusters and centres.
    init
        "k-means++": greedy, as in scikit-learn. "k-means||": a few rounds of many draws, which
        are then clustered; for many clusters or partitions. "random": rows, drawn with
        probability by weight. Or an array (n_clusters, n_features).
    n_init
        Starts, of which the one with the least inertia is kept; "auto": 10 for
        ``init="random"``, else 1. Mini-batches and an array use one start.
    max_iter
        Passes over the rows at most.
    tol
        Lloyd: stop when the sum of the centres' squared moves is at most ``tol`` times the mean
        variance of the features, as in scikit-learn. Mini-batch: stop when the mean inertia
        of a pass's batches is not lower by this share than in the pass before.
    algorithm
        "lloyd" or "minibatch".
    batch_size
        Rows of a mini-batch, over all partitions.
    random_state
        Seed of the first centres and of the batches.
    n_jobs
        Threads of this process (None: all cores), or of each rank on a cluster (None: all of its
        worker); negative: counted back from these, as in joblib. No effect on the result.
    verbose
        1: print each clock.
    consistency, staleness
        How current the sums are that a pass reads: "bsp", "ssp", "essp" or "asp", and by how many
        passes they may lag: a number, a range ``(low, high)`` in which each rank moves it, or
        "auto", the range (0, 8). On one process every read is current.
    scheduler
        None: the active Dask client, else this process; "local"; or a scheduler's address.
    checkpoint
        URL of a folder (anything that fsspec opens) in which checkpoints of a fit are files; None:
        a fit on a cluster keeps them in the memory of its workers. See :doc:`/recovery`.

    Attributes
    ----------
    cluster_centers_ : ndarray (n_clusters, n_features), of X's dtype
    labels_ : ndarray (n_rows,) int32, nearest centre of each row; ties go to the lower number
    inertia_ : float, the objective at the end
    n_iter_ : int, passes made (mini-batch: rounded up)
    n_steps_ : int, clocks made by the last fit, or calls of ``partial_fit``
    history_ : list of dict, one record per clock of the best start: ``inertia`` is that of the
        assignment to the centres at the clock's beginning
    counts_ : ndarray (n_clusters,) float64, weight of the rows that each centre has averaged
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    A cluster that loses all its rows gets the row that is farthest from its centre, as in
    scikit-learn; the rows are then assigned anew. Mini-batches leave it where it is.
    Memory of a run: 12 (float32) or 20 bytes a row besides the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_petuum.algorithms.kmeans import KMeans
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> sorted(model.cluster_centers_.tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    """

    cluster_centers_: NDArray[Any]
    labels_: NDArray[np.int32]
    inertia_: float
    n_iter_: int
    n_steps_: int
    counts_: NDArray[np.float64]
    n_features_in_: int

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        algorithm: str = "lloyd",
        batch_size: int = 1024,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        consistency: str = "bsp",
        staleness: Staleness = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.algorithm = algorithm
        self.batch_size = batch_size
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
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, resume: str | None = None
    ) -> Self:
        """Find the centres.

        Parameters
        ----------
        X
            (n_rows, n_features): ndarray, CSR, DataFrame, xarray or a Dask collection.
        y
            Ignored.
        sample_weight
            (n_rows,) weights >= 0; None: 1 each.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        self._check_parameters()
        X, sample_weight = self._check_input(X, sample_weight, reset=True)
        with open_rows(self, X, sample_weight=sample_weight) as job:
            fit = KMeansFit(self, job, sample_weight is None, float_dtype(X))
            with self._fit_task(fit.max_clocks * fit.n_init) as monitor:
                fit.run(monitor)
        if fit.interrupted:
            self._raise_interrupt(fit.n_clocks)
        return self

    @unchanged_by_errors
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take in further rows as one mini-batch: each centre becomes the mean of all its rows.

        The first call draws the first centres from its rows, which must be ``n_clusters`` at
        least. After ``fit`` it goes on from there.
        """
        first = not hasattr(self, "cluster_centers_")
        if first:
            self._check_parameters()
        X, sample_weight = self._check_input(X, sample_weight, reset=first)
        with open_rows(self, X, sample_weight=sample_weight) as job:
            fit = KMeansFit(self, job, sample_weight is None, float_dtype(X))
            fit.partial(first)
        if fit.interrupted:
            self._raise_interrupt(fit.n_clocks)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.int32]:
        """Fit, and return ``labels_``."""
        self.fit(X, sample_weight=sample_weight)
        return self.labels_

    def predict(self, X: Any) -> Any:
        """Return each row's nearest centre, (n_rows,) int32; lazy for a Dask collection."""
        X, lazy = rows_to_apply(self, X)
        function = partial(_predict, self.cluster_centers_)
        if lazy:
            return map_rows(
                Checked(function, self.n_features_in_), X, n_columns=None, dtype=np.int32
            )
        return function(X)

    def transform(self, X: Any) -> Any:
        """Return the distances of the rows to the centres, (n_rows, n_clusters)."""
        X, lazy = rows_to_apply(self, X)
        function = partial(_transform, self.cluster_centers_)
        if lazy:
            n_columns = len(self.cluster_centers_)
            return map_rows(
                Checked(function, self.n_features_in_), X, n_columns=n_columns, dtype=float_dtype(X)
            )
        return function(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the objective on X."""
        X, lazy = rows_to_apply(self, X)
        distances = partial(_nearest_distances, self.cluster_centers_)
        if lazy:
            values = map_rows(
                Checked(distances, self.n_features_in_), X, n_columns=None, dtype=np.float64
            )
            total = (values if sample_weight is None else values * sample_weight).sum()
            return -float(total.compute())
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        return -float(weights @ distances(X))

    @property
    def _n_features_out(self) -> int:
        return int(self.cluster_centers_.shape[0])

    def _check_input(self, X: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, Any]:
        X = check_rows(self, X, reset=reset)
        return X, weights_in_memory(X, sample_weight)

    def _check_parameters(self) -> None:
        check_number("n_clusters", self.n_clusters, Integral, 1)
        check_number("max_iter", self.max_iter, Integral, 1)
        check_number("batch_size", self.batch_size, Integral, 1)
        check_number("tol", self.tol, Real, 0)
        check_choice("algorithm", self.algorithm, ("lloyd", "minibatch"))
        if isinstance(self.init, str) and self.init not in INITS:
            raise ValueError(f"init must be one of {INITS} or an array, got {self.init!r}")
        Consistency.parse(self.consistency, self.staleness)
        if self.n_init != "auto":
            check_number("n_init", self.n_init, Integral, 1)


def _nearest(centers: NDArray[Any], X: Any) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Label rows in this thread; labels, and squared distances in float64."""
    rows = Rows(X, np.empty(0))
    packed = pack_centers(centers, X.dtype, rows.sparse)
    labels = np.empty(rows.n_rows, dtype=np.int32)
    near = np.empty(rows.n_rows, dtype=rows.distance_dtype)
    distances = np.empty(rows.n_rows)
    whole = slice(0, rows.n_rows)
    rows.nearest(packed, whole, labels, near)
    rows.own_distances(packed, whole, labels, distances)
    return labels, distances


def _predict(centers: NDArray[Any], X: Any) -> NDArray[np.int32]:
    return _nearest(centers, X)[0]


def _nearest_distances(centers: NDArray[Any], X: Any) -> NDArray[np.float64]:
    return _nearest(centers, X)[1]


def _transform(centers: NDArray[Any], X: Any) -> Any:
    return euclidean_distances(X, centers.astype(X.dtype, copy=False))
