"""The rank's core on message traces: what it sends when, and what its views show."""

from __future__ import annotations

import numpy as np
import pytest
from store_simulator import Cores

from dask_petuum.exceptions import ProtocolError, TableError
from dask_petuum.store.consistency import Consistency
from dask_petuum.store.identity import Identity
from dask_petuum.store.layout import plan_layout
from dask_petuum.store.owner import FINISHED, Owner
from dask_petuum.store.rank import MAX_UNACKNOWLEDGED, Open, Pull, Push, RankCore
from dask_petuum.store.spec import TableSpec
from dask_petuum.transport.memory import MemoryNetwork

SPEC = TableSpec("w", (4, 2), "float64")


def make_core(model="essp", staleness=1, n_ranks=2, specs=(SPEC,)):
    layout = plan_layout(specs, n_ranks)
    return RankCore(Identity("run", 0, n_ranks), specs, layout, Consistency.parse(model, staleness))


def answer(fresh=0, own=0, version=0, chunks=(), number=0):
    """What an owner says."""
    return {
        **{"status": "OK", "incarnation": 0, "number": number, "fresh": fresh},
        **{"own": own, "version": version, "chunks": list(chunks)},
    }


def block(index, value, n_rows=2):
    """One row block of SPEC, whole."""
    return {
        **{"plan": 0, "block": index, "first": 0, "kind": "dense"},
        "values": np.full((n_rows, 2), float(value)),
    }


def opened(core, name="w", rows=None, read_my_writes=True):
    view, effects = core.open_view(name, rows, read_my_writes)
    for effect in effects:
        core.on_opened(effect.owner, view, answer())
    return view


def pulls(effects):
    return {effect.owner: effect.message for effect in effects if isinstance(effect, Pull)}


def pushes(effects):
    return {effect.owner: effect.message for effect in effects if isinstance(effect, Push)}


# Declaring rows.


def test_rows_are_declared_to_their_owners_once():
    core = make_core()
    view, effects = core.open_view("w", [1, 2, 3], True)
    assert [type(effect) for effect in effects] == [Open, Open]
    [(index, rows)] = effects[0].message["blocks"]
    assert (effects[0].owner, index, rows.tolist()) == (0, 0, [1])
    [(index, rows)] = effects[1].message["blocks"]
    assert (effects[1].owner, index, rows) == (1, 1, None)
    for effect in effects:
        core.on_opened(effect.owner, view, answer())
    view.inc(np.ones((3, 2)))
    message = pushes(core.end_clock())[0]
    assert set(message["chunks"][0]) == {"plan", "block", "first", "kind", "values"}


def test_the_same_declaration_gives_the_same_view():
    core = make_core()
    view = opened(core, rows=[0, 2])
    again, effects = core.open_view("w", np.array([0, 2]), True)
    assert again is view
    assert effects == []
    assert core.open_view("w", [0, 2], False)[0] is not view
    assert core.open_view("w", [0, 3], True)[0] is not view


def test_a_table_that_is_not_there():
    with pytest.raises(TableError, match=r"no table 'x'; there are \['w'\]"):
        make_core().open_view("x", None, True)


def test_an_answer_to_an_open_is_taken_in_once():
    core = make_core()
    view, _ = core.open_view("w", None, True)
    core.on_opened(0, view, answer(chunks=[block(0, 5)], fresh=1, version=3))
    core.on_opened(0, view, answer(chunks=[block(0, 9)], fresh=0, version=4))
    core.on_opened(1, view, answer(chunks=[block(1, 6)]))
    assert view.values[:, 0].tolist() == [5, 5, 6, 6]
    assert view.opened == {0: 1, 1: 0}


def test_a_view_that_is_opened_later_does_not_show_other_views_increments_twice():
    core = make_core("ssp", 3)
    first = opened(core)
    first.inc(np.ones((4, 2)))
    second = opened(core, rows=[0, 1])
    assert second.values.sum() == 0
    core.end_clock()
    assert second.values.tolist() == [[1, 1], [1, 1]]


