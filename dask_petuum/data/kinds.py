"""What kind of container an object is, without importing the package that defines it.

An instance of ``pandas.DataFrame`` can only exist once pandas has been imported, so a look into
``sys.modules`` settles every question here, at no cost for those who never use the package.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = [
    "dask_backed",
    "is_dask_array",
    "is_dask_frame",
    "is_pandas_frame",
    "is_pandas_series",
    "is_xarray",
]


def _is_a(obj: object, module: str, *names: str) -> bool:
    """Tell whether ``obj`` is an instance of one of the classes ``names`` of ``module``."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    return isinstance(obj, tuple(getattr(loaded, name, ()) for name in names))


def is_dask_array(obj: object) -> bool:
    """Tell whether ``obj`` is a Dask array."""
    return _is_a(obj, "dask.array", "Array")


def is_dask_frame(obj: object) -> bool:
    """Tell whether ``obj`` is a Dask DataFrame, Series or Index."""
    return _is_a(obj, "dask.dataframe", "DataFrame", "Series", "Index")


def is_pandas_frame(obj: object) -> bool:
    """Tell whether ``obj`` is a pandas DataFrame."""
    return _is_a(obj, "pandas", "DataFrame")


def is_pandas_series(obj: object) -> bool:
    """Tell whether ``obj`` is a pandas Series or Index."""
    return _is_a(obj, "pandas", "Series", "Index")


def is_xarray(obj: object) -> bool:
    """Tell whether ``obj`` is an xarray DataArray or Variable."""
    return _is_a(obj, "xarray", "DataArray", "Variable")


def dask_backed(obj: Any) -> Any | None:
    """Return the Dask collection (array, DataFrame or Series) inside ``obj``, None without one."""
    if is_xarray(obj):
        obj = obj.data
    return obj if is_dask_array(obj) or is_dask_frame(obj) else None
