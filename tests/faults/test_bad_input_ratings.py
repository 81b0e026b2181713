"""Bad and odd ratings to MatrixFactorization: matrices, lazy chunks, frames, later calls.

What three columns in memory may hold is in `test_bad_input_estimators`.
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
from bad_input import Refused, refused
from learnt import refused_unchanged
from test_bad_input_dask import SPARSE_META, damaged_chunk
from test_bad_input_estimators import BAD_RATINGS, RATINGS

import dask_petuum as petuum

CSR = sp.coo_array((RATINGS[:, 2], RATINGS[:, :2].astype(int).T)).tocsr()
DENSE = CSR.toarray()
ROWS = da.from_array(DENSE, chunks=(1, 3))
FRAME = pd.DataFrame(RATINGS, columns=["user", "item", "rating"])


def new(solver: str = "ccd") -> Any:
    return petuum.MatrixFactorization(
        2, max_iter=3, random_state=0, scheduler="local", solver=solver
    )


@cache
def clean() -> Any:
    """A model that tests may offer bad ratings, and only those."""
    return new().fit(CSR)


def with_parts(**parts: Any) -> Any:
    """The ratings as CSR, some of whose arrays are replaced behind scipy's back."""
    csr = CSR.copy()
    for name, values in parts.items():
        setattr(csr, name, values)
    return csr


def unsorted(block: Any = None) -> Any:
    csr = sp.csr_array(CSR if block is None else block).copy()
    for low, high in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
        csr.indices[low:high] = csr.indices[low:high][::-1].copy()
        csr.data[low:high] = csr.data[low:high][::-1].copy()
    csr.has_sorted_indices = False
    return csr


def locked(csr: Any) -> Any:
    csr = csr.copy()
    for part in (csr.data, csr.indices, csr.indptr):
        part.flags.writeable = False
    return csr


def wide(block: Any) -> Any:
    csr = sp.csr_array(block)
    csr.indices, csr.indptr = csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    return csr


def big_endian(block: Any) -> Any:
    csr = sp.csr_array(block)
    csr.data = csr.data.astype(">f8")
    return csr


def twice(block: Any) -> Any:
    """Every pair of a chunk of one row two times."""
    csr = sp.csr_array(block)
    parts = (np.tile(csr.data, 2), np.tile(csr.indices, 2), [0, 2 * csr.nnz])
    return sp.csr_array(parts, shape=csr.shape)


def chunks(make: Callable[[Any], Any] = sp.csr_array, cut: Any = (1, 3)) -> Any:
    rows = da.from_array(DENSE, chunks=cut)
    return rows.map_blocks(make, meta=SPARSE_META, dtype=float)


EQUAL: dict[str, Callable[[], Any]] = {
    "unsorted": unsorted,
    "int64 indices": lambda: wide(CSR),
    "read-only": lambda: locked(CSR),
    "read-only, unsorted": lambda: locked(unsorted()),
    "big-endian": lambda: big_endian(CSR),
    "big-endian indices": lambda: with_parts(
        indices=CSR.indices.astype(">i4"), indptr=CSR.indptr.astype(">i4")
    ),
    "spare room": lambda: with_parts(
        data=np.append(CSR.data, np.nan), indices=np.append(CSR.indices, 99)
    ),
    "int8": lambda: with_parts(data=CSR.data.astype(np.int8)),
    "float16": lambda: with_parts(data=CSR.data.astype(np.float16)),
    "long double": lambda: with_parts(data=CSR.data.astype(np.longdouble)),
    "LIL": lambda: CSR.tolil(),
    "DOK": lambda: CSR.todok(),
    "BSR": lambda: sp.bsr_array(CSR.toarray(), blocksize=(1, 1)),
    "nullable numbers": lambda: FRAME.assign(user=FRAME.user.astype("Int64")),
}
#: Compared with chunks of a row each: what a chunk is, is a matter of rounding.
EQUAL_LAZY: dict[str, Callable[[], Any]] = {
    "columns in chunks": lambda: chunks(cut=(1, 2)),
    "chunks of width 0": lambda: chunks(cut=(1, (2, 0, 1))),
    "chunks without rows": lambda: chunks(cut=((1, 0, 1, 1), 3)),
    "unknown chunk sizes": lambda: ROWS[ROWS[:, 0] > -1].map_blocks(
        sp.csr_array, meta=SPARSE_META, dtype=float
    ),
    "unknown width": lambda: ROWS.map_blocks(
        sp.csr_array, meta=SPARSE_META, dtype=float, chunks=((1, 1, 1), (np.nan,))
    ),
    "unsorted chunks": lambda: chunks(unsorted),
    "int64 chunks": lambda: chunks(wide),
    "read-only chunks": lambda: chunks(lambda block: locked(sp.csr_array(block))),
    "big-endian chunks": lambda: chunks(big_endian),
    "CSC chunks": lambda: chunks(sp.csc_array),
    "COO chunks": lambda: chunks(sp.coo_array),
}


