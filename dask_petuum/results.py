"""What was learnt, labelled: tables and fitted state as xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from dask_petuum.store.spec import TableSpec

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["table_to_xarray"]


def table_to_xarray(spec: TableSpec, values: Any) -> xr.DataArray:
    """Label a table's values.

    Parameters
    ----------
    spec
        Gives name, dims and coords.
    values
        (n_rows, n_cols) array, or a sparse array, which is made dense.
    """
    import xarray as xr

    dense: Any = values
    if sp.issparse(values):
        dense = dense.toarray()
    coords = {dim: list(labels) for dim, labels in spec.coords.items()}
    return xr.DataArray(dense, dims=spec.dims, coords=coords, name=spec.name)
