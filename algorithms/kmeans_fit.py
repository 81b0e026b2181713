"""One call of ``KMeans.fit``: starts, runs, centres for clusters that lost their rows, the best."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from dask_petuum.runtime.job import Job, Monitor, RunOptions, RunResult
from dask_petuum.runtime.program import DataParallelProgram, Record
from dask_petuum.store.consistency import Consistency

from .kmeans_minibatch import MiniBatchProgram
from .kmeans_program import LloydProgram
from .kmeans_rows import Summary
from .kmeans_seed import SeedProgram, read_summaries
from .kmeans_sums import Problem, Sums, with_rows

if TYPE_CHECKING:
    from .kmeans import KMeans

__all__ = ["KMeansFit"]

#: Clocks that must agree on the end where the staleness of reads has no bound.
PATIENCE = 10


class KMeansFit:
    """The runs of one fit; `run` and `partial` set the estimator's fitted attributes.

    Parameters
    ----------
    estimator
        Its parameters have been checked.
    job
        The data, and the place to run.
    unit
        Whether every row weighs 1.
    dtype
        Type of the rows and of the centres.
    """

    def __init__(self, estimator: KMeans, job: Job, unit: bool, dtype: Any) -> None:
        self.estimator = estimator
        self.job = job
        self.unit = unit
        self.dtype = dtype
        self.n_features = job.n_features
        self.random = check_random_state(estimator.random_state)
        #: Whether Ctrl-C ended it; what was learnt until then is kept.
        self.interrupted = False
        #: Clocks made, of all starts; those that draw the first centres do not count.
        self.n_clocks = 0
        self._asked_to_stop = False
        self._parts: list[Summary] = []

    @property
    def n_init(self) -> int:
        """Starts."""
        given = self.estimator
        if not isinstance(given.init, str) or given.algorithm == "minibatch":
            return 1
        if given.n_init == "auto":
            return 10 if given.init == "random" else 1
        return int(given.n_init)

    @property
    def clocks_per_pass(self) -> int:
        """Clocks that go over as many rows as there are."""
        if self.estimator.algorithm == "lloyd":
            return 1
        return int(np.ceil(self.job.n_rows / self.estimator.batch_size))

    @property
    def max_clocks(self) -> int:
        """Clocks of one start."""
        return int(self.estimator.max_iter) * self.clocks_per_pass

    def run(self, monitor: Monitor) -> None:
        """Make all starts and keep the best; a callback or Ctrl-C ends them all."""
        best = np.inf
        for _ in range(self.n_init):
            centers = self._first_centers()
            run = self._lloyd if self.estimator.algorithm == "lloyd" else self._minibatch
            result, sums, history = run(centers, partial(self._tell, monitor))
            inertia = _inertia(result)
            if inertia < best:
                best = inertia
                self._keep(result, sums, history)
            if self.interrupted or self._asked_to_stop:
                return
        found = len(np.unique(self.estimator.labels_))
        if found < self.estimator.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({found}) found smaller than n_clusters "
                f"({self.estimator.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def partial(self, first: bool) -> None:
        """Take the rows in as one batch."""
        given = self.estimator
        if first:
            centers = self._first_centers()
            given.counts_ = np.zeros(given.n_clusters)
            given.n_steps_ = 0
            given.history_ = []
        else:
            centers = given.cluster_centers_.astype(np.float64)
            self._summarise("", centers)
        sizes = [size.n_rows for size in self.job.sizes]
        program = MiniBatchProgram(
            Problem.of(centers, self._parts, self.unit), centers, 0.0, sizes, given.counts_, 1
        )
        steps, history = given.n_steps_, given.history_
        result = self._run(program, 1, None)
        self.n_clocks = 1
        self._keep(result, program.sums, _renumbered(history, result.history))
        given.n_steps_ = steps + 1
        given.n_iter_ = steps + 1

    def _first_centers(self) -> NDArray[np.float64]:
        given = self.estimator
        n_clusters = int(given.n_clusters)
        if self.job.n_rows < n_clusters:
            raise ValueError(f"n_samples={self.job.n_rows} should be >= n_clusters={n_clusters}.")
        if not isinstance(given.init, str):
            init = np.array(given.init, dtype=np.float64)
            if init.shape != (n_clusters, self.n_features) or not np.isfinite(init).all():
                raise ValueError(
                    f"init must be finite and of shape (n_clusters, n_features) = "
                    f"({n_clusters}, {self.n_features}), got shape {init.shape}"
                )
            self._summarise("", init)
            return init
        outputs = self._summarise(given.init, None)
        if given.init == "k-means++":
            return np.asarray(outputs[0]["chosen"])
        if given.init == "random":
            keys = np.concatenate([output["keys"] for output in outputs])
            rows = np.vstack([output["rows"] for output in outputs])
            return rows[np.argsort(keys, kind="stable")[:n_clusters]]
        weights = np.sum([output["weights"] for output in outputs], axis=0)
        return self._cluster_draws(np.asarray(outputs[0]["chosen"]), weights)

    def _summarise(self, method: str, init: Any) -> list[dict[str, Any]]:
        """Run the seeding program (for the summary alone where there are centres)."""
        n_clusters = len(init) if init is not None else int(self.estimator.n_clusters)
        seed = self.estimator._seed(self.random)
        program = SeedProgram(method, n_clusters, self.n_features, len(self.job.sizes), seed)
        result = self._run(program, program.n_clocks, None, seed)
        if self.interrupted:
            raise KeyboardInterrupt("fit was interrupted while the first centres were drawn")
        self._parts = read_summaries(result.outputs)
        return list(result.outputs)

    def _cluster_draws(self, rows: Any, weights: Any) -> NDArray[np.float64]:
        """Cluster the draws of k-means|| by their weights, here."""
        inner = type(self.estimator)(
            n_clusters=self.estimator.n_clusters,
            n_init=3,
            random_state=self.random.randint(2**31 - 1),
            scheduler="local",
        )
        kept = weights > 0
        if kept.sum() < self.estimator.n_clusters:
            kept = np.ones(len(rows), dtype=bool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            inner.fit(rows[kept], sample_weight=np.maximum(weights[kept], 1e-9))
        return inner.cluster_centers_.astype(np.float64)

    def _lloyd(
        self, centers: NDArray[np.float64], monitor: Monitor
    ) -> tuple[RunResult, Sums, list[Record]]:
        given = self.estimator
        problem = Problem.of(centers, self._parts, self.unit)
        tol = float(given.tol) * float(np.mean(_variances(self._parts)))
        history: list[Record] = []
        while True:
            program = LloydProgram(problem, centers, tol, _patience(given))
            result = self._run(program, self.max_clocks - len(history), monitor)
            history = _renumbered(history, result.history)
            done = result.stopped_by != "converged" or len(history) >= self.max_clocks
            done |= self._asked_to_stop
            moved = None if done else _relocated(program.sums, result)
            if moved is None:
                return result, program.sums, history
            centers = moved

    def _minibatch(
        self, centers: NDArray[np.float64], monitor: Monitor
    ) -> tuple[RunResult, Sums, list[Record]]:
        given, window = self.estimator, self.clocks_per_pass
        sizes = np.array([size.n_rows for size in self.job.sizes])
        share = min(1.0, given.batch_size / self.job.n_rows)
        batches = np.clip(np.rint(sizes * share), np.minimum(sizes, 1), sizes).astype(int)
        problem = Problem.of(centers, self._parts, self.unit)
        times = self.max_clocks * (batches.sum() / self.job.n_rows if self.unit else 1.0)
        counts = np.zeros(len(centers))
        program = MiniBatchProgram(
            with_rows(problem, times), centers, float(given.tol), batches.tolist(), counts, window
        )
        result = self._run(program, self.max_clocks, monitor)
        return result, program.sums, list(result.history)

    def _run(
        self,
        program: DataParallelProgram,
        max_clocks: int,
        monitor: Monitor | None,
        seed: int | None = None,
    ) -> RunResult:
        given = self.estimator
        options = RunOptions(
            max_clocks=max_clocks,
            seed=given._seed(self.random) if seed is None else seed,
            consistency=given.consistency if monitor else "bsp",
            staleness=given.staleness if monitor else 0,
            monitor=monitor,
        )
        result = self.job.run(program, options)
        self.interrupted = result.stopped_by == "interrupt"
        return result

    def _tell(self, monitor: Monitor, record: Record) -> bool:
        """Tell of a clock; an answer that comes too late for this run still ends the fit."""
        self.n_clocks += 1
        asked = monitor(record)
        self._asked_to_stop |= asked
        return asked

    def _keep(self, result: RunResult, sums: Sums, history: list[Record]) -> None:
        given = self.estimator
        given.cluster_centers_ = result.outputs[0]["centers"].astype(self.dtype)
        given.counts_ = sums.weights(np.asarray(result.tables["sums"]))
        given.labels_ = np.concatenate([output["labels"] for output in result.outputs])
        given.inertia_ = _inertia(result)
        given.history_ = history
        given.n_steps_ = len(history)
        given.n_iter_ = int(np.ceil(len(history) / self.clocks_per_pass))
        given.n_features_in_ = self.n_features


def _inertia(result: RunResult) -> float:
    return float(sum(float(output["inertia"][0]) for output in result.outputs))


def _variances(parts: list[Summary]) -> NDArray[np.float64]:
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total.spread / total.weight if total.weight else total.spread


def _patience(estimator: KMeans) -> int:
    """Clocks in a row in which nothing may move: reads may lag behind."""
    consistency = Consistency.parse(estimator.consistency, estimator.staleness)
    return 1 + consistency.high if consistency.bounded else PATIENCE


def _relocated(sums: Sums, result: RunResult) -> NDArray[np.float64] | None:
    """Put a far row in the place of each centre without rows; None where there is none of either.

    All partitions' farthest rows are compared; ties go to the earlier row.
    """
    empty = np.flatnonzero(sums.weights(np.asarray(result.tables["sums"])) == 0)
    far = np.concatenate([output["far_distances"] for output in result.outputs])
    rows = np.vstack([output["far_rows"] for output in result.outputs])
    order = np.argsort(-far, kind="stable")[: len(empty)]
    order = order[far[order] > 0]
    if len(order) == 0:
        return None
    centers = np.array(result.outputs[0]["centers"])
    centers[empty[: len(order)]] = rows[order]
    return centers


def _renumbered(before: list[Record], more: Any) -> list[Record]:
    """Continue a history: clocks are counted on."""
    return before + [{**record, "clock": record["clock"] + len(before)} for record in more]
