"""A process that ends anywhere while it writes a checkpoint leaves the one before it as it was.

Real ends of real processes: by the system, at every byte of every file (a limit of the size of
files, whose signal ends the process), and by SIGKILL before every operation on files.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import PATIENCE

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest, SavedPart, describe
from dask_petuum.checkpoint.vault import PartKey

#: Events of Python that come before an operation on files.
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.move")


def save(folder: str, clock: int) -> None:
    """Write a checkpoint of one small array: the manifest is the longer file."""
    files = CheckpointFolder(folder)
    arrays = {"table/0/w": np.full(1, clock, np.int8)}
    key = PartKey("fit", "run", clock, 0)
    looks = {name: describe(values) for name, values in arrays.items()}
    part = SavedPart(0, looks, ("tcp://10.0.0.1:40000", "tcp://10.0.0.2:40000"), None)
    name = files.write_part(key, arrays)
    part = SavedPart(part.rank, part.arrays, part.holders, name)
    files.write_manifest(Manifest("fit", "run", clock, {"program": "p" * 200}, (part,)))


def die_at_byte(n_bytes: int) -> None:
    """Let this process end when it writes beyond a byte of any file."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def die_at_operation(number: int) -> None:
    """Let this process end before an operation on files."""
    import os

    left = [number]

    def count(event: str, arguments: object) -> None:
        if event in OPERATIONS:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main(root: str, kind: str) -> None:
    """Write two checkpoints and die in a third, at one place after the other until none is left.

    Prints how each process ended. This one has a single thread, so that it may fork.
    """
    import os
    import shutil

    first = f"{root}/first"
    for clock in (1, 2):
        save(first, clock)
    die = {"byte": die_at_byte, "operation": die_at_operation}[kind]
    for place in range(100_000):
        folder = f"{root}/{place}"
        shutil.copytree(first, folder)  # to write them each time takes long where a disk is slow
        pid = os.fork()
        if not pid:
            die(place)
            save(folder, 3)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, flush=True)
        if status == 0:
            return


def crashes(root: Path, kind: str) -> list[int]:
    program = f"import sys; sys.path[:0] = {sys.path!r}\n" + (
        f"import test_checkpoint_crash as t; t.main({str(root)!r}, {kind!r})"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=True)
    return [int(line) for line in done.stdout.split()]


def newest_clocks(root: Path, statuses: list[int]) -> list[int]:
    """Clock of the newest checkpoint that is whole, in each place; what it holds is compared."""
    clocks = []
    for place in range(len(statuses)):
        folder = CheckpointFolder(str(root / str(place)))
        problems: list[str] = []
        manifest = next(iter(folder.usable(problems.append)))
        found = folder.fetch(manifest.parts[0], ["table/0/w"])["table/0/w"]
        assert found.tolist() == [manifest.clock]
        clocks.append(manifest.clock)
    return clocks


def test_a_crash_at_any_byte_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    statuses = crashes(tmp_path, "byte")
    assert statuses[:-1] == [-signal.SIGXFSZ] * (len(statuses) - 1)
    manifest = max(tmp_path.rglob("manifest.json"), key=lambda path: path.stat().st_size)
    assert len(statuses) > manifest.stat().st_size > 400, "in the part, then in the manifest"
    assert {path.name for path in tmp_path.rglob("*.new")} == {"manifest.json.new"}
    assert newest_clocks(tmp_path, statuses) == [2] * (len(statuses) - 1) + [3]


def test_a_crash_before_any_operation_on_files_leaves_one(tmp_path: Path) -> None:
    """While the oldest one is removed, too."""
    statuses = crashes(tmp_path, "operation")
    assert statuses[:-1] == [-signal.SIGKILL] * (len(statuses) - 1)
    clocks = newest_clocks(tmp_path, statuses)
    assert clocks == sorted(clocks)
    assert clocks.count(2) >= 4, "folder, part, manifest, its name"
    assert clocks.count(3) >= 4, "the removal of what was before"
