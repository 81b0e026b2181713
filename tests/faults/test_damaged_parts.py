"""Parts of checkpoints of which no copy is whole: memory and files that give other bytes back.

Another try would find the same. So a fit goes to the checkpoint before, begins again where there
are files and none is whole, or ends at once; it does not use up its attempts.
"""

from __future__ import annotations

import re
import threading

import pytest
from crew import Crew
from fingerprint import Fingerprints
from fits import EVERY, N_PARTITIONS, assert_marks, some_rows
from members import PATIENCE

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.exceptions import CheckpointError
from dask_petuum.runtime.arm import arm
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions

pytestmark = pytest.mark.timeout(400)

#: Checkpoints before the loss, where they are files.
N_CHECKPOINTS = 2


@pytest.fixture(scope="module")
def crew():
    # who is slow is not given up: losses are counted
    with Crew(3, settings={"petuum.recovery.lease": "60s"}) as started:
        yield started


def spoil(dask_worker, numbers):
    """Let the memory of parts of the first epoch change, and the files of some checkpoints.

    The third one is never written: so the second is the newest.
    """
    vault, write = dask_worker.plugins["petuum"].kept.vault, CheckpointFolder.write_part
    look_up = vault.get
    dask_worker.petuum_test_gate, dask_worker.petuum_test_write = threading.Event(), write
    dask_worker.petuum_test_parts = 0

    def get_changed(key, name):
        values = look_up(key, name).copy()
        if key.run_id.endswith(".0"):
            values.reshape(-1).view("uint8")[:1] ^= 1
        return values

    def write_changed(self, key, arrays):
        dask_worker.petuum_test_parts += 1
        number = dask_worker.petuum_test_parts
        if number == N_CHECKPOINTS + 1:
            dask_worker.petuum_test_gate.wait(PATIENCE)
        file = write(self, key, arrays)
        if number in numbers:
            with open(f"{self._root}/{file.name}", "r+b") as written:
                written.seek(file.size // 2)
                byte = written.read(1)[0]
                written.seek(file.size // 2)
                written.write(bytes([byte ^ 1]))
        return file

    vault.get, CheckpointFolder.write_part = get_changed, write_changed


def restore(dask_worker):
    if hasattr(dask_worker, "petuum_test_gate"):
        vars(dask_worker.plugins["petuum"].kept.vault).pop("get", None)
        CheckpointFolder.write_part = dask_worker.petuum_test_write
        dask_worker.petuum_test_gate.set()


def n_parts(dask_worker):
    return dask_worker.petuum_test_parts


class Strike:
    """A monitor: kills a rank when checkpoints are there, and ends the fit after the next one."""

    def __init__(self, crew, has_files):
        self._crew, self._has_files = crew, has_files
        self._run_id = None

    def __call__(self, record):
        board = self._crew.board()
        if board is None or board.ended:
            return False
        if self._run_id is None and self._are_saved(board):
            self._run_id = board.run_id
            self._crew.kill(board.addresses[1])
        return self._run_id not in (None, board.run_id) and board.saved_clock > 0

    def _are_saved(self, board):
        if not self._has_files:
            return board.saved_clock > 0
        return set(self._crew.client.run(n_parts).values()) == {N_CHECKPOINTS + 1}


def fit(crew, numbers=(), place=None):
    crew.refill()
    arm(crew.client)
    crew.client.run(spoil, numbers=numbers)
    strike = Strike(crew, place is not None)
    options = RunOptions(20_000, monitor=strike, save_clocks=EVERY)
    try:
        with ClusterJob(crew.client, some_rows(), place=place) as job:
            return job.run(Fingerprints(N_PARTITIONS, 0), options)
    finally:
        crew.client.run(restore)


def test_without_files_that_is_an_error_at_once_that_names_the_parts(crew, caplog):
    with pytest.raises(CheckpointError, match=r"rank \d at clock \d+: .*is damaged.*=URL"):
        fit(crew)
    assert caplog.text.count("the fit goes on from") == 1
    crew.assert_free()


def test_where_the_file_is_damaged_too_the_checkpoint_before_is_used(crew, tmp_path, caplog):
    assert_marks(fit(crew, [N_CHECKPOINTS], Place(str(tmp_path))), 0)
    newest, before = map(int, re.findall("goes on from the checkpoint at clock (.*)", caplog.text))
    assert newest > before > 0
    assert "npz is damaged" in caplog.text
    crew.assert_free()


def test_where_all_files_are_damaged_the_fit_begins_again(crew, tmp_path, caplog):
    assert_marks(fit(crew, range(1, N_CHECKPOINTS + 1), Place(str(tmp_path))), 0)
    assert "the fit goes on from its start" in caplog.text
    crew.assert_free()
