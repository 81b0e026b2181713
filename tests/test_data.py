"""Training data in memory: one form whatever is given, no needless copy, clear refusals."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import DataConversionWarning

from dask_petuum.data import Partition, measure, open_dataset, to_partition

DENSE = np.array(
    [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [4.0, 5.0, 6.0], [0.0, 0.0, 7.0]]
)  # row 1 is empty
TARGET = np.array([0, 1, 1, 0, 2])
WEIGHTS = np.array([1.0, 2.0, 0.5, 0.0, 3.0])


def partitions_of(dataset, dtype=None):
    partitions, row_start = [], 0
    for index, piece in enumerate(dataset.pieces()):
        partitions.append(to_partition(piece, index, row_start, dtype))
        row_start += partitions[-1].n_rows
    return partitions


def unsorted_csr(dense):
    """Return a CSR matrix with each row's indices falling, and every value in two halves."""
    csr = sp.csr_matrix(dense)
    order = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(csr.indptr[:-1], csr.indptr[1:], strict=True)]
    ).astype(int)
    data = np.repeat(csr.data[order] / 2, 2)
    return sp.csr_matrix((data, np.repeat(csr.indices[order], 2), csr.indptr * 2), dense.shape)


def wide_indices(dense):
    csr = sp.csr_array(dense)
    csr.indices, csr.indptr = csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    return csr


def big_endian(dense):
    csr = sp.csr_array(dense)
    return sp.csr_array((csr.data.astype(">f8"), csr.indices, csr.indptr), shape=dense.shape)


def read_only_copy(dense):
    copy = dense.copy()
    copy.flags.writeable = False
    return copy


DENSE_KINDS = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "read-only": read_only_copy,
    "big-endian": lambda x: x.astype(">f8"),
    "object": lambda x: x.astype(object),
    "list": lambda x: x.tolist(),
    "pandas": lambda x: pd.DataFrame(x, columns=list("abc")),
    "pandas, mixed columns": lambda x: pd.DataFrame(x).astype({0: int, 1: "float32"}),
    "pandas, nullable": lambda x: pd.DataFrame(x).astype("Float64"),
    "pandas, nullable integers": lambda x: pd.DataFrame(x).astype("Int64"),
    "pandas, arrow": lambda x: pd.DataFrame(x).astype("double[pyarrow]"),
    "xarray": lambda x: xr.DataArray(x, dims=("sample", "feature")),
}
SPARSE_KINDS = {
    "csr_array": sp.csr_array,
    "csr_matrix": sp.csr_matrix,
    "csc_array": sp.csc_array,
    "csc_matrix": sp.csc_matrix,
    "coo_array": sp.coo_array,
    "coo_matrix": sp.coo_matrix,
    "lil_array": sp.lil_array,
    "unsorted with duplicates": unsorted_csr,
    "int64 indices": wide_indices,
    "big-endian": big_endian,
    "pandas, sparse": lambda x: pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(x)),
}


def check_csr(csr, expected):
    assert isinstance(csr, sp.csr_array)
    assert csr.indices.dtype == csr.indptr.dtype == np.int32
    assert csr.has_canonical_format
    assert csr.data.dtype == expected.dtype
    np.testing.assert_array_equal(csr.toarray(), expected)


@pytest.mark.parametrize("n_pieces", [1, 2, 5])
@pytest.mark.parametrize("kind", DENSE_KINDS)
def test_dense_kinds_give_the_same_partitions(kind, n_pieces):
    dataset = open_dataset(DENSE_KINDS[kind](DENSE), TARGET, WEIGHTS).split(n_pieces)
    reference = partitions_of(open_dataset(DENSE, TARGET, WEIGHTS).split(n_pieces))
    assert not dataset.is_lazy
    assert (dataset.n_rows, dataset.n_features) == DENSE.shape
    for got, expected in zip(partitions_of(dataset), reference, strict=True):
        assert got.data.dtype == np.float64
        assert got.data.dtype.isnative
        assert got.data.flags.c_contiguous
        assert (got.index, got.row_start, got.row_stop) == (
            expected.index,
            expected.row_start,
            expected.row_start + expected.n_rows,
        )
        np.testing.assert_array_equal(got.data, DENSE[got.row_start : got.row_stop])
        np.testing.assert_array_equal(got.y, TARGET[got.row_start : got.row_stop])
        np.testing.assert_array_equal(got.sample_weight, WEIGHTS[got.row_start : got.row_stop])
    assert got.row_stop == len(DENSE)


