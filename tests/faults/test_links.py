"""Links that are slow, stall, break, lose and double: the right result, and never a hang.

Each worker is behind two proxies, one to the scheduler and one from the others; no root is needed.
"""

from __future__ import annotations

import threading

import dask
import dask.array as da
import numpy as np
import pytest
from crew import Crew
from fingerprint import Fingerprints
from fits import EVERY, MAX_CLOCKS, N_PARTITIONS, assert_marks, some_rows
from lossy import install, n_spoilt, uninstall
from nonsense import install as install_nonsense
from nonsense import n_spoilt as n_nonsense
from nonsense import uninstall as uninstall_nonsense
from proxies import Proxies, free_port
from test_lda_rotation import corpus

from dask_petuum import LDA
from dask_petuum.exceptions import RankLostError
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions

pytestmark = pytest.mark.timeout(400)

#: Longer than any link here stalls, on a busy machine too.
LEASE = "60s"


class Links:
    """Workers behind proxies, one that leads to each and one from it to the scheduler."""

    def __init__(self, proxies, size):
        self.proxies = proxies
        self._pairs = {}
        self.crew = Crew(size, self._make)

    def _make(self, scheduler):
        port = free_port()
        inward = self.proxies.open(f"tcp://127.0.0.1:{port}")
        outward = self.proxies.open(scheduler)
        self._pairs[inward.address] = inward, outward
        return {
            "scheduler_ip": outward.address,
            "worker_port": port,
            "host": "127.0.0.1",
            "contact_address": inward.address,
        }

    @property
    def all(self):
        return [proxy for pair in self._pairs.values() for proxy in pair]

    @property
    def inward(self):
        """To the workers that are there."""
        return [self._pairs[address][0] for address in self.crew.addresses]

    @property
    def outward(self):
        """From them to the scheduler."""
        return [self._pairs[address][1] for address in self.crew.addresses]


@pytest.fixture(scope="module")
def links():
    with Proxies() as proxies:
        made = Links(proxies, 3)
        with made.crew:
            yield made


@pytest.fixture
def shares_memory(request):
    """Whether ranks may: those that do send each other nothing through the proxies."""
    return getattr(request, "param", False)


@pytest.fixture
def crew(links, shares_memory):
    """Good links before and after; nothing is left behind."""
    links.crew.refill()
    settings = {"petuum.shared-memory": shares_memory, "petuum.recovery.lease": LEASE}
    links.crew.client.run(dask.config.set, settings)
    # nobody is given up; a nanny whose worker has lost the scheduler ends, nobody comes back
    with dask.config.set(
        {
            "petuum.recovery.lease": LEASE,
            "petuum.recovery.wait": "2s",
            "petuum.recovery.rebalance": False,  # or partitions leave the rank that stalls
        }
    ):
        yield links.crew
    for proxy in links.all:
        proxy.delay = 0.0
        links.proxies.soon(proxy.flow)
    links.crew.assert_free()


def fit(crew, n_clocks, consistency="bsp", monitor=None, is_over=None):
    """Run fingerprints and check every cell; return the number of epochs.

    Without a number of clocks the fit ends when ``is_over`` says so, which gets the number of
    epochs and the last cut after each record; else with the first record of a second epoch.
    """
    epochs, cut = set(), -1

    def watch(record):
        nonlocal cut
        board = crew.board()
        if board is not None:
            epochs.add(board.run_id)
            cut = max(cut, board.saved_clock)
        if monitor is not None:
            monitor(int(record["clock"]))
        if n_clocks is not None:
            return False
        return len(epochs) > 1 if is_over is None else is_over(len(epochs), cut)

    bound = 0 if consistency in ("bsp", "asp") else 2
    program = Fingerprints(N_PARTITIONS, None if consistency == "asp" else bound)
    options = RunOptions(
        MAX_CLOCKS if n_clocks is None else n_clocks,
        consistency=consistency,
        staleness=bound,
        monitor=watch,
        save_clocks=EVERY,
    )
    with ClusterJob(crew.client, some_rows()) as job:
        result = job.run(program, options)
    assert_marks(result, program.lag)
    assert n_clocks is None or result.n_clocks == n_clocks
    return len(epochs)


def at(events):
    """A monitor that calls each function once, from a clock on."""
    left = sorted(events, key=lambda event: event[0])

    def monitor(clock):
        while left and clock >= left[0][0]:
            left.pop(0)[1]()

    return monitor


def test_the_workers_are_behind_their_proxies(links, crew):
    before = [proxy.n_bytes for proxy in links.all]
    fit(crew, 5)
    assert all(proxy.n_bytes > n for proxy, n in zip(links.all, before, strict=True))


@pytest.mark.parametrize(("delay", "consistency"), [(0.005, "bsp"), (0.05, "bsp"), (0.05, "essp")])
def test_a_delay_changes_nothing(links, crew, delay, consistency):
    for proxy in links.all:
        proxy.delay = delay
    assert fit(crew, 12, consistency) == 1, "nobody was given up"


