"""Numba kernels of the algorithms; same stem as the estimator's file."""