@pytest.mark.parametrize("n_pieces", [1, 2, 5])
@pytest.mark.parametrize("kind", SPARSE_KINDS)
def test_sparse_kinds_give_the_same_partitions(kind, n_pieces):
    dataset = open_dataset(SPARSE_KINDS[kind](DENSE), TARGET, WEIGHTS).split(n_pieces)
    assert not dataset.is_lazy
    assert (dataset.n_rows, dataset.n_features) == DENSE.shape
    partitions = partitions_of(dataset)
    assert len(partitions) == n_pieces
    for got in partitions:
        check_csr(got.data, DENSE[got.row_start : got.row_stop])
        np.testing.assert_array_equal(got.y, TARGET[got.row_start : got.row_stop])
    assert partitions[-1].row_stop == len(DENSE)


@pytest.mark.parametrize("kind", ["unsorted with duplicates", "int64 indices", "coo_matrix"])
def test_the_caller_s_matrix_stays_as_it_was(kind):
    given_matrix = SPARSE_KINDS[kind](DENSE)
    before = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in vars(given_matrix).items()
    }
    for partition in partitions_of(open_dataset(given_matrix).split(2), np.float32):
        assert partition.data.dtype == np.float32
    after = vars(given_matrix)
    assert set(after) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
        assert np.asarray(after[name]).dtype == np.asarray(value).dtype


KEPT_TYPES = {
    "float32": "float32",
    "longdouble": "float64",
    "bool": "uint8",
    "int8": "int8",
    "uint16": "uint16",
    "int64": "int64",
}
TYPES = [
    (container, given_dtype, kept)
    for container in (np.asarray, np.asfortranarray, sp.csr_array, sp.coo_array)
    for given_dtype, kept in KEPT_TYPES.items()
] + [(np.asarray, "float16", "float32"), (np.asfortranarray, ">i4", "int32")]


@pytest.mark.parametrize(("container", "given_dtype", "kept"), TYPES)
def test_types_that_kernels_read(container, given_dtype, kept):
    values = (DENSE > 2).astype(given_dtype)
    (partition,) = partitions_of(open_dataset(container(values)))
    assert partition.data.dtype == np.dtype(kept)
    assert partition.data.dtype.isnative
    got = partition.data.toarray() if sp.issparse(partition.data) else partition.data
    np.testing.assert_array_equal(got, values.astype(kept))


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array, sp.csc_matrix, pd.DataFrame])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_wanted_dtype_is_given(container, dtype):
    for piece in open_dataset(container(DENSE)).split(2).pieces(dtype):
        assert piece[0].dtype == dtype
    for partition in partitions_of(open_dataset(container(DENSE)).split(2), dtype):
        assert partition.data.dtype == dtype


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array])
@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.5, np.int32), (np.nan, np.int32), (1e12, np.int32), (-1.0, np.uint8), (1e300, np.float32)],
)
def test_a_value_that_the_wanted_dtype_cannot_hold(container, value, dtype):
    x = np.array([[1.0, 2.0], [value, 0.0]])
    with pytest.raises(ValueError, match=f"X cannot be held as {np.dtype(dtype)}"):
        to_partition((container(x), None, None), 0, 0, dtype)


def test_rows_of_an_array_are_not_copied():
    for partition in partitions_of(open_dataset(DENSE, TARGET, WEIGHTS).split(3)):
        assert np.shares_memory(partition.data, DENSE)
        assert np.shares_memory(partition.y, TARGET)
        assert np.shares_memory(partition.sample_weight, WEIGHTS)


