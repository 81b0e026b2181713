"""Checkpoints as data and as files: what is whole is read back, what is not is refused by name."""

from __future__ import annotations

import io
import json
import os
import threading
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from programs import LeastSquares, make_data

from dask_petuum.checkpoint.file_digest import Hashed
from dask_petuum.checkpoint.folder import CheckpointFolder, _digest_of
from dask_petuum.checkpoint.ledger import Ledger
from dask_petuum.checkpoint.saved import (
    Manifest,
    Saved,
    SavedPart,
    check_arrays,
    cut_arrays,
    describe,
)
from dask_petuum.checkpoint.vault import PIECE_BYTES, PartKey, Vault
from dask_petuum.data import open_dataset
from dask_petuum.exceptions import CheckpointError, ProtocolError
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.job import LocalJob, RunOptions
from dask_petuum.store.owner import Cut
from dask_petuum.store.spec import TableSpec

#: Clocks between two checkpoints; clocks enough for two to be written meanwhile, with the pauses.
EVERY, MANY = 4, 3000
DENSE = TableSpec("w/x", (10, 3), "float32")
SPARSE = TableSpec("s", (7, 4), "int64", sparse=True)


def make_saved(cuts):
    """A checkpoint of parts that were cut so; kept in a dict."""
    parts = [cut_arrays(Cut(5, blocks)) for blocks in cuts]
    saved = tuple(
        SavedPart(rank, {name: describe(values) for name, values in arrays.items()})
        for rank, arrays in enumerate(parts)
    )
    kept = {rank: dict(arrays) for rank, arrays in enumerate(parts)}

    def fetch(part, names):
        arrays = {name: kept[part.rank][name] for name in names if name in kept[part.rank]}
        check_arrays(part, names, arrays)
        return arrays

    return Saved(Manifest("fit", "run", 5, {}, saved), fetch), kept


def dense_cuts(values, bounds):
    return [[("w/x", low, values[low:high].copy())] for low, high in pairwise(bounds)]


@pytest.mark.parametrize("rows", [(0, 10), (0, 4), (3, 8), (9, 10), (4, 7), (5, 5)])
@pytest.mark.parametrize("bounds", [(0, 10), (0, 4, 7, 10), (0, 1, 2, 9, 10)])
def test_rows_are_put_together_from_any_blocks(bounds, rows):
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    saved, _ = make_saved(dense_cuts(values, bounds))
    if rows[0] < rows[1]:
        np.testing.assert_array_equal(saved.rows(DENSE, *rows), values[slice(*rows)])


@pytest.mark.parametrize("rows", [(0, 7), (2, 5), (6, 7)])
def test_rows_of_sparse_tables(rows):
    values = sp.csr_array(np.arange(28).reshape(7, 4) % 5)
    cuts = [[("s", 0, values[:3])], [("s", 3, values[3:])]]
    saved, _ = make_saved(cuts)
    found = saved.rows(SPARSE, *rows)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found.toarray(), values[slice(*rows)].toarray())


def test_rows_that_are_missing_are_named():
    values = np.zeros((10, 3), np.float32)
    saved, _ = make_saved([dense_cuts(values, (0, 4, 10))[1]])
    with pytest.raises(CheckpointError, match="lacks row 2 of table 'w/x'"):
        saved.rows(DENSE, 2, 6)


@pytest.mark.parametrize("damage", ["value", "shape", "dtype", "absent"])
def test_an_array_that_is_not_what_the_manifest_says_is_refused(damage):
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    saved, kept = make_saved(dense_cuts(values, (0, 10)))
    array = kept[0]["table/0/w/x"]
    if damage == "value":
        array[3, 1] = np.nextafter(array[3, 1], 100, dtype=np.float32)
    elif damage == "shape":
        kept[0]["table/0/w/x"] = array[:9]
    elif damage == "dtype":
        kept[0]["table/0/w/x"] = array.view(np.int32)
    else:
        kept[0].clear()
    with pytest.raises(CheckpointError, match=r"'table/0/w/x' of rank 0 is damaged"):
        saved.rows(DENSE, 0, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"clock": -1},
        {"clock": 1.5},
        {"parts": None},
        {"fit_id": 3},
        {"parts": [{"rank": 0, "arrays": {"x": {}}, "file": None, "holders": []}]},
        {
            "parts": [
                {
                    "rank": 0,
                    "arrays": {"a/0/b": {"shape": [1], "dtype": "O", "digest": ""}},
                    "file": None,
                    "holders": [],
                }
            ]
        },
    ],
)
def test_what_is_no_manifest_is_refused(change):
    whole = Manifest("fit", "run", 5, {}, (SavedPart(0, {}),)).to_dict()
    assert Manifest.from_dict(whole).clock == 5
    with pytest.raises(CheckpointError, match="not a checkpoint's manifest"):
        Manifest.from_dict({**whole, **change})


