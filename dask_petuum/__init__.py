"""Petuum on Dask: a parameter store with bounded staleness, and estimators on top of it.

Importing the package does no work: every public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_petuum.algorithms.kmeans import KMeans
    from dask_petuum.algorithms.lasso import ElasticNet, Lasso
    from dask_petuum.algorithms.lda import LDA
    from dask_petuum.algorithms.linear_svc import LinearSVC
    from dask_petuum.algorithms.linear_svr import LinearSVR
    from dask_petuum.algorithms.logistic_regression import LogisticRegression
    from dask_petuum.algorithms.matrix_factorization import MatrixFactorization
    from dask_petuum.algorithms.softmax_regression import SoftmaxRegression
    from dask_petuum.data import open_dataset
    from dask_petuum.exceptions import (
        CheckpointError,
        DamagedPartError,
        PetuumError,
        ProtocolError,
        RankError,
        RankLostError,
        RunError,
        RunInterruptedError,
        TableError,
        TransportError,
        VersionMismatchError,
    )
    from dask_petuum.model_parallel import Priority, Random, Rotation, RoundRobin
    from dask_petuum.runtime.block_program import BlockSpec, ModelParallelProgram
    from dask_petuum.runtime.cluster_blocks import run_blocks
    from dask_petuum.runtime.options import RunOptions
    from dask_petuum.runtime.program import DataParallelProgram
    from dask_petuum.runtime.session import connect, disarm
    from dask_petuum.runtime.where import open_job
    from dask_petuum.store.spec import TableSpec

__version__ = "0.1.0"

__all__ = [
    "LDA",
    "BlockSpec",
    "CheckpointError",
    "DamagedPartError",
    "DataParallelProgram",
    "ElasticNet",
    "KMeans",
    "Lasso",
    "LinearSVC",
    "LinearSVR",
    "LogisticRegression",
    "MatrixFactorization",
    "ModelParallelProgram",
    "PetuumError",
    "Priority",
    "ProtocolError",
    "Random",
    "RankError",
    "RankLostError",
    "Rotation",
    "RoundRobin",
    "RunError",
    "RunInterruptedError",
    "RunOptions",
    "SoftmaxRegression",
    "TableError",
    "TableSpec",
    "TransportError",
    "VersionMismatchError",
    "connect",
    "disarm",
    "open_dataset",
    "open_job",
    "run_blocks",
]

#: module to the public names it holds
_HOMES = {
    "algorithms.kmeans": ("KMeans",),
    "algorithms.lasso": ("ElasticNet", "Lasso"),
    "algorithms.lda": ("LDA",),
    "algorithms.linear_svc": ("LinearSVC",),
    "algorithms.linear_svr": ("LinearSVR",),
    "algorithms.logistic_regression": ("LogisticRegression",),
    "algorithms.matrix_factorization": ("MatrixFactorization",),
    "algorithms.softmax_regression": ("SoftmaxRegression",),
    "data": ("open_dataset",),
    "exceptions": tuple(name for name in __all__ if name.endswith("Error")),
    "model_parallel": ("Priority", "Random", "Rotation", "RoundRobin"),
    "runtime.block_program": ("BlockSpec", "ModelParallelProgram"),
    "runtime.cluster_blocks": ("run_blocks",),
    "runtime.options": ("RunOptions",),
    "runtime.program": ("DataParallelProgram",),
    "runtime.session": ("connect", "disarm"),
    "runtime.where": ("open_job",),
    "store.spec": ("TableSpec",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