@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix])
def test_values_of_a_csr_are_not_copied(container):
    csr = container(DENSE)
    for partition in partitions_of(open_dataset(csr).split(3)):
        assert np.shares_memory(partition.data.data, csr.data)
        assert np.shares_memory(partition.data.indices, csr.indices)


def test_the_whole_csr_is_not_copied():
    csr = sp.csr_array(DENSE)
    (partition,) = partitions_of(open_dataset(csr))
    assert np.shares_memory(partition.data.indptr, csr.indptr)


def test_a_homogeneous_frame_is_copied_by_the_piece_only():
    frame = pd.DataFrame(DENSE, columns=list("abc"))  # pandas keeps it by columns
    for x, _, _ in open_dataset(frame).split(2).pieces():
        assert np.shares_memory(x, frame.to_numpy())


def test_booleans_are_not_copied():
    flags = DENSE > 0
    (partition,) = partitions_of(open_dataset(flags))
    assert np.shares_memory(partition.data, flags)


def test_fortran_order_is_copied_by_the_piece_only():
    fortran = np.asfortranarray(DENSE)
    pieces = open_dataset(fortran).split(2).pieces()
    assert all(np.shares_memory(x, fortran) for x, _, _ in pieces)
    assert not np.shares_memory(to_partition(pieces[0], 0, 0).data, fortran)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array])
def test_a_partition_cannot_be_written_to_nor_can_its_pickle(container):
    (partition,) = partitions_of(open_dataset(container(DENSE), TARGET, WEIGHTS))
    for copy in (partition, pickle.loads(pickle.dumps(partition))):
        values = copy.data.data if sp.issparse(copy.data) else copy.data
        for array in (values, copy.y, copy.sample_weight):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    assert DENSE.flags.writeable
    assert TARGET.flags.writeable


def test_a_pickled_partition_is_the_same():
    partition = Partition(sp.csr_matrix(DENSE), TARGET, None, 3, 40)
    copy = pickle.loads(pickle.dumps(partition))
    check_csr(copy.data, DENSE)
    np.testing.assert_array_equal(copy.y, TARGET)
    assert (copy.sample_weight, copy.index, copy.row_start) == (None, 3, 40)


