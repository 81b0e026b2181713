"""Benchmarks: every speed claim of the project, measured beside its peer in the same run.

Not installed. Run them from the repository's root with ``make bench`` or
``python -m benchmarks.run``.
"""