def epochs_beside(links, crew, spoil, proxies, consistency="bsp"):
    """How many epochs a fit has of which links are spoilt for three seconds, in its middle."""
    over = threading.Event()

    def begin():
        for proxy in proxies:
            links.proxies.soon(getattr(proxy, spoil))
            links.proxies.soon(proxy.flow, after=3.0)
        links.proxies.soon(over.set, after=3.0)

    def is_over(n_epochs, cut):
        return over.is_set()

    return fit(crew, None, consistency, at([(5, begin)]), is_over)


def test_a_stall_of_seconds_is_waited_for(links, crew):
    proxies = links.inward[0], links.outward[0]
    assert epochs_beside(links, crew, "stall", proxies) == 1


@pytest.mark.parametrize("link", ["inward", "outward"])
def test_a_link_that_is_cut_one_way_for_seconds_is_waited_for(links, crew, link):
    """What goes to a worker arrives and its answers do not; or it hears nothing of the scheduler.

    They arrive when the link is whole again: messages come once more, and count once.
    """
    proxies = [getattr(links, link)[0]]
    n_epochs = epochs_beside(links, crew, "stall_answers", proxies, "essp")
    assert n_epochs == 1, "nobody was given up"


def test_a_scheduler_that_is_far_away_costs_nobody(links, crew):
    """Workers are near each other; 100 ms to the scheduler and as much back."""
    for proxy in links.outward:
        proxy.delay = 0.1
    assert fit(crew, 40) == 1


def test_a_worker_that_hears_nothing_of_the_scheduler_is_given_up(links, crew):
    """It hears its peers, until its connection to the scheduler breaks; the fit goes on."""

    def cut():
        links.proxies.soon(links.outward[0].stall_answers)
        links.proxies.soon(links.outward[0].reset, after=3.0)

    assert fit(crew, None, monitor=at([(8, cut)])) > 1


def test_a_peer_that_takes_messages_and_never_answers_ends_the_fit_with_its_cause(links, crew):
    """Both reach the scheduler, so that it gives nobody up."""

    def stall():
        links.proxies.soon(links.inward[0].stall)

    crew.client.run(set_lease, "4s")
    cause = "rank . lost touch in clock .* takes messages and does not answer, for 4 s now"
    try:
        with (
            dask.config.set({"petuum.recovery.attempts": 0}),
            pytest.raises(RankLostError, match=cause),
        ):
            fit(crew, None, monitor=at([(8, stall)]))
    finally:
        links.proxies.soon(links.inward[0].flow)
        crew.client.run(set_lease, LEASE)


def set_lease(text):
    dask.config.set({"petuum.recovery.lease": text})


@pytest.mark.parametrize("consistency", ["bsp", "asp"])
def test_connections_between_workers_that_break_are_made_again(links, crew, consistency):
    def reset():
        for proxy in links.inward:
            links.proxies.soon(proxy.reset)

    events = [(clock, reset) for clock in range(5, 60, 5)]
    fit(crew, 80, consistency, at(events))


def test_a_connection_to_the_scheduler_that_breaks_costs_the_worker(links, crew):
    def reset():
        links.proxies.soon(links.outward[1].reset)

    assert fit(crew, None, monitor=at([(8, reset)])) > 1


#: What is put in place on each worker, what it counts there (at least so many), what undoes it.
LOST_OR_TWICE = (install, n_spoilt, (6, 3), uninstall)
#: As of a peer that does not know the call (Dask answers None), or answers anything.
SAYS_NOTHING = (install_nonsense, n_nonsense, 6, uninstall_nonsense)


@pytest.mark.parametrize(
    ("spoiler", "consistency", "shares_memory"),
    [
        (LOST_OR_TWICE, "bsp", True),
        (LOST_OR_TWICE, "essp", False),
        (LOST_OR_TWICE, "asp", True),
        (SAYS_NOTHING, "bsp", False),
        (SAYS_NOTHING, "asp", False),
    ],
    ids=["lost-bsp", "lost-essp", "lost-asp", "nothing-bsp", "nothing-asp"],
    indirect=["shares_memory"],
)
def test_messages_whose_replies_are_spoilt_count_once(crew, spoiler, consistency):
    """Enough of them, and pieces of checkpoints are sent again."""
    begin, count, least, end = spoiler
    arm(crew.client)
    crew.client.run(begin)

    def is_over(n_epochs, cut):
        return cut > 0 and np.all(np.array(list(crew.client.run(count).values())) >= least)

    try:
        fit(crew, None, consistency, is_over=is_over)
        spoilt = list(crew.client.run(count).values())
    finally:
        crew.client.run(end)
    assert np.all(np.array(spoilt) >= least), spoilt


@pytest.mark.parametrize("shares_memory", [False, True], indirect=True)
def test_blocks_that_move_are_taken_once(crew):
    counts = da.from_array(corpus(), chunks=(100, -1))

    def fitted():
        model = LDA(4, max_iter=12, evaluate_every=0, random_state=0, n_jobs=1, parallelism="model")
        model.client = crew.client
        return model.fit(counts)

    calm = fitted()
    crew.client.run(install)
    try:
        disturbed = fitted()
        spoilt = list(crew.client.run(n_spoilt).values())
    finally:
        crew.client.run(uninstall)
    np.testing.assert_array_equal(disturbed.word_topic_counts_, calm.word_topic_counts_)
    assert all(n_lost > 2 for n_lost, _ in spoilt), spoilt
