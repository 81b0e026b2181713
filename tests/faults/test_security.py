"""TLS covers all that a fit sends; what is malformed is refused, and the worker lives on."""

from __future__ import annotations

import functools
import ssl

import dask
import dask.array as da
import numpy as np
import pytest
from certificates import SHORT, Authority, ask, raw_reply
from crew import Crew
from distributed import Security
from distributed.comm import CommClosedError
from fingerprint import SECRET, Secrets
from fits import fit_fingerprints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from injector import Fault
from members import held
from proxies import Proxies, free_port

from dask_petuum.data import open_dataset
from dask_petuum.runtime import adapter
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.config import shares_memory
from dask_petuum.runtime.options import RunOptions

pytestmark = pytest.mark.timeout(400)

REFUSED = (OSError, CommClosedError)


@pytest.fixture(scope="module")
def secured():
    """Two workers of a cluster with certificates of its own authority."""
    authority = Authority.new()
    with Crew(2, security=authority.security(days=1)) as crew:
        arm(crew.client)
        crew.authority = authority
        yield crew


@pytest.fixture
def crew(secured):
    secured.refill()
    yield secured
    secured.assert_free()


def test_a_fit_over_tls_survives(crew):
    assert all(address.startswith("tls://") for address in crew.addresses)
    fit_fingerprints(crew, [Fault("kill", 5, 1)], "bsp")


KEPT = {"fit": "f", "run": "r", "clock": 0, "rank": 0, "name": "a/0/b", "offset": 0}


@pytest.mark.parametrize("who", ["another authority", "expired", "no TLS"])
def test_a_peer_without_a_certificate_gets_nothing(crew, who):
    strangers = {
        "another authority": Security.temporary,
        "expired": lambda: crew.authority.security(days=-1),
        "no TLS": lambda: None,
    }
    stranger = strangers[who]()
    message = {"op": "petuum_kept", "message": KEPT}
    own = crew.cluster.security
    addresses = [*crew.addresses, crew.cluster.scheduler_address]
    for address in addresses[:-1]:
        assert crew.client.sync(ask, address, own, message)["status"] == "gone", "this one may ask"
    for address in addresses:
        there = address if stranger is not None else address.replace("tls://", "tcp://")
        with pytest.raises(REFUSED):
            crew.client.sync(ask, there, stranger, message, SHORT)


def test_tls_without_a_certificate_gets_nothing(crew):
    for address in [*crew.addresses, crew.cluster.scheduler_address]:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            raw_reply(address, b"anything")


def recorded(security):
    """All bytes to and from the workers of a fit that moves secrets."""
    with Proxies() as proxies:

        def behind_a_proxy(address):
            port = free_port()
            scheme = address.partition("://")[0]
            proxy = proxies.open(f"{scheme}://127.0.0.1:{port}", records=True)
            return {
                "scheduler_ip": proxies.open(address, records=True).address,
                "worker_port": port,
                "host": "127.0.0.1",
                "contact_address": proxy.address,
            }

        # nannies hand the configuration on to their workers
        with (
            dask.config.set({"petuum.shared-memory": False}),
            Crew(2, behind_a_proxy, security) as crew,
        ):
            assert set(crew.client.run(shares_memory).values()) == {False}
            rows = open_dataset(da.zeros((4, 1), chunks=(1, 1)))

            def is_saved(record):
                return crew.board().saved_clock > 0

            with ClusterJob(crew.client, rows) as job:
                result = job.run(Secrets(), RunOptions(20_000, save_clocks=3, monitor=is_saved))
            assert result.tables["secret"][5].tobytes() == SECRET * 4
            crew.assert_free()
        return b"|".join(bytes(proxy.recorded) for proxy in proxies.opened)


@pytest.mark.parametrize("is_secured", [False, True])
def test_no_plaintext_of_a_table_crosses_the_wire(is_secured):
    seen = recorded(Security.temporary() if is_secured else None)
    assert len(seen) > 10_000
    n_found = seen.count(SECRET)
    if is_secured:
        assert n_found == 0
        assert b"petuum_keep" not in seen
    else:
        assert n_found > 64 * 4, "so that the other half of this test can fail"
        assert b"petuum_keep" in seen


