"""Bad input to an estimator that has learnt already: to ``fit`` once more, and to ``partial_fit``.

It is refused as ever, and all that the model knows stays, the width of its rows included: refused
rows are no longer than the weights that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import bad_input
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from bad_input import CLEAN, LABELS, N_ROWS, NO_COUNTS, SUBJECTS, TARGETS, Subject, refused
from learnt import refused_unchanged
from test_bad_input_dask import CHUNK, PLAIN, in_second, of_unknown_width, replaced, target
from test_bad_input_dask import REFUSED as REFUSED_LAZY

import dask_petuum as petuum

NETS = {"hidden_layer_sizes": (4,), "max_epochs": 2, "random_state": 0}


def _net(name: str) -> Callable[[], Any]:
    def make() -> Any:
        pytest.importorskip("torch")
        from dask_petuum import nn

        return getattr(nn, name)(**NETS)

    return make


ALL = {
    **SUBJECTS,
    "NeuralNetClassifier": Subject(_net("NeuralNetClassifier"), LABELS, "weights_", "predict"),
    "NeuralNetRegressor": Subject(_net("NeuralNetRegressor"), TARGETS, "weights_", "predict"),
}
PARTIAL = ("LDA", "KMeans", "SoftmaxRegression", "NeuralNetClassifier", "NeuralNetRegressor")
LABELLED = ("SoftmaxRegression", "NeuralNetClassifier")
WITH_Y = (*LABELLED, "NeuralNetRegressor")


@cache
def fitted(name: str) -> Any:
    """A model that tests may offer bad input, and only that."""
    return ALL[name].fit(CLEAN)


def call(method: Any, name: str, rows: Any) -> Any:
    """Call ``fit`` or ``partial_fit`` with a target that goes with the rows, if any does."""
    y = ALL[name].y
    if y is None:
        return method(rows)
    if isinstance(rows, da.Array):
        y = y[:0] if rows.ndim == 2 and len(rows) == 0 else y
        return method(rows, target(y, (rows.chunks[0],) if rows.ndim == 2 else CHUNK))
    return method(rows, y[:0] if getattr(rows, "shape", (1,))[:1] == (0,) else y)


@pytest.mark.parametrize("case", bad_input.REFUSED)
@pytest.mark.parametrize("name", PARTIAL)
def test_bad_rows_are_refused_by_partial_fit(name: str, case: str) -> None:
    make, expected = bad_input.REFUSED[case]
    model = fitted(name)
    with refused_unchanged(model, expected):
        call(model.partial_fit, name, make())


@pytest.mark.parametrize("case", REFUSED_LAZY)
@pytest.mark.parametrize("name", PARTIAL)
def test_bad_collections_are_refused_by_partial_fit(name: str, case: str) -> None:
    make, expected = REFUSED_LAZY[case]
    model = fitted(name)
    with refused_unchanged(model, expected):
        call(model.partial_fit, name, make())


@pytest.mark.parametrize("case", NO_COUNTS)
def test_what_is_no_count_is_refused_by_partial_fit(case: str) -> None:
    make, expected = NO_COUNTS[case]
    with refused_unchanged(fitted("LDA"), expected):
        fitted("LDA").partial_fit(make())


NARROW = bad_input.cell(np.nan)[:, :4]
#: Bad rows of another width than the model's; lazy ones are found out after the width is known.
OTHER_WIDTH: dict[str, Callable[[], Any]] = {
    "in memory": lambda: NARROW,
    "sparse": lambda: sp.csr_array(NARROW),
    "named": lambda: pd.DataFrame(NARROW, columns=list("abcd")),
    "lazy": lambda: da.from_array(NARROW, chunks=CHUNK),
    "lazy, of unknown width": lambda: of_unknown_width(lambda rows: rows[:, :4] * np.nan),
    "lazy, one chunk": lambda: in_second(lambda rows: rows * np.nan)[:, :4],
}


@pytest.mark.parametrize("case", OTHER_WIDTH)
@pytest.mark.parametrize("name", ALL)
def test_a_fit_that_is_refused_leaves_the_model_as_it_was(name: str, case: str) -> None:
    model = fitted(name)
    with refused_unchanged(model, refused("NaN")):
        call(model.fit, name, OTHER_WIDTH[case]())
    assert len(ALL[name].answer(model, CLEAN)) == N_ROWS


@pytest.mark.parametrize("name", ALL)
def test_a_fit_that_fails_on_its_way_leaves_the_model_as_it_was(name: str) -> None:
    model = ALL[name].fit(CLEAN)
    told = []

    def fail(record: Any) -> bool:
        told.append(record)
        raise ZeroDivisionError("by the test")

    model._print = fail  # told of every clock
    failed = refused("by the test", kind=ZeroDivisionError)
    for method in [getattr(model, name) for name in ("fit", "partial_fit") if hasattr(model, name)]:
        told.clear()
        try:
            with refused_unchanged(model, failed):
                call(method, name, PLAIN[:, ::-1])
        except pytest.fail.Exception:
            assert not told, "where nobody is told there is nobody to fail"


@pytest.mark.parametrize("name", WITH_Y)
def test_bad_targets_are_refused_by_partial_fit(name: str) -> None:
    model, y = fitted(name), ALL[name].y
    for value, word in ((np.nan, "NaN"), (np.inf, "infinity"), (1e300, "1e+300")):
        with refused_unchanged(model, refused("y ", word, "row 9")):
            model.partial_fit(CLEAN, np.where(np.arange(N_ROWS) == 9, value, y.astype(float)))
        with refused_unchanged(model, refused("y ", word, "row 1 of its chunk")):
            model.partial_fit(PLAIN, replaced(y, value))
    for rows, given in ((CLEAN, y[:-1]), (PLAIN, y[:-1]), (PLAIN, target(y[:-1]))):
        with refused_unchanged(model, refused("[24, 23]")):
            model.partial_fit(rows, given)
    with refused_unchanged(model, refused("unknown")):
        model.partial_fit(PLAIN[PLAIN[:, 0] > -1], y)
    with refused_unchanged(model, refused("requires y")):
        model.partial_fit(CLEAN, None)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_that_nobody_spoke_of_are_refused_by_partial_fit(name: str) -> None:
    model = fitted(name)
    new = np.where(np.arange(N_ROWS) == 9, 7, LABELS)
    mixed = np.array(["a", 1] * (N_ROWS // 2), dtype=object)
    for y, words, kind in (
        (new, ("the label np.int64(7)", "not among the classes"), ValueError),
        (LABELS.astype(str), ("the label np.str_(",), ValueError),
        (LABELS + np.linspace(0, 0.9, N_ROWS), ("continuous",), ValueError),
        (mixed, ("cannot be ordered", "['int', 'str']"), TypeError),
    ):
        with refused_unchanged(model, refused(*words, kind=kind)):
            model.partial_fit(CLEAN, y)
    with refused_unchanged(model, refused("the label np.int64(7)")):
        model.partial_fit(PLAIN, target(new))


@pytest.mark.parametrize("name", LABELLED)
def test_classes_that_cannot_be_are_refused(name: str) -> None:
    unfitted = ALL[name].make().set_params(scheduler="local")
    for classes, words, kind in (
        (None, ("classes must be passed",), ValueError),
        ([0, 1, np.nan], ("classes contains NaN",), ValueError),
        ([0, np.inf], ("classes contains infinity",), ValueError),
        ([0, "a"], ("classes has labels that cannot be ordered", "['int', 'str']"), TypeError),
        ([], ("at least 2", "got []"), ValueError),
        ([0, 0], ("at least 2", "got [0]"), ValueError),
        ([[0, 1], [1, 2]], ("shape (2, 2)",), ValueError),
        (3, ("shape ()",), ValueError),
        ([0, 2], ("the label np.int64(1)",), ValueError),
    ):
        with refused_unchanged(unfitted, refused(*words, kind=kind)):
            unfitted.partial_fit(CLEAN, LABELS, classes=classes)
    with refused_unchanged(fitted(name), refused("not the same", "[0 1 2]", "[0 1]")):
        fitted(name).partial_fit(CLEAN, LABELS, classes=[0, 1, 2])


ONES = np.ones(N_ROWS)


@pytest.mark.parametrize("name", [name for name in PARTIAL if name != "LDA"])
def test_bad_weights_are_refused_by_partial_fit(name: str) -> None:
    model = fitted(name)
    y = () if ALL[name].y is None else (ALL[name].y,)
    lazy_y = tuple(target(values) for values in y)
    for weights, words in (
        (np.where(np.arange(N_ROWS) == 9, np.nan, 1), ("sample_weight", "NaN")),
        (np.where(np.arange(N_ROWS) == 9, np.inf, 1), ("sample_weight", "infinity")),
        (np.where(np.arange(N_ROWS) == 9, -1.0, 1), ("sample_weight", "-1.0 in row 9")),
        (ONES * 0, ("at least one non-zero",)),
        (ONES[:-1], ("(23,)", "(24,)")),
        (np.array(["a"] * N_ROWS), ("could not convert",)),
    ):
        with refused_unchanged(model, refused(*words)):
            model.partial_fit(CLEAN, *y, sample_weight=weights)
    for value in (np.nan, np.inf, -1.0, 1e300):
        with refused_unchanged(model, refused("sample_weight must be", "in row 1")):
            model.partial_fit(PLAIN, *lazy_y, sample_weight=replaced(ONES, value))
    with refused_unchanged(model, refused("at least one non-zero")):
        model.partial_fit(PLAIN, *lazy_y, sample_weight=target(ONES * 0))


def after(name: str, first: Any, then: Any) -> Any:
    """What is learnt from rows and from further rows."""
    subject = ALL[name]
    model = subject.fit(first)
    call(model.partial_fit, name, then)
    values = getattr(model, subject.learns)
    return np.concatenate([np.ravel(v) for v in values.values()]) if "Net" in name else values


ODD: dict[str, Callable[[], Any]] = {
    "big-endian": lambda: CLEAN.astype(">f8"),
    "read-only": lambda: bad_input.locked(CLEAN),
    "Fortran order": lambda: np.asfortranarray(CLEAN),
    "integers": lambda: CLEAN.astype(np.int8),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_odd_rows_are_as_good_to_partial_fit(name: str) -> None:
    clean = after(name, CLEAN, CLEAN)
    for make in ODD.values():
        np.testing.assert_array_equal(after(name, CLEAN, make()), clean)
    with_gap = da.from_array(CLEAN, chunks=((CHUNK,) * 3, (2, 0, 3)))
    in_chunks = after(name, CLEAN, PLAIN)
    for lazy in (with_gap, PLAIN.astype(">f8"), of_unknown_width(lambda rows: rows)):
        np.testing.assert_array_equal(after(name, CLEAN, lazy), in_chunks)


@pytest.mark.parametrize("name", PARTIAL)
def test_sparse_rows_may_follow_dense_ones(name: str) -> None:
    csr = sp.csr_array(CLEAN)
    dense, sparse = after(name, CLEAN, CLEAN), after(name, CLEAN, csr)
    for odd in (bad_input.unsorted(), bad_input.wide_indices(), bad_input.locked_sparse()):
        np.testing.assert_array_equal(after(name, CLEAN, odd), sparse)
    if name != "SoftmaxRegression":  # its penalty steps apart where rows are sparse
        np.testing.assert_allclose(sparse, dense, rtol=1e-4, atol=1e-5)
    assert after(name, csr, CLEAN).shape == dense.shape


@pytest.mark.parametrize("name", PARTIAL)
def test_one_row_and_zeros_may_follow(name: str) -> None:
    y = ALL[name].y
    for rows in (CLEAN[:1], np.zeros_like(CLEAN), np.zeros((1, 5))):
        model = ALL[name].fit(CLEAN)
        model.partial_fit(rows, *(() if y is None else (y[: len(rows)],)))
        assert np.isfinite(np.asarray(ALL[name].answer(model, CLEAN))).all()
    if name == "KMeans":
        unfitted = petuum.KMeans(3, scheduler="local")
        with refused_unchanged(unfitted, refused("n_samples=1 should be >= n_clusters=3")):
            unfitted.partial_fit(CLEAN[:1])
