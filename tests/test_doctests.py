"""The examples in the docstrings, collected by walking the packages.

``pytest --doctest-modules`` would import the files of ``algorithms/`` a second time, under the
name of their folder.
"""

from __future__ import annotations

import doctest
import importlib

import pytest
from source_tree import module_name, source_files

MODULES = [module_name(file) for file in source_files()] + ["benchmarks.report"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name} fail"
