"""The folder of a fit's checkpoints: which of them stay, which is newest, what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest, SavedPart, describe
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.exceptions import CheckpointError
from dask_petuum.runtime.checkpoints import Checkpoints, Place


def write_part(folder, run_id, clock, rank=0):
    """Write one rank's part of a checkpoint, as a rank does."""
    arrays = {"table/0/w": np.full(3, clock, np.int32)}
    file = folder.write_part(PartKey("fit", run_id, clock, rank), arrays)
    return SavedPart(rank, {name: describe(a) for name, a in arrays.items()}, ("x",), file)


def write_whole(folder, run_id, clock):
    """Write a checkpoint of one rank."""
    folder.write_manifest(Manifest("fit", run_id, clock, {}, (write_part(folder, run_id, clock),)))


def usable(folder):
    """Run and clock of what can be gone on from, the newest first."""
    return [(manifest.run_id, manifest.clock) for manifest in folder.usable(print)]


def there(path):
    """Names of all folders of checkpoints."""
    return sorted(folder.name for folder in path.iterdir())


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(str(tmp_path))


def test_parts_of_epochs_that_died_push_no_whole_checkpoint_out(folder, tmp_path):
    """Later epochs save at lower clocks than those that the parts were written at."""
    for clock in (90, 100):
        write_whole(folder, "f.0", clock)
    write_part(folder, "f.0", 120)
    write_whole(folder, "f.1", 105)
    assert usable(folder) == [("f.1", 105), ("f.0", 100)]
    write_part(folder, "f.1", 115)
    write_whole(folder, "f.2", 110)
    assert usable(folder) == [("f.2", 110), ("f.1", 105)]
    assert len(there(tmp_path)) == 2, "and the parts of those epochs are gone"


def test_a_manifest_that_comes_when_its_parts_are_gone_pushes_no_checkpoint_out():
    """From a rank 0 that does not know that its epoch is over; a store makes folders by itself."""
    url = "memory://late-manifest"
    early, late = CheckpointFolder(url), CheckpointFolder(url)
    write_whole(early, "f.0", 2)
    part = write_part(early, "f.0", 5)
    early._fs.rm(f"{early._root}/checkpoint-000000000005-f.0", recursive=True)
    write_whole(late, "f.1", 3)
    early.write_manifest(Manifest("fit", "f.0", 5, {}, (part,)))
    assert usable(late) == [("f.1", 3), ("f.0", 2)]
    late.clear()


def test_a_part_that_was_left_out_by_its_own_run_goes_with_the_next_checkpoint(folder, tmp_path):
    write_part(folder, "f.0", 5)
    write_part(folder, "f.0", 15, rank=1)
    write_whole(folder, "f.0", 10)
    names = there(tmp_path)
    assert len(names) == 2, "5 will never be whole, 15 is being written"
    assert "000000000015" in names[1]


def test_a_later_epoch_s_checkpoint_is_newer_whatever_its_clock(folder):
    """The fit went on from before: what the older epoch had was of no use, or came too late."""
    write_whole(folder, "f.0", 100)
    write_whole(folder, "f.1", 20)
    assert usable(folder) == [("f.1", 20), ("f.0", 100)]
    write_whole(folder, "f.10", 15)
    assert usable(folder) == [("f.10", 15), ("f.1", 20)], "epochs are numbers"


def test_an_epoch_that_is_over_takes_nothing_from_the_one_that_goes_on(folder, tmp_path):
    """Its rank 0 may still be alive and end its checkpoint then."""
    write_whole(folder, "f.1", 20)
    write_whole(folder, "f.1", 30)
    part = write_part(folder, "f.1", 40)
    write_whole(CheckpointFolder(str(tmp_path)), "f.0", 100)
    assert usable(folder) == [("f.1", 30), ("f.1", 20), ("f.0", 100)]
    folder.write_manifest(Manifest("fit", "f.1", 40, {}, (part,)))
    assert usable(folder) == [("f.1", 40), ("f.1", 30)]
    assert len(there(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_checkpoint_counts_for_none(folder, tmp_path, damage):
    write_whole(folder, "f.0", 90)
    write_whole(folder, "f.0", 100)
    ((part, manifest),) = (
        (path / "part-0000.npz", path / "manifest.json") for path in tmp_path.glob("*0100-*")
    )
    path = manifest if damage == "manifest" else part
    data = bytearray(path.read_bytes())
    data[int(len(data) * 0.4)] ^= 4
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-50] if damage == "cut" else data)
    late = CheckpointFolder(str(tmp_path))
    write_whole(late, "f.1", 95)
    assert usable(folder) == [("f.1", 95), ("f.0", 90)]
    write_whole(late, "f.1", 97)
    assert usable(folder) == [("f.1", 97), ("f.1", 95)]
    assert len(there(tmp_path)) == 2, "now there are enough without it"


def test_a_checkpoint_that_cannot_be_removed_any_more_is_no_error(folder, tmp_path, monkeypatch):
    """Two epochs may remove the same one."""
    write_whole(folder, "f.0", 1)
    write_whole(folder, "f.0", 2)
    remove = folder._fs.rm

    def twice(path, recursive):
        remove(path, recursive=recursive)
        remove(path, recursive=recursive)

    monkeypatch.setattr(folder._fs, "rm", twice)
    write_whole(folder, "f.0", 3)
    assert usable(folder) == [("f.0", 3), ("f.0", 2)]


def test_a_fit_begins_its_epochs_behind_all_that_is_there(folder, tmp_path):
    assert folder.next_epoch() == 0
    write_part(folder, "old.6", 50)
    write_whole(folder, "older.4", 70)
    assert folder.next_epoch() == 7
    folder.remove_parts()
    assert usable(folder) == [("older.4", 70)]
    assert len(there(tmp_path)) == 1


