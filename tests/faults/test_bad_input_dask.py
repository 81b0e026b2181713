"""Bad input in Dask collections: lazy, in chunks that are empty, unknown, or not what they say.

In this process with every estimator, and once more on two worker processes with a few. The values
are checked where they lie, before the run: nothing has been learnt after a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import bad_input
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from bad_input import CLEAN, LABELS, N_COLUMNS, N_ROWS, SUBJECTS, Refused, refused

import dask_petuum as petuum

CHUNK = 8
PLAIN = da.from_array(CLEAN, chunks=(CHUNK, N_COLUMNS))
SPARSE_META = sp.csr_array((0, 0))
#: What is made of the clean chunk of a number.
Change = Callable[[int, Any], Any]


def sparse_chunks(function: Any = sp.csr_array) -> Any:
    return PLAIN.map_blocks(function, meta=SPARSE_META, dtype=float)


def lying(change: Change) -> Any:
    """A collection that says it has the clean chunks, but has changed ones."""

    def chunk(number: int) -> Any:
        return change(number, CLEAN[CHUNK * number : CHUNK * (number + 1)])

    chunks = [
        da.from_delayed(dask.delayed(chunk)(number), (CHUNK, N_COLUMNS), meta=np.empty((0, 0)))
        for number in range(N_ROWS // CHUNK)
    ]
    return da.concatenate(chunks)


def in_second(change: Callable[[Any], Any]) -> Any:
    return lying(lambda number, rows: change(rows) if number == 1 else rows)


def of_unknown_width(change: Callable[[Any], Any]) -> Any:
    return PLAIN.map_blocks(change, chunks=((CHUNK,) * 3, (np.nan,)), dtype=float)


def damaged_chunk(block: Any) -> Any:
    csr = sp.csr_array(block)
    if csr.nnz:
        csr.indices[0] = 10**6
    return csr


def target(y: Any, chunks: Any = CHUNK) -> Any:
    return None if y is None else da.from_array(y, chunks=chunks)


ODD_ROWS = (0, CHUNK, CHUNK, 0, CHUNK)
#: Rows that are as good as the plain ones; and how y is cut, beside them.
EQUAL: dict[str, tuple[Callable[[], Any], Any]] = {
    "chunks of width 0": (lambda: da.from_array(CLEAN, chunks=(CHUNK, (2, 0, 3))), CHUNK),
    "columns in chunks": (lambda: PLAIN.rechunk((CHUNK, 2)), CHUNK),
    "unknown chunk sizes": (lambda: PLAIN[PLAIN[:, 0] > -1], "unknown"),
    "unknown width": (lambda: of_unknown_width(lambda block: block), CHUNK),
    "big-endian": (lambda: PLAIN.astype(">f8"), CHUNK),
    "integers": (lambda: PLAIN.astype(np.int16), CHUNK),
    "objects": (lambda: PLAIN.astype(object), CHUNK),
    "one chunk of integers": (lambda: in_second(lambda rows: rows.astype(np.int32)), CHUNK),
    "Fortran chunks": (lambda: PLAIN.map_blocks(np.asfortranarray), CHUNK),
}

REFUSED: dict[str, tuple[Callable[[], Any], Refused]] = {
    "NaN": (
        lambda: da.from_array(bad_input.cell(np.nan), chunks=(2, N_COLUMNS)),
        refused("X contains NaN", "row 1 of its chunk, column 2"),
    ),
    "infinity": (
        lambda: da.from_array(bad_input.cell(np.inf), chunks=(CHUNK, N_COLUMNS)),
        refused("infinity", "inf in row 3 of its chunk, column 2"),
    ),
    "1e300": (
        lambda: da.from_array(bad_input.cell(1e300), chunks=(CHUNK, N_COLUMNS)),
        refused("1e+300", "row 3 of its chunk, column 2"),
    ),
    "words": (lambda: PLAIN.astype(str), refused("numeric")),
    "complex": (lambda: PLAIN.astype(complex), refused("Complex data not supported")),
    "dates": (lambda: PLAIN.astype("M8[s]"), refused("datetime64", kind=TypeError)),
    "masked": (
        lambda: da.ma.masked_array(PLAIN, mask=PLAIN > 3),
        refused("masked array", kind=TypeError),
    ),
    "no rows": (lambda: PLAIN[:0], refused("0 sample(s)", "(0, 5)")),
    "no columns": (lambda: PLAIN[:, :0], refused("0 feature(s)", "(24, 0)")),
    "a column of width 0": (
        lambda: of_unknown_width(lambda block: block[:, :0]),
        refused("0 feature(s)"),
    ),
    "a vector": (lambda: PLAIN[:, 0], refused("Expected 2D array, got 1D array")),
    "three dimensions": (lambda: PLAIN[None], refused("Expected 2D array, got 3D array")),
    "damaged sparse chunks": (
        lambda: sparse_chunks(damaged_chunk),
        refused("damaged", "indices[0] is 1000000", "0 .. 4"),
    ),
    "a narrow chunk": (
        lambda: in_second(lambda rows: rows[:, :4]),
        refused("chunk 1 of X has 4 columns", "says 5"),
    ),
    "a wide chunk": (
        lambda: in_second(lambda rows: np.hstack([rows, rows])),
        refused("chunk 1 of X has 10 columns", "says 5"),
    ),
    "chunks that are all narrow": (
        lambda: lying(lambda _, rows: rows[:, :4]),
        refused("chunk 0 of X has 4 columns", "says 5"),
    ),
    "a chunk of words": (lambda: in_second(lambda rows: rows.astype(str)), refused("numeric")),
    "a chunk that is a vector": (lambda: in_second(lambda rows: rows[0]), refused("got 1D")),
    "a chunk that is None": (lambda: in_second(lambda rows: None), refused("scalar")),
    "a chunk that fails": (
        lambda: in_second(lambda rows: 1 / 0),
        refused("division by zero", kind=ZeroDivisionError),
    ),
}


@cache
def clean_model(name: str) -> Any:
    return SUBJECTS[name].fit(PLAIN, target(SUBJECTS[name].y))


def labels_for(name: str, cut: Any) -> Any:
    y = SUBJECTS[name].y
    if y is None:
        return None
    return target(y)[PLAIN[:, 0] > -1] if cut == "unknown" else target(y, cut)


@pytest.mark.parametrize("case", EQUAL)
@pytest.mark.parametrize("name", SUBJECTS)
def test_odd_collections_give_the_clean_model(name: str, case: str) -> None:
    make, cut = EQUAL[case]
    subject, clean = SUBJECTS[name], clean_model(name)
    model = subject.fit(make(), labels_for(name, cut))
    np.testing.assert_array_equal(subject.learnt(model), subject.learnt(clean))
    assert model.n_features_in_ == N_COLUMNS
    answers = subject.answer(clean, make()).compute(scheduler="sync")
    np.testing.assert_array_equal(answers, subject.answer(clean, CLEAN))


@pytest.mark.parametrize("name", SUBJECTS)
def test_chunks_without_rows_are_no_matter(name: str) -> None:
    subject = SUBJECTS[name]
    rows = da.from_array(CLEAN, chunks=(ODD_ROWS, N_COLUMNS))
    model = subject.fit(rows, labels_for(name, (ODD_ROWS,)))
    assert np.isfinite(subject.learnt(model)).all()
    assert len(subject.answer(model, rows).compute(scheduler="sync")) == N_ROWS
    # Chunks that turn out empty: the same as if the rows had not been there.
    some = PLAIN[da.from_array(np.arange(N_ROWS) >= CHUNK, chunks=CHUNK)]
    y = target(subject.y)
    y = None if y is None else y[da.from_array(np.arange(N_ROWS) >= CHUNK, chunks=CHUNK)]
    model = subject.fit(some, y)
    assert np.isfinite(subject.learnt(model)).all()
    nothing = PLAIN[PLAIN[:, 0] > 99]
    y = None if subject.y is None else target(subject.y)[PLAIN[:, 0] > 99]
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        subject.fit(nothing, y)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", SUBJECTS)
def test_bad_collections_are_refused_before_any_work(name: str, case: str) -> None:
    make, expected = REFUSED[case]
    subject = SUBJECTS[name]
    rows, model = make(), SUBJECTS[name].make().set_params(scheduler="local")
    y = labels_for(name, CHUNK)
    if y is not None and rows.ndim == 2 and len(rows) == 0:
        y = y[:0]
    elif y is not None and rows.ndim == 2:
        y = y.rechunk((rows.chunks[0],))
    with pytest.raises(expected.kind) as caught:
        model.fit(rows) if y is None else model.fit(rows, y)
    assert all(word in str(caught.value) for word in expected.words), str(caught.value)
    assert not hasattr(model, subject.learns)


@pytest.mark.parametrize("name", SUBJECTS)
def test_lazy_answers_refuse_bad_chunks_when_they_are_computed(name: str) -> None:
    subject, clean = SUBJECTS[name], clean_model(name)
    for make, text in (
        (lambda: da.from_array(bad_input.cell(np.nan), chunks=CHUNK), "NaN"),
        (lambda: in_second(lambda rows: rows[:, :4]), "has 4 features, 5 are expected"),
        (lambda: of_unknown_width(lambda rows: rows[:, :4]), "has 4 features, 5 are expected"),
        (lambda: sparse_chunks(damaged_chunk), "damaged"),
    ):
        lazy = subject.answer(clean, make())
        with pytest.raises(ValueError, match=text):
            lazy.compute(scheduler="sync")
    with pytest.raises(ValueError, match="X has 4 features"):
        subject.answer(clean, PLAIN[:, :4])


@pytest.mark.parametrize("name", ["LDA", "KMeans", "SoftmaxRegression"])
def test_partial_fit_refuses_another_width_that_nobody_knew(name: str) -> None:
    subject = SUBJECTS[name]
    model = subject.fit(PLAIN, target(subject.y))
    before = subject.learnt(model).copy()
    y = () if subject.y is None else (target(subject.y),)
    with pytest.raises(ValueError, match=r"X has 4 features, but .* is expecting 5"):
        model.partial_fit(of_unknown_width(lambda rows: rows[:, :4]), *y)
    np.testing.assert_array_equal(subject.learnt(model), before)


def replaced(values: Any, value: Any) -> Any:
    out = np.array(values, dtype=np.float64)
    out[9] = value
    return da.from_array(out, chunks=CHUNK)


@pytest.mark.parametrize(
    "name", ["SoftmaxRegression", "LogisticRegression", "LinearSVC", "Lasso", "LinearSVR"]
)
def test_bad_lazy_targets_and_weights_are_refused(name: str) -> None:
    subject = SUBJECTS[name]
    model, ones = subject.make().set_params(scheduler="local"), np.ones(N_ROWS)
    for value, text in ((np.nan, "NaN"), (np.inf, "infinity"), (1e300, r"1e\+300")):
        with pytest.raises(ValueError, match=rf"y .*{text}.*row 1 of its chunk"):
            model.fit(PLAIN, replaced(subject.y, value))
    for value in (np.nan, np.inf, -1.0, 1e300):
        with pytest.raises(ValueError, match=r"sample_weight must be .* got .* in row 1"):
            model.fit(PLAIN, target(subject.y), sample_weight=replaced(ones, value))
    for weights, text in (
        (ones * 0, "0|zero"),
        (ones.astype(complex), "real numbers, got complex"),
    ):
        with pytest.raises(ValueError, match=text):
            model.fit(PLAIN, target(subject.y), sample_weight=target(weights))
    with pytest.raises(ValueError, match=r"\[24, 23\]"):
        model.fit(PLAIN, subject.y[:-1])
    with pytest.raises(ValueError, match="unknown"):
        model.fit(PLAIN[PLAIN[:, 0] > -1], subject.y)
    assert not hasattr(model, "coef_")


def test_weights_of_zero_are_refused_by_kmeans() -> None:
    weights = da.zeros(N_ROWS, chunks=CHUNK)
    with pytest.raises(ValueError, match="at least one non-zero"):
        petuum.KMeans(3, scheduler="local").fit(PLAIN, sample_weight=weights)


@pytest.mark.parametrize("name", ["SoftmaxRegression", "LogisticRegression", "LinearSVC"])
def test_bad_lazy_labels_are_refused(name: str) -> None:
    subject = SUBJECTS[name]
    with pytest.raises(ValueError, match="at least 2 classes"):
        subject.fit(PLAIN, target(LABELS * 0))
    with pytest.raises(ValueError, match="continuous"):
        subject.fit(PLAIN, target(LABELS + np.linspace(0, 0.9, N_ROWS)))


def test_rows_that_are_fewer_than_said_are_refused() -> None:
    short = in_second(lambda rows: rows[:5])
    with pytest.raises(ValueError, match="chunk 1 of X has 5 rows, its array says 8"):
        SUBJECTS["KMeans"].fit(short)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[5, 8\]"):
        SUBJECTS["Lasso"].fit(short, SUBJECTS["Lasso"].y)


def test_ratings_in_bad_chunks_are_refused() -> None:
    def fit(X: Any) -> Any:
        return petuum.MatrixFactorization(2, max_iter=2, scheduler="local").fit(X)

    fit(sparse_chunks())
    for make, kind, text in (
        (lambda: sparse_chunks(damaged_chunk), ValueError, "damaged"),
        (lambda: PLAIN, TypeError, "dense matrix of ratings"),
        (lambda: sparse_chunks(lambda block: sp.csr_array(block * np.nan)), ValueError, "finite"),
        (lambda: sparse_chunks(lambda block: sp.csr_array(block * 1e39)), ValueError, "finite"),
    ):
        with pytest.raises(kind, match=text):
            fit(make())


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    """Two worker processes, whose client is not the active one."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


