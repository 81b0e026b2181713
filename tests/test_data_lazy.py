"""Training data in Dask collections: the same partitions, nothing computed early or moved."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
from dask.callbacks import Callback
from sklearn.exceptions import DataConversionWarning

from dask_petuum.data import measure, open_dataset, to_partition

DENSE = np.arange(24.0).reshape(8, 3) % 5
DENSE[3] = 0  # an empty row
TARGET = np.arange(8) % 3
WEIGHTS = np.linspace(0.5, 2, 8)
CHUNKS = ((3, 2, 3), (3,))
FRAME = pd.DataFrame(DENSE, columns=list("abc"))


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


class NoTasks(Callback):
    """Fails the test if anything is computed inside it."""

    def _start(self, dsk):
        raise AssertionError(f"computed {list(dsk)[:3]}")


def partitions_of(dataset, dtype=None):
    pieces = dask.compute(*dataset.pieces(dtype))
    sizes = [measure(piece, None) for piece in pieces]
    starts = np.cumsum([0] + [size.n_rows for size in sizes])
    return [to_partition(piece, i, int(starts[i]), dtype) for i, piece in enumerate(pieces)]


def array(chunks=CHUNKS):
    return da.from_array(DENSE, chunks=chunks)


def frame():
    return dd.from_map(lambda bounds: FRAME.iloc[slice(*bounds)], [(0, 3), (3, 5), (5, 8)])


def sparse(make, chunks=CHUNKS):
    return array(chunks).map_blocks(make, meta=sp.csr_array((0, 0)), dtype=float)


def unknown(x):
    """Return the same array, its row chunks' sizes forgotten."""
    return x[da.ones(len(x), chunks=x.chunks[0], dtype=bool)]


DENSE_KINDS = {
    "array": array,
    "array, column chunks": lambda: array((CHUNKS[0], (2, 1))),
    "array, Fortran blocks": lambda: array().map_blocks(np.asfortranarray, dtype=float),
    "array, big-endian blocks": lambda: array().astype(">f8"),
    "array, unknown sizes": lambda: unknown(array()),
    "array, unknown sizes and column chunks": lambda: unknown(array((CHUNKS[0], (1, 2)))),
    "array of a frame": lambda: frame().to_dask_array(),
    "frame": frame,
    "frame, nullable": lambda: frame().astype("Float64"),
    "frame, mixed columns": lambda: frame().astype({"a": "int64", "b": "float32"}),
    "xarray": lambda: xr.DataArray(array(), dims=("sample", "feature")),
}
SPARSE_KINDS = {
    "csr_array": lambda: sparse(sp.csr_array),
    "csr_matrix": lambda: sparse(sp.csr_matrix),
    "csc_matrix": lambda: sparse(sp.csc_matrix),
    "coo_array": lambda: sparse(sp.coo_array),
    "column chunks": lambda: sparse(sp.csr_matrix, (CHUNKS[0], (2, 1))),
    "column chunks of coo_array": lambda: sparse(sp.coo_array, (CHUNKS[0], (1, 1, 1))),
}


@pytest.mark.parametrize("kind", DENSE_KINDS)
def test_dense_kinds_give_the_same_partitions(kind):
    with NoTasks():
        dataset = open_dataset(DENSE_KINDS[kind]())
        pieces = dataset.pieces()
    assert dataset.is_lazy
    assert dataset.n_features == 3
    assert dataset.n_rows == (None if "unknown" in kind or "frame" in kind else 8)
    assert len(pieces) == 3
    partitions = partitions_of(dataset)
    assert [p.row_start for p in partitions] == [0, 3, 5]
    for got in partitions:
        assert got.data.dtype == np.float64
        assert got.data.dtype.isnative
        assert got.data.flags.c_contiguous
        np.testing.assert_array_equal(got.data, DENSE[got.row_start : got.row_stop])


@pytest.mark.parametrize("kind", SPARSE_KINDS)
def test_sparse_kinds_give_the_same_partitions(kind):
    with NoTasks():
        dataset = open_dataset(SPARSE_KINDS[kind]())
        dataset.pieces()
    for got in partitions_of(dataset):
        assert isinstance(got.data, sp.csr_array)
        assert got.data.indices.dtype == got.data.indptr.dtype == np.int32
        assert got.data.has_canonical_format
        np.testing.assert_array_equal(got.data.toarray(), DENSE[got.row_start : got.row_stop])


