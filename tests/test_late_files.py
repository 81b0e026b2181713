"""Files of checkpoints that are written while a fit ends, or after: none stays of one that is done.

A part, or a manifest, may be on its way when the fit's files are removed. Who writes it cannot be
waited for (a store may take minutes), so it removes what came too late.
"""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from conftest import PATIENCE
from programs import LeastSquares, make_data

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saver import Saver
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.data import open_dataset
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.checkpoints import Checkpoints, Place
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.kept_parts import KeptParts, _Keeper
from dask_petuum.runtime.options import RunOptions, RunResult
from dask_petuum.runtime.spec import Keeping
from dask_petuum.store.owner import Cut

KEY = PartKey("fit", "fit.0", 4, 0)


class Gate:
    """A call that waits until it may go on; says when it has come."""

    def __init__(self, function):
        self._function = function
        self.has_come, self.may_go = threading.Event(), threading.Event()

    def __call__(self, *arguments):
        self.has_come.set()
        assert self.may_go.wait(PATIENCE)
        return self._function(*arguments)


class Writing:
    """A single rank that saves to a URL, and the scheduler that hears of it."""

    def __init__(self, url):
        self.folder = CheckpointFolder(url)
        self.kept = KeptParts("a", SimpleNamespace(), lambda reply: reply, self._ask)
        self.keeper = _Keeper(self.kept, Keeping("fit", (), url, {}), 0, None)
        self.saver = Saver("fit", "fit.0", 0, self.keeper)

    def _ask(self, operation, *, part, **place):
        assert operation == "petuum_saved"
        return {"status": "OK", "checkpoint": {**place, "parts": [part]}}

    def save(self):
        self.saver.put_states(4, {"state/0/n": np.zeros(2)})
        self.saver.put_cut(Cut(4, []))

    def end(self, done):
        """As a client ends a fit: its run, its parts in memory, its files."""
        self.saver.close()
        self.kept.forget(["fit"], done)
        if done:
            self.folder.clear()

    def files(self):
        return [path for path in self.folder._fs.find(self.folder._root) if path]


@pytest.fixture(params=["file", "memory"])
def writing(request, tmp_path):
    """A folder of the disk, and a store that makes folders of its own accord."""
    url = str(tmp_path) if request.param == "file" else f"memory:/{tmp_path}"
    yield Writing(url)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def end_during(writing, method, done):
    """Let the fit end while a method of the folder is being called."""
    folder = writing.keeper._folder
    gate = Gate(getattr(folder, method))
    setattr(folder, method, gate)
    writing.save()
    assert gate.has_come.wait(PATIENCE)
    writing.end(done)
    gate.may_go.set()
    writing.saver.wait()


@pytest.mark.parametrize("done", [True, False])
def test_a_part_that_is_written_when_the_fit_is_over_does_not_stay(writing, done):
    """Of a fit that was interrupted neither: nobody waits for it, no checkpoint will have it."""
    end_during(writing, "write_part", done)
    assert writing.files() == []


@pytest.mark.parametrize("done", [True, False])
def test_a_manifest_that_is_written_when_the_fit_is_over(writing, done):
    """It makes the last checkpoint of a fit that was interrupted, and none of one that is done."""
    end_during(writing, "write_manifest", done)
    if done:
        assert writing.files() == []
    else:
        assert [manifest.clock for manifest in writing.folder.usable(pytest.fail)] == [4]


def test_a_folder_that_others_write_to_is_removed_all_the_same(tmp_path, monkeypatch):
    """A file that comes while a folder is removed, and one that another removes first."""
    folder = CheckpointFolder(str(tmp_path))
    folder.write_part(KEY, {"state/0/n": np.zeros(2)})
    folder.write_part(KEY._replace(rank=1), {"state/1/n": np.zeros(2)})
    unlink, left = os.unlink, ["write", "remove"]

    def interfere(path, **options):
        where = next(tmp_path.glob("checkpoint-*"))
        act = left.pop() if left else None
        if act == "remove":
            for other in where.glob("*.npz"):
                other.unlink()
        if act == "write":
            (where / "part-0007.npz").write_bytes(b"late")
        unlink(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", interfere)
        folder.clear()
    assert left == []
    assert list(tmp_path.iterdir()) == []


def test_a_result_does_not_depend_on_the_removal_of_files(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(Place(str(tmp_path)), {})
    folder = checkpoints.folder
    folder.write_part(KEY, {"state/0/n": np.zeros(2)})

    def refuse(*arguments, **options):
        raise PermissionError("the disk is read-only now")

    monkeypatch.setattr(folder._fs, "rm", refuse)
    checkpoints.end(RunResult({}, [], [{"clock": 1}], 1))
    assert "could not be removed: PermissionError" in caplog.text


def hold_parts(dask_worker):
    """Let parts wait before they become files."""
    write, dask_worker.petuum_test_gate = CheckpointFolder.write_part, threading.Event()
    dask_worker.petuum_test_held = 0

    def wait(*arguments):
        dask_worker.petuum_test_held += 1
        assert dask_worker.petuum_test_gate.wait(PATIENCE)
        return write(*arguments)

    CheckpointFolder.write_part = wait
    dask_worker.petuum_test_write = write


def n_held(dask_worker):
    return dask_worker.petuum_test_held


def let_parts_go(dask_worker):
    """Let them be written; returns when they are."""
    CheckpointFolder.write_part = dask_worker.petuum_test_write
    dask_worker.petuum_test_gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("petuum-saver"):
            thread.join(PATIENCE)


def test_a_fit_that_ends_while_its_parts_are_written_leaves_no_file(client, tmp_path):
    arm(client)
    client.run(hold_parts)
    try:
        with ClusterJob(client, open_dataset(*make_data()), place=Place(str(tmp_path))) as job:

            def is_held(record):
                return sum(client.run(n_held).values()) == len(job.sizes)

            options = RunOptions(max_clocks=20_000, monitor=is_held, save_clocks=1)
            result = job.run(LeastSquares(5, 400), options)
    finally:
        client.run(let_parts_go)
    assert result.stopped_by == "callback"
    assert list(tmp_path.rglob("checkpoint-*")) == []
