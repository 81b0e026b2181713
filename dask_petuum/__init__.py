"""Petuum on Dask: a parameter store with bounded staleness, and estimators on top of it."""