def message(**fields):
    return {
        "fit": "f",
        "run": "r",
        "clock": 3,
        "rank": 1,
        "name": "a/0/b",
        "shape": [2, 4],
        "dtype": "<i4",
        "offset": 0,
        "piece": np.zeros(32, np.uint8),
        **fields,
    }


def test_a_vault_puts_pieces_together_whatever_their_order():
    vault, key = Vault(), PartKey("f", "r", 3, 1)
    values = np.random.default_rng(0).integers(0, 255, PIECE_BYTES + 1000, dtype=np.uint8)
    head = {"shape": [values.size], "dtype": "|u1"}
    for offset in (PIECE_BYTES, 0, 0):
        vault.add_piece(message(**head, offset=offset, piece=values[offset:][:PIECE_BYTES]))
    np.testing.assert_array_equal(vault.get(key, "a/0/b"), values)


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 1},
        {"offset": -1},
        {"piece": np.zeros(33, np.uint8)},
        {"piece": np.zeros(8, np.int32)},
        {"piece": "no array"},
        {"shape": [-1, 4]},
        {"shape": ["2", 4]},
        {"dtype": "O"},
        {"dtype": "no type"},
        {"dtype": "f8,"},
        {"shape": [2**40], "dtype": "<f8"},
        {"shape": [0, 2**62], "piece": np.zeros(0, np.uint8)},
        {"clock": "3"},
        {"name": None},
    ],
)
def test_a_vault_refuses_a_piece_that_cannot_be_one(fields):
    vault = Vault()
    with pytest.raises(ProtocolError):
        vault.add_piece(message(**fields))
    assert vault.keys == []


def test_a_vault_is_full_at_some_time():
    vault = Vault(limit=100)
    for clock in range(3):
        vault.add_piece(message(clock=clock))
    with pytest.raises(ProtocolError, match="96 bytes of checkpoints are kept here, 100 are"):
        vault.add_piece(message(clock=3))
    vault.add_piece(message(clock=2))


def test_a_vault_keeps_what_is_asked_for():
    vault = Vault()
    for fit, run, clock in [
        ("f", "r", 1),
        ("f", "r", 2),
        ("f", "r", 3),
        ("f", "q", 9),
        ("g", "r", 1),
    ]:
        vault.put(PartKey(fit, run, clock, 0), {})
    vault.keep_only("f", "r", 2)
    assert [key[:3] for key in vault.keys] == [("f", "r", 2), ("f", "r", 3), ("g", "r", 1)]
    vault.forget(["f"])
    vault.put(PartKey("f", "r", 4, 0), {})
    assert [key.fit_id for key in vault.keys] == ["g"], "what is over stays over"
    with pytest.raises(CheckpointError, match="fit f is over"):
        vault.add_piece(message())


def test_a_checkpoint_counts_when_all_parts_are_there():
    ledger = Ledger()
    ledger.begin("fit", "client")

    def add(rank, clock, run="r0"):
        part = asdict(SavedPart(rank, {}, ("tcp://a",)))
        return ledger.add("fit", part, run_id=run, clock=clock, n=2)

    assert not add(1, 5)
    assert ledger.newest("fit") is None
    assert not add(1, 5), "again"
    assert add(0, 5)
    assert ledger.newest("fit")["clock"] == 5
    assert [part["rank"] for part in ledger.newest("fit")["parts"]] == [0, 1]
    assert not add(0, 8)
    assert add(1, 8)
    assert not add(0, 5), "an older one does not come back"
    assert not add(1, 5)
    assert ledger.newest("fit")["clock"] == 8
    assert not add(0, 6, "r1"), "a later epoch counts from its own clocks"
    assert add(1, 6, "r1")
    assert ledger.newest("fit")["run_id"] == "r1"
    assert ledger.of_client("client") == ["fit"]
    assert ledger.forget("fit")
    assert not ledger.forget("fit")
    assert not add(0, 9)