class TestTargets:
    @pytest.mark.parametrize(
        "y",
        [
            ["a", "b", "b", "a", "c"],
            np.array(["a", "b", "b", "a", "c"]),
            pd.Series(["a", "b", "b", "a", "c"]),
            pd.Series(["a", "b", "b", "a", "c"], dtype="category"),
            pd.Series(["a", "b", "b", "a", "c"], dtype=object),
        ],
    )
    def test_text_labels_are_kept(self, y):
        partitions = partitions_of(open_dataset(DENSE, y).split(2))
        assert [str(label) for p in partitions for label in p.y] == list("abbac")

    @pytest.mark.parametrize(
        ("y", "dtype"),
        [
            (TARGET.astype(">i8"), "int64"),
            (TARGET.astype("float16"), "float32"),
            (pd.Series(TARGET, dtype="Int32"), "int32"),
            (pd.Series(TARGET > 0, dtype="boolean"), "bool"),
            (pd.Series(TARGET, dtype="int64[pyarrow]"), "int64"),
            (pd.Index(TARGET), "int64"),
            (xr.DataArray(TARGET), "int64"),
            (np.repeat(TARGET, 2)[::2], "int64"),
        ],
    )
    def test_numbers(self, y, dtype):
        (partition,) = partitions_of(open_dataset(DENSE, y))
        assert partition.y.dtype == np.dtype(dtype)
        assert partition.y.flags.c_contiguous
        np.testing.assert_array_equal(partition.y, np.asarray(y).astype(dtype))

    def test_missing_numbers_become_nan(self):
        (partition,) = partitions_of(
            open_dataset(DENSE, pd.Series([1, None, 3, 4, 5], dtype="Int64"))
        )
        np.testing.assert_array_equal(partition.y, [1, np.nan, 3, 4, 5])

    @pytest.mark.parametrize("y", [TARGET[:, None], pd.DataFrame({"t": TARGET})])
    def test_a_column_is_taken_with_a_warning(self, y):
        with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
            dataset = open_dataset(DENSE, y)
        np.testing.assert_array_equal(partitions_of(dataset)[0].y, TARGET)

    @pytest.mark.parametrize("dtype", ["int64", "float32", "float64", "float16", ">f8", "bool"])
    def test_weights_become_floats(self, dtype):
        (partition,) = partitions_of(open_dataset(DENSE, None, WEIGHTS.astype(dtype)))
        assert partition.sample_weight.dtype == (
            np.float32 if dtype in ("float32", "float16") else np.float64
        )
        np.testing.assert_array_equal(partition.sample_weight, WEIGHTS.astype(dtype).astype(float))

    @pytest.mark.parametrize("name", ["y", "sample_weight"])
    def test_lengths_must_agree(self, name):
        with pytest.raises(ValueError, match="inconsistent numbers of samples: "):
            open_dataset(DENSE, **{name: np.ones(4)})

    @pytest.mark.parametrize(
        ("y", "error", "message"),
        [
            (np.ones((5, 2)), ValueError, r"y should be a 1d array, got .* shape \(5, 2\)"),
            (sp.csr_array(np.ones((5, 2))), TypeError, "Sparse data was passed for y"),
            (np.ma.masked_array(TARGET), TypeError, "y is a masked array"),
        ],
    )
    def test_refusals(self, y, error, message):
        with pytest.raises(error, match=message):
            open_dataset(DENSE, y)


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            (np.ones(3), ValueError, "Expected 2D array, got 1D array instead"),
            (np.ones((2, 2, 2)), ValueError, "Found array with dim 3"),
            (sp.coo_array(np.ones(3)), ValueError, "Expected 2D input"),
            (np.ones((0, 3)), ValueError, r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\)"),
            (np.ones((3, 0)), ValueError, r"Found array with 0 feature\(s\) \(shape=\(3, 0\)\)"),
            (sp.csr_array((0, 3)), ValueError, r"Found array with 0 sample\(s\)"),
            (np.ma.masked_array(DENSE, DENSE > 1), TypeError, "X is a masked array"),
            (np.matrix(DENSE), TypeError, "np.matrix is not supported"),
            (np.array([["a", "b"]]), ValueError, "compatible with arrays of bytes/strings"),
            (np.array([["a", 1]], dtype=object), ValueError, "could not convert string to float"),
            (np.array([[{}, 1]], dtype=object), TypeError, "argument must be .* string.* number"),
            (DENSE * 1j, ValueError, "Complex data not supported"),
            (sp.csr_array(DENSE * 1j), ValueError, "Complex data not supported"),
            (np.array([["2026-01-01"]], dtype="M8[D]"), TypeError, "numbers are required"),
            (pd.DataFrame({"a": ["x"], "b": [1.0]}), ValueError, "could not convert string"),
        ],
    )
    def test_by_kind(self, x, error, message):
        with pytest.raises(error, match=message):
            open_dataset(x)

    def test_names_of_mixed_types(self):
        with pytest.raises(TypeError, match="Feature names are only supported if all"):
            open_dataset(pd.DataFrame(DENSE, columns=["a", 1, "b"]))

    def test_no_pieces(self):
        with pytest.raises(ValueError, match="n_pieces must be >= 1, got 0"):
            open_dataset(DENSE).split(0)

    def test_a_piece_with_lengths_that_differ(self):
        with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[5, 4\]"):
            measure((DENSE, np.ones(4), None), None)


class TestFeatureNames:
    def test_of_a_frame(self):
        names = open_dataset(pd.DataFrame(DENSE, columns=["a", "b", "c"])).feature_names
        assert names.dtype == object
        assert names.tolist() == ["a", "b", "c"]

    def test_of_labelled_data(self):
        x = xr.DataArray(DENSE, dims=("doc", "word"), coords={"word": ["a", "b", "c"]})
        names = open_dataset(x).feature_names
        assert names.dtype == object
        assert names.tolist() == ["a", "b", "c"]

    @pytest.mark.parametrize(
        "x",
        [
            DENSE,
            sp.csr_array(DENSE),
            pd.DataFrame(DENSE),
            xr.DataArray(DENSE),
            xr.DataArray(DENSE, dims=("doc", "word"), coords={"word": [1, 2, 3]}),
            xr.Variable(("doc", "word"), DENSE),
        ],
    )
    def test_none(self, x):
        assert open_dataset(x).feature_names is None


