"""Training data of any accepted kind, cut by rows into partitions, with nothing moved early.

`open_dataset` looks at what ``fit`` was given and cuts it into *pieces*, ``(X, y, sample_weight)``
tuples (or Dask ``Delayed`` objects that give such tuples); `measure` and `to_partition` then run
where a piece lies. `Partition` is what a program's ``start`` and ``step`` receive.

====================================  =====================================  ==================
given                                 pieces                                 partition's data
====================================  =====================================  ==================
ndarray, list, xarray, dense pandas   in memory, views of the rows           ndarray, C order
scipy.sparse of any format, sparse    in memory, views of the rows           csr_array
pandas
Dask array of ndarrays, Dask          one ``Delayed`` per row chunk          ndarray, C order
DataFrame, xarray backed by Dask
Dask array of scipy.sparse chunks     one ``Delayed`` per row chunk          csr_array
====================================  =====================================  ==================

pandas, xarray and Dask are never imported here before the caller has done so.
"""

from __future__ import annotations

from dask_petuum.data.dataset import Dataset, LazyDataset, MemoryDataset, RawPiece, open_dataset
from dask_petuum.data.partition import Partition, PieceSize, measure, to_partition

__all__ = [
    "Dataset",
    "LazyDataset",
    "MemoryDataset",
    "Partition",
    "PieceSize",
    "RawPiece",
    "measure",
    "open_dataset",
    "to_partition",
]