def test_who_comes_to_the_address_of_a_lost_worker_keeps_nothing_of_it():
    ledger = Ledger()
    ledger.begin("fit", "client")
    there = ["a", "b"]

    def save(clock, holders=("a",)):
        part = asdict(SavedPart(0, {}, holders))
        assert ledger.add("fit", part, run_id="r", clock=clock, n=1)

    save(1)
    assert ledger.holders("fit") == {"a"}
    assert ledger.is_held("fit", there)
    ledger.lose("a")
    assert ledger.keeping("fit", there) == {"b"}
    assert not ledger.is_held("fit", there)
    save(2)
    assert ledger.keeping("fit", there) == {"a", "b"}, "what it was given since, it has"
    assert ledger.is_held("fit", there)
    assert ledger.keeping("other", there) == {"a", "b"}
    assert ledger.holders("other") == set()


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 2},
        {"rank": -1},
        {"rank": "0"},
        {"arrays": None},
        {"arrays": {"state": {"shape": [1], "dtype": "<i4", "digest": ""}}},
        {"arrays": {"a/0/b": {"shape": [1], "dtype": "O", "digest": ""}}},
        {"holders": [5]},
        {"file": {"name": "../x.npz", "size": 1, "digest": ""}},
        {"file": {"name": "checkpoint-000000000001-f.0/part-0000.npz", "size": -1, "digest": ""}},
        {"file": "checkpoint-000000000001-f.0/part-0000.npz"},
    ],
)
def test_what_is_no_part_of_a_checkpoint_does_not_count_as_one(fields):
    ledger = Ledger()
    ledger.begin("fit", "client")
    part = {**asdict(SavedPart(0, {})), **fields}
    with pytest.raises(CheckpointError):
        ledger.add("fit", part, run_id="r", clock=1, n=2)
    assert not ledger.add("fit", asdict(SavedPart(1, {})), run_id="r", clock=1, n=2)


# Files


def interrupted(folder):
    """Run until a callback fails, so that the files stay: two checkpoints.

    Its clocks take long from the first one on: a disk may be slower than all of them.
    """
    X, y = make_data()
    files, pause = CheckpointFolder(f"{os.fspath(folder)}/run-0000"), threading.Event()

    def monitor(record):
        if len(files.names()) == 2:
            raise ZeroDivisionError
        if record["clock"] > EVERY:
            pause.wait(0.02)

    with (
        LocalJob(open_dataset(X, y), dtype="float64", place=Place(str(folder))) as job,
        pytest.raises(ZeroDivisionError),
    ):
        job.run(LeastSquares(5, 400), RunOptions(MANY, monitor=monitor, save_clocks=EVERY))


def resumed(folder, max_clocks=MANY, seed=0):
    X, y = make_data()
    with LocalJob(open_dataset(X, y), dtype="float64", place=Place(None, str(folder))) as job:
        return job.run(LeastSquares(5, 400), RunOptions(max_clocks, seed=seed, save_clocks=EVERY))


def whole():
    X, y = make_data()
    with LocalJob(open_dataset(X, y), dtype="float64") as job:
        return job.run(LeastSquares(5, 400), RunOptions(MANY))


def assert_equal(result, expected):
    for name, values in expected.tables.items():
        np.testing.assert_array_equal(result.tables[name], values)
    assert [r["mse"] for r in result.history] == [r["mse"] for r in expected.history]
    np.testing.assert_array_equal(result.outputs[0]["draws"], expected.outputs[0]["draws"])