def test_what_is_read_from_files_is_asked_of_nobody_else(tmp_path):
    """Workers that kept it may be gone with their cluster; to ask each takes a timeout."""
    folder = CheckpointFolder(str(tmp_path / "run-0000"))
    write_whole(folder, "f.0", 1)
    assert next(folder.usable(print)).parts[0].holders == ("x",)
    (part,) = Checkpoints(Place(None, str(tmp_path)), {}).to_resume().parts
    assert part.holders == ()
    assert part.file is not None


OUTSIDE = "checkpoint-000000000001-f.0"


@pytest.fixture
def outside(tmp_path):
    """A file that reads as a part, beside the folder of checkpoints."""
    other = CheckpointFolder(str(tmp_path / "other"))
    write_part(other, "f.0", 1)
    return tmp_path / "other" / OUTSIDE / "part-0000.npz"


@pytest.mark.parametrize(
    "name",
    [
        "../other/checkpoint-000000000001-f.0/part-0000.npz",
        "checkpoint-000000000001-f.0/../../other/checkpoint-000000000001-f.0/part-0000.npz",
        "checkpoint-000000000001-f.0/part-0000.npz/",
        "checkpoint-000000000001-../part-0000.npz",
        "checkpoint-000000000001-f.0\\part-0000.npz",
        "checkpoint-000000000001-f.0/part-0000.npz\n",
        "part-0000.npz",
        "",
        "ABSOLUTE",
    ],
)
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path, outside, name):
    folder = CheckpointFolder(str(tmp_path / "own"))
    part = write_part(folder, "f.0", 1)
    name = str(outside) if name == "ABSOLUTE" else name
    part = replace(part, file=replace(part.file, name=name))
    with pytest.raises(CheckpointError, match="not a part"):
        SavedPart.from_dict(asdict(part))
    with pytest.raises(CheckpointError, match="is no name of a file of a checkpoint"):
        folder.fetch(part, list(part.arrays))
    folder.write_manifest(Manifest("fit", "f.0", 1, {}, (part,)))
    with pytest.raises(CheckpointError, match="not a checkpoint's manifest"):
        folder.read_manifest(OUTSIDE)
    assert usable(folder) == []


def test_a_manifest_cannot_name_a_file_of_another_checkpoint(folder):
    part = write_part(folder, "f.0", 1)
    write_part(folder, "f.0", 2)
    folder.write_manifest(Manifest("fit", "f.0", 2, {}, (part,)))
    with pytest.raises(CheckpointError, match=r"is of \['checkpoint-000000000001-f.0'\]"):
        folder.read_manifest("checkpoint-000000000002-f.0")


def test_a_manifest_is_of_the_folder_it_is_in(folder, tmp_path):
    write_whole(folder, "f.0", 1)
    (tmp_path / OUTSIDE).rename(tmp_path / "checkpoint-000000000009-f.7")
    assert usable(folder) == []


@pytest.mark.parametrize("what", ["part-0000.npz", "manifest.json", ""])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path, outside, what):
    """The whole folder, its manifest or a part lie elsewhere; who removes it leaves them there."""
    folder = CheckpointFolder(str(tmp_path / "own"))
    write_whole(folder, "f.0", 1)
    own = tmp_path / "own" / OUTSIDE
    elsewhere = tmp_path / "elsewhere"
    (own / what).rename(elsewhere)
    (own / what).symlink_to(elsewhere)
    assert usable(folder) == []
    if what:
        with pytest.raises(CheckpointError, match="is a link to"):
            folder._check(OUTSIDE)
    for clock in (2, 3):
        write_whole(folder, "f.0", clock)
    folder.clear()
    assert elsewhere.exists()


def test_the_folder_of_all_checkpoints_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = CheckpointFolder(str(tmp_path / "link"))
    write_whole(folder, "f.0", 1)
    assert usable(folder) == [("f.0", 1)]
    assert json.loads((tmp_path / "real" / OUTSIDE / "manifest.json").read_text())["clock"] == 1
    assert os.listdir(tmp_path / "real") == [OUTSIDE]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[:-1], r"it has \d+ bytes, \d+ were written"),
        (lambda data: b"", "it has 0 bytes"),
        (lambda data: data + b"x", r"it has at least \d+ bytes"),
        (lambda data: data * 3, r"it has at least \d+ bytes"),
        (lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:], "its digest does not fit"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused_before_it_is_parsed(
    folder, tmp_path, monkeypatch, change, told
):
    part = write_part(folder, "f.0", 1)
    path = tmp_path / part.file.name
    assert path.stat().st_size == part.file.size
    assert folder.fetch(part, ["table/0/w"])["table/0/w"].tolist() == [1, 1, 1]
    path.write_bytes(change(path.read_bytes()))
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(CheckpointError, match=f"part-0000.npz is damaged: {told}"):
        CheckpointFolder(str(tmp_path)).fetch(part, ["table/0/w"])


def test_parts_are_on_the_disk_before_their_manifest(folder, tmp_path, monkeypatch):
    """Bytes and names, each file before the next step; of local files only."""
    steps = []
    monkeypatch.setattr(
        os, "fsync", lambda number: steps.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    monkeypatch.setattr(folder._fs, "mv", lambda a, b: steps.append("mv"))
    write_whole(folder, "f.0", 1)
    own = str(tmp_path / OUTSIDE)
    names = [own, str(tmp_path)]
    assert steps == [
        f"{own}/part-0000.npz",
        *names,
        f"{own}/manifest.json.new",
        "mv",
        *names,
    ]
    steps.clear()
    write_whole(CheckpointFolder(f"memory://{tmp_path.name}"), "f.0", 1)
    assert steps == []
