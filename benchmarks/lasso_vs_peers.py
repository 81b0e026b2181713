"""Lasso against scikit-learn, celer, skglm and dask-glm: time to a certified accuracy.

Two designs with independent normal values, 100 planted coefficients and a signal of three times the
noise: dense 2,000 x 10,000, sparse 20,000 x 100,000 with one value in a thousand. A tool's
figure is the time of one fit at the loosest of its tolerances that reaches a duality gap of
1e-6 of the objective, measured outside that time, by the same code for all; the peer of a row is
the fastest that gets there. X is given in the layout that all of them want (F order, CSC), without
an intercept. celer, skglm and dask-glm are optional; they are left out where they are missing.

The tall design is a Dask array on two worker processes; dask-glm minimises the same objective. It
has 2 M rows where they fit into memory beside dask-glm's copies (float32: 8 GB), else as many as
do. dask-glm gets 5 iterations, then more, until it is within 1e-4 of our objective or has taken
PATIENCE seconds: where it has not come near by then, its true time is longer than the one shown.

    python -m benchmarks.run lasso_vs_peers [--quick]
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import linear_model
from threadpoolctl import threadpool_limits

from benchmarks.report import Row
from dask_petuum.algorithms.lasso import Lasso

__all__ = ["run"]

N_THREADS, N_REPEATS, N_TALL, N_ALPHAS = 2, 5, 3, 100
#: Gap by the objective that counts as solved, and how far a distributed objective may be off.
GOAL, GOAL_GLM = 1e-6, 1e-4
#: A peer whose gap is within this factor of the goal counts as having reached it.
SLACK = 3.0
#: Seconds after which a peer is not given a stricter tolerance, or more iterations.
PATIENCE = 60.0
#: Rows and columns of the tall design, rows of a chunk, and bytes that must be left for copies:
#: each of two workers makes its float32 chunk from float64 numbers, and dask-glm goes back to them.
TALL, TALL_CHUNK, TALL_SPARE = (2_000_000, 1000), 100_000, 6e9
#: Coefficients of one alpha (n_features,), or of a path (n_features, n_alphas).
Fit = Callable[[Any, Any, Any, float], Any]


def make_data(n_rows: int, n_cols: int, density: float | None) -> tuple[Any, Any]:
    """Design and target."""
    rng = np.random.default_rng(0)
    if density is None:
        x: Any = np.asfortranarray(rng.standard_normal((n_rows, n_cols)))
    else:
        values = rng.standard_normal
        x = sp.random(n_rows, n_cols, density, "csc", random_state=rng, data_rvs=values)
    planted = np.zeros(n_cols)
    planted[rng.choice(n_cols, min(100, n_cols), False)] = rng.standard_normal(min(100, n_cols))
    signal = x @ planted
    return x, signal + rng.standard_normal(n_rows) * signal.std() / 3


def gap_of(x: Any, y: Any, w: Any, alpha: float) -> float:
    """Duality gap by the objective."""
    lam, rest = alpha * len(y), y - x @ w
    products = np.abs(x.T @ rest).max()
    primal = 0.5 * rest @ rest + lam * np.abs(w).sum()
    scale = min(rest @ y / (rest @ rest), lam / products)
    return float((primal - scale * (rest @ y) + 0.5 * scale**2 * (rest @ rest)) / primal)


def fit_ours(x: Any, y: Any, alpha: float, tol: float) -> Any:
    """One alpha, ours."""
    settings: dict[str, Any] = {"fit_intercept": False, "scheduler": "local", "n_jobs": N_THREADS}
    return Lasso(alpha, tol=tol, **settings).fit(x, y).coef_


def path_ours(x: Any, y: Any, alphas: Any, tol: float) -> Any:
    """Many alphas, ours."""
    settings: dict[str, Any] = {"fit_intercept": False, "scheduler": "local", "n_jobs": N_THREADS}
    return Lasso(tol=tol, **settings).path(x, y, alphas=alphas).coefs


def fit_sklearn(x: Any, y: Any, alpha: float, tol: float) -> Any:
    """One alpha, scikit-learn."""
    model = linear_model.Lasso(alpha, fit_intercept=False, tol=tol, max_iter=100_000, copy_X=False)
    return model.fit(x, y).coef_


def path_sklearn(x: Any, y: Any, alphas: Any, tol: float) -> Any:
    """Many alphas, scikit-learn."""
    return linear_model.lasso_path(x, y, alphas=alphas, tol=tol, max_iter=100_000)[1]


def peers(path: bool) -> dict[str, Fit]:
    """Find the peers that are installed."""
    found: dict[str, Fit] = {"scikit-learn": path_sklearn if path else fit_sklearn}
    with contextlib.suppress(ImportError):
        import celer

        def fit_celer(x: Any, y: Any, alpha: float, tol: float) -> Any:
            return celer.Lasso(alpha, fit_intercept=False, tol=tol).fit(x, y).coef_

        def path_celer(x: Any, y: Any, alphas: Any, tol: float) -> Any:
            return celer.celer_path(x, y, "lasso", alphas=alphas, tol=tol)[1]

        found["celer"] = path_celer if path else fit_celer
    if path:
        return found
    with contextlib.suppress(ImportError):
        import skglm

        def fit_skglm(x: Any, y: Any, alpha: float, tol: float) -> Any:
            return skglm.Lasso(alpha, fit_intercept=False, tol=tol).fit(x, y).coef_

        found["skglm"] = fit_skglm
    return found


def find_tol(fit: Fit, data: tuple[Any, Any], alphas: Any) -> tuple[float, float, float]:
    """Find the loosest tolerance that reaches the goal: the tolerance, its gap, its seconds.

    A fit that takes longer than PATIENCE is kept even if it does not reach the goal.
    """
    x, y = data
    fit(x, y, alphas if np.ndim(alphas) == 0 else alphas[20:22], 1e-3)  # compile, warm up
    points = np.atleast_1d(alphas)
    for tol in (1e-6, 1e-7, 1e-8, 1e-9, 1e-10):
        started = time.perf_counter()
        found = fit(x, y, alphas, tol)
        seconds = time.perf_counter() - started
        coefs = np.asarray(found).reshape(len(found), -1)
        gap = max(gap_of(x, y, coefs[:, k], alpha) for k, alpha in enumerate(points))
        if gap <= GOAL or seconds > PATIENCE:
            break
    return tol, gap, seconds


def compare(work: str, data: tuple[Any, Any], alphas: Any, target: str) -> Row:
    """One row: ours against the fastest peer that reaches the goal; they take turns."""
    path = np.ndim(alphas) == 1
    fits = {"ours": path_ours if path else fit_ours, **peers(path)}
    tols = {name: find_tol(fit, data, alphas) for name, fit in fits.items()}
    figures: dict[str, list[float]] = {
        name: [tols[name][2]] if path and name != "ours" else [] for name in fits
    }
    for _ in range(N_REPEATS):
        for name, fit in fits.items():
            if path and name != "ours":
                continue
            started = time.perf_counter()
            fit(*data, alphas, tols[name][0])
            figures[name].append(time.perf_counter() - started)
    ours = figures.pop("ours")
    best = min(figures, key=lambda name: (tols[name][1] > SLACK * GOAL, np.median(figures[name])))
    note = "; ".join(
        f"{name}{'' if name == 'ours' else f' {np.median(figures[name]):.3g} s'}: "
        f"tol {tol:.0e}, gap {gap:.0e}"
        for name, (tol, gap, _) in tols.items()
    )
    peer = f"{best} {metadata.version(best)}"
    return Row(work, peer, ours, figures[best], target=target, note=note)


def fit_glm(x: Any, y: Any, alpha: float, n_iterations: int, solver: str) -> Any:
    """Fit dask-glm's loss ``|y - X w|^2 + 2 n alpha |w|_1``, without its standardisation."""
    from dask_glm import algorithms
    from dask_glm.families import Normal

    shared = {"regularizer": "l1", "lamduh": 2 * len(y) * alpha, "family": Normal}
    if solver == "admm":  # its rho of 1 suits a handful of rows; this one is of X'X's size
        rest = {"rho": 2 * len(y) / x.numblocks[0], "abstol": 0.0, "reltol": 0.0}
    else:
        rest = {"tol": 0.0}
    run = getattr(algorithms, solver)
    return np.asarray(run(x, y, max_iter=n_iterations, normalize=False, **shared, **rest))


