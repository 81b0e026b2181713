"""Where a fit runs: this process, or the workers of a Dask cluster."""

from __future__ import annotations

import sys
from typing import Any

from dask_petuum.data import Dataset
from dask_petuum.runtime.checkpoints import Place
from dask_petuum.runtime.job import Check, Job, LocalJob

__all__ = ["find_client", "open_job"]


def find_client(scheduler: str | None, client: Any = None) -> Any:
    """Find the Dask client of a fit, or None for this process.

    Parameters
    ----------
    scheduler
        None: the given or the active client if there is one, else this process. "local": this
        process. Else a scheduler's address.
    client
        A client given by the user.

    Raises
    ------
    ValueError
        Where ``scheduler`` is none of these.
    """
    if scheduler == "local":
        return None
    if scheduler is None:
        if client is not None:
            return client
        if "distributed" not in sys.modules:
            return None
        from dask_petuum.runtime.clients import active_client

        return active_client()
    if not isinstance(scheduler, str) or "://" not in scheduler:
        raise ValueError(
            f"scheduler must be None, 'local' or a scheduler's address such as "
            f"'tcp://host:8786', got {scheduler!r}"
        )
    from dask_petuum.runtime.clients import client_of

    return client_of(scheduler)


def open_job(  # noqa: PLR0913 - keywords with defaults
    dataset: Dataset,
    *,
    scheduler: str | None = None,
    client: Any = None,
    check: Check | None = None,
    dtype: Any = None,
    n_jobs: int | None = None,
    checkpoint: str | None = None,
    resume: str | None = None,
) -> Job:
    """Open a job where it is to run; see :func:`find_client`.

    Parameters
    ----------
    checkpoint
        A folder's URL (anything that fsspec opens) at which the job's checkpoints are files. None:
        on a cluster they are in the memory of its workers, in this process there are none.
    resume
        Such a URL, whose newest checkpoint the job's run goes on from.
    """
    place = Place(checkpoint, resume)
    found = find_client(scheduler, client)
    if found is None:
        return LocalJob(dataset, check=check, dtype=dtype, n_jobs=n_jobs, place=place)
    from dask_petuum.runtime.cluster_job import ClusterJob

    return ClusterJob(found, dataset, check=check, dtype=dtype, n_jobs=n_jobs, place=place)
