"""After fits that lost workers the scheduler and the client hold as much as before them.

Counted as in ``test_leftovers.py``, where fits are undisturbed; here also what Dask's scheduler
knows of workers and tasks, which have the data of their graph. The workers are left out: others
come.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter

import pytest
from crew import Crew
from distributed.scheduler import TaskState, WorkerState
from fits import fit_fingerprints
from injector import Fault
from test_leftovers import growth, objects, of_process, of_server

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

N_WORKERS = 3
#: Faults of each kind in a fit: a stop takes a lease.
N_FAULTS = {"kill": 2, "vanish": 2, "retire": 2, "stop": 1}
#: Looks at the counts, 0.1 s apart, until they are as before.
N_LOOKS = 600


@pytest.fixture(scope="module")
def crew():
    """Workers that tests take away, and no logs of messages."""
    gc.collect()
    gc.freeze()  # what other tests have left is not looked at again and again
    with Crew(N_WORKERS, settings={"distributed.admin.low-level-log-length": 0}) as started:
        yield started
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_records(caplog):
    """The records of warnings keep errors, with all that was in the frames that they passed."""
    caplog.set_level(logging.CRITICAL, logger="dask_petuum")


@pytest.fixture(scope="module")
def untouched(crew):
    """Dask's workers and tasks in this process before there was a fit here."""
    return of_dask()


def of_dask():
    """Dask's workers and tasks in this process, whoever holds them."""
    gc.collect()
    types = Counter(map(type, gc.get_objects()))
    return Counter({cls.__name__: types[cls] for cls in (WorkerState, TaskState)})


def count(crew):
    """What there is of us in this process, and of Dask's workers and tasks."""
    crew.refill()
    return objects() + of_server(crew.cluster.scheduler) + of_process() + of_dask()


def grown(crew, before):
    """What there is more of, once that changes no more: some ends come late."""
    more = growth(before, {"here": count(crew)})
    for _ in range(N_LOOKS):
        if not more:
            break
        crew.client.sync(asyncio.sleep, 0.1)
        more = growth(before, {"here": count(crew)})
    return more


@pytest.mark.parametrize("kind", N_FAULTS)
def test_after_a_fit_that_lost_workers_there_is_as_much_as_before(crew, untouched, kind):
    schedule = [Fault(kind, 5, rank) for rank in range(N_FAULTS[kind])]
    fit_fingerprints(crew, schedule, "bsp")
    before = Counter({**count(crew), **untouched})
    fit_fingerprints(crew, schedule, "bsp")
    assert grown(crew, {"here": before}) == {}