def test_a_batch_is_remembered_while_an_open_is_under_way():
    """The owner answers the open, then takes the batch; its second reply arrives first."""
    core = make_core("ssp", 3)
    first = opened(core)
    first.inc(np.ones((4, 2)))
    core.end_clock()
    core.install()
    second, opens = core.open_view("w", [0, 1], True)
    assert [effect.owner for effect in opens] == [0]
    before = answer(own=0, version=0, chunks=[{**block(0, 0), "plan": second.plan}])
    for owner in (0, 1):
        core.on_pushed(owner, 0, 1)
    core.on_opened(0, second, before)
    assert second.values.tolist() == [[1, 1], [1, 1]]


# Ending a clock.


def test_every_owner_gets_one_batch_a_clock_though_nothing_changed():
    core = make_core(n_ranks=3, specs=(TableSpec("w", (1, 1)),))
    opened(core)
    for clock in range(2):
        messages = pushes(core.end_clock())
        assert sorted(messages) == [0, 1, 2]
        assert {message["clock"] for message in messages.values()} == {clock}
        assert not any(message["last"] or message["chunks"] for message in messages.values())


def test_only_what_changed_is_sent():
    core = make_core()
    view = opened(core)
    view.inc([[1.0, 0.0]], at=[2])
    messages = pushes(core.end_clock())
    assert messages[0]["chunks"] == []
    [chunk] = messages[1]["chunks"]
    assert (chunk["kind"], chunk["cells"].tolist()) == ("cells", [0])


@pytest.mark.parametrize(
    ("model", "staleness", "needs"),
    [
        ("bsp", 0, [1]),
        ("ssp", 0, [1]),
        ("ssp", 2, []),
        ("essp", 0, [1]),
        ("essp", 2, [1]),
        ("asp", 0, [0]),
    ],
)
def test_what_is_pulled_after_the_first_clock(model, staleness, needs):
    core = make_core(model, staleness)
    opened(core)
    asked = pulls(core.end_clock())
    assert sorted({message["need"] for message in asked.values()}) == needs
    assert core.ready() == (staleness > 0 or model == "asp")


def test_one_pull_per_owner_is_in_flight():
    core = make_core("essp", 5)
    opened(core)
    assert sorted(pulls(core.end_clock())) == [0, 1]
    assert pulls(core.end_clock()) == {}
    [again] = core.on_answer(0, answer(fresh=1, version=2, number=1))
    assert again.message["since"] == 2
    assert again.message["need"] == 2


def test_a_rank_that_has_ended_pulls_no_more():
    core = make_core("essp", 5)
    opened(core)
    core.end_clock()
    effects = core.end_clock(last=True)
    assert all(message["last"] for message in pushes(effects).values())
    assert pulls(effects) == {}
    assert core.on_answer(0, answer(fresh=FINISHED, number=1)) == []


# Taking in answers.


def wait_one_clock(core, view, value):
    asked = pulls(core.end_clock())
    for owner, message in asked.items():
        reply = answer(1, 1, 1, [block(owner, value)], message["number"])
        core.on_answer(owner, reply)
    return asked


@pytest.mark.parametrize("model", ["bsp", "ssp", "essp"])
def test_an_answer_is_shown_when_it_is_installed(model):
    core = make_core(model, 0)
    view = opened(core)
    wait_one_clock(core, view, 7)
    assert view.values.max() == 0
    assert core.ready()
    core.install()
    assert view.values.min() == 7
    assert view.fresh == 1


def test_an_answer_of_an_earlier_pull_is_ignored():
    core = make_core("ssp", 0)
    view = opened(core)
    asked = wait_one_clock(core, view, 7)
    core.install()
    late = answer(0, 0, 0, [block(0, 3)], asked[0]["number"])
    assert core.on_answer(0, late) == []
    core.end_clock()
    core.on_answer(0, late)
    assert not core.ready()
    core.install()
    assert view.values.min() == 7


def test_increments_that_an_answer_lacks_are_added_again():
    core = make_core("essp", 3)
    view = opened(core)
    view.inc(np.full((4, 2), 1.0))
    asked = pulls(core.end_clock())
    core.install()
    view.inc(np.full((4, 2), 10.0))
    core.end_clock()
    # owner 0 had this rank's first batch, not the second
    core.on_answer(0, answer(0, 1, 5, [block(0, 100)], asked[0]["number"]))
    core.install()
    assert view.values[:, 0].tolist() == [110, 110, 11, 11]


