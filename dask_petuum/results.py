"""What was learnt, labelled: tables and fitted state as xarray.

`VARIABLES` is the one table of the variables of fitted models: their names, dims and units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from dask_petuum.store.spec import TableSpec

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["VARIABLES", "Variable", "model_to_xarray", "table_to_xarray"]


class Variable(NamedTuple):
    """A variable of a fitted model: where it comes from, how it is laid out, what it means."""

    attribute: str
    dims: tuple[str, ...]
    long_name: str
    units: str = "1"


#: Name of each variable; those whose attribute a model lacks, or with other dims, are left out.
VARIABLES = {
    "cluster_center": Variable("cluster_centers_", ("cluster", "feature"), "centre", "of X"),
    "cluster_weight": Variable("counts_", ("cluster",), "weight of the rows averaged", "rows"),
    "inertia": Variable("inertia_", (), "weighted sum of squared distances", "of X, squared"),
    "coef": Variable("coef_", ("class", "feature"), "weight of the feature", "per unit of X"),
    "coefficient": Variable("coef_", ("feature",), "coefficient", "of y per unit of X"),
    "intercept": Variable("intercept_", ("class",), "score of a row of zeros"),
    "constant": Variable("intercept_", (), "prediction of a row of zeros", "of y"),
    "objective": Variable("objective_", ("class",), "objective of the class's task"),
    "total_objective": Variable("objective_", (), "objective"),
    "dual_gap": Variable("dual_gap_", ("class",), "bound on the distance to the optimum"),
    "total_dual_gap": Variable("dual_gap_", (), "bound on the distance to the optimum"),
    "user_factor": Variable("user_factors_", ("user", "component"), "factors of the user"),
    "item_factor": Variable("item_factors_", ("item", "component"), "factors of the item"),
    "user_bias": Variable("user_bias_", ("user",), "bias of the user", "of the ratings"),
    "item_bias": Variable("item_bias_", ("item",), "bias of the item", "of the ratings"),
    "mean_rating": Variable("mean_", (), "mean of the ratings trained on", "of the ratings"),
    "n_iter": Variable("n_iter_", (), "passes or clocks made", "passes"),
}


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


def model_to_xarray(model: Any) -> xr.Dataset:
    """Label what an estimator has learnt; the variables are those of `VARIABLES`.

    Parameters
    ----------
    model
        Fitted. Names of features, classes, users and items become coordinates; of a model of two
        classes the one row of weights is that of the second.
    """
    import xarray as xr

    dataset = xr.Dataset(attrs={"model": type(model).__name__})
    for name, variable in VARIABLES.items():
        values = getattr(model, variable.attribute, None)
        if values is None or np.ndim(values) != len(variable.dims):
            continue
        about = {"long_name": variable.long_name, "units": variable.units}
        dataset[name] = (variable.dims, np.array(values), about)
    labels = {
        "feature": getattr(model, "feature_names_in_", None),
        "class": getattr(model, "classes_", None),
        "user": getattr(model, "users_", None),
        "item": getattr(model, "items_", None),
    }
    coords = {}
    for dim, size in dataset.sizes.items():
        known = labels.get(str(dim))
        coords[dim] = np.arange(size) if known is None else known[-size:]
    return dataset.assign_coords(coords)
