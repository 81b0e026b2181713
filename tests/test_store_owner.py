"""The owner's core on message traces: who may read what when, repeats, gaps, malformed messages."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from dask_petuum.exceptions import ProtocolError
from dask_petuum.store.identity import Identity
from dask_petuum.store.layout import plan_layout
from dask_petuum.store.owner import FINISHED, Owner
from dask_petuum.store.spec import TableSpec

SPECS = [TableSpec("w", (4, 3), "float64"), TableSpec("s", (4, 3), "int32", sparse=True)]
SENDER = {"run": "run", "epoch": 0, "rank": 0}


def make_owner(n_ranks=2, ordered=False, specs=SPECS, epoch=0):
    layout = plan_layout(specs, 1)  # one rank holds all rows, the others only send
    return Owner(Identity("run", 0, n_ranks, epoch), specs, layout, ordered=ordered)


def open_of(rank=0, plan=0, table="w", rows=None, need=0):
    blocks = [(0, None if rows is None else np.array(rows, dtype=np.int32))]
    message = {"plan": plan, "table": table, "blocks": blocks, "need": need}
    return {**SENDER, "rank": rank, **message}


def pull_of(rank=0, need=0, since=0, number=1):
    return {**SENDER, "rank": rank, "need": need, "since": since, "number": number}


def dense(value, plan=0, n_rows=4, first=0):
    values = np.full((n_rows, 3), value, dtype=np.float64)
    return {"plan": plan, "block": 0, "first": first, "kind": "dense", "values": values}


def rows(indices, value, plan=0):
    return {
        **{"plan": plan, "block": 0, "first": 0, "kind": "rows"},
        "rows": np.array(indices, dtype=np.int32),
        "values": np.full((len(indices), 3), value, dtype=np.float64),
    }


def cells(indices, value, plan=0, first=0):
    return {
        **{"plan": plan, "block": 0, "first": first, "kind": "cells"},
        "cells": np.array(indices, dtype=np.int64),
        "values": np.full(len(indices), value, dtype=np.float64),
    }


def csr(plan=1, rows=(0, 2), indptr=(0, 1, 2), indices=(0, 2), values=(5, 6)):
    return {
        **{"plan": plan, "block": 0, "first": 0, "kind": "csr"},
        "rows": np.array(rows, dtype=np.int32),
        "indptr": np.array(indptr, dtype=np.int64),
        "indices": np.array(indices, dtype=np.int32),
        "values": np.array(values, dtype=np.int32),
    }


def push_of(clock, chunks=(), rank=0, last=False):
    return {**SENDER, "rank": rank, "clock": clock, "last": last, "chunks": list(chunks)}


def opened(owner, ranks=(0, 1)):
    for rank in ranks:
        owner.open(open_of(rank), "open")
        owner.open(open_of(rank, plan=1, table="s"), "open")
    return owner


def values(owner, table="w"):
    [(start, block)] = owner.block_values(table)
    assert start == 0
    return block.toarray() if table == "s" else block


def snapshot(owner):
    """Everything that a message may change."""
    return copy.deepcopy(
        {
            **{key: shard.values for key, shard in owner._shards.items() if key[0] == "w"},
            **{
                key: shard.values.toarray() for key, shard in owner._shards.items() if key[0] == "s"
            },
            "versions": [shard.versions for shard in owner._shards.values()],
            "plans": [
                {key: (plan.rows, id(plan.shard)) for key, plan in reader.plans.items()}
                for reader in owner._readers
            ],
            "readers": [
                (r.next_clock, r.last_clock, sorted(r.early), dict(r.parked))
                for r in owner._readers
            ],
            "rest": (owner._version, owner._applied, owner._held, owner.fresh),
        }
    )


def assert_equal(before, after):
    np.testing.assert_equal(after, before)


# What is answered, and when.


def test_an_open_is_answered_with_the_declared_rows():
    owner = make_owner(
        specs=[TableSpec("w", (4, 3), "float64", init=np.arange(12.0).reshape(4, 3))]
    )
    [release] = owner.open(open_of(rows=[1, 3]), "token")
    assert release.token == "token"
    [chunk] = release.reply["chunks"]
    np.testing.assert_array_equal(chunk["values"], [[3, 4, 5], [9, 10, 11]])
    assert release.reply["fresh"] == 0


def test_a_batch_is_applied_once():
    owner = opened(make_owner())
    for _ in range(3):
        reply, _ = owner.push(push_of(0, [dense(1.0)]))
        assert reply["status"] == "OK"
    assert values(owner).tolist() == [[1.0] * 3] * 4


def test_batches_of_a_rank_are_applied_in_the_order_of_clocks():
    owner = opened(make_owner(n_ranks=1), ranks=(0,))
    owner.push(push_of(1, [dense(10.0)]))
    assert (values(owner).max(), owner.fresh) == (0.0, 0)
    owner.push(push_of(0, [dense(1.0)]))
    assert (values(owner).max(), owner.fresh) == (11.0, 2)


def test_a_pull_waits_for_the_slowest_rank():
    owner = opened(make_owner())
    owner.push(push_of(0))
    assert owner.pull(pull_of(need=1), "token") == []
    _, releases = owner.push(push_of(0, [dense(2.0)], rank=1))
    [release] = releases
    assert (release.token, release.reply["fresh"], release.reply["own"]) == ("token", 1, 1)
    assert release.reply["chunks"][0]["values"].tolist() == [[2.0] * 3] * 4


def test_an_open_waits_as_well():
    owner = make_owner()
    assert owner.open(open_of(need=1), "token") == []
    owner.push(push_of(0))
    _, [release] = owner.push(push_of(0, rank=1))
    assert release.token == "token"


def test_a_pull_gives_only_what_changed_since():
    owner = opened(make_owner())
    owner.push(push_of(0, [rows([1], 1.0)]))
    [first] = owner.pull(pull_of(), "a")
    owner.push(push_of(1, [cells([10], 2.0)]))
    [second] = owner.pull(pull_of(since=first.reply["version"], number=2), "b")
    [chunk] = second.reply["chunks"]
    assert chunk["rows"].tolist() == [3]
    assert chunk["values"].tolist() == [[0.0, 2.0, 0.0]]
    [third] = owner.pull(pull_of(since=second.reply["version"], number=3), "c")
    assert third.reply["chunks"] == []


def test_an_answer_is_a_copy():
    owner = opened(make_owner(n_ranks=1), ranks=(0,))
    owner.push(push_of(0, [dense(1.0)]))
    [release] = owner.pull(pull_of(), "a")
    owner.push(push_of(1, [dense(1.0)]))
    assert release.reply["chunks"][0]["values"].max() == 1.0


def test_a_repeated_pull_takes_the_place_of_the_one_that_waits():
    owner = opened(make_owner())
    assert owner.pull(pull_of(need=1, number=4), "old") == []
    [release] = owner.pull(pull_of(need=1, number=4), "new")
    assert (release.token, release.reply["status"]) == ("old", "superseded")
    owner.push(push_of(0))
    _, [release] = owner.push(push_of(0, rank=1))
    assert (release.token, release.reply["number"]) == ("new", 4)


def test_a_late_copy_of_an_earlier_pull_does_not():
    owner = opened(make_owner())
    owner.pull(pull_of(need=1, number=5), "newer")
    [release] = owner.pull(pull_of(need=1, number=4), "late")
    assert (release.token, release.reply["status"]) == ("late", "superseded")
    owner.push(push_of(0))
    _, [release] = owner.push(push_of(0, rank=1))
    assert release.token == "newer"


def test_ranks_do_not_supersede_each_other():
    owner = opened(make_owner())
    assert owner.pull(pull_of(rank=0, need=1), "a") == []
    assert owner.pull(pull_of(rank=1, need=1), "b") == []


def test_a_rank_that_has_ended_holds_nobody_up():
    owner = opened(make_owner())
    owner.push(push_of(0, rank=1, last=True))
    for clock in range(3):
        owner.push(push_of(clock))
    assert owner.fresh == 3
    owner.push(push_of(3, last=True))
    assert owner.fresh == FINISHED


@pytest.mark.parametrize("ordered", [True, False])
def test_a_batch_after_the_last_is_refused(ordered):
    owner = opened(make_owner(ordered=ordered))
    owner.push(push_of(0, last=True))
    owner.push(push_of(0, last=True))
    with pytest.raises(ProtocolError, match="clock"):
        owner.push(push_of(1, [dense(1.0)]))


# BSP.


def test_bsp_holds_batches_until_every_rank_has_sent_its_own():
    owner = opened(make_owner(ordered=True))
    owner.push(push_of(0, [dense(1.0)]))
    assert values(owner).max() == 0.0
    [release] = owner.pull(pull_of(rank=1), "slow reader")
    assert release.reply["chunks"] == []
    owner.push(push_of(0, [dense(2.0)], rank=1))
    assert (values(owner).max(), owner.fresh) == (3.0, 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_bsp_sums_floats_in_the_order_of_ranks(order):
    owner = opened(make_owner(n_ranks=3, ordered=True), ranks=range(3))
    parts = [1.0, 1e16, -1e16]
    for rank in order:
        owner.push(push_of(0, [dense(parts[rank])], rank=rank))
    assert values(owner)[0, 0] == (0.0 + 1.0 + 1e16) - 1e16


def test_bsp_ends_with_every_batch_applied():
    owner = opened(make_owner(ordered=True))
    owner.push(push_of(0, [dense(1.0)], last=True))
    owner.push(push_of(0, [dense(1.0)], rank=1))
    owner.push(push_of(1, [dense(1.0)], rank=1, last=True))
    assert (values(owner).max(), owner.fresh) == (3.0, FINISHED)


# The end of waits.


def test_interrupt_answers_who_waits_and_who_comes_later():
    owner = opened(make_owner())
    owner.pull(pull_of(need=1), "waits")
    [release] = owner.interrupt("worker lost")
    assert release.token == "waits"
    assert release.reply["status"] == "interrupted"
    [release] = owner.pull(pull_of(need=9, number=2), "later")
    assert release.reply["cause"] == "worker lost"


def test_adopt_takes_values_and_nothing_else():
    before = opened(make_owner())
    before.push(push_of(0, [dense(1.0), csr()]))
    after = make_owner()
    after.adopt(before)
    before.push(push_of(1, [dense(1.0)]))
    assert values(after).max() == 1.0
    assert values(after, "s").sum() == 11
    assert after.fresh == 0
    [release] = after.open(open_of(), "t")
    assert release.reply["chunks"][0]["values"].max() == 1.0


def test_repr_shows_the_state():
    owner = opened(make_owner())
    owner.pull(pull_of(need=1), "t")
    assert "fresh 0" in repr(owner)
    assert "parked 1" in repr(owner)


# Every chunk kind does the same to the values.


@pytest.mark.parametrize("ordered", [True, False])
def test_kinds_of_chunks_add_alike(ordered):
    expected = np.zeros((4, 3))
    expected[[1, 3]] = 2.0
    for chunks in ([rows([1, 3], 2.0)], [cells([3, 4, 5, 9, 10, 11], 2.0)]):
        owner = opened(make_owner(n_ranks=1, ordered=ordered), ranks=(0,))
        owner.push(push_of(0, chunks))
        np.testing.assert_array_equal(values(owner), expected)


def test_positions_count_in_the_rows_of_the_plan():
    owner = make_owner(n_ranks=1)
    owner.open(open_of(rows=[0, 2, 3]), "t")
    owner.push(push_of(0, [cells([0], 1.0, first=1), rows([2], 5.0)]))
    assert values(owner).tolist() == [[0] * 3, [0] * 3, [1, 0, 0], [5] * 3]


def test_sparse_rows_are_added():
    owner = opened(make_owner(n_ranks=1), ranks=(0,))
    owner.push(push_of(0, [csr()]))
    owner.push(push_of(1, [csr(values=(-5, 1))]))
    assert values(owner, "s").tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 7], [0, 0, 0]]
    assert owner._shards["s", 0].values.nnz == 1


# Malformed messages: refused, and nothing has changed.

SENDERS = {
    "nothing": None,
    "a list": [],
    "no fields": {},
    "another run": {**SENDER, "run": "other"},
    "a run that is no text": {**SENDER, "run": ["run"]},
    "an older epoch": {**SENDER, "epoch": 1},
    "a newer epoch": {**SENDER, "epoch": 3},
    "no epoch": {"run": "run", "rank": 0},
    "a NaN for an epoch": {**SENDER, "epoch": float("nan")},
    "a rank that is too high": {**SENDER, "epoch": 2, "rank": 2},
    "a negative rank": {**SENDER, "epoch": 2, "rank": -1},
    "a bool for a rank": {**SENDER, "epoch": 2, "rank": True},
    "a float for a rank": {**SENDER, "epoch": 2, "rank": 0.0},
}


@pytest.mark.parametrize("operation", ["push", "open", "pull"])
@pytest.mark.parametrize("who", SENDERS)
def test_a_message_of_somebody_else_is_refused(who, operation):
    owner = make_owner(epoch=2)
    rest = {**push_of(0), **open_of(), **pull_of()}
    sender = SENDERS[who]
    message = {**rest, **sender} if sender else sender
    for name in ("run", "epoch", "rank"):
        if sender and name not in sender:
            del message[name]
    before = snapshot(owner)
    with pytest.raises(ProtocolError):
        _ = owner.push(message) if operation == "push" else getattr(owner, operation)(message, "t")
    assert_equal(before, snapshot(owner))


def changed(message, **fields):
    out = {**message, **fields}
    return {name: value for name, value in out.items() if value is not ...}


NAN = float("nan")
NUMBERS = {"missing": ..., "negative": -1, "huge": 2**70, "float": 1.0, "NaN": NAN, "text": "1"}
PUSHES = {
    **{f"clock {how}": changed(push_of(0), clock=value) for how, value in NUMBERS.items()},
    "last missing": changed(push_of(0), last=...),
    "last a number": changed(push_of(0), last=1),
    "chunks missing": changed(push_of(0), chunks=...),
    "chunks a dict": changed(push_of(0), chunks={}),
    "chunk a number": push_of(0, [7]),
}
CHUNKS = {
    **{f"plan {how}": changed(dense(1.0), plan=value) for how, value in NUMBERS.items()},
    **{f"block {how}": changed(dense(1.0), block=value) for how, value in NUMBERS.items()},
    **{f"first {how}": changed(dense(1.0), first=value) for how, value in NUMBERS.items()},
    "plan unknown": dense(1.0, plan=9),
    "block of another rank": changed(dense(1.0), block=1),
    "kind missing": changed(dense(1.0), kind=...),
    "kind unknown": changed(dense(1.0), kind="pickle"),
    "kind a list": changed(dense(1.0), kind=["dense"]),
    "values missing": changed(dense(1.0), values=...),
    "values a list": changed(dense(1.0), values=[[1.0] * 3] * 4),
    "values of another dtype": changed(dense(1.0), values=np.ones((4, 3), dtype=np.float32)),
    "values of the other byte order": changed(dense(1.0), values=np.ones((4, 3), dtype=">f8")),
    "values of objects": changed(dense(1.0), values=np.ones((4, 3), dtype=object)),
    "dense: too many rows": dense(1.0, n_rows=5),
    "dense: beyond the end": dense(1.0, n_rows=4, first=1),
    "dense: another width": changed(dense(1.0), values=np.ones((4, 2))),
    "dense: one dimension": changed(dense(1.0), values=np.ones(12)),
    "dense: with rows": changed(dense(1.0), rows=np.arange(99, dtype=np.int32)),
    "dense for a sparse table": dense(1.0, plan=1),
    "rows missing": changed(rows([0], 1.0), rows=...),
    "rows: more than values": changed(rows([0, 1], 1.0), values=np.ones((1, 3))),
    "rows: fewer than values": changed(rows([0], 1.0), values=np.ones((2, 3))),
    "rows: negative": rows([-1], 1.0),
    "rows: outside": rows([4], 1.0),
    "rows: huge": rows([2**31 - 1], 1.0),
    "rows: repeated": rows([1, 1], 1.0),
    "rows: not ascending": rows([0, 3, 2], 1.0),
    "rows: outside with first": changed(rows([3], 1.0), first=1),
    "rows: int64": changed(rows([0], 1.0), rows=np.array([0])),
    "rows: two dimensions": changed(rows([0], 1.0), rows=np.zeros((1, 1), dtype=np.int32)),
    "cells: negative": cells([-1], 1.0),
    "cells: outside": cells([12], 1.0),
    "cells: outside with first": cells([3], 1.0, first=3),
    "cells: huge": cells([2**62], 1.0),
    "cells: repeated": cells([5, 5], 1.0),
    "cells: more than values": changed(cells([1, 2], 1.0), values=np.ones(1)),
    "cells: int32": changed(cells([1], 1.0), cells=np.array([1], dtype=np.int32)),
    "cells: values in a matrix": changed(cells([1], 1.0), values=np.ones((1, 1))),
    "csr for a dense table": csr(plan=0),
    "csr: indptr missing": changed(csr(), indptr=...),
    "csr: indptr empty": csr(indptr=()),
    "csr: indptr too long": csr(indptr=(0, 1, 2, 2)),
    "csr: indptr too short": csr(indptr=(0, 2)),
    "csr: indptr not from 0": csr(indptr=(1, 1, 2)),
    "csr: indptr beyond the indices": csr(indptr=(0, 1, 9)),
    "csr: indptr short of the indices": csr(indptr=(0, 1, 1)),
    "csr: indptr falls": csr(indptr=(0, 9, 2)),
    "csr: indptr negative": csr(indptr=(0, -5, 2)),
    "csr: indptr int32": changed(csr(), indptr=np.array([0, 1, 2], dtype=np.int32)),
    "csr: indptr in a matrix": changed(csr(), indptr=np.array([[0, 1, 2]])),
    "csr: index negative": csr(indices=(-1, 2)),
    "csr: index outside": csr(indices=(0, 3)),
    "csr: index huge": csr(indices=(0, 2**31 - 1)),
    "csr: more indices than values": csr(values=(5,)),
    "csr: fewer indices than values": csr(values=(5, 6, 7)),
    "csr: values of another dtype": changed(csr(), values=np.array([5, 6])),
    "csr: rows missing": changed(csr(), rows=...),
    "csr: more rows than indptr says": csr(rows=(0, 2, 3)),
    "csr: row negative": csr(rows=(-1, 2)),
    "csr: row outside": csr(rows=(0, 4)),
    "csr: row repeated": csr(rows=(2, 2)),
    "csr: row outside with first": changed(csr(rows=(0, 3)), first=1),
}


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("what", [*PUSHES, *CHUNKS])
def test_a_malformed_push_is_refused(what, ordered):
    owner = opened(make_owner(ordered=ordered))
    owner.pull(pull_of(need=1), "waits")
    # the fault comes last: what is right before it must not have been applied either
    message = PUSHES[what] if what in PUSHES else push_of(0, [dense(1.0), csr(), CHUNKS[what]])
    before = snapshot(owner)
    with pytest.raises(ProtocolError):
        owner.push(message)
    assert_equal(before, snapshot(owner))


def array(values, dtype=np.int32):
    return np.array(values, dtype=dtype)


BLOCKS = {
    "missing": ...,
    "a dict": {},
    "a number in them": [7],
    "of three": [(0, None, None)],
    "of another rank": [(1, None)],
    "negative": [(-1, None)],
    "with a bool": [(False, None)],
    "unhashable": [([], None)],
    "rows a list": [(0, [1, 2])],
    "rows int64": [(0, array([1], np.int64))],
    "rows floats": [(0, array([1], np.float32))],
    "rows outside": [(0, array([4]))],
    "rows negative": [(0, array([-1]))],
    "rows repeated": [(0, array([1, 1]))],
    "rows not ascending": [(0, array([2, 1]))],
    "rows in a matrix": [(0, array([[1]]))],
    "the second is wrong": [(0, None), (5, None)],
}
OPENS = {
    **{f"need {how}": changed(open_of(plan=7), need=value) for how, value in NUMBERS.items()},
    **{f"plan {how}": changed(open_of(), plan=value) for how, value in NUMBERS.items()},
    **{f"blocks {how}": changed(open_of(plan=7), blocks=value) for how, value in BLOCKS.items()},
    "table unknown": open_of(plan=7, table="x"),
    "table missing": changed(open_of(plan=7), table=...),
    "table a list": changed(open_of(plan=7), table=["w"]),
    "plan has other rows already": open_of(plan=0, rows=[1]),
    "plan is of another table already": open_of(plan=0, table="s"),
}
PULLS = {
    f"{name} {how}": changed(pull_of(), **{name: value})
    for name in ("need", "since", "number")
    for how, value in NUMBERS.items()
}


@pytest.mark.parametrize("what", OPENS)
def test_a_malformed_open_is_refused(what):
    owner = opened(make_owner())
    before = snapshot(owner)
    with pytest.raises(ProtocolError):
        owner.open(OPENS[what], "token")
    assert_equal(before, snapshot(owner))


@pytest.mark.parametrize("what", PULLS)
def test_a_malformed_pull_is_refused(what):
    owner = opened(make_owner())
    owner.pull(pull_of(need=1), "waits")
    before = snapshot(owner)
    with pytest.raises(ProtocolError):
        owner.pull(PULLS[what], "token")
    assert_equal(before, snapshot(owner))


def test_a_repeated_open_changes_nothing():
    owner = opened(make_owner())
    owner.push(push_of(0, [dense(1.0)]))
    before = snapshot(owner)
    [release] = owner.open(open_of(), "again")
    assert release.reply["chunks"][0]["values"].max() == 1.0
    assert_equal(before, snapshot(owner))


def test_blocks_may_come_as_lists_from_the_wire():
    owner = make_owner()
    message = {**open_of(), "blocks": [[0, array([1, 2])]]}
    assert len(owner.open(message, "t")) == 1


def test_nan_is_a_value_like_any_other():
    owner = opened(make_owner(n_ranks=1), ranks=(0,))
    owner.push(push_of(0, [rows([1], NAN)]))
    assert np.isnan(values(owner)[1]).all()
    assert not np.isnan(values(owner)[0]).any()
