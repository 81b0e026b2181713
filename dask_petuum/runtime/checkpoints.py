"""The files of a run's checkpoints, as the process that started it sees them.

One URL belongs to one fit at a time: a new fit does not begin where the checkpoints of another lie,
it goes on from them or is told so. A fit that has ended well leaves none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest
from dask_petuum.exceptions import CheckpointError
from dask_petuum.runtime.options import RunOptions, RunResult
from dask_petuum.runtime.program import Program

__all__ = ["Checkpoints"]


class Checkpoints:
    """Where a run's checkpoints are files, and what it may go on from.

    Parameters
    ----------
    program, options
        Of the run.
    n_rows
        Of each partition.

    Raises
    ------
    ValueError
        Where ``resume`` and ``checkpoint`` name different places.
    """

    def __init__(self, program: Program, options: RunOptions, n_rows: Sequence[int]) -> None:
        checkpoint = options.checkpoint or None
        if options.resume and checkpoint not in (None, options.resume):
            raise ValueError(
                f"resume={options.resume!r} and checkpoint={checkpoint!r} must be the same place: "
                "a fit goes on where its checkpoints are"
            )
        place = options.resume or checkpoint
        self.url: str | None = None if place is None else str(place)
        self._resumes = options.resume is not None
        self._folder = None if self.url is None else CheckpointFolder(self.url)
        self.identity = identity_of(program, options, n_rows)

    def __repr__(self) -> str:
        return f"<Checkpoints at {self.url}>"

    @property
    def folder(self) -> CheckpointFolder | None:
        """The files; None: there are none."""
        return self._folder

    def to_resume(self) -> Manifest | None:
        """The checkpoint that the caller wants to go on from; None: he wants no such thing.

        Raises
        ------
        CheckpointError
            Where there is none that is whole, or it is of another fit.
        """
        return self.newest() if self._resumes else None

    def newest(self) -> Manifest:
        """The newest checkpoint that is whole.

        Raises
        ------
        CheckpointError
            Where there is none, or it is of another fit.
        """
        assert self._folder is not None
        problems: list[str] = []
        for manifest in self._folder.usable(problems.append):
            differs = {
                name: (manifest.identity.get(name), wanted)
                for name, wanted in self.identity.items()
                if manifest.identity.get(name) != wanted
            }
            if differs:
                text = "; ".join(f"{n}: {a!r} there, {b!r} here" for n, (a, b) in differs.items())
                raise CheckpointError(f"the checkpoint at {self.url} is of another fit: {text}")
            return manifest
        why = f": {'; '.join(problems)}" if problems else ""
        raise CheckpointError(f"there is no checkpoint to go on from at {self.url}{why}")

    def begin(self) -> None:
        """Make sure that the place is free, unless it is gone on from.

        Raises
        ------
        CheckpointError
            Where checkpoints of another fit are.
        """
        if self._folder is not None and not self._resumes and self._folder.names():
            raise CheckpointError(
                f"there are checkpoints of a fit at {self.url}: go on from them with "
                f"fit(..., resume={self.url!r}), remove them, or choose another place"
            )

    def end(self, result: RunResult) -> None:
        """Remove the files of a run that has ended well."""
        if self._folder is not None and result.stopped_by != "interrupt":
            self._folder.clear()


def identity_of(program: Program, options: RunOptions, n_rows: Sequence[int]) -> Mapping[str, Any]:
    """What must agree so that one run may go on from another's checkpoint; plain data for JSON."""
    tables = [
        [spec.name, [int(n) for n in spec.shape], str(spec.dtype)] for spec in program.tables()
    ]
    return {
        "program": type(program).__name__,
        "tables": tables,
        "rows of partitions": [int(n) for n in n_rows],
        "seed": options.seed,
        "max_clocks": options.max_clocks,
    }