@pytest.mark.parametrize("kind", ["array", "frame", "xarray"])
def test_a_wanted_dtype_is_given_in_the_piece_s_task(kind):
    for x, _, _ in dask.compute(*open_dataset(DENSE_KINDS[kind]()).pieces("float32")):
        assert x.dtype == np.float32


def with_dask(values):
    return da.from_array(values, chunks=(CHUNKS[0],))


KINDS_BESIDE_X = {
    "Dask array": with_dask,
    "Dask array, other chunks": lambda v: da.from_array(v, chunks=(4, 4)),
    "Dask array, unknown sizes": lambda v: unknown(with_dask(v)),
    "Dask series of an array": lambda v: dd.from_dask_array(with_dask(v)),
    "xarray on Dask": lambda v: xr.DataArray(with_dask(v)),
    "ndarray": lambda v: v,
    "list": lambda v: v.tolist(),
    "pandas": pd.Series,
    "xarray": xr.DataArray,
}


@pytest.mark.parametrize("kind", KINDS_BESIDE_X)
@pytest.mark.parametrize("x_kind", ["array", "csr_array"])
def test_targets_and_weights_are_cut_like_x(kind, x_kind):
    x = {**DENSE_KINDS, **SPARSE_KINDS}[x_kind]()
    beside = KINDS_BESIDE_X[kind]
    y, weights = beside(TARGET), beside(WEIGHTS)
    with NoTasks():
        dataset = open_dataset(x, y, weights)
        dataset.pieces()
    partitions = partitions_of(dataset)
    assert [p.n_rows for p in partitions] == [3, 2, 3]
    for got in partitions:
        np.testing.assert_array_equal(got.y, TARGET[got.row_start : got.row_stop])
        np.testing.assert_array_equal(got.sample_weight, WEIGHTS[got.row_start : got.row_stop])
        assert got.y.dtype == TARGET.dtype


@pytest.mark.parametrize("x_kind", ["frame", "array of a frame", "array, unknown sizes"])
@pytest.mark.parametrize(
    "kind", ["Dask array", "Dask array, unknown sizes", "Dask series of an array"]
)
def test_chunks_of_unknown_sizes_are_matched_by_number(x_kind, kind):
    dataset = open_dataset(DENSE_KINDS[x_kind](), KINDS_BESIDE_X[kind](TARGET))
    for got in partitions_of(dataset):
        np.testing.assert_array_equal(got.y, TARGET[got.row_start : got.row_stop])


def test_what_frames_share_is_read_once():
    reads = []

    def read(bounds):
        reads.append(bounds)
        return FRAME.iloc[slice(*bounds)]

    meta = FRAME.iloc[:0]
    table = dd.from_map(read, [(0, 3), (3, 8)], meta=meta)
    dataset = open_dataset(table[["a", "b"]], table["c"], table["b"])
    pieces = dataset.pieces()
    assert reads == []
    (x, y, weights), _ = dask.compute(*pieces)
    assert sorted(reads) == [(0, 3), (3, 8)]
    np.testing.assert_array_equal(x, DENSE[:3, :2])
    np.testing.assert_array_equal(y, DENSE[:3, 2])
    np.testing.assert_array_equal(weights, DENSE[:3, 1])


def test_what_arrays_share_is_read_once():
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    table = array().map_blocks(read, dtype=float, meta=np.empty((0, 0)))
    pieces = open_dataset(table[:, :2], table[:, 2]).pieces()
    assert reads == []
    dask.compute(*pieces)
    assert sorted(reads) == [(2, 3), (3, 3), (3, 3)]


def test_text_labels_of_a_frame():
    labels = FRAME.assign(label=[f"class {i % 2}" for i in range(8)])
    table = dd.from_pandas(labels, npartitions=2)
    for got in partitions_of(open_dataset(table[["a", "b"]], table["label"])):
        expected = [f"class {i % 2}" for i in range(got.row_start, got.row_stop)]
        assert got.y.tolist() == expected


@pytest.mark.parametrize("y", [with_dask(TARGET)[:, None], frame()[["c"]]])
def test_a_column_is_taken_with_a_warning(y):
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        dataset = open_dataset(array(), y)
    assert all(got.y.shape == (got.n_rows,) for got in partitions_of(dataset))


