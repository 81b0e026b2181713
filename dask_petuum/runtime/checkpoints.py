"""The files of a run's checkpoints, as the process that started it sees them.

One URL belongs to one fit at a time: a new fit does not begin where the checkpoints of another lie,
it goes on from them or is told so. The runs of a fit have a folder each below it. A run that has
ended well leaves none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask_petuum.checkpoint.folder import CheckpointFolder
from dask_petuum.checkpoint.saved import Manifest, SavedPart
from dask_petuum.exceptions import CheckpointError
from dask_petuum.runtime.fit_identity import differences
from dask_petuum.runtime.options import RunResult

__all__ = ["Checkpoints", "Place"]

logger = logging.getLogger(__name__)

#: Runs of a fit that are looked for behind one without checkpoints.
N_RUNS = 16


class Place:
    """Where a fit's checkpoints are files.

    Parameters
    ----------
    checkpoint
        A URL, or None.
    resume
        The URL that the fit goes on from, or None.

    Raises
    ------
    ValueError
        Where they name different places.
    """

    # The mutable state is the number of runs that were given a folder, and what they found.

    def __init__(self, checkpoint: str | None = None, resume: str | None = None) -> None:
        if resume is not None and checkpoint not in (None, resume):
            raise ValueError(
                f"resume={resume!r} and checkpoint={checkpoint!r} must be the same place: a fit "
                "goes on where its checkpoints are"
            )
        found = resume if checkpoint is None else checkpoint
        self.url = None if found is None else os.fspath(found).rstrip("/")
        self.resumes = resume is not None
        self._n_runs = 0
        #: Whether a run of the fit has gone on from a checkpoint; whether one found the place free.
        self.has_resumed = False
        self.has_begun = False

    def __repr__(self) -> str:
        return f"<Place {self.url}>"

    def next_url(self) -> str | None:
        """The folder of the fit's next run."""
        self._n_runs += 1
        return None if self.url is None else self._url_of(self._n_runs - 1)

    def holds_any(self) -> bool:
        """Whether there is a checkpoint of a later run of the fit."""
        later = range(self._n_runs, self._n_runs + N_RUNS)
        return any(CheckpointFolder(self._url_of(number)).names() for number in later)

    def _url_of(self, number: int) -> str:
        return f"{self.url}/run-{number:04d}"


class Checkpoints:
    """Where a run's checkpoints are files, and what it may go on from.

    Parameters
    ----------
    place
        Of the fit.
    identity
        See `dask_petuum.runtime.fit_identity.identity_of`; not looked at where there is no URL.
    resumable
        Whether the program keeps checkpoints.
    """

    def __init__(self, place: Place, identity: Mapping[str, Any], resumable: bool = True) -> None:
        if place.url is not None and not resumable:
            raise ValueError(
                f"{identity['program']} keeps no checkpoints: after a loss it begins again; "
                "leave checkpoint and resume out"
            )
        self._place = place
        self.url = place.next_url()
        self._folder = None if self.url is None else CheckpointFolder(self.url)
        self.identity = identity

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
        if not self._place.resumes or self._folder is None:
            return None
        if self._folder.names():
            self._place.has_resumed = True
            problems: list[str] = []
            newest = self.newest(problems.append)
            if newest is None:
                why = "; ".join(problems)
                raise CheckpointError(f"there is no checkpoint to go on from at {self.url}: {why}")
            return newest
        if self._place.has_resumed or self._place.holds_any():
            return None  # it is of another of the fit's runs
        raise CheckpointError(f"there is no checkpoint to go on from at {self._place.url}")

    def newest(self, tell: Callable[[str], None]) -> Manifest | None:
        """The newest checkpoint that is whole; None: none is.

        Parameters
        ----------
        tell
            Called with what is wrong with each that is not whole.

        Raises
        ------
        CheckpointError
            Where it is of another fit.
        """
        assert self._folder is not None
        for manifest in self._folder.usable(tell):
            found = differences(manifest.identity, self.identity)
            if found:
                text = "; ".join(found)
                raise CheckpointError(f"the checkpoint at {self.url} is of another fit: {text}")
            return manifest.held_by(())  # nobody else is asked, who may be gone: that takes long
        return None

    def has_files_of(self, parts: Sequence[SavedPart]) -> bool:
        """Whether there is a file of each of some parts, and all are whole: they are read."""
        if self._folder is None or not all(part.file for part in parts):
            return False
        try:
            for part in parts:
                self._folder.fetch(part, list(part.arrays))
        except CheckpointError as error:
            logger.warning("A checkpoint is left out: %s", error)
            return False
        return True

    def begin(self) -> int:
        """Make sure that the place is free, unless it is gone on from; say which epoch begins.

        Epochs are numbered behind those of fits that this one goes on from. Parts of checkpoints
        that these did not end are removed.

        Raises
        ------
        CheckpointError
            Where checkpoints of another fit are.
        """
        if self._folder is None:
            return 0
        if not self._place.resumes and not self._place.has_begun:
            self._place.has_begun = True
            if self._folder.names() or self._place.holds_any():
                url = self._place.url
                raise CheckpointError(
                    f"there are checkpoints of a fit at {url}: go on from them with "
                    f"fit(..., resume={url!r}), remove them, or choose another place"
                )
        epoch = self._folder.next_epoch()
        self._folder.remove_parts()
        return epoch

    def ends_with(self, result: RunResult) -> bool:
        """Whether a run has ended well, and its files are to be removed."""
        return result.stopped_by != "interrupt"

    def end(self, result: RunResult) -> None:
        """Remove the files of a run that has ended well; its result does not depend on that."""
        if self._folder is None or not self.ends_with(result):
            return
        try:
            self._folder.clear()
        except Exception as error:  # noqa: BLE001 - whatever a file system raises
            logger.warning("The checkpoints at %s could not be removed: %r", self.url, error)
