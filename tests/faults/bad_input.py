"""The list of bad and of odd inputs, with what is expected of each, and whom they are given to.

An input is either as good as the clean one (and must give the same model, bit for bit), or is
refused with an error whose text names what is wrong, the value and its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

import dask_petuum as petuum

Make = Callable[[], Any]

N_ROWS, N_COLUMNS = 24, 5
_random = np.random.default_rng(0)
#: Counts, so that LDA takes them too; no row is empty.
CLEAN = _random.integers(0, 5, size=(N_ROWS, N_COLUMNS)).astype(np.float64)
CLEAN[CLEAN.sum(axis=1) == 0, 0] = 1.0
LABELS = (CLEAN[:, 0] + CLEAN[:, 1] > CLEAN[:, 2] + CLEAN[:, 3]).astype(np.int64)
TARGETS = CLEAN @ [1.0, 0.5, 0.0, -1.0, 2.0] + 0.1 * _random.normal(size=N_ROWS)
#: The cell that is made bad.
ROW, COLUMN = 3, 2


@dataclass(frozen=True)
class Subject:
    """An estimator that takes rows, its target, and what it learns and answers."""

    make: Make
    y: Any
    learns: str
    answers: str

    def fit(self, X: Any, y: Any = None, **parameters: Any) -> Any:
        """Fit a new one, in this process unless told otherwise."""
        model = self.make().set_params(**{"scheduler": "local", **parameters})
        target = self.y if y is None else y
        return model.fit(X) if target is None else model.fit(X, target)

    def answer(self, model: Any, X: Any) -> Any:
        """Apply a fitted one."""
        return getattr(model, self.answers)(X)

    def learnt(self, model: Any) -> Any:
        """Return the array that says what it has learnt."""
        return np.asarray(getattr(model, self.learns))


SUBJECTS = {
    "LDA": Subject(
        lambda: petuum.LDA(3, max_iter=4, random_state=0), None, "word_topic_counts_", "transform"
    ),
    "KMeans": Subject(
        lambda: petuum.KMeans(3, random_state=0, max_iter=20), None, "cluster_centers_", "predict"
    ),
    "SoftmaxRegression": Subject(
        lambda: petuum.SoftmaxRegression(max_iter=3, random_state=0), LABELS, "coef_", "predict"
    ),
    "Lasso": Subject(lambda: petuum.Lasso(alpha=0.1), TARGETS, "coef_", "predict"),
    "ElasticNet": Subject(lambda: petuum.ElasticNet(alpha=0.1), TARGETS, "coef_", "predict"),
    "LogisticRegression": Subject(petuum.LogisticRegression, LABELS, "coef_", "predict_proba"),
    "LinearSVC": Subject(lambda: petuum.LinearSVC(random_state=0), LABELS, "coef_", "predict"),
    "LinearSVR": Subject(lambda: petuum.LinearSVR(random_state=0), TARGETS, "coef_", "predict"),
}


@dataclass(frozen=True)
class Refused:
    """An error of this type, with all of these words in its text."""

    kind: type[Exception]
    words: tuple[str, ...]


def refused(*words: str, kind: type[Exception] = ValueError) -> Refused:
    return Refused(kind, words)


#: What is as good as the clean rows, dense and sparse; compared with these.
EQUAL_DENSE: dict[str, Make] = {
    "Fortran order": lambda: np.asfortranarray(CLEAN),
    "read-only": lambda: locked(CLEAN),
    "big-endian": lambda: CLEAN.astype(">f8"),
    "big-endian integers": lambda: CLEAN.astype(">i4"),
    "every second column": lambda: np.repeat(CLEAN, 2, axis=1)[:, ::2],
    "negative strides": lambda: CLEAN[::-1].copy()[::-1],
    "float16": lambda: CLEAN.astype(np.float16),
    "long double": lambda: CLEAN.astype(np.longdouble),
    "int8": lambda: CLEAN.astype(np.int8),
    "uint64": lambda: CLEAN.astype(np.uint64),
    "objects that are numbers": lambda: CLEAN.astype(object),
    "nested lists": CLEAN.tolist,
}
EQUAL_SPARSE: dict[str, Make] = {
    "csr_matrix": lambda: sp.csr_matrix(CLEAN),
    "CSC": lambda: sp.csc_array(CLEAN),
    "COO": lambda: sp.coo_array(CLEAN),
    "LIL": lambda: sp.lil_array(CLEAN),
    "BSR": lambda: sp.bsr_array(CLEAN),
    "DOK": lambda: sp.dok_array(CLEAN),
    "duplicates": lambda: duplicated(),
    "unsorted": lambda: unsorted(),
    "int64 indices": lambda: wide_indices(),
    "read-only": lambda: locked_sparse(),
    "big-endian": lambda: changed(data=sp.csr_array(CLEAN).data.astype(">f8")),
    "spare room": lambda: roomy(),
    "stored zeros": lambda: with_zeros(),
}


#: What is refused in place of the rows, by every estimator of rows.
REFUSED: dict[str, tuple[Make, Refused]] = {
    "NaN": (lambda: cell(np.nan), refused("X contains NaN", "row 3, column 2")),
    "infinity": (lambda: cell(np.inf), refused("X contains infinity", "inf in row 3, column 2")),
    "-infinity": (lambda: cell(-np.inf), refused("infinity", "-inf in row 3, column 2")),
    "sparse NaN": (
        lambda: sp.csr_array(cell(np.nan)),
        refused("X contains NaN", "row 3, column 2"),
    ),
    "sparse infinity": (
        lambda: sp.csc_array(cell(np.inf)),
        refused("X contains infinity", "inf in row 3, column 2"),
    ),
    "None among numbers": (
        lambda: cell(None, object),
        refused("X contains NaN", "row 3, column 2"),
    ),
    "too large for float64": (lambda: cell(10**400, object), refused("too large")),
    "1e300": (lambda: cell(1e300), refused("1e+300", "row 3, column 2")),
    "float32 of 1e38": (lambda: cell(1e38, np.float32), refused("e+37", "row 3, column 2")),
    "words": (lambda: np.array([["a", "b", "c", "d", "e"]] * N_ROWS), refused()),
    "words as objects": (
        lambda: cell("a", object),
        refused("could not convert string to float: 'a'"),
    ),
    "complex": (lambda: CLEAN.astype(complex), refused("Complex data not supported")),
    "sparse complex": (
        lambda: sp.csr_array(CLEAN.astype(complex)),
        refused("Complex data not supported"),
    ),
    "dates": (
        lambda: CLEAN.astype("M8[s]"),
        refused("X holds datetime64[s]", "numbers are required", kind=TypeError),
    ),
    "masked": (
        lambda: np.ma.array(CLEAN, mask=CLEAN > 3),
        refused("masked array", kind=TypeError),
    ),
    "masked, nothing masked": (lambda: np.ma.array(CLEAN), refused("masked", kind=TypeError)),
    "no rows": (lambda: CLEAN[:0], refused("0 sample(s)", "(0, 5)")),
    "no columns": (lambda: CLEAN[:, :0], refused("0 feature(s)", "(24, 0)")),
    "sparse without rows": (lambda: sp.csr_array((0, 5)), refused("0 sample(s)", "(0, 5)")),
    "sparse without columns": (lambda: sp.csr_array((24, 0)), refused("0 feature(s)")),
    "a vector": (lambda: CLEAN[0], refused("Expected 2D array, got 1D array")),
    "a number": (lambda: 3.0, refused("Expected 2D array, got scalar")),
    "three dimensions": (lambda: CLEAN[None], refused("dim 3")),
    "None": (lambda: None, refused("Expected 2D array")),
    "an empty list": (list, refused("Expected 2D array")),
    "an index beyond the columns": (
        lambda: damaged("indices", 4, 1005),
        refused("damaged", "indices[4] is 1005", "0 .. 4"),
    ),
    "a negative index": (
        lambda: damaged("indices", 4, -1),
        refused("damaged", "indices[4] is -1", "0 .. 4"),
    ),
    "CSC with an index beyond the rows": (
        lambda: damaged("indices", 4, 99, sp.csc_array),
        refused("damaged", "indices[4] is 99", "0 .. 23"),
    ),
    "BSR with an index beyond the columns": (
        lambda: damaged("indices", 0, 99, sp.bsr_array),
        refused("damaged", "indices[0] is 99"),
    ),
    "COO with a row beyond the rows": (
        lambda: damaged("row", 1, 77, sp.coo_array),
        refused("damaged", "row[1] is 77", "0 .. 23"),
    ),
    "LIL with an index beyond the columns": (
        lambda: damaged_lil(),
        refused("damaged", "is 9, the shape allows 0 .. 4"),
    ),
    "row pointers that fall": (
        lambda: damaged("indptr", 5, 60),
        refused("damaged", "indptr falls from 60"),
    ),
    "row pointers that do not begin at 0": (
        lambda: damaged("indptr", 0, 2),
        refused("damaged", "indptr begins with 2"),
    ),
    "row pointers beyond the values": (
        lambda: damaged("indptr", -1, 500),
        refused("damaged", "indptr ends with 500"),
    ),
    "values that are missing": (
        lambda: changed(data=sp.csr_array(CLEAN).data[:-3]),
        refused("damaged", "values"),
    ),
    "row pointers that are missing": (
        lambda: changed(indptr=sp.csr_array(CLEAN).indptr[:-2]),
        refused("damaged", "indptr has shape (23,)"),
    ),
}

#: Refused by LDA only: what is no count.
NO_COUNTS: dict[str, tuple[Make, Refused]] = {
    "negative": (lambda: cell(-1.0), refused("Negative", "-1.0 in row 3, column 2")),
    "a fraction": (lambda: cell(0.5), refused("whole numbers", "0.5 in row 3, column 2")),
    "2**31": (lambda: cell(2.0**31), refused("2147483647", "2147483648.0 in row 3")),
    "a sparse negative": (
        lambda: sp.csr_array(cell(-1.0)),
        refused("Negative", "-1.0 in row 3, column 2"),
    ),
    "a negative integer": (lambda: cell(-7, np.int16), refused("Negative", "-7 in row 3")),
    "a float16 fraction": (lambda: cell(0.5, np.float16), refused("0.5 in row 3")),
}


def cell(value: Any, dtype: Any = np.float64) -> Any:
    """Clean rows but for one cell."""
    rows = CLEAN.astype(dtype)
    rows[ROW, COLUMN] = value
    return rows


def locked(rows: Any) -> Any:
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


def locked_sparse() -> Any:
    csr = sp.csr_array(CLEAN)
    for part in (csr.data, csr.indices, csr.indptr):
        part.flags.writeable = False
    return csr


def changed(**parts: Any) -> Any:
    """Clean rows as CSR, some of whose arrays are replaced behind scipy's back."""
    csr = sp.csr_array(CLEAN)
    for name, values in parts.items():
        setattr(csr, name, values)
    return csr