def test_chunks_without_rows_become_partitions_without_rows():
    x = array()[da.from_array(TARGET == 1, chunks=(CHUNKS[0],))]  # rows 1, 4, 7
    kept = x[x[:, 0] != 2]  # rows 1, 7: none of the second chunk
    partitions = partitions_of(open_dataset(kept, kept[:, 0]))
    assert [p.n_rows for p in partitions] == [1, 0, 1]
    assert [p.row_start for p in partitions] == [0, 1, 1]
    assert partitions[1].data.shape == (0, 3)
    assert partitions[1].y.shape == (0,)


def test_a_chunk_in_the_right_form_is_not_copied():
    block = DENSE.copy()
    x = da.from_delayed(dask.delayed(lambda: block)(), shape=block.shape, dtype=float)
    (partition,) = partitions_of(open_dataset(x))
    assert np.shares_memory(partition.data, block)


def test_a_sparse_chunk_in_the_right_form_is_not_copied():
    block = sp.csr_array(DENSE)
    x = da.from_delayed(dask.delayed(lambda: block)(), shape=block.shape, dtype=float)
    (partition,) = partitions_of(open_dataset(x))
    assert np.shares_memory(partition.data.data, block.data)
    assert np.shares_memory(partition.data.indices, block.indices)


class TestGraph:
    def test_one_task_per_row_chunk_on_top_of_x(self):
        x = array((CHUNKS[0], (2, 1))).persist()
        (piece, *_) = open_dataset(x, with_dask(TARGET).persist()).pieces()
        assert len(piece.__dask_graph__()) == 3 + 6 + 3

    def test_a_vector_in_memory_goes_in_once(self):
        n_rows, n_chunks = 40_000, 50
        y = np.arange(n_rows, dtype=float)
        x = da.ones((n_rows, 2), chunks=(n_rows // n_chunks, 2))
        pieces = open_dataset(x, y).pieces()
        bare = len(pickle.dumps(dict(open_dataset(x).pieces()[0].__dask_graph__())))
        size = len(pickle.dumps(dict(pieces[0].__dask_graph__())))
        assert y.nbytes < size < 1.05 * y.nbytes + bare
        for delayed in pieces[1:]:
            assert delayed.__dask_graph__() is pieces[0].__dask_graph__()

    def test_keys_follow_from_the_data(self):
        def keys(y, dtype=None):
            return [piece.key for piece in open_dataset(array(), y).pieces(dtype)]

        assert keys(TARGET) == keys(TARGET.copy())
        assert len({keys(TARGET)[0], keys(TARGET + 1)[0], keys(TARGET, "f4")[0]}) == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (array(), np.ones(7), r"inconsistent numbers of samples: \[8, 7\]"),
            (array(), da.ones(7, chunks=3), r"inconsistent numbers of samples: \[8, 7\]"),
            (unknown(array()), TARGET, "y is in memory and the chunk sizes of X are unknown"),
            (frame(), FRAME["a"], "y is in memory and the chunk sizes of X are unknown"),
            (frame(), da.ones(8, chunks=4), "y has 2 row chunks and X has 3"),
            (array(), da.ones((8, 2)), r"y should be a 1d array, got an array of shape \(8, 2\)"),
            (array(), frame()[["a", "b"]], r"y should be a 1d array, got .* shape \(None, 2\)"),
            (da.ones(8), None, "Expected 2D array, got 1D array instead"),
            (frame()["a"], None, "Expected 2D array, got 1D array instead"),
            (da.ones((2, 2, 2)), None, "Expected 2D array, got 3D array instead"),
            (da.ones((0, 2)), None, r"Found array with 0 sample\(s\)"),
            (da.ones((2, 0)), None, r"Found array with 0 feature\(s\)"),
        ],
    )
    def test_at_once(self, x, y, message):
        with NoTasks(), pytest.raises(ValueError, match=message):
            open_dataset(x, y)

    @pytest.mark.parametrize(
        "y", [with_dask(TARGET), frame()["a"], xr.DataArray(with_dask(TARGET))]
    )
    def test_lazy_y_beside_x_in_memory(self, y):
        with pytest.raises(TypeError, match="y is a Dask collection but X is in memory"):
            open_dataset(DENSE, y)

    def test_lengths_that_only_computing_tells(self):
        y = unknown(da.ones(8, chunks=((3, 3, 2),)))
        pieces = open_dataset(unknown(array()), y).pieces()
        with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 2\]"):
            dask.compute(*pieces)

    def test_masked_chunks(self):
        x = da.ma.masked_greater(array(), 2)
        with pytest.raises(TypeError, match="X is a masked array"):
            dask.compute(*open_dataset(x).pieces())

    def test_array_expressions(self):
        program = (
            "import dask\n"
            "dask.config.set({'array.query-planning': True})\n"
            "import dask.array as da\n"
            "from dask_petuum.data import open_dataset\n"
            "open_dataset(da.ones((4, 2)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
        assert "TypeError: X is a Dask array expression" in done.stderr

    def test_split(self):
        with pytest.raises(TypeError, match="keeps its 3 row chunks; to get 2"):
            open_dataset(array()).split(2)


class TestFeatureNames:
    def test_of_a_frame(self):
        assert open_dataset(frame()).feature_names.tolist() == ["a", "b", "c"]

    def test_of_labelled_data(self):
        x = xr.DataArray(array(), dims=("doc", "word"), coords={"word": ["a", "b", "c"]})
        assert open_dataset(x).feature_names.tolist() == ["a", "b", "c"]

    def test_of_an_array(self):
        assert open_dataset(array()).feature_names is None


def test_pieces_lie_where_the_chunks_lie():
    # Where Dask has no choice: an idle worker steals small pieces, and a y that is cut in the graph
    # lies on any worker, which may then get the piece. The copies of chunks are dropped again.
    with dask.config.set({"distributed.scheduler.work-stealing": False}):
        asyncio.run(pieces_and_chunks())


async def pieces_and_chunks():
    from distributed import Client, LocalCluster

    async with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            asynchronous=True,
        ) as cluster,
        Client(cluster, asynchronous=True, set_as_default=False) as client,
    ):
        home = cluster.workers[1]
        x = da.random.default_rng(0).random((80, 50), chunks=(10, 50))
        y = da.from_array(np.arange(80), chunks=10)
        x, y = client.persist([x, y], workers=[home.address])
        await client.gather(client.futures_of([x, y]))
        pieces = client.persist(open_dataset(x, y).pieces())
        futures = client.futures_of(pieces)
        await client.gather(futures)
        for number, future in enumerate(futures):
            assert [w for w in cluster.workers.values() if future.key in w.data] == [home]
            chunk = home.data[(x.name, number, 0)]
            assert np.shares_memory(home.data[future.key][0], chunk)


