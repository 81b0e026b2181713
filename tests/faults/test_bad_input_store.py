"""Bad input to the store's interface: connect, create_table, view, inc and run.

NaN and infinity are numbers of a float table and stay what they are; what would become another
number without a word (too large, not whole, masked) is refused, before anything has changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from bad_input import damaged, locked

import dask_petuum as petuum
from dask_petuum.exceptions import RankError, TableError
from dask_petuum.store.spec import Normal, TableSpec, Uniform, UpdateRule

ROWS = np.arange(12.0).reshape(4, 3)
SPARSE = sp.csr_array(np.eye(4, 3))


def broken() -> Any:
    csr = SPARSE.copy()
    csr.indices[0] = 10**6
    return csr


def dense(values: Any) -> Any:
    return values.toarray() if sp.issparse(values) else values


def made(**fields: Any) -> Any:
    """Values of a table that was made with these fields."""
    with petuum.connect("local") as ps:
        return dense(ps.create_table(**{"name": "w", "shape": (4, 3), **fields}).to_numpy())


def added(delta: Any, at: Any = None, rows: Any = None, **fields: Any) -> Any:
    """Values of a table of zeros after one increment; what the rank raised otherwise."""

    def train(ctx: Any, partition: Any) -> None:
        ctx.table("w").view(rows).inc(delta, at)

    with petuum.connect("local") as ps:
        ps.create_table(**{"name": "w", "shape": (4, 3), "dtype": "float64", **fields})
        try:
            ps.run(train)
        except RankError as error:
            np.testing.assert_array_equal(dense(ps.table("w").to_numpy()), np.zeros((4, 3)))
            raise error.__cause__ or error from None
        return dense(ps.table("w").to_numpy())


EQUAL = {
    "Fortran order": np.asfortranarray(ROWS),
    "read-only": locked(ROWS),
    "big-endian": ROWS.astype(">f8"),
    "int8": ROWS.astype(np.int8),
    "uint64": ROWS.astype(np.uint64),
    "strided": np.repeat(ROWS, 2, axis=1)[:, ::2],
    "nested lists": ROWS.tolist(),
    "CSC": sp.csc_array(ROWS),
    "COO": sp.coo_array(ROWS),
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "int32"])
@pytest.mark.parametrize("case", EQUAL)
def test_odd_arrays_give_the_clean_table(case: str, dtype: str, sparse: bool) -> None:
    given = EQUAL[case]
    np.testing.assert_array_equal(made(init=given, dtype=dtype, sparse=sparse), ROWS)
    whole = np.dtype(getattr(given, "dtype", np.float64)).kind in "iu"
    if dtype == "float64" or whole:
        np.testing.assert_array_equal(added(given, dtype=dtype, sparse=sparse), ROWS)
    else:
        with pytest.raises(TableError, match=r"cannot add .*f.*; round first"):
            added(given, dtype=dtype, sparse=sparse)


@pytest.mark.parametrize("sparse", [False, True])
def test_duplicates_and_unsorted_indices_are_added_up(sparse: bool) -> None:
    given = sp.csr_array((np.array([1.0, 2, 3]), [2, 0, 2], [0, 3, 3, 3, 3]), shape=(4, 3))
    expected = np.zeros((4, 3))
    expected[0] = [2, 0, 4]
    np.testing.assert_array_equal(made(init=given, sparse=sparse), expected)
    np.testing.assert_array_equal(added(given, sparse=sparse), expected)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_what_they_are(value: float, sparse: bool) -> None:
    rows = ROWS.copy()
    rows[1, 2] = value
    np.testing.assert_array_equal(made(init=rows, sparse=sparse), rows)
    np.testing.assert_array_equal(added(rows, sparse=sparse), rows)


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"init": "x"}, "must be numbers, got 'x'"),
    "None": ({"init": None}, "must be numbers, got None"),
    "complex": ({"init": ROWS.astype(complex)}, "must be numbers"),
    "objects": ({"init": ROWS.astype(object)}, "must be numbers"),
    "dates": ({"init": ROWS.astype("M8[s]")}, "must be numbers"),
    "ragged": ({"init": [[1], [2, 3]]}, "no array"),
    "masked": ({"init": np.ma.array(ROWS)}, "masked"),
    "damaged": ({"init": broken(), "sparse": True}, r"damaged, indices\[0\] is 1000000"),
    "damaged, into dense": ({"init": broken()}, r"damaged, indices\[0\] is 1000000"),
    "a wrong width": ({"init": ROWS[:, :2]}, r"shape \(4, 2\), the table has \(4, 3\)"),
    "a vector": ({"init": ROWS[0]}, r"shape \(3,\)"),
    "no rows": ({"init": ROWS[:0]}, r"shape \(0, 3\)"),
    "1e300 in float32": ({"init": 1e300}, r"do not fit float32: 1e\+300"),
    "an array beyond float32": ({"init": ROWS * 1e39}, r"do not fit float32: 1e\+39"),
    "a sparse one": ({"init": SPARSE * 1e39, "sparse": True}, r"do not fit float32: 1e\+39"),
    "a fraction in int32": ({"init": 0.5, "dtype": "int32"}, "do not fit int32: 0.5 .* round"),
    "NaN in int32": ({"init": np.nan, "dtype": "int32"}, "do not fit int32: nan"),
    "2**40 in int32": ({"init": 2**40, "dtype": "int32"}, "do not fit int32: 1099511627776"),
    "2**63 in int64": (
        {"init": np.full((4, 3), 2**63, dtype=np.uint64), "dtype": "int64"},
        "do not fit int64: 9223372036854775808",
    ),
    "10**30": ({"init": 10**30, "dtype": "int64"}, "must be numbers, got 1000"),
    "draws of integers": ({"init": Normal(), "dtype": "int32"}, "need a float dtype"),
    "a shape of no rows": ({"shape": (0, 3)}, r"within 1 \.\. 2\*\*31 - 1, got \(0, 3\)"),
    "a negative shape": ({"shape": (-1, 3)}, r"got \(-1, 3\)"),
    "a huge shape": ({"shape": (2**31, 3)}, r"got \(2147483648, 3\)"),
    "a float shape": ({"shape": (4.0, 3)}, r"got \(4\.0, 3\)"),
    "a NaN shape": ({"shape": (np.nan, 3)}, r"got \(nan, 3\)"),
    "a 1-d shape": ({"shape": (4,)}, r"got \(4,\)"),
    "a number as shape": ({"shape": 4}, "got 4"),
    "no shape": ({"shape": None}, "got None"),
    "an empty name": ({"name": ""}, "non-empty string, got ''"),
    "a number as name": ({"name": 3}, "non-empty string, got 3"),
    "a list as name": ({"name": ["w"]}, "non-empty string, got"),
    "float16": ({"dtype": "float16"}, "must be one of .* got 'float16'"),
    "objects as dtype": ({"dtype": object}, "must be one of"),
    "no dtype": ({"dtype": None}, "must be one of .* got None"),
    "nonsense as dtype": ({"dtype": "qq"}, "must be one of .* got 'qq'"),
    "one dim": ({"dims": ("a",)}, "two different names"),
    "equal dims": ({"dims": ("a", "a")}, "two different names"),
    "no dims": ({"dims": None}, "two different names, got None"),
    "dims of lists": ({"dims": ([1], [2])}, "two different names"),
    "coords of another dim": ({"coords": {"x": [1]}}, "no dim 'x'"),
    "too few labels": ({"coords": {"row": [1]}}, "4 entries, got 1 labels"),
    "labels that are a number": ({"coords": {"row": 5}}, "must be a sequence, got 5"),
    "coords that are a list": ({"coords": [1]}, r"must be a mapping .* got \[1\]"),
    "a negative staleness": ({"staleness": -1}, "must be >= 0, got -1"),
    "a float staleness": ({"staleness": 1.5}, "integer or None, got 1.5"),
    "a word as rule": ({"rule": "add"}, "must be an UpdateRule, got 'add'"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_tables_that_cannot_be_are_refused(case: str) -> None:
    fields, text = FIELDS[case]
    with pytest.raises(TableError, match=text):
        made(**fields)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Normal(scale=np.nan),
        lambda: Normal(scale=-1),
        lambda: Normal(seed=-1),
        lambda: Normal(seed="a"),  # type: ignore[arg-type]
        lambda: Uniform(2, 1),
        lambda: Uniform(0, np.inf),
        lambda: Uniform(-1.7e308, 1.7e308),
        lambda: UpdateRule("clip", np.nan, 1),
        lambda: UpdateRule("clip", "a", 1),  # type: ignore[arg-type]
        lambda: UpdateRule("clip", 2, 1),
        lambda: UpdateRule("soft_threshold", threshold=np.nan),
        lambda: UpdateRule("soft_threshold", threshold=-1),
        lambda: UpdateRule("x"),  # type: ignore[arg-type]
    ],
)
def test_distributions_and_rules_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(TableError):
        make()


ONE = np.ones((1, 3))
TWO = np.ones((2, 3))
INCREMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"delta": ROWS.astype(str)}, "cannot add <U32; give numbers"),
    "objects": ({"delta": ROWS.astype(object)}, "cannot add object"),
    "complex": ({"delta": ROWS.astype(complex)}, "cannot add complex128"),
    "masked": ({"delta": np.ma.array(ROWS)}, "masked"),
    "None": ({"delta": None}, r"shape \(4, 3\), got \(\)"),
    "a number": ({"delta": 1.0}, r"shape \(4, 3\), got \(\)"),
    "a wrong width": ({"delta": ROWS[:, :2]}, r"shape \(4, 3\), got \(4, 2\)"),
    "too few rows": ({"delta": TWO}, r"shape \(4, 3\), got \(2, 3\)"),
    "no rows": ({"delta": ROWS[:0]}, r"shape \(4, 3\), got \(0, 3\)"),
    "beyond float32": ({"delta": ROWS * 1e39, "dtype": "float32"}, r"float32: 1e\+39"),
    "sparse beyond float32": (
        {"delta": SPARSE * 1e39, "dtype": "float32", "sparse": True},
        r"float32: 1e\+39",
    ),
    "floats to integers": ({"delta": ROWS, "dtype": "int32"}, "round first"),
    "beyond int32": (
        {"delta": np.full((4, 3), 2**40), "dtype": "int32"},
        "do not fit int32: 1099511627776",
    ),
    "beyond int64": (
        {"delta": np.full((4, 3), 2**63, dtype=np.uint64), "dtype": "int64"},
        "do not fit int64: 9223372036854775808",
    ),
    "damaged": ({"delta": broken(), "sparse": True}, r"damaged, indices\[0\] is 1000000"),
    "damaged, into dense": ({"delta": broken()}, r"damaged, indices\[0\] is 1000000"),
    "a negative position": ({"delta": ONE, "at": [-1]}, r"0 \.\. 3 of the view, got -1"),
    "a position beyond": ({"delta": ONE, "at": [9]}, r"0 \.\. 3 of the view, got 9"),
    "a huge position": (
        {"delta": ONE, "at": np.array([2**63], dtype=np.uint64)},
        "got 9223372036854775808",
    ),
    "positions twice": ({"delta": TWO, "at": [1, 1]}, "unique"),
    "a float position": ({"delta": ONE, "at": [1.0]}, "integers"),
    "a mask as positions": ({"delta": ROWS, "at": [True] * 4}, "integers"),
    "masked positions": ({"delta": TWO, "at": np.ma.array([0, 1])}, "masked"),
    "a position as a number": ({"delta": ONE, "at": 1}, "1-d"),
    "a negative row": ({"delta": ONE, "rows": [-1]}, r"0 \.\. 3, got -1"),
    "a row beyond": ({"delta": ONE, "rows": [4]}, r"0 \.\. 3, got 4"),
    "a huge row": (
        {"delta": ONE, "rows": np.array([2**63 + 1], dtype=np.uint64)},
        "got 9223372036854775809",
    ),
    "a row beyond int64": ({"delta": ONE, "rows": [10**30]}, "integers"),
    "rows twice": ({"delta": TWO, "rows": [1, 1]}, "ascending and unique"),
    "rows that fall": (
        {"delta": TWO, "rows": np.array([3, 1], dtype=np.uint64)},
        "ascending and unique",
    ),
    "float rows": ({"delta": ONE, "rows": [1.0]}, "integers"),
    "words as rows": ({"delta": ONE, "rows": ["a"]}, "integers"),
    "masked rows": ({"delta": TWO, "rows": np.ma.array([0, 1])}, "masked"),
    "a row as a number": ({"delta": ONE, "rows": 2}, "1-d"),
}


@pytest.mark.parametrize("case", INCREMENTS)
def test_increments_that_cannot_be_are_refused(case: str) -> None:
    arguments, text = INCREMENTS[case]
    with pytest.raises(TableError, match=text):
        added(**arguments)


@pytest.mark.parametrize("kind", [np.uint64, ">i8", np.int8])
def test_rows_and_positions_of_any_integer_type(kind: Any) -> None:
    expected = np.zeros((4, 3))
    expected[3] = 1
    np.testing.assert_array_equal(
        added(ONE, at=np.array([1], dtype=kind), rows=np.array([1, 3], dtype=kind)), expected
    )
    nothing = added(ROWS[:0], rows=[])
    np.testing.assert_array_equal(nothing, np.zeros((4, 3)))


RUNS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no function": ({"function": None}, TypeError, "must be callable .* got None"),
    "an empty list": ({"partitions": []}, ValueError, "empty list"),
    "no rows": ({"partitions": ROWS[:0]}, ValueError, r"0 sample\(s\)"),
    "no columns": ({"partitions": ROWS[:, :0]}, ValueError, r"0 feature\(s\)"),
    "words": ({"partitions": np.array([["a"]])}, ValueError, "numeric"),
    "a number": ({"partitions": 5}, ValueError, "Expected 2D array"),
    "masked": ({"partitions": np.ma.array(ROWS)}, TypeError, "masked"),
    "damaged": ({"partitions": damaged("indices", 4, -9)}, ValueError, "damaged"),
    "four columns": ({"partitions": (ROWS,) * 4}, ValueError, "got 4"),
    "an empty tuple": ({"partitions": ()}, ValueError, "got 0"),
    "other lengths": ({"partitions": (ROWS, np.ones(3))}, ValueError, r"\[4, 3\]"),
    "a word as model": ({"consistency": "x"}, ValueError, "got 'x'"),
    "a negative staleness": ({"consistency": "ssp", "staleness": -1}, ValueError, "got -1"),
    "a float staleness": ({"consistency": "ssp", "staleness": 1.5}, ValueError, "got 1.5"),
    "NaN as staleness": ({"consistency": "ssp", "staleness": np.nan}, ValueError, "got nan"),
    "a range that falls": ({"consistency": "ssp", "staleness": (3, 1)}, ValueError, "(3, 1)"),
    "stale BSP": ({"consistency": "bsp", "staleness": 3}, ValueError, "got 3"),
    "a negative seed": ({"seed": -1}, ValueError, "seed must be .* got -1"),
    "a word as seed": ({"seed": "a"}, ValueError, "seed must be .* got 'a'"),
    "a float seed": ({"seed": 1.5}, ValueError, "seed must be .* got 1.5"),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs_that_cannot_be_are_refused_before_they_start(case: str) -> None:
    arguments, kind, text = RUNS[case]
    started: list[bool] = []
    with petuum.connect("local") as ps:
        ps.create_table("w", (4, 3))
        with pytest.raises(kind, match=text):
            ps.run(**{"function": lambda ctx, data: started.append(True), **arguments})
    assert not started


def test_sessions_say_what_is_wrong() -> None:
    for client, kind in ((5, TypeError), ("host", ValueError), (["tcp://a:1"], TypeError)):
        with pytest.raises(kind, match="got"):
            petuum.connect(client)
    with petuum.connect("local") as ps:
        ps.create_table("w", (4, 3))
        with pytest.raises(TableError, match="already"):
            ps.create_table("w", (4, 3))
        for name in ("v", ["w"], None):
            with pytest.raises(TableError, match=r"there are \['w'\]"):
                ps.table(name)  # type: ignore[arg-type]
        for clocks in (0, -1, "a", 1.5):
            with pytest.raises(ValueError, match="n_clocks must be"):
                ps.audit(n_clocks=clocks)  # type: ignore[arg-type]
        table = ps.table("w")
    for call in (
        table.to_numpy,
        lambda: ps.create_table("v", (1, 1)),
        lambda: ps.run(print),
        ps.audit,
    ):
        with pytest.raises(TableError, match="session is closed"):
            call()


def test_specs_of_ones_own_are_checked_alike() -> None:
    with pytest.raises(TableError, match="do not fit int32"):
        TableSpec("w", (1, 1), "int32", init=2**31)
