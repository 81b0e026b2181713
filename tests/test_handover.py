"""A retirement waits until every fit has left the workers that retire, and not for ever.

On a real scheduler with the plugin's own handover; fits are what the scheduler knows of them: a
board with the ranks' workers, and the holders of a checkpoint's parts.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import dask
import pytest
from conftest import PATIENCE

from dask_petuum.checkpoint.saved import SavedPart
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.board import Board


@pytest.fixture(scope="module")
def cluster():
    """Two armed workers in this process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as started,
        Client(started, set_as_default=False) as client,
    ):
        arm(client)
        yield started


class Desk:
    """The plugin's parts, and one fit."""

    def __init__(self, cluster):
        self.plugin = cluster.scheduler.plugins["petuum"]
        self.handover = self.plugin._handover
        self.first, self.second = sorted(cluster.scheduler.workers)
        self.plugin._desk.begin("fit", "client")

    def rank_at(self, *addresses):
        """Let the fit's newest epoch have its ranks there."""
        self.plugin._boards["run"] = Board("run", "client", list(addresses), fit_id="fit")

    def kept_at(self, clock, *holders):
        """Let the fit's newest checkpoint be kept there."""
        part = asdict(SavedPart(0, {}, holders))
        self.plugin._desk._ledger.add("fit", part, run_id="run", clock=clock, n=1)

    async def until_it_waits(self, *addresses):
        """Begin to retire workers; returns when the retirement waits."""
        entered = []

        async def retire():
            async with self.handover.wait(addresses):
                entered.append(self.handover.leaving)

        task = asyncio.create_task(retire())
        while not set(addresses) <= set(self.handover.leaving):
            await asyncio.sleep(0)
        assert not task.done()
        return task, entered


@pytest.fixture
def scenario(cluster):
    """Run a coroutine function on the scheduler's loop; nothing is left behind."""
    desk = Desk(cluster)
    yield lambda function: cluster.sync(function, desk)
    desk.plugin._boards.clear()
    desk.plugin._desk._ledger.forget("fit")
    assert desk.handover.leaving == []


async def end(task):
    await asyncio.wait_for(task, PATIENCE)


def test_who_keeps_nothing_leaves_at_once(scenario):
    async def act(desk):
        desk.rank_at(desk.second)
        async with desk.handover.wait([desk.first]):
            assert desk.handover.leaving == [desk.first]
            assert desk.handover.staying == {desk.second}
        assert desk.handover.leaving == []

    scenario(act)


def test_a_worker_with_a_rank_is_kept_until_an_epoch_is_without_it(scenario):
    async def act(desk):
        desk.rank_at(desk.first, desk.second)
        task, entered = await desk.until_it_waits(desk.first)
        assert not entered
        desk.rank_at(desk.second)
        await end(task)
        assert entered == [[desk.first]]

    scenario(act)


def test_an_epoch_that_has_ended_is_no_home_for_a_fit(scenario):
    """Between two epochs a fit has no ranks anywhere: it may be about to take these workers."""

    async def act(desk):
        desk.rank_at(desk.second)
        desk.plugin._boards["run"].finish(0)
        task, entered = await desk.until_it_waits(desk.first)
        assert not entered
        desk.rank_at(desk.second)
        await end(task)

    scenario(act)


def test_a_worker_that_alone_keeps_a_part_is_kept_until_another_has_one(scenario):
    async def act(desk):
        desk.rank_at(desk.second)
        desk.kept_at(1, desk.first)
        task, entered = await desk.until_it_waits(desk.first)
        assert not entered
        desk.kept_at(2, desk.first, desk.second)
        await end(task)
        assert entered

    scenario(act)


def test_all_that_leave_together_count_as_leaving(scenario):
    """A part and its copy: neither is safe at the other's."""

    async def act(desk):
        desk.rank_at(desk.second)
        desk.kept_at(1, desk.first, desk.second)
        async with desk.handover.wait(
            [desk.first, desk.second]
        ):  # nobody stays: nothing to wait for
            assert desk.handover.staying == set()

    scenario(act)


def test_two_retirements_of_one_worker_end_apart(scenario):
    async def act(desk):
        desk.rank_at(desk.first, desk.second)
        one, _ = await desk.until_it_waits(desk.first)
        other, _ = await desk.until_it_waits(desk.first)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert desk.handover.leaving == [desk.first], "the other one goes on"
        desk.rank_at(desk.second)
        await end(other)

    scenario(act)


def test_a_retirement_does_not_wait_for_ever(scenario, caplog):
    async def act(desk):
        desk.rank_at(desk.first, desk.second)
        async with desk.handover.wait([desk.first]):
            assert desk.handover.leaving == [desk.first]

    with dask.config.set({"petuum.recovery.handover": "0s"}):
        scenario(act)
    assert "retire before every fit has left them" in caplog.text


def test_a_fit_that_is_over_holds_nobody_up(scenario):
    async def act(desk):
        desk.rank_at(desk.first, desk.second)
        task, _ = await desk.until_it_waits(desk.first)
        desk.plugin._desk._ledger.forget("fit")
        await end(task)

    scenario(act)