WIDE = np.arange(7 * 12.0).reshape(7, 12) % 5
WIDE_KINDS = {
    "dense": lambda x: x,
    "csr_array": lambda x: x.map_blocks(sp.csr_array, meta=sp.csr_array((0, 0)), dtype=float),
    "coo_array": lambda x: x.map_blocks(sp.coo_array, meta=sp.coo_array((0, 0)), dtype=float),
}


@pytest.mark.parametrize("kind", WIDE_KINDS)
@pytest.mark.parametrize(
    ("chunks", "n_workers", "sizes"),
    [
        ((7, 4), 1, [7]),
        ((7, 4), 3, [3, 2, 2]),
        ((7, 4), 20, [1] * 7),
        (((4, 3), (6, 6)), 2, [4, 3]),
        (((4, 3), (6, 6)), 3, [2, 2, 2, 1]),
        (((4, 3), (12,)), 4, [4, 3]),  # not wide: its chunks are kept
    ],
)
def test_a_wide_array_is_cut_by_rows_for_its_workers(kind, chunks, n_workers, sizes):
    lazy = WIDE_KINDS[kind](da.from_array(WIDE, chunks=chunks))
    y, weights = np.arange(7.0), da.from_array(np.arange(7.0) + 1, chunks=5)
    with NoTasks():
        pieces = open_dataset(lazy, y, weights).spread(n_workers).pieces()
    got = dask.compute(*pieces, scheduler="sync")
    assert [x.shape for x, _, _ in got] == [(size, 12) for size in sizes]
    whole = [x if kind == "dense" else x.toarray() for x, _, _ in got]
    np.testing.assert_array_equal(np.concatenate(whole), WIDE)
    np.testing.assert_array_equal(np.concatenate([y for _, y, _ in got]), y)
    np.testing.assert_array_equal(np.concatenate([w for _, _, w in got]), y + 1)


def test_what_is_no_wide_array_keeps_its_chunks():
    for make in (frame, array, lambda: unknown(array((CHUNKS[0], (1, 2))))):
        dataset = open_dataset(make())
        assert dataset.spread(8) is dataset