@pytest.mark.parametrize("case", EQUAL)
def test_odd_matrices_give_the_clean_model(case: str) -> None:
    given = EQUAL[case]()
    model = new().fit(given)
    np.testing.assert_array_equal(model.user_factors_, clean().user_factors_)
    np.testing.assert_array_equal(model.item_factors_, clean().item_factors_)
    assert clean().score(given) == pytest.approx(clean().score(CSR), rel=1e-12)
    model.partial_fit(given)
    np.testing.assert_array_equal(model.user_factors_, clean().user_factors_)


@pytest.mark.parametrize("case", EQUAL_LAZY)
def test_odd_chunks_give_the_clean_model(case: str) -> None:
    """There are no more items than chunks: a rank may have none of its own."""
    plain, model = new().fit(chunks()), new().fit(EQUAL_LAZY[case]())
    np.testing.assert_array_equal(model.user_factors_, plain.user_factors_)
    np.testing.assert_array_equal(model.item_factors_, plain.item_factors_)
    np.testing.assert_allclose(model.predict(CSR).data, clean().predict(CSR).data, rtol=1e-4)


@pytest.mark.parametrize("solver", ["ccd", "sgd"])
def test_more_ranks_than_items_are_no_matter(solver: str) -> None:
    """A partition without an item of its own ended the fit at its end."""
    ratings = np.array([[5.0, 1], [4, 2], [3, 3], [2, 4], [1, 5]])
    lazy = da.from_array(ratings, chunks=(1, 2)).map_blocks(sp.csr_array, meta=SPARSE_META)
    model = new(solver).fit(lazy)
    assert model.item_factors_.shape == (2, 2)
    assert np.isfinite(model.predict(sp.csr_array(ratings)).data).all()


REFUSED_LAZY: dict[str, tuple[Callable[[], Any], Refused]] = {
    "NaN": (lambda: chunks(lambda b: sp.csr_array(b * np.nan)), refused("finite", "got nan")),
    "infinity": (lambda: chunks(lambda b: sp.csr_array(b) * np.inf), refused("finite", "got inf")),
    "beyond float32": (lambda: chunks(lambda b: sp.csr_array(b * 1e39)), refused("finite", "e+39")),
    "a pair twice": (lambda: chunks(twice), refused("2 ratings of a pair")),
    "complex": (lambda: chunks(lambda b: sp.csr_array(b + 1j)), refused("Complex")),
    "damaged": (lambda: chunks(damaged_chunk), refused("damaged", "indices[0] is 1000000")),
    "a narrow chunk": (
        lambda: chunks(lambda b: sp.csr_array(b[:, :2])),
        refused("chunk 0 of X has 2 columns", "says 3"),
    ),
    "a column of width 0": (
        lambda: ROWS.map_blocks(
            lambda b: sp.csr_array(b[:, :0]), meta=SPARSE_META, chunks=((1, 1, 1), (np.nan,))
        ),
        refused("0 feature(s)"),
    ),
    "a chunk that is None": (lambda: chunks(lambda b: None), refused("scalar")),
    "a chunk that fails": (
        lambda: chunks(lambda b: 1 / 0),
        refused("division by zero", kind=ZeroDivisionError),
    ),
    "no rows": (lambda: chunks()[:0], refused("0 sample(s)")),
    "no columns": (lambda: chunks()[:, :0], refused("0 feature(s)")),
    "no ratings": (lambda: chunks(lambda b: sp.csr_array(b.shape)), refused("no rating")),
    "dense": (lambda: ROWS, refused("dense matrix of ratings", kind=TypeError)),
    "dates": (lambda: ROWS.astype("M8[s]"), refused("datetime64", kind=TypeError)),
    "words": (lambda: ROWS.astype(str), refused("numeric")),
    "a vector": (lambda: ROWS[0], refused("Expected 2D array, got 1D")),
    "three dimensions": (lambda: ROWS[None], refused("Expected 2D array, got 3D")),
}


