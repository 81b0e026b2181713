"""Bad input to every estimator, in memory: the right answer, or an error that says what and where.

Every refusal comes before any work: the estimator has learnt nothing. What is merely odd (orders,
types, layouts) gives the clean input's model bit for bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import bad_input
import numpy as np
import pytest
import scipy.sparse as sp
from bad_input import CLEAN, LABELS, N_ROWS, NO_COUNTS, REFUSED, SUBJECTS, TARGETS, Refused

import dask_petuum as petuum

LABELLED = ("SoftmaxRegression", "LogisticRegression", "LinearSVC")
REGRESSIONS = ("Lasso", "ElasticNet", "LinearSVR")
WEIGHTED = ("KMeans", *LABELLED, *REGRESSIONS)


def check_refused(expected: Refused, call: Any) -> None:
    with pytest.raises(expected.kind) as caught:
        call()
    text = str(caught.value)
    assert all(word in text for word in expected.words), text


@cache
def clean_model(name: str, *, sparse: bool) -> Any:
    return SUBJECTS[name].fit(sp.csr_array(CLEAN) if sparse else CLEAN)


@pytest.mark.parametrize("case", bad_input.EQUAL_DENSE)
@pytest.mark.parametrize("name", SUBJECTS)
def test_odd_dense_rows_give_the_clean_model(name: str, case: str) -> None:
    subject, clean = SUBJECTS[name], clean_model(name, sparse=False)
    rows = bad_input.EQUAL_DENSE[case]()
    model = subject.fit(rows)
    np.testing.assert_array_equal(subject.learnt(model), subject.learnt(clean))
    np.testing.assert_array_equal(subject.answer(clean, rows), subject.answer(clean, CLEAN))


@pytest.mark.parametrize("case", bad_input.EQUAL_SPARSE)
@pytest.mark.parametrize("name", SUBJECTS)
def test_odd_sparse_rows_give_the_clean_model(name: str, case: str) -> None:
    subject, clean = SUBJECTS[name], clean_model(name, sparse=True)
    rows = bad_input.EQUAL_SPARSE[case]()
    model = subject.fit(rows)
    # Stored zeros are skipped or added: the same sum in another order.
    slack = 1e-12 if case == "stored zeros" else 0.0
    np.testing.assert_allclose(subject.learnt(model), subject.learnt(clean), rtol=0, atol=slack)
    answers = subject.answer(clean, rows), subject.answer(clean, sp.csr_array(CLEAN))
    np.testing.assert_allclose(*answers, rtol=0, atol=slack)


def test_duplicates_of_small_integers_do_not_wrap_around() -> None:
    """200 + 100 in eight bits would be 44."""
    twice = sp.csr_array(
        (np.array([200, 100, 7], dtype=np.uint8), [1, 1, 0], [0, 2, 3]), shape=(2, 2)
    )
    once = np.array([[0, 300], [7, 0]])
    for name in ("LDA", "KMeans"):
        subject = SUBJECTS[name]
        size = {"n_components": 2} if name == "LDA" else {"n_clusters": 2}
        given, clean = (subject.fit(rows, **size) for rows in (twice, sp.csr_array(once)))
        np.testing.assert_array_equal(subject.learnt(given), subject.learnt(clean))


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", SUBJECTS)
def test_bad_rows_are_refused_before_any_work(name: str, case: str) -> None:
    make, expected = REFUSED[case]
    subject, model = SUBJECTS[name], SUBJECTS[name].make().set_params(scheduler="local")
    target = () if subject.y is None else (subject.y,)
    if case.endswith("without rows") or case == "no rows":
        target = tuple(y[:0] for y in target)
    check_refused(expected, lambda: model.fit(make(), *target))
    assert not hasattr(model, subject.learns)
    fitted = clean_model(name, sparse=False)
    check_refused(expected, lambda: subject.answer(fitted, make()))


@pytest.mark.parametrize("case", NO_COUNTS)
def test_lda_refuses_what_is_no_count(case: str) -> None:
    make, expected = NO_COUNTS[case]
    check_refused(expected, lambda: SUBJECTS["LDA"].fit(make()))
    fitted = clean_model("LDA", sparse=False)
    check_refused(expected, lambda: fitted.transform(make()))
    check_refused(expected, lambda: fitted.score(make()))


@pytest.mark.parametrize("case", ["negative", "a fraction", "2**31", "a sparse negative"])
@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "LDA"])
def test_what_is_no_count_is_fine_elsewhere(name: str, case: str) -> None:
    subject = SUBJECTS[name]
    model = subject.fit(NO_COUNTS[case][0]())
    assert np.isfinite(subject.learnt(model)).all()


@pytest.mark.parametrize("name", SUBJECTS)
def test_other_widths_are_refused_after_fit(name: str) -> None:
    subject, model = SUBJECTS[name], clean_model(name, sparse=False)
    for rows in (CLEAN[:, :4], np.hstack([CLEAN, CLEAN]), sp.csr_array(CLEAN[:, :4])):
        with pytest.raises(ValueError, match=rf"X has {rows.shape[1]} features.* 5 features"):
            subject.answer(model, rows)


@pytest.mark.parametrize("name", ["LDA", "KMeans", "SoftmaxRegression"])
def test_other_widths_are_refused_by_partial_fit(name: str) -> None:
    subject = SUBJECTS[name]
    model = subject.fit(CLEAN)
    before = subject.learnt(model).copy()
    target = () if subject.y is None else (subject.y,)
    with pytest.raises(ValueError, match="X has 4 features"):
        model.partial_fit(CLEAN[:, :4], *target)
    np.testing.assert_array_equal(subject.learnt(model), before)


@pytest.mark.parametrize("name", SUBJECTS)
def test_more_columns_than_can_be_held_are_refused(name: str, monkeypatch: Any) -> None:
    subject = SUBJECTS[name]
    csr = sp.csr_array(CLEAN)
    parts = (csr.data, csr.indices.astype(np.int64), csr.indptr.astype(np.int64))
    with pytest.raises(ValueError, match="X has 2147483653 features"):
        subject.fit(sp.csr_array(parts, shape=(N_ROWS, 2**31 + 5)))
    monkeypatch.setattr("dask_petuum.algorithms.input_values.host_memory", lambda: 30)
    with pytest.raises(ValueError, match=r"X has 5 features: .* this machine has"):
        subject.fit(CLEAN)


def test_more_tokens_than_can_be_held_are_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr("dask_petuum.algorithms.lda_counts.host_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"tokens \(the largest count is 900\.0\)"):
        SUBJECTS["LDA"].fit(bad_input.cell(900.0))


def test_a_word_with_more_tokens_than_its_count_can_hold_is_refused() -> None:
    from dask_petuum.algorithms.lda_counts import check_totals

    check_totals(np.array([5, 2**31 - 1]))
    with pytest.raises(ValueError, match="word 1 has 2147483648 tokens"):
        check_totals(np.array([5, 2**31]))


@pytest.mark.parametrize("name", SUBJECTS)
def test_one_row_and_zeros(name: str) -> None:
    subject = SUBJECTS[name]
    if name == "KMeans":
        with pytest.raises(ValueError, match="n_samples=1 should be >= n_clusters=3"):
            subject.fit(CLEAN[:1])
        model = petuum.KMeans(1, scheduler="local").fit(np.zeros_like(CLEAN))
        np.testing.assert_array_equal(model.cluster_centers_, np.zeros((1, 5)))
        return
    if name in LABELLED:
        with pytest.raises(ValueError, match="at least 2 classes"):
            subject.fit(CLEAN[:1], LABELS[:1])
    else:
        one = subject.fit(CLEAN[:1], None if subject.y is None else subject.y[:1])
        assert np.isfinite(subject.learnt(one)).all()
    zeros = subject.fit(np.zeros_like(CLEAN))
    learnt, empty = subject.learnt(zeros), subject.learnt(subject.fit(sp.csr_array(CLEAN.shape)))
    np.testing.assert_array_equal(learnt, np.zeros_like(learnt))
    np.testing.assert_array_equal(empty, np.zeros_like(empty))


def put(values: Any, value: Any) -> Any:
    """A vector with one value replaced."""
    kind = object if isinstance(value, str | None) else np.float64
    out = np.array(values, dtype=kind)
    out[3] = value
    return out


BAD_TARGETS: dict[str, tuple[Any, Refused]] = {
    "NaN": (lambda y: put(y, np.nan), bad_input.refused("y contains NaN", "row 3")),
    "infinity": (lambda y: put(y, np.inf), bad_input.refused("y contains infinity", "row 3")),
    "1e300": (lambda y: put(y, 1e300), bad_input.refused("1e+300", "row 3")),
    "too few": (lambda y: y[:-1], bad_input.refused("[24, 23]")),
    "two columns": (lambda y: np.c_[y, y], bad_input.refused("y should be a 1d array")),
    "a number": (lambda y: 1.0, bad_input.refused("y should be a 1d array")),
    "masked": (
        lambda y: np.ma.array(y, mask=y > 0),
        bad_input.refused("y is a masked array", kind=TypeError),
    ),
    "complex": (lambda y: y.astype(complex), bad_input.refused("Complex data not supported")),
    "sparse": (
        lambda y: sp.csr_array(y[:, None]),
        bad_input.refused("Sparse data was passed for y", kind=TypeError),
    ),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
@pytest.mark.parametrize("name", [*LABELLED, *REGRESSIONS])
def test_bad_targets_are_refused(name: str, case: str) -> None:
    make, expected = BAD_TARGETS[case]
    check_refused(expected, lambda: SUBJECTS[name].fit(CLEAN, make(SUBJECTS[name].y)))


@pytest.mark.parametrize("name", LABELLED)
def test_bad_labels_are_refused(name: str) -> None:
    subject = SUBJECTS[name]
    for labels, kind, text in (
        (LABELS * 0, ValueError, r"at least 2 classes.*only one class: (np\.int64\()?0"),
        (LABELS + np.linspace(0, 0.9, N_ROWS), ValueError, "continuous"),
        (put(LABELS, "a"), TypeError, r"cannot be ordered, of types \['int', 'str'\]"),
    ):
        with pytest.raises(kind, match=text):
            subject.fit(CLEAN, labels)
    with pytest.raises(ValueError, match="requires y"):
        subject.make().fit(CLEAN, None)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_any_type_give_the_clean_model(name: str) -> None:
    subject, clean = SUBJECTS[name], clean_model(name, sparse=False)
    for labels in (LABELS.astype(str), LABELS > 0, LABELS.astype(">i2"), LABELS.astype("M8[D]")):
        model = subject.fit(CLEAN, labels)
        np.testing.assert_array_equal(model.coef_, clean.coef_)
        assert model.classes_.dtype.kind == labels.dtype.kind


@pytest.mark.parametrize("name", REGRESSIONS)
def test_targets_that_are_no_numbers_are_refused(name: str) -> None:
    subject = SUBJECTS[name]
    check_refused(
        bad_input.refused("y contains NaN", "row 3"),
        lambda: subject.fit(CLEAN, put(TARGETS, None)),
    )
    check_refused(
        bad_input.refused("y holds datetime64[s]", kind=TypeError),
        lambda: subject.fit(CLEAN, TARGETS.astype("M8[s]")),
    )
    with pytest.raises(ValueError, match="could not convert string to float: 'a'"):
        subject.fit(CLEAN, put(TARGETS, "a"))


ONES = np.ones(N_ROWS)
BAD_WEIGHTS: dict[str, tuple[Any, Refused]] = {
    "NaN": (put(ONES, np.nan), bad_input.refused("sample_weight", "NaN")),
    "infinity": (put(ONES, np.inf), bad_input.refused("sample_weight", "infinity")),
    "negative": (put(ONES, -1.0), bad_input.refused("sample_weight", "-1.0 in row 3")),
    "1e300": (put(ONES, 1e300), bad_input.refused("sample_weight", "1e+300 in row 3")),
    "all zero": (ONES * 0, bad_input.refused("at least one non-zero")),
    "too few": (ONES[:-1], bad_input.refused("(23,)", "(24,)")),
    "two columns": (np.c_[ONES, ONES], bad_input.refused("1D array")),
    "words": (np.array(["a"] * N_ROWS), bad_input.refused("could not convert string to float")),
    "complex": (ONES.astype(complex), bad_input.refused("Complex data not supported")),
    "masked": (
        np.ma.array(ONES, mask=ONES > 0),
        bad_input.refused("sample_weight is a masked array", kind=TypeError),
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("name", WEIGHTED)
def test_bad_weights_are_refused(name: str, case: str) -> None:
    weights, expected = BAD_WEIGHTS[case]
    subject = SUBJECTS[name]
    model = subject.make().set_params(scheduler="local")
    check_refused(expected, lambda: model.fit(CLEAN, subject.y, sample_weight=weights))


#: Ratings as three columns; users and items 0, 1, 2.
RATINGS = np.array([[0, 0, 5.0], [0, 1, 1], [1, 0, 4], [2, 1, 2], [1, 2, 3], [2, 0, 1]])


def rated(*row: Any) -> Any:
    return np.vstack([RATINGS, np.array([row], dtype=np.float64)])


EQUAL_RATINGS: dict[str, Any] = {
    "Fortran order": lambda: np.asfortranarray(RATINGS),
    "read-only": lambda: bad_input.locked(RATINGS),
    "big-endian": lambda: RATINGS.astype(">f8"),
    "a tuple": lambda: tuple(RATINGS.T),
    "a matrix": lambda: sp.coo_array((RATINGS[:, 2], RATINGS[:, :2].astype(int).T)),
    "a CSC matrix": lambda: sp.csc_array((RATINGS[:, 2], RATINGS[:, :2].astype(int).T)),
    "huge ids": lambda: RATINGS * [2.0**60, 2.0**60, 1],
    "negative ids": lambda: RATINGS - [7, 9, 0],
    "ids beyond int64": lambda: RATINGS * [1e300, 1, 1],
}
BAD_RATINGS: dict[str, tuple[Any, Refused]] = {
    "NaN": (lambda: rated(3, 1, np.nan), bad_input.refused("finite", "nan (entry 6)")),
    "infinity": (lambda: rated(3, 1, np.inf), bad_input.refused("finite", "inf (entry 6)")),
    "beyond float32": (lambda: rated(3, 1, 1e39), bad_input.refused("1e+39 (entry 6)")),
    "a pair twice": (lambda: rated(0, 0, 2), bad_input.refused("1 ratings of a pair")),
    "an id that is NaN": (lambda: rated(np.nan, 0, 2), bad_input.refused("user id")),
    "an item that is infinite": (lambda: rated(0, np.inf, 2), bad_input.refused("item id")),
    "two columns": (lambda: RATINGS[:, :2], bad_input.refused("got 2 columns")),
    "four columns": (lambda: np.c_[RATINGS, RATINGS[:, 0]], bad_input.refused("got 4 columns")),
    "no ratings": (lambda: RATINGS[:0], bad_input.refused("(0, 0)")),
    "words": (lambda: np.array([["a", "b", "c"]]), bad_input.refused("could not convert", "'c'")),
    "complex": (lambda: RATINGS.astype(complex), bad_input.refused("complex128")),
    "dates": (lambda: RATINGS.astype("M8[s]"), bad_input.refused("datetime64", kind=TypeError)),
    "masked": (lambda: np.ma.array(RATINGS), bad_input.refused("masked", kind=TypeError)),
    "None": (lambda: None, bad_input.refused("got an array of shape ()")),
    "an empty list": (list, bad_input.refused("got an array of shape (0,)")),
    "ragged columns": (lambda: ([1, 2], [1], [3.0, 4]), bad_input.refused("(2,), (1,), (2,)")),
    "a matrix with NaN": (
        lambda: sp.csr_array(bad_input.cell(np.nan)),
        bad_input.refused("finite", "nan (entry"),
    ),
    "a matrix beyond float32": (
        lambda: sp.csr_array(bad_input.cell(1e39)),
        bad_input.refused("1e+39 (entry"),
    ),
    "an empty matrix": (lambda: sp.csr_array((4, 3)), bad_input.refused("no rating")),
    "a matrix without rows": (lambda: sp.csr_array((0, 3)), bad_input.refused("(0, 3)")),
    "a complex matrix": (
        lambda: sp.csr_array(CLEAN.astype(complex)),
        bad_input.refused("complex128"),
    ),
    "a damaged matrix": (
        lambda: bad_input.damaged("indices", 4, 1005),
        bad_input.refused("damaged", "indices[4] is 1005"),
    ),
    "duplicates": (bad_input.duplicated, bad_input.refused("ratings of a pair")),
    "too wide a matrix": (
        lambda: sp.csr_array(([1.0, 2.0], ([0, 1], [0, 2**31 + 4])), shape=(2, 2**31 + 5)),
        bad_input.refused("2147483653"),
    ),
}


def factorise() -> Any:
    return petuum.MatrixFactorization(2, max_iter=3, random_state=0, scheduler="local")


@pytest.mark.parametrize("case", EQUAL_RATINGS)
def test_odd_ratings_give_the_clean_model(case: str) -> None:
    clean, model = factorise().fit(RATINGS), factorise().fit(EQUAL_RATINGS[case]())
    np.testing.assert_array_equal(model.user_factors_, clean.user_factors_)
    np.testing.assert_array_equal(model.item_factors_, clean.item_factors_)


@pytest.mark.parametrize("case", BAD_RATINGS)
def test_bad_ratings_are_refused(case: str) -> None:
    make, expected = BAD_RATINGS[case]
    model = factorise()
    check_refused(expected, lambda: model.fit(make()))
    assert not hasattr(model, "user_factors_")


def test_damaged_pairs_are_refused_by_predict() -> None:
    model = factorise().fit(sp.csr_array(CLEAN))
    bad = bad_input.damaged("indices", 4, 1005)
    for method in (model.predict, model.score, model.partial_fit):
        with pytest.raises(ValueError, match="damaged"):
            method(bad)
