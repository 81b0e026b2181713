"""What a function given to ``run`` may rely on: one set of tests for every place.

The places (this process; 1, 2 and 4 ranks of a cluster) come from the fixture ``place``. Ranks get
their own number as their partition, where nothing else is said.
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import dask_petuum as petuum
from dask_petuum.exceptions import RankError, TableError
from dask_petuum.store.spec import Normal, Uniform, UpdateRule

DTYPES = ("int32", "int64", "float32", "float64")
BOUNDS = [("bsp", 0), ("ssp", 2), ("essp", 0), ("essp", 2), ("asp", None)]


def dense(values):
    return values.toarray() if sp.issparse(values) else np.asarray(values)


def everywhere(ctx, number):
    view = ctx.table("w").view()
    for clock in range(5):
        view.inc(np.full(view.values.shape, (number + 1) * 10**clock))
        ctx.clock()
    ctx.barrier()
    return ctx.rank, ctx.n_ranks, ctx.clock_index, dense(view.values).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_increments_of_all_ranks_add_up(place, dtype, sparse):
    with place.session() as ps:
        table = ps.create_table("w", shape=(6, 2), dtype=dtype, sparse=sparse)
        results = place.run(ps, everywhere)
        values = table.to_numpy()
    expected = np.full((6, 2), 11111 * sum(range(1, place.n_ranks + 1)))
    assert [result[:3] for result in results] == [
        (rank, place.n_ranks, 6) for rank in range(place.n_ranks)
    ]
    for result in results:
        np.testing.assert_array_equal(result[3], expected)
    assert sp.issparse(values) is sparse
    assert values.dtype == dtype
    np.testing.assert_array_equal(dense(values), expected)


@pytest.mark.parametrize(("consistency", "staleness"), BOUNDS)
def test_every_model_loses_nothing_and_keeps_its_bound(place, consistency, staleness):
    with place.session() as ps:
        ps.create_table("w", shape=(4, 40), dtype="int64")
        lags = place.run(ps, fingerprints, consistency=consistency, staleness=staleness)
        values = ps.table("w").to_numpy()
    expected = np.zeros((4, 40), dtype=int)
    expected[: place.n_ranks] = 1
    np.testing.assert_array_equal(values, expected)
    if staleness is not None:
        assert max(lags) <= staleness
    if consistency == "bsp":
        assert max(lags) == 0


def fingerprints(ctx, number):
    """Rank p adds 1 to cell [p, c] in clock c: a read shows exactly what it holds."""
    view = ctx.table("w").view()
    lag = 0
    for clock in range(40):
        seen = np.asarray(view.values)[: ctx.n_ranks]
        complete = int(np.cumprod(seen, axis=1).sum(axis=1).min())
        assert seen[number].sum() == clock, "own increments are always seen"
        lag = max(lag, clock - complete)
        view.inc(np.arange(40)[np.newaxis] == clock, at=[number])
        ctx.clock()
    return lag


def views(ctx, number):
    table = ctx.table("w")
    whole, some, middle = table.view(), table.view([1, 4, 7]), table.view(np.arange(3, 6))
    first = whole.values.copy(), some.values.copy(), middle.values.copy()
    some.inc(np.full((3, 2), 100.0))
    middle.inc([[1000.0, 2000.0]], at=[1])
    ctx.barrier()
    last = whole.values.copy(), some.values.copy(), middle.values.copy()
    return first, last


def test_views_of_all_of_some_and_of_contiguous_rows(place):
    start = np.arange(16.0).reshape(8, 2)
    with place.session() as ps:
        ps.create_table("w", shape=(8, 2), dtype="float64", init=start)
        results = place.run(ps, views, consistency="bsp")
        end = ps.table("w").to_numpy()
    expected = start.copy()
    expected[[1, 4, 7]] += 100 * place.n_ranks
    expected[4] += np.array([1000, 2000]) * place.n_ranks
    np.testing.assert_array_equal(end, expected)
    for first, last in results:
        for rows, before, after in zip(
            [slice(None), [1, 4, 7], slice(3, 6)], first, last, strict=True
        ):
            np.testing.assert_array_equal(before, start[rows])
            np.testing.assert_array_equal(after, expected[rows])


def own_writes(ctx, number):
    seen = {}
    for name in ("shown", "hidden"):
        view = ctx.table(name).view(read_my_writes=name == "shown")
        view.inc([[1], [2], [3]])
        seen[name] = [view.values.ravel().tolist()]
        view.inc([[10]], at=[2])
        seen[name].append(view.values.ravel().tolist())
    ctx.barrier()
    for name in seen:
        view = ctx.table(name).view(read_my_writes=name == "shown")
        seen[name].append((view.values.ravel() // ctx.n_ranks).tolist())
    return seen


def test_own_increments_are_seen_at_once_or_from_the_next_clock(place):
    with place.session() as ps:
        for name in ("shown", "hidden"):
            ps.create_table(name, shape=(3, 1), dtype="int32")
        for seen in place.run(ps, own_writes, consistency="bsp"):
            assert seen["shown"] == [[1, 2, 3], [1, 2, 13], [1, 2, 13]]
            assert seen["hidden"] == [[0, 0, 0], [0, 0, 0], [1, 2, 13]]


def reused_delta(ctx, number):
    view = ctx.table("w").view()
    delta = np.ones((3, 1))
    view.inc(delta)
    delta[:] = 1000
    ctx.clock()
    delta[:] = -1000
    ctx.barrier()
    return view.values.ravel().tolist()


def test_the_caller_may_use_delta_again(place):
    with place.session() as ps:
        ps.create_table("w", shape=(3, 1), dtype="float32")
        for seen in place.run(ps, reused_delta, consistency="bsp"):
            assert seen == [place.n_ranks] * 3


def test_several_tables_of_many_kinds_in_one_run(place):
    with place.session() as ps:
        for dtype in DTYPES:
            ps.create_table(dtype, shape=(5, 3), dtype=dtype)
            ps.create_table(dtype + " sparse", shape=(5, 3), dtype=dtype, sparse=True)
        place.run(ps, add_to_all_tables)
        for number, dtype in enumerate(DTYPES):
            for name in (dtype, dtype + " sparse"):
                values = dense(ps.table(name).to_numpy())
                np.testing.assert_array_equal(values, np.full((5, 3), number * place.n_ranks))


def add_to_all_tables(ctx, number):
    for value, dtype in enumerate(DTYPES):
        for name in (dtype, dtype + " sparse"):
            ctx.table(name).view().inc(np.full((5, 3), value))
    ctx.clock()


def push_down(ctx, number):
    view = ctx.table("w").view()
    for _ in range(3):
        view.inc([[-2.0, 2.0]])
        ctx.clock()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (UpdateRule("add"), lambda n: [-6.0 * n, 6.0 * n]),
        (UpdateRule("clip", low=-1, high=3), lambda n: [-1.0, 3.0]),
        (UpdateRule("soft_threshold", threshold=0.5), lambda n: [-4.5 * n, 4.5 * n]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_update_rules_are_applied_once_per_batch(place, rule, expected):
    with place.session() as ps:
        ps.create_table("w", shape=(1, 2), dtype="float64", rule=rule)
        place.run(ps, push_down, consistency="bsp")
        assert ps.table("w").to_numpy().ravel().tolist() == expected(place.n_ranks)


def lags_of_two(ctx, number):
    tight, loose = ctx.table("tight").view(), ctx.table("loose").view()
    worst = [0, 0]
    for clock in range(30):
        for i, view in enumerate((tight, loose)):
            lowest = int(view.values[: ctx.n_ranks].min())
            worst[i] = max(worst[i], clock - lowest)
            view.inc([[1]], at=[number])
        ctx.clock()
    return worst


def test_a_table_may_have_its_own_staleness(place):
    with place.session() as ps:
        ps.create_table("tight", shape=(4, 1), dtype="int32", staleness=0)
        ps.create_table("loose", shape=(4, 1), dtype="int32")
        for tight, loose in place.run(ps, lags_of_two, consistency="ssp", staleness=4):
            assert tight == 0
            assert loose <= 4


def first_values(ctx, number):
    return ctx.table("w").view().values.copy()


@pytest.mark.parametrize("init", [Normal(1.0, 2.0, seed=3), Uniform(-1, 1, seed=3), 2.5])
def test_first_values_are_the_same_wherever_the_rows_lie(place, init):
    with petuum.connect("local") as ps:
        ps.create_table("w", shape=(300, 3), dtype="float64", init=init)
        (expected,) = ps.run(first_values)
    with place.session() as ps:
        table = ps.create_table("w", shape=(300, 3), dtype="float64", init=init)
        np.testing.assert_array_equal(table.to_numpy(), expected)
        for seen in place.run(ps, first_values):
            np.testing.assert_array_equal(seen, expected)


def test_values_have_labels(place):
    with place.session() as ps:
        table = ps.create_table(
            "w",
            shape=(2, 3),
            dims=("topic", "word"),
            coords={"word": ["a", "b", "c"]},
            init=np.arange(6.0).reshape(2, 3),
        )
        place.run(ps, first_values)
        labelled = table.to_xarray()
    assert labelled.dims == ("topic", "word")
    assert labelled.name == "w"
    assert labelled.sel(word="b").values.tolist() == [1.0, 4.0]


def add_one(ctx, number):
    before = dense(ctx.table("w").view().values).copy()
    ctx.table("w").view().inc(np.ones((5, 2), dtype=int))
    return before


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_runs_of_a_session_go_on_from_the_last_values(place, sparse):
    with place.session() as ps:
        ps.create_table("w", shape=(5, 2), dtype="int64", sparse=sparse)
        expected = 0
        for turn in range(3):
            for before in place.run(ps, add_one, consistency="bsp"):
                np.testing.assert_array_equal(before, np.full((5, 2), expected))
            expected += place.n_ranks
            np.testing.assert_array_equal(dense(ps.table("w").to_numpy()), expected)
            ps.create_table(f"other {turn}", shape=(1, 1))
        # other ranks than before
        for before in ps.run(add_one, [None]):
            np.testing.assert_array_equal(before, np.full((5, 2), expected))


def freshness(ctx, number):
    view = ctx.table("w").view()
    seen = [(ctx.clock_index, view.fresh)]
    for _ in range(3):
        ctx.clock()
        seen.append((ctx.clock_index, view.fresh))
    return seen


def test_every_run_counts_its_own_clocks(place):
    with place.session() as ps:
        ps.create_table("w", shape=(4, 1))
        for _ in range(2):
            for seen in place.run(ps, freshness, consistency="bsp"):
                assert seen == [(0, 0), (1, 1), (2, 2), (3, 3)]


def look_up_nothing(ctx, number):
    ctx.table("nothing")
    ctx.table("nothing").view()


def test_unknown_tables_are_named(place):
    with place.session() as ps:
        ps.create_table("w", shape=(2, 2))
        with pytest.raises(TableError, match=r"no table 'nothing'; there are \['w'\]"):
            ps.table("nothing")
        with pytest.raises(RankError, match="no table 'nothing'") as caught:
            place.run(ps, look_up_nothing)
        assert isinstance(caught.value.__cause__, TableError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 2)},
        {"shape": (2,)},
        {"dtype": "float16"},
        {"dtype": "U3"},
        {"init": np.zeros((3, 2))},
        {"dims": ("a", "a")},
        {"coords": {"row": [1]}},
        {"coords": {"elsewhere": [1, 2]}},
        {"staleness": -1},
        {"sparse": True, "rule": UpdateRule("clip", low=0)},
        {"name": ""},
    ],
    ids=str,
)
def test_what_cannot_be_a_table_is_refused_before_anything_starts(place, wrong):
    arguments = {"name": "w", "shape": (2, 2), "dtype": "float32", **wrong}
    with place.session() as ps:
        ps.create_table("taken", shape=(1, 1))
        with pytest.raises(TableError):
            ps.create_table(**arguments)
        with pytest.raises(TableError, match="already"):
            ps.create_table("taken", shape=(1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"consistency": "eventual"}, "consistency must be one of"),
        ({"staleness": -1}, "staleness must be >= 0"),
        ({"consistency": "bsp", "staleness": 2}, "has staleness 0"),
        ({"consistency": "asp", "staleness": "auto"}, "auto"),
        ({"staleness": 1.5}, "integer"),
        ({"staleness": (3, 1)}, "0 <= low <= high"),
        ({"consistency": "bsp", "staleness": (0, 1)}, "needs"),
    ],
    ids=str,
)
def test_what_cannot_be_a_run_is_refused_before_anything_starts(place, arguments, message):
    with place.session() as ps, pytest.raises(ValueError, match=message):
        place.run(ps, must_not_run, **arguments)


def must_not_run(ctx, number):
    raise AssertionError("this run must not start")


def bad_increment(ctx, number, delta, at):
    ctx.table("w").view().inc(delta, at=at)


@pytest.mark.parametrize(
    ("delta", "at"),
    [(np.ones((2, 2)), None), (np.ones((1, 2)), [3]), (np.ones((2, 2)), [0, 0])],
    ids=["shape", "position", "twice"],
)
def test_increments_that_do_not_fit_end_the_run(place, delta, at):
    from functools import partial

    with place.session() as ps:
        ps.create_table("w", shape=(3, 2))
        with pytest.raises(RankError) as caught:
            place.run(ps, partial(bad_increment, delta=delta, at=at))
        assert isinstance(caught.value.__cause__, ValueError)


def shape_of(ctx, partition):
    if isinstance(partition, tuple):
        return [column.shape for column in partition]
    return None if partition is None else partition.shape


def total_of(ctx, partition):
    parts = partition if isinstance(partition, tuple) else (partition,)
    return sum(float(np.sum(np.asarray(dense(part)))) for part in parts)


def kinds_of_data():
    X = np.arange(40.0).reshape(10, 4)
    y = np.arange(10.0)
    frame = pd.DataFrame(X, columns=list("abcd"))
    lazy = da.from_array(X, chunks=(3, 4))
    return {
        "array": (X, X.sum()),
        "sparse": (sp.csr_array(X), X.sum()),
        "frame": (frame, X.sum()),
        "tuple": ((X, y), X.sum() + y.sum()),
        "dask array": (lazy, X.sum()),
        "dask tuple": ((lazy, da.from_array(y, chunks=3)), X.sum() + y.sum()),
        "dask sparse": (lazy.map_blocks(sp.csr_array), X.sum()),
        "delayed": ([dask.delayed(np.full)((2, 2), i) for i in range(5)], 40.0),
        "mixed": ([dask.delayed(np.full)((2, 2), 1.0), np.ones((3, 2))], 10.0),
        "list": ([X[:4], X[4:5], X[5:]], X.sum()),
        "list of tuples": ([(X[:4], y[:4]), (X[4:], y[4:])], X.sum() + y.sum()),
        "more than ranks": ([np.ones((1, 1)) * i for i in range(9)], 36.0),
    }


@pytest.mark.parametrize("kind", kinds_of_data())
def test_data_of_every_kind_reaches_the_ranks_once(place, kind):
    data, total = kinds_of_data()[kind]
    with place.session() as ps:
        totals = ps.run(total_of, data)
    assert sum(totals) == total


def test_dask_frames_keep_their_columns(place):
    dd = pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pd.DataFrame({"a": range(10), "b": range(10, 20)}), npartitions=4)
    with place.session() as ps:
        shapes = ps.run(shape_of, frame)
    assert sum(rows for rows, _ in shapes) == 10
    assert {columns for _, columns in shapes} == {2}


def numbers_of(ctx, partition):
    return ctx.rank, partition.ravel().tolist()


def test_results_are_in_the_order_of_ranks_and_partitions_in_their_own(place):
    with place.session() as ps:
        results = ps.run(numbers_of, [np.array([[i]]) for i in range(10)])
    assert [rank for rank, _ in results] == list(range(len(results)))
    assert [number for _, numbers in results for number in numbers] == list(range(10))


def test_fewer_partitions_than_workers_give_fewer_ranks(place):
    with place.session() as ps:
        results = ps.run(everywhere_and_nowhere, [np.zeros((2, 1))])
        assert results == [(0, 1)]
        if place.client is not None:
            assert ps.run(everywhere_and_nowhere) == [(rank, 4) for rank in range(4)]


def everywhere_and_nowhere(ctx, partition):
    return ctx.rank, ctx.n_ranks


@pytest.mark.parametrize("nothing", [[], ()], ids=str)
def test_an_empty_list_of_partitions_is_refused(place, nothing):
    with place.session() as ps, pytest.raises(ValueError, match="partitions must"):
        ps.run(must_not_run, nothing)


def what_cannot_be_joined(ctx, partition):
    return partition


def test_what_cannot_be_joined_says_so(place):
    with place.session() as ps, pytest.raises((ValueError, RankError), match="cannot be joined"):
        ps.run(what_cannot_be_joined, [{"a": i} for i in range(9)])


def use_threads(ctx, number):
    return ctx.n_threads >= 1 and ctx.map(abs, [-3, 2, -1]) == [3, 2, 1]


def test_map_keeps_the_order(place):
    with place.session() as ps:
        assert all(place.run(ps, use_threads))


def test_statistics_are_there(place):
    with place.session() as ps:
        ps.create_table("w", shape=(8, 2), dtype="float64")
        place.run(ps, everywhere, consistency="essp", staleness=2)
        assert len(ps.statistics) == place.n_ranks
        for rank in ps.statistics:
            assert rank["waited"] >= 0
            table = rank["tables"]["w"]
            assert sum(table["staleness"].values()) == 6
            assert max(table["staleness"]) <= 2
            remote = place.n_ranks > 1
            for count in ("bytes_in", "bytes_out", "rows_in", "rows_out"):
                assert (table[count] > 0) is remote


@pytest.mark.parametrize(
    ("staleness", "high"), [("auto", 8), ((0, 0), 0), ((1, 2), 2), ([0, 3], 3)], ids=str
)
def test_the_bound_that_moves_stays_in_its_range(place, staleness, high):
    with place.session() as ps:
        ps.create_table("w", shape=(4, 40), dtype="int64")
        lags = place.run(ps, fingerprints, consistency="essp", staleness=staleness)
    assert max(lags) <= high


def test_the_bound_that_moves_begins_at_the_low_end(place):
    with place.session() as ps:
        ps.create_table("w", shape=(4, 40), dtype="int64")
        lags = place.run(ps, fingerprints, consistency="ssp", staleness=(2, 5))
    assert (2 if place.n_ranks > 1 else 0) <= max(lags) <= 5


def test_a_session_says_what_it_is(place):
    with place.session() as ps:
        ps.create_table("w", shape=(4, 40), dtype="int64")
        assert "['w']" in repr(ps)
        assert repr(ps.table("w")) == "<table 'w' (4, 40) int64>"


@pytest.mark.parametrize(
    ("consistency", "staleness"),
    [
        ("bsp", None),
        ("ssp", 0),
        ("ssp", 3),
        ("essp", 1),
        ("essp", (1, 3)),
        ("essp", "auto"),
        ("asp", None),
    ],
)
@pytest.mark.parametrize("where", ["local", "cluster"])
def test_an_audit_finds_every_promise_kept(where, consistency, staleness, request):
    client = "local" if where == "local" else request.getfixturevalue("client")
    with petuum.connect(client) as ps:
        ps.create_table("mine", shape=(3, 1), init=5)
        report = ps.audit(consistency=consistency, staleness=staleness, n_clocks=15)
        assert report.ok, str(report)
        assert report.n_ranks == (1 if where == "local" else 4)
        assert report.n_reads > 15 * report.n_ranks
        assert ps.table("mine").to_numpy().ravel().tolist() == [5, 5, 5]


def test_an_audit_refuses_what_it_cannot_do(place):
    with place.session() as ps:
        with pytest.raises(ValueError, match="n_clocks must be a whole number >= 1"):
            ps.audit(n_clocks=0)
        with pytest.raises(ValueError, match="staleness must be >= 0"):
            ps.audit(staleness=-1)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_blas_has_one_thread_while_a_ranks_threads_compute(n_threads: int) -> None:
    from threadpoolctl import threadpool_info

    from dask_petuum.runtime.threads import Threads

    def blas_threads(_: object = None) -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = blas_threads()
    with Threads(n_threads) as threads:
        for _ in range(2):
            assert threads.map(blas_threads, range(3)) == [{1}] * 3
    assert blas_threads() == before