ON_WORKERS = ("NaN", "words", "damaged sparse chunks", "a narrow chunk", "a chunk that fails")


@pytest.mark.parametrize("name", ["LDA", "KMeans", "SoftmaxRegression", "Lasso"])
def test_workers_refuse_bad_chunks_and_live_on(name: str, two_workers: Any) -> None:
    subject = SUBJECTS[name]
    model = subject.make()
    model.client = two_workers
    pids = two_workers.run(_pid)
    for case in ON_WORKERS:
        make, expected = REFUSED[case]
        rows = make()
        y = None if subject.y is None else target(subject.y, (rows.chunks[0],))
        with pytest.raises(expected.kind) as caught:
            model.fit(rows) if y is None else model.fit(rows, y)
        assert all(word in str(caught.value) for word in expected.words), str(caught.value)
        assert not hasattr(model, subject.learns)
    y = target(subject.y)
    model.fit(PLAIN) if y is None else model.fit(PLAIN, y)
    learnt, here = subject.learnt(model), subject.learnt(clean_model(name))
    np.testing.assert_allclose(learnt, here, rtol=1e-5, atol=1e-7)
    assert two_workers.run(_pid) == pids


def test_the_store_on_workers_refuses_bad_increments_and_lives_on(two_workers: Any) -> None:
    def train(delta: Any) -> Any:
        def run(ctx: Any, partition: Any) -> None:
            ctx.table("w").view().inc(delta)
            ctx.clock()

        return run

    pids = two_workers.run(_pid)
    with petuum.connect(two_workers) as ps:
        table = ps.create_table("w", (4, 3))
        for delta, text in (
            (np.full((4, 3), 1e39), r"do not fit float32: 1e\+39"),
            (np.ma.masked_equal(np.eye(4, 3), 0), "masked"),
            (damaged_chunk(np.ones((4, 3))), "damaged"),
            (np.ones((4, 2)), r"got \(4, 2\)"),
        ):
            with pytest.raises(petuum.RankError, match=text):
                ps.run(train(delta), consistency="bsp")
        ps.run(train(np.ones((4, 3))), consistency="bsp")
        np.testing.assert_array_equal(table.to_numpy(), np.full((4, 3), 2.0))
    with pytest.raises(petuum.TableError, match="session is closed"):
        table.to_numpy()
    assert two_workers.run(_pid) == pids


def _pid() -> int:
    import os

    return os.getpid()
