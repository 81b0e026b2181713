"""LogisticRegression against liblinear, celer and skglm: l1, time to a relative gap of 1e-6.

Sparse design: 20,000 rows of 100 normal values each in 100,000 columns (density 1e-3), labels drawn
from a planted model of 200 columns, no intercept; penalties of a tenth and a fiftieth of the one
above which all coefficients are 0. Each peer's figure is the time of its loosest tolerance
(a tenfold ladder) whose answer has a duality gap of 1e-6 of its objective, measured by the same
code for all; where none has, that of the tightest one tried, and the note says how far it got.
celer and skglm (both optional) are given the columns they work on (CSC), liblinear and we rows.
Accuracy on a9a and 20 Newsgroups (l2, C = 1) is compared with scikit-learn's in the last rows.

    python -m benchmarks.run logistic_vs_peers [--quick]
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import sklearn
from scipy.special import xlogy
from sklearn.linear_model import LogisticRegression as Peer

from benchmarks.corpora import DATA
from benchmarks.report import Row
from benchmarks.svm_vs_peers import accuracy, load, timed
from dask_petuum.algorithms.logistic_regression import LogisticRegression

__all__ = ["run"]

N_THREADS, N_REPEATS, GAP = 2, 3, 1e-6
#: A peer that takes longer than this is not asked for more digits.
PATIENCE = 8.0


def make_data(n_rows: int, n_features: int) -> tuple[Any, Any]:
    """CSR rows, and labels -1 and 1."""
    rng = np.random.default_rng(0)
    n_values = n_features // 1000
    at = rng.integers(0, n_features, (n_rows, n_values)).astype(np.int32)
    at.sort(axis=1)
    ptr = np.arange(n_rows + 1, dtype=np.int32) * n_values
    values = rng.standard_normal(n_rows * n_values)
    rows = sp.csr_matrix((values, at.ravel(), ptr), shape=(n_rows, n_features))
    rows.sum_duplicates()
    planted = np.zeros(n_features)
    planted[rng.choice(n_features, 200, replace=False)] = rng.normal(0, 5, 200)
    chance = 1 / (1 + np.exp(-(rows @ planted)))
    return rows, np.where(rng.random(n_rows) < chance, 1, -1)


def relative_gap(w: Any, C: float, rows: Any, labels: Any) -> float:
    """Duality gap of weights by their objective."""
    margins = labels * (rows @ w)
    wrong = 1 / (1 + np.exp(margins))
    primal = C * np.logaddexp(0, -margins).sum() + np.abs(w).sum()
    p = wrong * min(1.0, 1 / np.abs(C * (rows.T @ (wrong * labels))).max())
    return float((primal + C * (xlogy(p, p) + xlogy(1 - p, 1 - p)).sum()) / primal)


def ours_to(tol: float, C: float) -> Any:
    """Make our estimator."""
    return LogisticRegression(
        l1_ratio=1.0, C=C, tol=tol, fit_intercept=False, n_jobs=N_THREADS, scheduler="local"
    )


def peers(n_rows: int) -> dict[str, tuple[Callable[[float, float], Any], list[float], str]]:
    """Name -> (make an estimator of a tolerance and C, tolerances, format)."""

    def liblinear(tol: float, C: float) -> Any:
        return Peer(
            l1_ratio=1.0, solver="liblinear", C=C, tol=tol, fit_intercept=False, max_iter=3000
        )

    found: dict[str, Any] = {
        f"liblinear in scikit-learn {sklearn.__version__}": (
            liblinear,
            [1e-4, 1e-5, 1e-6, 1e-7],
            "csr",
        )
    }
    if importlib.util.find_spec("celer"):
        import celer

        def make_celer(tol: float, C: float) -> Any:
            return celer.LogisticRegression(C=C, tol=tol, fit_intercept=False, max_iter=100)

        found[f"celer {celer.__version__}"] = (make_celer, [1e-6, 1e-7, 1e-8], "csc")
    if importlib.util.find_spec("skglm"):
        import skglm

        def make_skglm(tol: float, C: float) -> Any:
            alpha = 1 / (C * n_rows)
            return skglm.SparseLogisticRegression(
                alpha=alpha, tol=tol, fit_intercept=False, max_iter=200
            )

        found[f"skglm {skglm.__version__}"] = (make_skglm, [1e-7, 1e-8, 1e-9, 1e-10], "csc")
    return found


def race(share: int, rows: Any, labels: Any) -> list[Row]:
    """Race one strength of the penalty."""
    C = share / float(np.abs(rows.T @ (0.5 * labels)).max())
    ours = ours_to(GAP, C)
    ours.fit(rows, labels)  # compile
    figures = [timed(ours, rows, labels) for _ in range(N_REPEATS)]
    reached = relative_gap(ours.coef_.ravel(), C, rows, labels)
    columns = rows.tocsc()
    out = []
    for name, (make, tolerances, kind) in peers(len(labels)).items():
        given = columns if kind == "csc" else rows
        make(1e-2, C).fit(given[:2000], labels[:2000])  # compile
        for tol in tolerances:
            peer = make(tol, C)
            theirs = [timed(peer, given, labels)]
            gap = relative_gap(peer.coef_.ravel(), C, rows, labels)
            if gap <= GAP or theirs[0] > PATIENCE:
                break
        if theirs[0] < PATIENCE:
            theirs += [timed(peer, given, labels) for _ in range(N_REPEATS - 1)]
        out.append(
            Row(
                f"LogisticRegression, l1, {rows.shape[0]:,} x {rows.shape[1]:,} (density 1e-3), "
                f"largest penalty / {share}: to a gap of {GAP:g}",
                f"{name}, tol {tol:g}",
                figures,
                theirs,
                target="<= 1.0",
                note=f"gap {reached:.1e} ({ours.n_iter_} working sets, "
                f"{np.count_nonzero(ours.coef_):,} coefficients); the peer's {gap:.1e}",
            )
        )
    return out


def l2(name: str, data: tuple[Any, Any, Any, Any]) -> list[Row]:
    """Compare l2 on real data: time with default tolerances, accuracy."""
    rows, labels, *test = data
    ours, peer = LogisticRegression(n_jobs=N_THREADS, scheduler="local"), Peer(max_iter=1000)
    ours.fit(rows, labels)
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(N_REPEATS):
        figures[0].append(timed(ours, rows, labels))
        figures[1].append(timed(peer, rows, labels))
    work, label = (
        f"LogisticRegression, l2, {name}, C=1",
        f"scikit-learn {sklearn.__version__}, lbfgs",
    )
    note = f"gap {ours.dual_gap_ / ours.objective_:.1e}"
    race = Row(f"{work}, default tolerances", label, *figures, note=note)
    return [race, accuracy(work, name, label, (ours, peer), test)]


def run(quick: bool) -> list[Row]:
    """Run all; ``quick``: a tenth of the rows and columns."""
    data = make_data(2_000, 10_000) if quick else make_data(20_000, 100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers that do not reach their tolerance say so
        rows = [row for share in (10, 50) for row in race(share, *data)]
        if DATA.is_dir():
            for name in ("a9a",) if quick else ("a9a", "20 Newsgroups"):
                rows += l2(name, load(name))
    return rows