def test_a_run_in_this_process_goes_on_where_it_was(tmp_path):
    interrupted(tmp_path)
    assert len(list(tmp_path.rglob("manifest.json"))) == 2
    assert_equal(resumed(tmp_path), whole())
    assert list(tmp_path.rglob("*.json")) == [], "a run that ended well leaves no checkpoints"


def newest_part(folder):
    return max(folder.rglob("part-*.npz"))


def flip(path, where=0.6):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "no manifest"])
def test_where_the_newest_is_damaged_the_one_before_is_used(tmp_path, damage, caplog):
    interrupted(tmp_path)
    part = newest_part(tmp_path)
    manifest = part.with_name("manifest.json")
    if damage == "flip":
        flip(part)
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-200])
    elif damage == "remove":
        part.unlink()
    elif damage == "manifest":
        flip(manifest)
    else:
        manifest.unlink()
    assert_equal(resumed(tmp_path), whole())
    if damage != "no manifest":
        assert any(part.parent.name in record.getMessage() for record in caplog.records)


def test_every_flipped_byte_is_found(tmp_path):
    """Of a hundred places in the file."""
    interrupted(tmp_path)
    folder = CheckpointFolder(str(next(tmp_path.glob("run-*"))))
    part = newest_part(tmp_path)
    clean = part.read_bytes()
    newest = next(iter(folder.usable(print)))
    for place in np.linspace(0, 0.999, 100):
        flip(part, place)
        usable = next(iter(CheckpointFolder(folder.url).usable(lambda text: None)), None)
        assert usable is None or usable.clock != newest.clock
        part.write_bytes(clean)


def test_where_nothing_is_whole_the_error_says_what_is_wrong(tmp_path):
    interrupted(tmp_path)
    for part in tmp_path.rglob("part-*.npz"):
        flip(part)
    with pytest.raises(CheckpointError, match=r"no checkpoint to go on from at .*part-0000.npz"):
        resumed(tmp_path)


def take_for_its_own(part):
    """Let the manifest beside a file say that its bytes were written."""
    path = part.with_name("manifest.json")
    body = json.loads(path.read_text())
    del body["digest"]
    hashed = Hashed(io.BytesIO())
    hashed.write(part.read_bytes())
    body["parts"][0]["file"].update(size=hashed.size, digest=hashed.digest)
    path.write_text(json.dumps({**body, "digest": _digest_of(body)}))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_part_with_a_pickle_is_refused_and_runs_no_code(tmp_path):
    interrupted(tmp_path)
    trap = tmp_path / "sprung"
    for part in tmp_path.rglob("part-*.npz"):
        with np.load(part) as archive:
            names = archive.files
        trapped = np.empty(1, object)
        trapped[0] = Trap(str(trap))
        np.savez(part, **dict.fromkeys(names, trapped))
        take_for_its_own(part)
    with pytest.raises(
        CheckpointError, match=r"part-0000.npz cannot be read: .*allow_pickle=False"
    ):
        resumed(tmp_path)
    assert not trap.exists()
    with np.load(part, allow_pickle=True) as archive:
        archive[names[0]]
    assert trap.exists(), "so that this test can fail"


def test_an_empty_place_has_nothing_to_go_on_from(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint to go on from"):
        resumed(tmp_path)


@pytest.mark.parametrize("change", [{"max_clocks": MANY + 1}, {"seed": 1}])
def test_the_checkpoint_of_another_fit_is_refused_with_what_differs(tmp_path, change):
    interrupted(tmp_path)
    with pytest.raises(CheckpointError, match=f"another fit: {next(iter(change))}"):
        resumed(tmp_path, **change)


def test_a_version_that_is_not_known_is_refused(tmp_path):
    interrupted(tmp_path)
    for path in tmp_path.rglob("manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(CheckpointError, match="has version 99, this dask_petuum reads 1"):
        resumed(tmp_path)


def test_two_places_are_refused():
    with pytest.raises(ValueError, match="must be the same place"):
        Place("a", "b")


def test_a_memory_file_system_is_a_place(tmp_path):
    place = f"memory://{tmp_path.name}"
    interrupted(place)
    assert_equal(resumed(place), whole())
