"""What the scheduler keeps of a run's records: those that the client may not have yet."""

from __future__ import annotations

from dask_petuum.runtime import board
from dask_petuum.runtime.board import Board


def test_a_client_that_asks_is_told_of_all_records_however_many(monkeypatch):
    monkeypatch.setattr(board, "MAX_RECORDS", 20)
    run, told = Board("run", "client", ["a"]), []
    for clock in range(1, 101):
        run.add_record({"clock": clock})
        if clock % 7 == 0:
            run.forget(len(told))
            told += run.view(len(told))["records"]
            assert run.view(run.n_records)["records"] == []
    run.forget(len(told))
    assert [record["clock"] for record in told] == list(range(1, 99))
    assert run.records == [{"clock": 99}, {"clock": 100}]
    assert run.n_records == 100


def test_an_answer_that_was_lost_is_given_again():
    run = Board("run", "client", ["a"])
    for clock in (1, 2, 3):
        run.add_record({"clock": clock})
    run.forget(1)
    assert run.view(1) == run.view(1)
    assert [record["clock"] for record in run.view(1)["records"]] == [2, 3]


def test_a_client_that_never_asks_does_not_fill_the_scheduler(monkeypatch):
    monkeypatch.setattr(board, "MAX_RECORDS", 10)
    run = Board("run", "client", ["a"])
    for clock in range(1, 101):
        run.add_record({"clock": clock})
    assert [record["clock"] for record in run.records] == list(range(1, 11))
