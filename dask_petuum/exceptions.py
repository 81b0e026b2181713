"""Every error that dask_petuum raises on purpose, on one screen.

::

    PetuumError
    ├── RunError                 a run ended without its result
    │   ├── RankError            the user's function raised in a rank (its traceback is attached)
    │   ├── RankLostError        a worker that held a rank is gone
    │   ├── RunInterruptedError  the run was stopped (by the client, a callback, or another rank)
    │   └── TransportError       a peer could not be reached or gave no proper answer
    ├── CheckpointError          a checkpoint that cannot be used (damaged, foreign, incomplete)
    │   └── DamagedPartError     every copy of a part of one, and its file, is damaged
    ├── ProtocolError            a message that the store refuses (wrong run, epoch, shape, ...)
    ├── VersionMismatchError     a worker lacks the package or has another version of it
    └── TableError               an unknown table, a wrong shape, dtype or row (also a ValueError)

Input errors of the estimators are plain ``ValueError`` and ``TypeError`` with scikit-learn's words.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DamagedPartError",
    "PetuumError",
    "ProtocolError",
    "RankError",
    "RankLostError",
    "RunError",
    "RunInterruptedError",
    "TableError",
    "TransportError",
    "VersionMismatchError",
]


class PetuumError(Exception):
    """Base of every error that dask_petuum raises on purpose."""


class RunError(PetuumError):
    """A run ended without its result."""


class RankError(RunError):
    """The user's function raised in a rank; the message carries that rank's traceback.

    The function's own exception is the ``__cause__``.
    """

    def __init__(self, text: str, rank: int = -1) -> None:
        super().__init__(text)
        #: The rank in which it happened.
        self.rank = rank


class RankLostError(RunError):
    """A worker that held a rank is gone; the message names the rank and the worker."""


class RunInterruptedError(RunError):
    """The run was stopped before its end."""


class TransportError(RunError):
    """A peer could not be reached, or answered with anything but ``{"status": "OK"}``."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        #: Whether there is no use in another try.
        self.final = final


class ProtocolError(PetuumError):
    """A message that the store refuses: wrong run, epoch, table, shape, dtype or size."""


class CheckpointError(PetuumError):
    """A checkpoint that cannot be used; the message says which, and what is wrong with it."""


class DamagedPartError(CheckpointError):
    """Every copy of a part of a checkpoint was read, and its file, and none is what was saved."""


class VersionMismatchError(PetuumError):
    """A worker or the scheduler lacks dask_petuum, or has another version of it."""


class TableError(PetuumError, ValueError):
    """An unknown table, or a wrong name, shape, dtype or row."""