def damaged(part: str, place: int, value: int, kind: Any = sp.csr_array) -> Any:
    """Clean rows as a sparse array with one number of an index array changed."""
    matrix = kind(CLEAN)
    getattr(matrix, part)[place] = value
    return matrix


def damaged_lil() -> Any:
    lil = sp.lil_array(CLEAN)
    lil.rows[ROW] = [9]
    lil.data[ROW] = [1.0]
    return lil


def roomy() -> Any:
    """CSR with room behind its values, which scipy's own operations leave too."""
    csr = sp.csr_array(CLEAN)
    return changed(
        data=np.append(csr.data, [np.nan, np.inf]), indices=np.append(csr.indices, [99, -7])
    )


def duplicated() -> Any:
    """CSR that has every value as two."""
    coo = sp.coo_array(CLEAN)
    row, col = (np.tile(part, 2) for part in coo.coords)
    values = np.concatenate([coo.data - 1.0, np.ones(coo.nnz)])
    order = np.lexsort((col, row))
    indptr = np.searchsorted(row[order], np.arange(N_ROWS + 1))
    return sp.csr_array((values[order], col[order], indptr), shape=CLEAN.shape)


def unsorted() -> Any:
    csr = sp.csr_array(CLEAN)
    for low, high in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
        csr.indices[low:high] = csr.indices[low:high][::-1].copy()
        csr.data[low:high] = csr.data[low:high][::-1].copy()
    csr.has_sorted_indices = False
    return csr


def wide_indices() -> Any:
    csr = sp.csr_array(CLEAN)
    return changed(indices=csr.indices.astype(np.int64), indptr=csr.indptr.astype(np.int64))


def with_zeros() -> Any:
    """CSR that stores every cell."""
    row, col = (part.ravel() for part in np.indices(CLEAN.shape))
    return sp.coo_array((CLEAN.ravel(), (row, col)), shape=CLEAN.shape).tocsr()
