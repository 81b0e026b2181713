"""What the store counts, by hand and in ranks that run."""

from __future__ import annotations

import numpy as np
import pytest
from store_simulator import Cores

from dask_petuum.store.consistency import Consistency
from dask_petuum.store.spec import TableSpec
from dask_petuum.store.statistics import MAX_CLOCKS, Statistics
from dask_petuum.transport.memory import MemoryNetwork

COUNTS = ("bytes_in", "bytes_out", "rows_in", "rows_out")


def test_counts_by_table():
    statistics = Statistics(["a", "b"])
    statistics.sent("a", 100, 2)
    statistics.sent("a", 10, 1)
    statistics.received("b", 7, 3)
    statistics.read("a", 2)
    statistics.read("a", 0)
    statistics.read("a", 2)
    statistics.waited += 0.5
    out = statistics.to_dict()
    assert out["waited"] == 0.5
    assert {name: out["tables"]["a"][name] for name in COUNTS} == {
        "bytes_in": 0,
        "bytes_out": 110,
        "rows_in": 0,
        "rows_out": 3,
    }
    assert out["tables"]["a"]["staleness"] == {0: 1, 2: 2}
    assert out["tables"]["b"]["bytes_in"] == 7
    assert out["tables"]["b"]["rows_in"] == 3


def test_since_last_starts_again_each_time():
    statistics = Statistics(["a"])
    statistics.sent("a", 100, 2)
    statistics.read("a", 3)
    first = statistics.since_last()
    assert first == {"bytes_in": 0, "bytes_out": 100, "waited": 0, "reads": 1, "lag": 3}
    statistics.sent("a", 1, 1)
    assert statistics.since_last()["bytes_out"] == 1
    assert set(statistics.since_last().values()) == {0}


def test_counts_by_clock():
    statistics = Statistics(["a"])
    for clock in range(3):
        statistics.sent("a", 10 * clock, clock)
        statistics.received("a", 1, 1)
        statistics.end_clock(waited=0.5 * clock)
    out = statistics.to_dict()
    by_clock = out["tables"]["a"]["by_clock"]
    assert {name: by_clock[name].tolist() for name in COUNTS} == {
        "bytes_in": [1, 1, 1],
        "bytes_out": [0, 10, 20],
        "rows_in": [1, 1, 1],
        "rows_out": [0, 1, 2],
    }
    assert out["waited_by_clock"].tolist() == [0.0, 0.5, 1.0]
    assert out["waited"] == 1.5


def test_only_the_last_clocks_are_kept_one_by_one():
    statistics = Statistics(["a"])
    for _ in range(MAX_CLOCKS + 5):
        statistics.sent("a", 1, 1)
        statistics.end_clock(waited=0.0)
    out = statistics.to_dict()
    assert out["tables"]["a"]["bytes_out"] == MAX_CLOCKS + 5
    assert out["tables"]["a"]["by_clock"]["bytes_out"].tolist() == [1] * MAX_CLOCKS
    assert len(out["waited_by_clock"]) == MAX_CLOCKS


def test_the_summary_has_the_mean_lag():
    statistics = Statistics(["a", "b"])
    assert statistics.summary()["staleness"] == 0.0
    statistics.read("a", 3)
    statistics.read("b", 0)
    assert statistics.summary()["staleness"] == 1.5


@pytest.mark.parametrize("sparse", [True, False])
def test_ranks_count_what_crosses_to_other_ranks(sparse):
    """Rank 0 owns rows 0 to 2, rank 1 owns 3 to 5; rank 0 adds to rows 1 and 4."""
    spec = TableSpec("w", (6, 5), "float64", sparse=sparse)
    cores = Cores(2, [spec], Consistency.parse("bsp"), network := MemoryNetwork(0))
    views = [cores.open_view(p, "w", None, True) for p in range(2)]
    while network.step():
        pass
    tables = [core.statistics.tables["w"] for core in cores.ranks]
    assert [table.rows_in for table in tables] == [3, 3]  # first values of the other's rows
    before = [(table.bytes_in, table.rows_in) for table in tables]
    views[0].inc(np.ones((2, 5)), at=[1, 4])
    for p in range(2):
        cores.send(p, cores.ranks[p].end_clock())
    while network.step():
        pass
    for core in cores.ranks:
        assert core.ready()
        core.install()
    assert [table.rows_out for table in tables] == [1, 0]
    assert tables[0].bytes_out >= 5 * 8
    assert tables[1].bytes_out == 0
    # each hears from the other's owner of the one row there that changed
    assert [t.rows_in - b for t, (_, b) in zip(tables, before, strict=True)] == [1, 1]
    assert all(t.bytes_in - b >= 5 * 8 for t, (b, _) in zip(tables, before, strict=True))
    assert [dict(table.staleness) for table in tables] == [{0: 1}, {0: 1}]


def test_reads_are_counted_by_their_lag():
    spec = TableSpec("w", (2, 1))
    cores = Cores(2, [spec], Consistency.parse("ssp", 2), network := MemoryNetwork(0))
    for p in range(2):
        cores.open_view(p, "w", None, True)
    while network.step():
        pass
    for _ in range(2):
        cores.send(0, cores.ranks[0].end_clock())
        assert cores.ranks[0].ready()
        cores.ranks[0].install()
    assert cores.ranks[0].statistics.tables["w"].staleness == {1: 1, 2: 1}
    cores.send(0, cores.ranks[0].end_clock())
    assert not cores.ranks[0].ready()
