"""The lasso over ranks: few rounds of much work, in bulk-synchronous clocks.

The rank of the first partition searches (``lasso_search``); all ranks sum up. A round takes four
clocks: the searcher names columns for the working set; every rank adds its rows' part of
their Gram matrix; the searcher solves on the set, with as many updates as that takes and no
messages, and gives the coefficients; every rank adds its rows' products with the new residual,
which certify the solution and show what to take in next. Who decides is one rank, so that ranks
whose processors round differently cannot disagree.

Tables: ``sums`` (n_features, 3) weighted sums of the columns, their squares about the means and
the weight that these are of; ``products`` (n_features + 2, 1) ``X'S r``, then ``r'S r`` and
``r'S y``; ``gram`` (capacity, capacity), rows and columns in the order of the working set;
``model`` (n_features, 2) coefficients, and places in the set from 1. Where the set outgrows the
capacity, the run ends and the caller starts another one.

References
----------
J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for generalized linear models via
coordinate descent", J. Stat. Softw. 33, 2010, section 2.2 (covariance updates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.blas import one_blas_thread
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .lasso_certificate import Penalty
from .lasso_rows import Rows
from .lasso_search import Search

__all__ = ["LassoProgram", "Task"]

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

#: Columns that the set grows by at least, and share of the nonzero ones: a round reads X twice.
FIRST, GROWTH = 100, 1.0
#: The first set may be so large that its Gram matrix takes about as long as a pass: a pass reads
#: n p numbers at the memory's rate, the matrix takes n k^2 operations at BLAS's: k^2 = 40 p.
SQUARE_PER_FEATURE = 40.0
#: Squares of a column, relative to its weight, that rounding leaves of a constant one.
CONSTANT, MISSING = 1e-24, 1e-12
#: First letters of the names of what a checkpoint keeps of the search.
SEARCH = "search "
#: What the searcher waits for between two turns.
WAITS = ("start", "first products", "gram", "products")
#: What a clock did.
SUMMED, CERTIFIED, SOLVED = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Task:
    """What is to be found.

    Attributes
    ----------
    n_features, n_rows
        Shape of X.
    mean
        Weighted mean of y; 0 without an intercept.
    unit
        Rows by the sum of the weights.
    center
        Whether there is an intercept.
    alpha, l1_ratio, positive, tol, max_rounds
        Parameters of the estimator.
    smallest
        Share of the largest penalty that stands for none.
    capacity
        Columns of the working set at most.
    """

    n_features: int
    n_rows: int
    mean: float
    unit: float
    center: bool
    alpha: float
    l1_ratio: float
    positive: bool
    tol: float
    max_rounds: int
    smallest: float
    capacity: int

    def penalty(self, search: Search) -> Penalty:
        """Scale the penalty to the sum of squares."""
        lam = self.alpha * self.l1_ratio * self.n_rows
        if self.alpha == 0.0:
            lam = self.smallest * search.largest_lam(self.positive)
        return Penalty(lam, self.alpha * (1.0 - self.l1_ratio) * self.n_rows, self.positive)


class LassoProgram(DataParallelProgram):
    """A search for one penalty, from given coefficients.

    Parameters
    ----------
    task
        What is to be found.
    first
        (n_features,) first coefficients.
    """

    metrics = (
        "objective",
        "dual_gap",
        "n_nonzero",
        "n_set",
        "n_alive",
        "kind",
        "converged",
        "finished",
        "full",
    )

    def __init__(self, task: Task, first: Doubles) -> None:
        self.task = task
        self.first = first
        self._searcher: _Searcher | None = None
        self._opened: tuple[Context, dict[str, View]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_searcher": None}

    def tables(self) -> Sequence[TableSpec]:
        """Specify the tables."""
        n, size = self.task.n_features, self.task.capacity
        return [
            TableSpec("sums", (n, 3), "float64", dims=("feature", "sum")),
            TableSpec("products", (n + 2, 1), "float64", dims=("feature", "product")),
            TableSpec("gram", (size, size), "float64", dims=("place", "other_place")),
            TableSpec("model", (n, 2), "float64", dims=("feature", "value")),
        ]

    def start(self, ctx: Context, partition: Partition) -> State:
        """Sum up the columns."""
        n = self.task.n_features
        if self.task.center:
            delta = np.zeros((n, 3))
            delta[:, 0] = self._rows(ctx, partition).sums()
            self._views(ctx)["sums"].inc(delta)
        else:
            self._views(ctx)
        return {
            "products": np.zeros(n + 2),
            "w": np.zeros(n),
            "n_set": np.zeros(1, dtype=np.int64),
        }

    def save(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the state, and with the first partition the search; see `_Searcher.state`."""
        searcher = self._searcher if partition.index == 0 else None
        return state if searcher is None else {**state, **searcher.state()}

    def resume(self, ctx: Context, partition: Partition, saved: State) -> State:
        """Make the state, and the search where it goes on."""
        views = self._views(ctx)
        found = {name: saved.pop(name) for name in list(saved) if name.startswith(SEARCH)}
        if found:
            values = {name: views[name].values for name in ("sums", "products", "gram")}
            self._searcher = _Searcher(self.task, values, self.first)
            self._searcher.go_on(found, values["gram"])
        return saved

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Clock 1: squares and products; then searching and summing up take turns."""
        found: dict[str, float] = {}
        with one_blas_thread():
            if ctx.clock_index == 1:
                self._look(ctx, partition, state)
            elif ctx.clock_index % 2:
                self._sum_up(ctx, partition, state)
            elif partition.index == 0:
                found = self._search(ctx)
        return {name: found.get(name, 0.0) for name in self.metrics}

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when the searcher is done, or the set is full."""
        return history[-1]["finished"] > 0 or history[-1]["full"] > 0

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the means of the columns."""
        if partition.index:
            return {}
        return {"means": self._means(self._views(ctx)["sums"].values)}

    def _look(self, ctx: Context, partition: Partition, state: State) -> None:
        views = self._views(ctx)
        means = self._means(views["sums"].values)
        rows = self._rows(ctx, partition)
        delta = np.zeros((self.task.n_features, 3))
        delta[:, 1:] = rows.moments(means).T
        views["sums"].inc(delta)
        state["products"] = rows.products(state["w"], means, self.task.mean)
        views["products"].inc(state["products"][:, None])

    def _sum_up(self, ctx: Context, partition: Partition, state: State) -> None:
        """Add the Gram matrix of new columns, and the products with a new residual."""
        views = self._views(ctx)
        means = self._means(views["sums"].values)
        model = views["model"].values
        old, new = int(state["n_set"][0]), int(model[:, 1].max())
        if new > old:
            cols = np.argsort(model[:, 1], kind="stable")[self.task.n_features - new :]
            block = self._rows(ctx, partition).gram(cols, old, means)
            delta = np.zeros((new - old, self.task.capacity))
            delta[:, :new] = block.T
            views["gram"].inc(delta, at=np.arange(old, new))
            state["n_set"] = np.array([new])
        if (model[:, 0] != state["w"]).any():
            w = np.array(model[:, 0])
            products = self._rows(ctx, partition).products(w, means, self.task.mean)
            views["products"].inc((products - state["products"])[:, None])
            state["products"], state["w"] = products, w

    def _search(self, ctx: Context) -> dict[str, float]:
        """Take in what was summed up; decide on columns or coefficients."""
        views = self._views(ctx)
        values = {name: views[name].values for name in ("sums", "products", "gram")}
        if self._searcher is None:
            self._searcher = _Searcher(self.task, values, self.first)
        delta, found = self._searcher.turn(values)
        if delta is not None:
            views["model"].inc(delta)
        return found

    def _means(self, sums: Array) -> Doubles:
        if not self.task.center:
            return np.zeros(self.task.n_features)
        return np.asarray(sums[:, 0] / self.task.n_rows)

    def _rows(self, ctx: Context, partition: Partition) -> Rows:
        return Rows(ctx, partition, self.task.unit)

    def _views(self, ctx: Context) -> dict[str, View]:
        if self._opened is None or self._opened[0] is not ctx:
            names = [spec.name for spec in self.tables()]
            self._opened = (ctx, {name: ctx.table(name).view() for name in names})
        return self._opened[1]


class _Searcher:
    """The search, turn by turn; the mutable state is all of it, and `turn` changes it."""

    def __init__(self, task: Task, values: Mapping[str, Array], first: Doubles) -> None:
        n = task.n_features
        products = values["products"][:, 0]
        squares = _squares(task, values["sums"])
        self.task = task
        self.search = Search(np.array(products[:n]), squares, float(products[n]))
        self.sent = np.zeros((n, 2))
        self.n_rounds = 0
        self.waits_for = "start"
        self.start = np.where(squares > 0.0, first, 0.0)
        self.new = np.empty(0, dtype=np.int64)
        #: Sizes that the working set has had.
        self.sizes: list[int] = []

    def state(self) -> State:
        """What a checkpoint keeps: all but the Gram matrix, which is a table."""
        found = {
            **self.search.state(),
            "sent": self.sent,
            "new": self.new,
            "sizes": np.array(self.sizes, dtype=np.int64),
            "turn": np.array([self.n_rounds, WAITS.index(self.waits_for)]),
        }
        return {SEARCH + name: values for name, values in found.items()}

    def go_on(self, saved: State, gram: Array) -> None:
        """Go on from `state`, with the Gram matrix as ranks have summed it up."""
        found = {name.removeprefix(SEARCH): values for name, values in saved.items()}
        cols = found.pop("cols")
        self.sent, self.new = found.pop("sent"), found.pop("new")
        self.n_rounds, waits_for = found.pop("turn").tolist()
        self.waits_for = WAITS[waits_for]
        for size in found.pop("sizes").tolist():
            self._extend(cols[len(self.search.set) : size], gram)
        self.search.go_on(found, self.task.positive)

    def turn(self, values: Mapping[str, Array]) -> tuple[Doubles | None, dict[str, float]]:
        """Go on; the change of the model, if any, and the metrics of this clock."""
        search, task = self.search, self.task
        if self.waits_for == "start" and self.start.any():
            search.w[:] = self.start
            self.waits_for = "first products"
            return self._model(), {"kind": SOLVED}
        if self.waits_for == "gram":
            self._take_gram(values["gram"])
            return self._solve()
        self._take_products(values["products"][:, 0])
        if self.waits_for in ("start", "first products"):
            search.begin(task.penalty(search), task.tol)
        found = {**search.certify(), "kind": CERTIFIED, "converged": float(search.converged)}
        found["objective"] /= task.n_rows
        found["dual_gap"] /= task.n_rows
        if search.finished or self.n_rounds == task.max_rounds:
            return None, {**found, "finished": 1.0}
        self.n_rounds += 1
        new = search.choose(self._room())
        if len(new) + len(search.set) > task.capacity:
            return None, {**found, "full": 1.0}
        if len(new) == 0:
            return self._solve()[0], found
        self.sent[new, 1] = len(search.set) + 1 + np.arange(len(new))
        delta = np.zeros_like(self.sent)
        delta[new, 1] = self.sent[new, 1]
        self.new = new
        self.waits_for = "gram"
        return delta, found

    def _room(self) -> int:
        search = self.search
        if search.penalty.lam == 0.0:
            return len(search.alive)
        room = max(FIRST, int(GROWTH * np.count_nonzero(search.w)))
        if len(search.set) == 0:
            room = max(room, int(np.sqrt(SQUARE_PER_FEATURE * self.task.n_features)))
        return min(room, max(self.task.capacity - len(search.set), FIRST))

    def _solve(self) -> tuple[Doubles, dict[str, float]]:
        self.search.solve()
        self.waits_for = "products"
        return self._model(), {"kind": SOLVED}

    def _model(self) -> Doubles:
        delta = np.zeros_like(self.sent)
        delta[:, 0] = self.search.w - self.sent[:, 0]
        self.sent[:, 0] += delta[:, 0]
        # what ranks read is the sum of what was sent, which may differ from w by rounding
        self.search.w[:] = self.sent[:, 0]
        return delta

    def _take_gram(self, gram: Array) -> None:
        self._extend(self.new, gram)

    def _extend(self, new: Longs, gram: Array) -> None:
        old = len(self.search.set)
        n = old + len(new)
        self.search.set.extend(new, np.ascontiguousarray(gram[old:n, :n].T))
        self.sizes.append(n)

    def _take_products(self, products: Array) -> None:
        search, n = self.search, self.task.n_features
        search.c = products[:n] - search.penalty.ridge * search.w
        search.rr, search.ry = float(products[n]), float(products[n + 1])


def _squares(task: Task, sums: Array) -> Doubles:
    """Squared norms of the centred columns; 0 for constant ones.

    Of sparse rows the values that are not stored are added: each is ``-mean``.
    """
    squares = np.array(sums[:, 1])
    if task.center:
        means = sums[:, 0] / task.n_rows
        missing = task.n_rows - sums[:, 2]
        missing[missing <= MISSING * task.n_rows] = 0.0
        squares += missing * means**2
        squares[squares <= CONSTANT * (squares + task.n_rows * means**2)] = 0.0
    return squares
