"""Kernels of the scheduler: choice among blocks, and correlations of columns."""