# Malformed messages

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=9),
    st.binary(max_size=9),
    st.sampled_from([-1, 2**31, 2**40, "O", "<f8", "V8", "f8,f8", "M8[s]"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
PIECE = {**KEPT, "shape": [4], "dtype": "<i8", "piece": b"x" * 32}
few = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def spoil(good):
    """Messages that lack a field or have another value in it."""
    changed = st.dictionaries(st.sampled_from(sorted(good)), VALUES, min_size=1, max_size=3)
    less = st.sets(st.sampled_from(sorted(good)), max_size=2)
    return st.builds(
        lambda new, gone: {k: v for k, v in {**good, **new}.items() if k not in gone}, changed, less
    )


def send(crew, address, operation, **fields):
    reply = crew.client.sync(ask, address, crew.cluster.security, {"op": operation, **fields})
    assert isinstance(reply, dict), reply
    return reply["status"]


def assert_alive(crew, pids):
    assert crew.client.run(held) == {address: [] for address in crew.addresses}
    assert sorted(crew.processes) == pids


@few
@given(spoil(PIECE) | VALUES)
def test_malformed_pieces_are_refused(secured, message):
    pids, address = sorted(secured.processes), secured.addresses[0]
    for operation in ("petuum_keep", "petuum_kept"):
        assert send(secured, address, operation, message=message) in ("refused", "gone")
    assert_alive(secured, pids)


@few
@given(VALUES)
def test_malformed_words_of_what_may_go_are_refused(secured, fit_ids):
    pids, address = sorted(secured.processes), secured.addresses[0]
    named = isinstance(fit_ids, list) and all(isinstance(fit_id, str) for fit_id in fit_ids)
    expected = "OK" if named else "refused"
    assert send(secured, address, "petuum_forget", fit_ids=fit_ids) == expected
    assert_alive(secured, pids)


def test_an_array_that_is_too_large_is_refused(crew):
    pids = sorted(crew.processes)
    for shape in ([2**40], [2**31, 2**31], [0, 2**62]):
        piece = adapter.wrap_array(np.zeros(0, np.uint8))
        message = {**PIECE, "shape": shape, "piece": piece}
        assert send(crew, crew.addresses[0], "petuum_keep", message=message) == "refused"
    assert_alive(crew, pids)


PART = {"rank": 0, "arrays": {}, "holders": [], "file": None}


@pytest.mark.parametrize(
    "part",
    [
        None,
        {},
        {**PART, "rank": 7},
        {**PART, "rank": -1},
        {**PART, "arrays": 5},
        {**PART, "arrays": {"x": 1}},
        {**PART, "holders": [None]},
    ],
)
def test_a_part_that_is_none_does_not_spoil_a_running_fit(crew, part):
    """Told to the scheduler in the middle of a run, in the name of one of its ranks."""
    statuses, saved = [], []

    def monitor(record):
        board = crew.board()
        if int(record["clock"]) == 10 and board is not None:
            fields = {"fit_id": board.fit_id, "run_id": board.run_id, "clock": 10**6}
            address = crew.cluster.scheduler_address
            statuses.append(send(crew, address, "petuum_saved", part=part, **fields))
            saved.append(board.saved_clock)
        return bool(saved) and board.saved_clock > saved[0]

    rows = open_dataset(da.zeros((4, 1), chunks=(1, 1)))
    with ClusterJob(crew.client, rows) as job:
        result = job.run(Secrets(), RunOptions(20_000, save_clocks=3, monitor=monitor))
    assert statuses == ["refused"]
    assert result.stopped_by == "callback", "the next checkpoint is complete"


OPERATIONS = ("push", "pull", "open", "step", "block", "fetch", "fetched")
PLACE = {"shape": [2], "dtype": "<f8"}
NESTED = functools.reduce(lambda inner, _: [inner], range(400), 0)


def malformed(run_id):
    """What is no message of a run, in its name."""
    head = {"run": run_id, "rank": 0}
    sender = {**head, "epoch": 0, "clock": 10**6}  # batches that came already are acknowledged
    return [
        head,
        {"run": run_id},
        {"run": [run_id], "rank": 0},
        {**head, "rank": 2},
        {**head, "rank": True},
        {**sender, "epoch": 7},
        {**sender, "clock": 2**62 + 1, "last": False, "chunks": []},
        {**sender, "last": False, "chunks": 5},
        {**sender, "last": False, "chunks": [{"kind": "csr", "rows": 1}]},
        {**sender, "push": 1, "pull": None},
        {**sender, "table": "none", "plan": 0, "need": 0, "blocks": []},
        {**sender, "block": -1, "stamp": "x", "arrays": {}},
        {**sender, "block": [0], "stamp": -1, "arrays": [NESTED]},
        {**head, "x": {"__shared__": 2**62, **PLACE}},
        {**head, "x": {"__shared__": 4096, "shape": None, "dtype": "<f8"}},
        {**head, "x": {"__shared__": 4096, "shape": [2**62, 2**62], "dtype": "<f8"}},
        {**head, "x": {"__shared__": "here", **PLACE}},
        {**head, "x": {"__inline__": b"12345678", "shape": [1], "dtype": "O"}},
        {**head, "x": {"__inline__": b"123", **PLACE}},
        {**head, "x": {"__inline__": b"123", "dtype": "no type", "shape": [1]}},
    ]


def test_malformed_messages_of_a_run_are_refused_and_it_goes_on(crew):
    pids, statuses = sorted(crew.processes), []

    def monitor(record):
        board = crew.board()
        if int(record["clock"]) == 10 and board is not None:
            for message in malformed(board.run_id):
                statuses.extend(
                    send(crew, address, f"petuum_{operation}", message=message)
                    for operation in OPERATIONS
                    for address in board.addresses
                )
        return bool(statuses)

    rows = open_dataset(da.zeros((4, 1), chunks=(1, 1)))
    with ClusterJob(crew.client, rows) as job:
        result = job.run(Secrets(), RunOptions(20_000, save_clocks=100, monitor=monitor))
    assert len(statuses) > 200
    assert set(statuses) == {"refused"}, "which is logged, and changes nothing"
    assert result.tables["secret"][5].tobytes() == SECRET * 4
    assert sorted(crew.processes) == pids


def malformed_words(run_id):
    """What the scheduler is told of a run by nobody who knows it: operations and fields."""
    head = {"run_id": run_id}
    for rank in (7, -1, True, "0", None, 2**62, [0]):
        yield "petuum_exchange", {**head, "rank": rank, "value": None}
        yield "petuum_finish", {**head, "rank": rank}
        yield "petuum_fail", {**head, "rank": rank, "text": "x"}
        yield "petuum_read", {**head, "rank": rank, "table": "secret"}
        yield (
            "petuum_not_saved",
            {**head, "fit_id": run_id[:-2], "clock": 1, "rank": rank, "why": ""},
        )
    for kind, text in (("none", "x"), ("error", ""), ("error", 5), (None, None)):
        yield "petuum_fail", {**head, "rank": 0, "text": text, "kind": kind}
    for since in (-1, None, "0", 2**63 - 1):
        yield "petuum_watch", {**head, "since": since}
    for names in (None, "tcp://here", [5], {}):
        yield "petuum_create_run", {**head, "client": "c", "addresses": names}
        yield "petuum_status", {"needed": names}
    for name in (5, [run_id], {}):
        yield "petuum_watch", {"run_id": name, "since": 0}
        yield "petuum_close_run", {"run_id": name}
        yield "petuum_forget_fit", {"fit_id": name}
        yield "petuum_checkpoint", {"fit_id": name}
    for table in (None, 5, ["secret"]):
        yield "petuum_read", {**head, "rank": 0, "table": table}
    yield "petuum_finish", head
    yield "petuum_finish", {**head, "rank": 0, "more": 1}
    yield "petuum_saved", {**head, "fit_id": "f", "clock": -1, "part": None}


def test_malformed_words_to_the_scheduler_are_refused_and_the_run_goes_on(crew):
    statuses = []

    def monitor(record):
        board = crew.board()
        if int(record["clock"]) == 10 and board is not None:
            address = crew.cluster.scheduler_address
            statuses.extend(
                (operation, fields, send(crew, address, operation, **fields))
                for operation, fields in malformed_words(board.run_id)
            )
        return bool(statuses)

    rows = open_dataset(da.zeros((4, 1), chunks=(1, 1)))
    with ClusterJob(crew.client, rows) as job:
        result = job.run(Secrets(), RunOptions(20_000, save_clocks=100, monitor=monitor))
    assert len(statuses) > 50
    assert [told for told in statuses if told[2] != "refused"] == []
    assert result.stopped_by == "callback"
    assert result.tables["secret"][5].tobytes() == SECRET * 4