@pytest.mark.parametrize("case", REFUSED_LAZY)
def test_bad_chunks_are_refused(case: str) -> None:
    make, expected = REFUSED_LAZY[case]
    for model in (new(), clean()):
        with refused_unchanged(model, expected):
            model.fit(make())


BAD_FRAMES: dict[str, tuple[Any, Refused]] = {
    "NaN": (FRAME.assign(rating=np.nan), refused("finite", "got nan (entry 0)")),
    "infinity": (FRAME.assign(rating=-np.inf), refused("finite", "got -inf (entry 0)")),
    "beyond float32": (FRAME.assign(rating=1e39), refused("1e+39")),
    "words": (FRAME.assign(rating=list("abcdef")), refused("could not convert", "'a'")),
    "a missing number": (
        FRAME.assign(rating=pd.array([1, 2, 3, 4, None, 0], dtype="Int64")),
        refused("finite", "got nan (entry 4)"),
    ),
    "ids that are missing": (FRAME.assign(user=[None] * 6), refused("user id that is missing")),
    "an id that is NaN": (FRAME.assign(item=np.nan), refused("item id that is missing")),
    "a missing id": (
        FRAME.assign(user=pd.array([1, 2, 3, 4, None, 0], dtype="Int64")),
        refused("user id that is missing"),
    ),
    "pairs twice": (pd.concat([FRAME, FRAME]), refused("6 ratings of a pair")),
    "two columns": (FRAME[["user", "item"]], refused("columns ['user', 'item']")),
    "no rows": (FRAME[:0], refused("(0, 0)")),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frames_are_refused(case: str) -> None:
    import dask.dataframe as dd

    frame, expected = BAD_FRAMES[case]
    for given in (frame, dd.from_pandas(frame, npartitions=2, sort=False)):
        with refused_unchanged(clean(), expected):
            clean().fit(given)
        with refused_unchanged(clean(), expected):
            clean().partial_fit(given)


#: What teaches nothing, and is refused by ``fit`` only.
HARMLESS = ("an empty matrix",)


@pytest.mark.parametrize("case", BAD_RATINGS)
def test_bad_ratings_are_refused_by_later_calls(case: str) -> None:
    """A matrix with 2**31 columns was taken by ``partial_fit``: it took all memory."""
    make, expected = BAD_RATINGS[case]
    model = clean()
    methods = [model.fit] + [model.partial_fit] * (case not in HARMLESS)
    for method in methods:
        with refused_unchanged(model, expected):
            method(make())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: with_parts(data=CSR.data * np.nan), refused("finite", "got nan (entry 0)")),
        (lambda: CSR.astype(complex), refused("real numbers", "complex128")),
        (lambda: RATINGS * [1, 1, np.inf], refused("finite", "got inf (entry 0)")),
        (lambda: chunks(lambda b: sp.csr_array(b * np.nan)), refused("finite")),
        (lambda: sp.csr_array((3, 3)), refused("no rating to score")),
        (lambda: RATINGS[:0], refused("no rating to score")),
        (lambda: bad_input.damaged("indices", 4, 1005), refused("damaged")),
    ],
)
def test_scores_of_what_are_no_ratings_are_refused(make: Any, expected: Refused) -> None:
    """They were NaN, or a number that said nothing."""
    with refused_unchanged(clean(), expected):
        clean().score(make())


def test_a_single_rating_is_learnt() -> None:
    for given in ([[7, 9, 3.0]], sp.csr_array([[3.0]]), pd.DataFrame([["a", "b", 3.0]])):
        model = new().fit(given)
        assert model.user_factors_.shape == (1, 2)
        assert model.score(given) == pytest.approx(0, abs=1e-3)


def test_a_rating_that_follows_joins_the_model() -> None:
    model, before = new().fit(RATINGS), new().fit(RATINGS)
    big = np.array([[2.0**60, 2.0**59, 2.0]]).astype(">f8")
    model.partial_fit(big)
    np.testing.assert_array_equal(model.user_factors_[:3], before.user_factors_)
    assert model.users_[-1] == 2**60
    assert model.items_[-1] == 2**59
    assert np.isfinite(model.predict(big)).all()