class TestMeasure:
    def test_dense(self):
        size = measure((DENSE, TARGET, WEIGHTS), None)
        assert (size.n_rows, size.n_cols, size.nnz) == (5, 3, 15)
        assert size.nbytes == DENSE.nbytes + TARGET.nbytes + WEIGHTS.nbytes

    def test_sparse_counts_stored_values(self):
        csr = sp.csr_array(DENSE)
        csr.data[0] = 0.0  # an explicit zero
        size = measure((csr, None, None), None)
        assert (size.n_rows, size.n_cols, size.nnz) == (5, 3, 7)
        assert size.nbytes == csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes

    def test_check_sees_the_form_of_a_partition(self):
        seen = []
        measure((sp.coo_matrix(DENSE), TARGET.tolist(), [1] * 5), lambda *args: seen.append(args))
        ((x, y, weights),) = seen
        check_csr(x, DENSE)
        np.testing.assert_array_equal(y, TARGET)
        assert weights.dtype == np.float64

    def test_what_check_raises_comes_out(self):
        def check(x, y, sample_weight):
            raise ValueError("negative count -1 in row 2")

        with pytest.raises(ValueError, match="negative count -1 in row 2"):
            measure((DENSE, None, None), check)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
    st.integers(1, 50),
)
def test_split_balances_the_stored_values(row_lengths, n_pieces):
    indptr = np.concatenate([[0], np.cumsum(row_lengths)])
    indices = np.concatenate([np.arange(length) for length in row_lengths]).astype(int)
    csr = sp.csr_array((np.ones(indptr[-1]), indices, indptr), shape=(len(row_lengths), 12))
    dataset = open_dataset(csr).split(n_pieces)
    sizes = [measure(piece, None) for piece in dataset.pieces()]
    n_pieces = min(n_pieces, len(row_lengths))
    assert len(sizes) == n_pieces
    assert all(size.n_rows >= 1 for size in sizes)
    assert sum(size.n_rows for size in sizes) == len(row_lengths)
    assert max(size.nnz for size in sizes) <= csr.nnz / n_pieces + max(row_lengths)
    joined = sp.vstack([to_partition(piece, 0, 0).data for piece in dataset.pieces()])
    assert (joined != csr).nnz == 0


@given(st.integers(1, 60), st.integers(1, 60))
def test_split_of_an_array_differs_by_one_row(n_rows, n_pieces):
    pieces = open_dataset(np.ones((n_rows, 2))).split(n_pieces).pieces()
    lengths = [len(x) for x, _, _ in pieces]
    assert sum(lengths) == n_rows
    assert max(lengths) - min(lengths) <= 1


def test_indices_that_need_64_bits_keep_them():
    csr = sp.csr_array((1, 2**31 + 5))
    csr.indices = np.array([2**31 + 1], dtype=np.int64)
    csr.data, csr.indptr = np.ones(1), np.array([0, 1], dtype=np.int64)
    (partition,) = partitions_of(open_dataset(csr))
    assert partition.data.indices.dtype == partition.data.indptr.dtype == np.int64
    assert partition.data.indices.tolist() == [2**31 + 1]


def test_works_where_optional_packages_are_not_installed():
    program = (
        "import sys\n"
        "for name in ('pandas', 'xarray', 'dask.array', 'dask.dataframe', 'distributed'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np, dask_petuum.data as data, dask_petuum.lazy as lazy\n"
        "pieces = data.open_dataset(np.ones((4, 2)), np.ones(4)).split(2).pieces()\n"
        "data.to_partition(pieces[1], 1, data.measure(pieces[0], None).n_rows)\n"
        "fn = lambda block: block[:, 0]\n"
        "print(lazy.map_rows(fn, np.ones((4, 2)), n_columns=None, dtype=float))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[1. 1. 1. 1.]"