def test_batches_leave_the_log_when_every_answer_has_them():
    core = make_core("essp", 3)
    view = opened(core)
    view.inc(np.ones((4, 2)))
    asked = pulls(core.end_clock())
    assert core.unacknowledged == 2
    for owner in (0, 1):
        core.on_pushed(owner, 0, 1)
        core.on_pushed(owner, 0, 1)
    assert core.unacknowledged == 0
    assert len(core._log) == 1
    for owner, message in asked.items():
        core.on_answer(owner, answer(1, 1, 1, [block(owner, 1)], message["number"]))
    core.install()
    assert len(core._log) == 0


def test_a_rank_that_nobody_listens_to_waits_in_the_end():
    core = make_core("asp", 0)
    opened(core)
    for _ in range(MAX_UNACKNOWLEDGED + 1):
        assert core.ready()
        core.end_clock()
        core.install()
    assert not core.ready()
    core.on_pushed(0, 0, 1)
    assert not core.ready()
    core.on_pushed(1, 0, 1)
    assert core.ready()


def test_a_table_may_have_its_own_bound():
    strict = TableSpec("strict", (2, 1), staleness=0)
    core = make_core("essp", 3, specs=(SPEC, strict))
    opened(core)
    core.end_clock()
    assert core.ready()
    core.install()
    opened(core, "strict")
    core.end_clock()
    assert not core.ready()


@pytest.mark.parametrize("model", ["ssp", "essp", "asp"])
def test_a_barrier_waits_for_everything(model):
    core = make_core(model, 0 if model == "asp" else 5)
    view = opened(core)
    asked = pulls(core.end_clock(barrier=True))
    assert not core.ready()
    for owner, message in asked.items():
        core.on_answer(owner, answer(1, 1, 1, number=message["number"]))
    assert core.ready()
    core.install()
    assert view.fresh == 1
    core.end_clock()
    assert core.ready()


def test_a_bound_that_shrinks_is_kept_from_the_next_clock_on():
    core = make_core("essp", 3)
    opened(core)
    core.end_clock()
    core.install()
    core.bound = 0
    core.end_clock()
    assert not core.ready()


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("model", ["bsp", "ssp", "essp", "asp"])
def test_one_rank_by_itself(model, sparse):
    spec = TableSpec("w", (3, 2), "int64", init=1, sparse=sparse)
    cores = Cores(1, [spec], Consistency.parse(model), network := MemoryNetwork(0))
    view = cores.open_view(0, "w", None, False)
    for clock in range(5):
        view.inc(np.full((3, 2), clock))
        cores.send(0, cores.ranks[0].end_clock())
        while network.step():
            pass
        assert cores.ranks[0].ready()
        cores.ranks[0].install()
        values = view.values.toarray() if sparse else view.values
        assert (values == 1 + sum(range(clock + 1))).all()
    assert "clock 5" in repr(cores.ranks[0])


def test_float_sums_are_the_same_on_every_number_of_ranks():
    """BSP: ranks add in their order, whatever the number of owners and the order of arrival."""
    parts = [0.1, 0.7, 1e16, -1e16]
    spec = TableSpec("w", (5, 1), "float64")
    expected = None
    for seed in range(20):
        cores = Cores(4, [spec], Consistency.parse("bsp"), network := MemoryNetwork(seed))
        views = [cores.open_view(p, "w", None, False) for p in range(4)]
        while network.step():
            pass
        for p, view in enumerate(views):
            view.inc(np.full((5, 1), parts[p]))
            cores.send(p, cores.ranks[p].end_clock())
        while network.step():
            pass
        values = cores.table(spec).copy()
        expected = values if expected is None else expected
        np.testing.assert_array_equal(values, expected)


def test_owners_refuse_what_a_core_of_another_run_sends():
    core = make_core()
    layout = plan_layout([SPEC], 2)
    owner = Owner(Identity("another", 0, 2), [SPEC], layout)
    with pytest.raises(ProtocolError, match="run 'run' is not this run"):
        owner.push(pushes(core.end_clock())[0])