def rows_that_fit(n_rows: int, n_cols: int) -> int:
    """Rows of float32 values that fit into memory now, in whole chunks; ``n_rows`` at most."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    fitting = int((free - TALL_SPARE) / (4 * n_cols)) // TALL_CHUNK * TALL_CHUNK
    return n_rows if fitting >= n_rows else max(fitting, min(n_rows, 2 * TALL_CHUNK))


def tall(n_rows: int, n_cols: int) -> list[Row]:
    """Compare on a tall Dask array and two worker processes."""
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    logging.getLogger("distributed").setLevel(logging.ERROR)
    rows = []
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0
    )
    with cluster, Client(cluster) as client:
        rng = da.random.RandomState(0)
        chunk = min(n_rows // 4, TALL_CHUNK)
        x = rng.standard_normal((n_rows, n_cols), chunks=(chunk, n_cols)).astype("f4")
        planted = np.zeros(n_cols, dtype="f4")
        planted[:50] = np.random.default_rng(1).standard_normal(50)
        y = x @ planted + 3 * rng.standard_normal(n_rows, chunks=chunk).astype("f4")
        x, y = client.persist([x, y])
        wait([x, y])
        alpha = float(abs(x.T @ y).max().compute()) / n_rows / 20

        def objective(w: Any) -> float:
            rest = (y - x @ np.asarray(w, dtype="f4")).astype("f8")
            return 0.5 * float((rest**2).sum().compute()) / n_rows + alpha * float(abs(w).sum())

        ours = []
        for _ in range(N_TALL + 1):
            started = time.perf_counter()
            model = Lasso(alpha, fit_intercept=False, tol=1e-5).fit(x, y)
            ours.append(time.perf_counter() - started)
        best = objective(model.coef_)
        note = f"ours: gap {model.dual_gap_ / best:.0e} of the objective"
        work = f"Lasso, tall {n_rows:,} x {n_cols:,} float32 Dask array, 2 worker processes"
        for solver, steps in (("admm", (5, 10, 20)), ("proximal_grad", (5, 10, 20, 40))):
            seconds, off, n_iterations = 0.0, np.inf, 0
            for n_iterations in steps:
                started = time.perf_counter()
                found = fit_glm(x, y, alpha, n_iterations, solver)
                seconds = time.perf_counter() - started
                off = objective(found) / best - 1
                if off <= GOAL_GLM or seconds > PATIENCE:
                    break
            said = f"{note}; {n_iterations} iterations, {off:.0e} above our objective"
            peer = f"dask-glm {metadata.version('dask-glm')}, {solver}"
            rows.append(Row(work, peer, ours[1:], [seconds], target="<= 0.1", note=said))
    return rows


def run(quick: bool) -> list[Row]:
    """Run all; ``quick``: a tenth of the columns, a twentieth of the tall rows."""
    designs: dict[str, tuple[int, int, float | None]] = {
        "dense": (2000, 10_000, None),
        "sparse": (20_000, 100_000, 1e-3),
    }
    if quick:
        designs = {"dense": (400, 1000, None), "sparse": (2000, 10_000, 1e-2)}
    rows, ratios = [], []
    with threadpool_limits(N_THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, shape in designs.items():
            data = make_data(*shape)
            largest = float(np.abs(data[0].T @ data[1]).max()) / len(data[1])
            size = f"{name} {shape[0]:,} x {shape[1]:,}"
            for part in (10, 100):
                work = f"Lasso, {size}, alpha_max / {part}: to a gap of 1e-6"
                rows.append(compare(work, data, largest / part, "<= 1.0"))
                ratios.append(rows[-1].measured_ratio)
            alphas = largest * np.geomspace(1, 0.01, N_ALPHAS)
            work = f"Lasso, {size}, path of {N_ALPHAS} alphas to alpha_max / 100: to gaps of 1e-6"
            rows.append(compare(work, data, alphas, "<= 0.8"))
        mean = float(np.exp(np.mean(np.log(ratios))))
        work = "Lasso, the four single penalties: geometric mean of the ratios"
        rows.append(Row(work, "the fastest of each", [mean], target="<= 0.8", ratio=mean, unit="-"))
        with contextlib.suppress(ImportError):
            rows += tall(20_000, 100) if quick else tall(rows_that_fit(*TALL), TALL[1])
    return rows
