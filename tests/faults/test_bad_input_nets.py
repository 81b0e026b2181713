"""Bad input to the neural nets, from the same lists as to the other estimators; lazy input too."""

from __future__ import annotations

from functools import cache
from typing import Any

import bad_input
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from bad_input import CLEAN, LABELS, N_COLUMNS, N_ROWS, REFUSED, TARGETS
from test_bad_input_dask import (
    CHUNK,
    EQUAL,
    ODD_ROWS,
    PLAIN,
    damaged_chunk,
    in_second,
    of_unknown_width,
    replaced,
    sparse_chunks,
)
from test_bad_input_dask import REFUSED as REFUSED_LAZY
from test_bad_input_dask import target as cut
from test_bad_input_estimators import BAD_TARGETS, BAD_WEIGHTS, check_refused

pytest.importorskip("torch")

NETS = ("NeuralNetClassifier", "NeuralNetRegressor")


def net(name: str) -> Any:
    from dask_petuum import nn

    options = {"hidden_layer_sizes": (4,), "max_epochs": 2, "random_state": 0}
    return getattr(nn, name)(**options, scheduler="local")


def target(name: str) -> Any:
    return LABELS if name == "NeuralNetClassifier" else TARGETS


def learnt(model: Any) -> Any:
    return np.concatenate([np.ravel(values) for values in model.weights_.values()])


@cache
def clean_net(name: str, *, sparse: bool) -> Any:
    return net(name).fit(sp.csr_array(CLEAN) if sparse else CLEAN, target(name))


def check_equal(name: str, rows: Any, *, sparse: bool) -> None:
    clean = clean_net(name, sparse=sparse)
    np.testing.assert_array_equal(learnt(net(name).fit(rows, target(name))), learnt(clean))
    np.testing.assert_array_equal(clean.predict(rows), clean.predict(CLEAN))


@pytest.mark.parametrize("case", bad_input.EQUAL_DENSE)
@pytest.mark.parametrize("name", NETS)
def test_odd_dense_rows_give_the_clean_net(name: str, case: str) -> None:
    check_equal(name, bad_input.EQUAL_DENSE[case](), sparse=False)


@pytest.mark.parametrize("case", bad_input.EQUAL_SPARSE)
@pytest.mark.parametrize("name", NETS)
def test_odd_sparse_rows_give_the_clean_net(name: str, case: str) -> None:
    check_equal(name, bad_input.EQUAL_SPARSE[case](), sparse=True)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", NETS)
def test_bad_rows_are_refused_before_any_work(name: str, case: str) -> None:
    make, expected = REFUSED[case]
    model, y = net(name), target(name)
    if case.endswith("without rows") or case == "no rows":
        y = y[:0]
    check_refused(expected, lambda: model.fit(make(), y))
    assert not hasattr(model, "weights_")
    check_refused(expected, lambda: clean_net(name, sparse=False).predict(make()))


