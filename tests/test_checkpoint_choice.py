"""Which checkpoint a fit goes on from, and when a part may lack a copy: without a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest, SavedPart, describe
from dask_petuum.checkpoint.vault import PartKey, Vault
from dask_petuum.exceptions import (
    CheckpointError,
    DamagedPartError,
    RankLostError,
    TransportError,
)
from dask_petuum.runtime.checkpoints import Checkpoints, Place
from dask_petuum.runtime.cluster_fit import ClusterFit
from dask_petuum.runtime.kept_parts import KeptParts, _Keeper
from dask_petuum.runtime.spec import Keeping

ERROR = RankLostError("rank 1 was lost")


def choose(holders, there, newest_file=None, files=False, has_files=False, damaged=()):
    """Ask for the checkpoint whose parts have these holders, while these workers are there."""

    def newest(tell):
        if isinstance(newest_file, Exception):
            raise newest_file
        if newest_file is None:
            tell("all are damaged")
        return newest_file

    found = None
    if holders is not None:
        parts = [SavedPart(rank, {}, tuple(who), None) for rank, who in enumerate(holders)]
        found = Manifest("fit", "run", 5, {}, tuple(parts)).to_dict()
    reply = {"checkpoint": found, "there": there}
    url = "memory://somewhere" if files else None
    fit = SimpleNamespace(
        _client=SimpleNamespace(sync=lambda *arguments, **keywords: reply),
        _fit_id="fit",
        _checkpoints=SimpleNamespace(
            url=url, identity={}, newest=newest, has_files_of=lambda parts: has_files
        ),
        _saved="where the epoch began",
        _damaged=set(damaged),
    )
    fit._saved_in_files = lambda: ClusterFit._saved_in_files(fit)
    return ClusterFit._checkpoint_of(fit, ERROR)


def test_holders_that_are_gone_are_not_asked():
    manifest = choose(["ab", "bc", "ca"], ["a", "c"])
    assert [part.holders for part in manifest.parts] == [("a",), ("c",), ("c", "a")]


def test_without_a_new_checkpoint_the_fit_begins_where_its_epoch_did():
    assert choose(None, ["a"]) == "where the epoch began"


def test_a_part_that_is_lost_with_its_copy_is_named():
    with pytest.raises(RankLostError, match=r"parts of ranks 1 \(b and c\)"):
        choose(["ab", "bc", "ca"], ["a"])


def test_files_stand_in_for_parts_that_are_lost():
    file = Manifest("fit", "run", 4)
    assert choose(["ab", "bc", "ca"], ["a"], file, files=True) is file
    assert choose(["ab", "bc", "ca"], ["a"], None, files=True) is None


def test_files_that_are_read_and_whole_stand_in_for_parts():
    other = Manifest("fit", "run", 4)
    manifest = choose(["ab", "bc", "ca"], ["a"], other, files=True, has_files=True)
    assert manifest.clock == 5
    assert [part.holders for part in manifest.parts] == [("a",), (), ("a",)]
    assert choose(["ab", "bc", "ca"], ["a"], other, files=True, has_files=False) is other


def test_a_checkpoint_that_was_read_and_is_damaged_is_not_tried_again():
    other = Manifest("fit", "run", 4)
    found = {"damaged": [("run", 5)], "files": True, "has_files": True}
    assert choose(["ab", "bc"], ["a", "b", "c"], other, **found) is other
    with pytest.raises(DamagedPartError, match=r"rank 1 was lost.*checkpoint=URL"):
        choose(["ab", "bc"], ["a", "b", "c"], damaged=[("run", 5)])
    assert choose(["ab", "bc"], ["a", "b", "c"], damaged=[("run", 4)]).clock == 5


def test_a_fit_that_finds_no_file_whole_says_that_it_begins_again(caplog):
    assert choose(None, ["a"], None, files=True) is None
    assert "the fit begins again: all are damaged" in caplog.text


def test_the_files_of_another_fit_end_this_one():
    """It must not write over them."""
    with pytest.raises(CheckpointError, match="of another fit"):
        choose(None, ["a"], CheckpointError("it is of another fit"), files=True)


def test_a_fit_on_one_worker_begins_again_without_it():
    """Its part had no copy: it was kept so that others could join."""
    assert choose(["a"], ["b"]) is None
    assert choose(["a"], ["a", "b"]).parts[0].holders == ("a",)
    with pytest.raises(RankLostError, match="lost with the workers"):
        choose(["ab"], ["c"])


def test_a_lone_worker_is_said_to_be_one():
    assert Keeping("fit").is_lone
    assert not Keeping("fit", ("b", "a")).is_lone
    assert not Keeping("fit", url="memory://somewhere").is_lone


@pytest.mark.parametrize("error", [TransportError("b is gone"), CheckpointError("b is full")])
def test_only_a_single_rank_does_without_a_copy(error):
    """The worker that has it has no rank, and may leave; among several ranks the run is lost."""

    def fail(address, key, arrays, node):
        raise error

    kept = SimpleNamespace(address="a", vault=Vault(), copy_to=fail)
    key, part = PartKey("fit", "run", 5, 0), SavedPart(0, {})
    saved = _Keeper(kept, Keeping("fit", ("b",)), 0, None).keep(key, part, {"run/0/x": np.ones(3)})
    assert saved.holders == ("a",)
    assert kept.vault.keys == [key]
    with pytest.raises(type(error)):
        _Keeper(kept, Keeping("fit", ("b", "a")), 0, None).keep(key, part, {})


class Workers:
    """Three workers that keep the same part, and its file."""

    def __init__(self, folder):
        self.arrays = {"run/0/x": np.arange(5.0), "run/0/y": np.zeros(0)}
        self.key = PartKey("fit", "run", 5, 0)
        self.folder = CheckpointFolder(str(folder))
        looks = {name: describe(values) for name, values in self.arrays.items()}
        file = self.folder.write_part(self.key, self.arrays)
        self.part = SavedPart(0, looks, ("a", "b", "c"), file)
        self.file = next(folder.rglob("*.npz"))
        node = SimpleNamespace(wrap=np.copy, call=self._call)
        self.kept = {name: KeptParts(name, node, lambda reply: reply, None) for name in "abc"}
        for kept in self.kept.values():
            kept.vault.put(self.key, {name: a.copy() for name, a in self.arrays.items()})

    def _call(self, address, operation, message):
        if address not in self.kept:
            raise TransportError(f"{address} is gone", final=True)
        return self.kept[address].give(message)

    def damage(self, *names):
        """Change the copies of some workers; "file": the file."""
        for name in names:
            if name == "file":
                self.file.write_bytes(self.file.read_bytes().replace(b"\x08@", b"\x08A"))
            else:
                self.kept[name].vault.get(self.key, "run/0/x")[2] += 1

    def fetch(self, has_files=True):
        """What worker b gets."""
        manifest = Manifest("fit", "run", 5, {}, (self.part,))
        names = list(self.arrays)
        folder = self.folder if has_files else None
        return self.kept["b"]._fetch(manifest, self.part, names, folder)


@pytest.mark.parametrize("damaged", ["", "b", "a", "bc", "ab", "abc"])
@pytest.mark.parametrize("gone", ["", "a", "ac"])
def test_a_copy_that_is_damaged_is_passed_over(tmp_path, damaged, gone):
    workers = Workers(tmp_path)
    workers.damage(*damaged)
    for address in gone:
        del workers.kept[address]
    found = workers.fetch()
    for name, values in workers.arrays.items():
        np.testing.assert_array_equal(found[name], values)


def test_where_no_copy_is_whole_that_is_a_loss_of_all_that_are_named(tmp_path):
    """A loss, from which the fit goes on; an error of the program would end it."""
    workers = Workers(tmp_path)
    workers.damage("a", "b", "file")
    del workers.kept["c"]
    with pytest.raises(TransportError, match=r"b: .*damaged.*a: .*damaged.*c is gone.*npz") as told:
        workers.fetch()
    assert told.value.final


def test_where_all_have_answered_and_none_is_whole_another_try_is_no_use(tmp_path):
    workers = Workers(tmp_path)
    workers.damage("a", "b", "c", "file")
    with pytest.raises(DamagedPartError, match=r"'run/0/x' of rank 0 at clock 5: b: .*npz"):
        workers.fetch()
    with pytest.raises(DamagedPartError, match=r"b: .*a: .*c: "):
        workers.fetch(has_files=False)


def test_a_file_that_was_damaged_is_no_file_of_a_part(tmp_path):
    workers = Workers(tmp_path / "run-0000")
    checkpoints = Checkpoints(Place(str(tmp_path)), {})
    assert checkpoints.has_files_of([workers.part])
    workers.damage("file")
    assert not checkpoints.has_files_of([workers.part])
    assert not checkpoints.has_files_of([SavedPart(0, {}, ("a",))])
