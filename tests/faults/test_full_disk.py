"""Files of checkpoints that cannot be written: the fit goes on, and saves when there is room again.

It warns once for each part that it could not save; the checkpoint before stays whole.
"""

from __future__ import annotations

import pytest
from crew import Crew
from fingerprint import Fingerprints
from fits import EVERY, N_PARTITIONS, assert_marks, some_rows
from tight import failures, register

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.cluster_job import ClusterJob
from dask_petuum.runtime.options import RunOptions

pytestmark = pytest.mark.timeout(400)

#: Clocks without room: some checkpoints.
LONG = 4 * EVERY


@pytest.fixture(scope="module")
def crew():
    register()
    with Crew(3, lambda address: {"scheduler_ip": address, "preload": ["tight"]}) as started:
        yield started


class Scarcity:
    """A monitor: no room after the first checkpoint, then room; then all workers are lost."""

    def __init__(self, crew, folder, kind):
        self._crew, self._kind = crew, kind
        self._url = f"tight://{folder}/checkpoints"
        self._room = folder / "room"
        self._acts = [self._take_room, self._give_room, self._strike, self._see_a_new_epoch]
        self._since = self._clock = 0
        self._saved = 0
        self._run_id = None
        self.warned = []

    def __call__(self, record):
        self._clock, board = int(record["clock"]), self._crew.board()
        if self._acts and board is not None and not board.ended and self._acts[0](board):
            del self._acts[0]
            self._since = self._clock
        return not self._acts

    def _newest(self):
        """Clock of the newest checkpoint whose files are whole."""
        folder = CheckpointFolder(f"{self._url}/run-0000")
        return next(manifest.clock for manifest in folder.usable(pytest.fail))

    def _clock_of_files(self):
        """Clock of the newest manifest, -1: there is none; older files are being removed."""
        names = CheckpointFolder(f"{self._url}/run-0000").names()
        return int(names[0].split("-")[1]) if names else -1

    def _take_room(self, board):
        if board.saved_clock <= 0 or self._clock_of_files() < 0:
            return False
        self._room.write_text(self._kind)
        return True

    def _give_room(self, board):
        if self._clock < self._since + LONG:
            return False
        self.warned = [found for own in self._failures() for found in own]
        if not self.warned:
            return False  # ranks save while they go on
        self._saved = board.saved_clock
        assert 0 < self._newest() <= self._saved
        self._room.write_text("free")
        return True

    def _strike(self, board):
        """When there is another checkpoint: only its files are left then."""
        if board.saved_clock <= self._saved or self._clock_of_files() <= self._saved:
            return False
        self._run_id = board.run_id
        for address in list(board.addresses):
            self._crew.kill(address)
        return True

    def _see_a_new_epoch(self, board):
        return board.run_id != self._run_id and board.saved_clock > 0

    def _failures(self):
        return self._crew.client.run(failures).values()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("full", "No space left"),
        ("little", "No space left"),
        ("read-only", "Read-only file system"),
    ],
)
def test_a_disk_that_has_no_room_costs_no_fit(crew, tmp_path, kind, error):
    crew.refill()
    (tmp_path / "room").write_text("free")
    scarcity = Scarcity(crew, tmp_path, kind)
    options = RunOptions(20_000, monitor=scarcity, save_clocks=EVERY)
    place = Place(f"tight://{tmp_path}/checkpoints")
    with ClusterJob(crew.client, some_rows(), place=place) as job:
        result = job.run(Fingerprints(N_PARTITIONS, 0), options)
    assert_marks(result, 0)
    assert not scarcity._acts
    parts = [(clock, rank) for clock, rank, _ in scarcity.warned]
    assert len(parts) == len(set(parts)), "one warning for each part"
    assert all(error in text for _, _, text in scarcity.warned), scarcity.warned
    assert list(tmp_path.rglob("*.npz")) == []
    crew.assert_free()
