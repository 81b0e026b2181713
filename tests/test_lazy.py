"""One function over the blocks of X: as lazy as X is, with nothing computed or copied early."""

from __future__ import annotations

import functools
import pickle

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
from dask.callbacks import Callback

from dask_petuum.lazy import map_rows

DENSE = np.arange(24.0).reshape(8, 3) % 5
WEIGHTS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
FRAME = pd.DataFrame(DENSE, columns=list("abc"))


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


class NoTasks(Callback):
    """Fails the test if anything is computed inside it."""

    def _start(self, dsk):
        raise AssertionError(f"computed {list(dsk)[:3]}")


def project(weights, block):
    assert isinstance(block, (np.ndarray, sp.csr_array))
    assert block.shape[0] > 0
    assert block.shape[1] == len(weights)
    return block @ weights


def row_sums(block):
    return np.asarray(block.sum(axis=1))


def array(column_chunks=(3,)):
    return da.from_array(DENSE, chunks=((3, 2, 3), column_chunks))


def sparse(column_chunks=(3,), make=sp.csr_matrix):
    return array(column_chunks).map_blocks(make, meta=sp.csr_array((0, 0)), dtype=float)


NOW = {
    "ndarray": DENSE,
    "Fortran order": np.asfortranarray(DENSE),
    "list": DENSE.tolist(),
    "csr_matrix": sp.csr_matrix(DENSE),
    "coo_array": sp.coo_array(DENSE),
    "pandas": FRAME,
    "xarray": xr.DataArray(DENSE),
}
LAZY = {
    "array": array(),
    "array, column chunks": array((1, 2)),
    "array, one chunk": da.from_array(DENSE, chunks=-1),
    "array, persisted": array().persist(scheduler="synchronous"),
    "array of csr_matrix": sparse(),
    "array of coo_array, column chunks": sparse((2, 1), sp.coo_array),
    "array, unknown sizes": array()[da.ones(8, chunks=((3, 2, 3),), dtype=bool)],
    "array of a frame": dd.from_pandas(FRAME, npartitions=3).to_dask_array(),
    "frame": dd.from_pandas(FRAME, npartitions=3),
    "frame, nullable": dd.from_pandas(FRAME.astype("Float64"), npartitions=3),
    "xarray": xr.DataArray(array()),
}


@pytest.mark.parametrize("kind", NOW)
def test_in_memory(kind):
    fn = functools.partial(project, WEIGHTS)
    scores = map_rows(fn, NOW[kind], n_columns=2, dtype=np.float32)
    sums = map_rows(row_sums, NOW[kind], n_columns=None, dtype=np.float64)
    assert type(scores) is type(sums) is np.ndarray
    assert (scores.dtype, sums.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(scores, DENSE @ WEIGHTS)
    np.testing.assert_array_equal(sums, DENSE.sum(axis=1))


@pytest.mark.parametrize("kind", LAZY)
def test_lazily(kind):
    x = LAZY[kind]
    fn = functools.partial(project, WEIGHTS)
    with NoTasks():
        scores = map_rows(fn, x, n_columns=2, dtype=np.float32)
        sums = map_rows(row_sums, x, n_columns=None, dtype=np.float64)
    assert isinstance(scores, da.Array)
    assert isinstance(sums, da.Array)
    assert (scores.dtype, sums.dtype) == (np.float32, np.float64)
    assert (scores.ndim, sums.ndim) == (2, 1)
    for result, expected in ((scores, DENSE @ WEIGHTS), (sums, DENSE.sum(axis=1))):
        got = result.compute()
        assert got.dtype == result.dtype
        np.testing.assert_array_equal(got, expected)
        for block in dask.compute(*result.to_delayed().ravel()):
            assert type(block) is np.ndarray


def test_row_chunks_stay_and_column_chunks_are_merged():
    fn = functools.partial(project, WEIGHTS)
    assert map_rows(fn, array((1, 2)), n_columns=2, dtype=float).chunks == ((3, 2, 3), (2,))
    assert map_rows(row_sums, sparse((1, 2)), n_columns=None, dtype=float).chunks == ((3, 2, 3),)


@pytest.mark.parametrize("kind", ["array, unknown sizes", "frame"])
def test_unknown_sizes_stay_unknown(kind):
    result = map_rows(row_sums, LAZY[kind], n_columns=None, dtype=float)
    assert len(result.chunks[0]) == 3
    assert all(np.isnan(result.chunks[0]))


def test_the_result_goes_on_lazily():
    result = map_rows(row_sums, array(), n_columns=None, dtype=float)
    assert (result * 2).sum().compute() == 2 * DENSE.sum()
    assert result[4].compute() == DENSE[4].sum()


def test_nothing_is_run_to_infer_the_result():
    calls = []

    def fn(block):
        calls.append(block.shape)
        return row_sums(block)

    for kind, x in LAZY.items():
        result = map_rows(fn, x, n_columns=None, dtype=float)
        assert calls == [], kind
        result.compute()
        assert sum(shape[0] for shape in calls) == 8, kind
        calls.clear()


def test_chunks_without_rows_do_not_reach_the_function():
    x = array()[array()[:, 0] == 3]  # rows 1 and 6: the second chunk has none
    assert [len(block) for block in dask.compute(*x.to_delayed().ravel())] == [1, 0, 1]
    fn = functools.partial(project, WEIGHTS)
    got = map_rows(fn, x, n_columns=2, dtype=float).compute()
    np.testing.assert_array_equal(got, DENSE[[1, 6]] @ WEIGHTS)


@pytest.mark.parametrize("as_frame", [False, True])
def test_what_the_function_holds_goes_into_the_graph_once(as_frame):
    big = np.ones((3, 20_000))
    x = da.ones((64, 3), chunks=(2, 3))
    if as_frame:
        x = dd.from_dask_array(x, columns=list("abc"))
    result = map_rows(functools.partial(project, big), x, n_columns=20_000, dtype=float)
    for graph in (result.__dask_graph__(), dask.optimize(result)[0].__dask_graph__()):
        assert len(pickle.dumps(dict(graph))) < 1.2 * big.nbytes


def test_keys_follow_from_function_and_data():
    def name(weights, dtype=float):
        return map_rows(functools.partial(project, weights), array(), n_columns=2, dtype=dtype).name

    assert name(WEIGHTS) == name(WEIGHTS.copy())
    assert len({name(WEIGHTS), name(WEIGHTS + 1), name(WEIGHTS, np.float32)}) == 3


@pytest.mark.parametrize("x", [DENSE, array(), LAZY["frame"]])
@pytest.mark.parametrize("n_columns", [None, 3])
def test_a_result_of_another_shape_is_an_error(x, n_columns):
    fn = functools.partial(project, WEIGHTS)
    with pytest.raises(
        ValueError, match=r"gave an array of shape \(\d, 2\) for a block of \d rows"
    ):
        dask.compute(map_rows(fn, x, n_columns=n_columns, dtype=float))


@pytest.mark.parametrize("x", [np.ones(3), da.ones(3), LAZY["frame"]["a"]])
def test_vectors_are_refused(x):
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array instead"):
        map_rows(row_sums, x, n_columns=None, dtype=float)
