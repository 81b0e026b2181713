"""Checkpoints: what one holds, who keeps it, how it becomes files. Knows nothing of Dask."""