@pytest.mark.parametrize("case", BAD_TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_bad_targets_are_refused(name: str, case: str) -> None:
    make, expected = BAD_TARGETS[case]
    model = net(name)
    check_refused(expected, lambda: model.fit(CLEAN, make(target(name))))
    assert not hasattr(model, "weights_")


@pytest.mark.parametrize("name", NETS)
def test_other_widths_are_refused_after_fit(name: str) -> None:
    model = net(name).fit(CLEAN, target(name))
    before = learnt(model).copy()
    for call in (model.predict, lambda rows: model.partial_fit(rows, target(name))):
        with pytest.raises(ValueError, match=r"X has 4 features.* 5 features"):
            call(CLEAN[:, :4])
    np.testing.assert_array_equal(learnt(model), before)


def test_one_class_is_refused_and_one_row_is_learnt() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        net("NeuralNetClassifier").fit(CLEAN, np.zeros_like(LABELS))
    model = net("NeuralNetRegressor").fit(CLEAN[:1], TARGETS[:1])
    assert np.isfinite(learnt(model)).all()


@pytest.mark.parametrize("name", NETS)
def test_zeros_are_learnt_from(name: str) -> None:
    assert np.isfinite(learnt(net(name).fit(np.zeros_like(CLEAN), target(name)))).all()


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("name", NETS)
def test_bad_weights_are_refused(name: str, case: str) -> None:
    weights, expected = BAD_WEIGHTS[case]
    model = net(name)
    check_refused(expected, lambda: model.fit(CLEAN, target(name), sample_weight=weights))
    assert not hasattr(model, "weights_")


def test_bad_labels_are_refused() -> None:
    mixed = LABELS.astype(object)
    mixed[3] = "a"
    for labels, kind, text in (
        (LABELS + np.linspace(0, 0.9, N_ROWS), ValueError, "continuous"),
        (mixed, TypeError, r"cannot be ordered, of types \['int', 'str'\]"),
    ):
        model = net("NeuralNetClassifier")
        with pytest.raises(kind, match=text):
            model.fit(CLEAN, labels)
        assert not hasattr(model, "weights_")
    with pytest.raises(ValueError, match="could not convert string to float: 'a'"):
        net("NeuralNetRegressor").fit(CLEAN, mixed)


def test_labels_of_any_type_give_the_clean_net() -> None:
    clean = clean_net("NeuralNetClassifier", sparse=False)
    for labels in (LABELS.astype(str), LABELS > 0, LABELS.astype(">i2"), LABELS.astype("M8[D]")):
        model = net("NeuralNetClassifier").fit(CLEAN, labels)
        np.testing.assert_array_equal(learnt(model), learnt(clean))
        assert model.classes_.dtype.kind == labels.dtype.kind
        np.testing.assert_array_equal(model.predict(CLEAN), model.classes_[clean.predict(CLEAN)])


@cache
def clean_lazy(name: str) -> Any:
    return net(name).fit(PLAIN, cut(target(name)))


def lazy_target(name: str, how: Any) -> Any:
    """The target, cut as the rows of a case of `test_bad_input_dask` are."""
    y = cut(target(name))
    return y[PLAIN[:, 0] > -1] if how == "unknown" else y.rechunk((how,))


@pytest.mark.parametrize("case", EQUAL)
@pytest.mark.parametrize("name", NETS)
def test_odd_collections_give_the_clean_net(name: str, case: str) -> None:
    make, how = EQUAL[case]
    clean, model = clean_lazy(name), net(name).fit(make(), lazy_target(name, how))
    np.testing.assert_array_equal(learnt(model), learnt(clean))
    answers = clean.predict(make()).compute(scheduler="sync")
    np.testing.assert_allclose(answers, clean.predict(CLEAN), rtol=1e-5)


@pytest.mark.parametrize("case", REFUSED_LAZY)
@pytest.mark.parametrize("name", NETS)
def test_bad_collections_are_refused_before_any_work(name: str, case: str) -> None:
    make, expected = REFUSED_LAZY[case]
    rows, y, model = make(), cut(target(name)), net(name)
    if rows.ndim == 2:
        y = y[:0] if len(rows) == 0 else y.rechunk((rows.chunks[0],))
    check_refused(expected, lambda: model.fit(rows, y))
    assert not hasattr(model, "weights_")


@pytest.mark.parametrize("name", NETS)
def test_chunks_without_rows_are_no_matter(name: str) -> None:
    rows = da.from_array(CLEAN, chunks=(ODD_ROWS, N_COLUMNS))
    model = net(name).fit(rows, lazy_target(name, ODD_ROWS))
    assert np.isfinite(learnt(model)).all()
    assert len(model.predict(rows).compute(scheduler="sync")) == N_ROWS
    late = da.from_array(np.arange(N_ROWS) >= CHUNK, chunks=CHUNK)
    assert np.isfinite(learnt(net(name).fit(PLAIN[late], cut(target(name))[late]))).all()
    nothing = PLAIN[:, 0] > 99
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        net(name).fit(PLAIN[nothing], cut(target(name))[nothing])


@pytest.mark.parametrize("name", NETS)
def test_bad_lazy_targets_and_weights_are_refused(name: str) -> None:
    model, y, ones = net(name), target(name), np.ones(N_ROWS)
    for value, text in ((np.nan, "NaN"), (np.inf, "infinity"), (1e300, r"1e\+300")):
        with pytest.raises(ValueError, match=rf"y .*{text}.*row 1 of its chunk"):
            model.fit(PLAIN, replaced(y, value))
    for value in (np.nan, np.inf, -1.0, 1e300):
        with pytest.raises(ValueError, match=r"sample_weight must be .* got .* in row 1"):
            model.fit(PLAIN, cut(y), sample_weight=replaced(ones, value))
    with pytest.raises(ValueError, match="at least one non-zero"):
        model.fit(PLAIN, cut(y), sample_weight=cut(ones * 0))
    for short in (y[:-1], cut(y[:-1])):
        with pytest.raises(ValueError, match=r"\[24, 23\]"):
            model.fit(PLAIN, short)
    with pytest.raises(ValueError, match="unknown"):
        model.fit(PLAIN[PLAIN[:, 0] > -1], y)
    with pytest.raises(ValueError, match="cannot be matched"):
        model.fit(PLAIN[PLAIN[:, 0] > -1], cut(y, 5))
    assert not hasattr(model, "weights_")


def test_bad_lazy_labels_are_refused() -> None:
    for labels, text in (
        (LABELS * 0, "at least 2 classes"),
        (LABELS + np.linspace(0, 0.9, N_ROWS), "continuous"),
    ):
        with pytest.raises(ValueError, match=text):
            net("NeuralNetClassifier").fit(PLAIN, cut(labels))


@pytest.mark.parametrize("name", NETS)
def test_targets_that_are_cut_elsewhere_are_cut_as_the_rows(name: str) -> None:
    for chunks in (5, N_ROWS):
        model = net(name).fit(PLAIN, cut(target(name), chunks))
        np.testing.assert_array_equal(learnt(model), learnt(clean_lazy(name)))


@pytest.mark.parametrize("name", NETS)
def test_lazy_answers_refuse_bad_chunks_when_they_are_computed(name: str) -> None:
    clean = clean_lazy(name)
    for make, text in (
        (lambda: da.from_array(bad_input.cell(np.nan), chunks=CHUNK), "NaN"),
        (lambda: in_second(lambda rows: rows[:, :4]), "has 4 features, 5 are expected"),
        (lambda: of_unknown_width(lambda rows: rows[:, :4]), "has 4 features, 5 are expected"),
        (lambda: sparse_chunks(damaged_chunk), "damaged"),
    ):
        with pytest.raises(ValueError, match=text):
            clean.predict(make()).compute(scheduler="sync")
    with pytest.raises(ValueError, match="X has 4 features"):
        clean.predict(PLAIN[:, :4])
