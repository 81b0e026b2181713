"""Imports point down only, and each library has its place; read from the source, not run.

The rules are those of the design: algorithms -> runtime -> engines -> transport, ``distributed``,
``numba`` and ``xarray`` in few files, private names of ``distributed`` in one.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from source_tree import imports_of, module_name, source_files, tree_of

#: What each part may import of the package, besides itself; a part that is not here is an error.
#: Everybody may import exceptions and config.
MAY_IMPORT = {
    "exceptions": set(),
    "config": set(),
    "jit": set(),
    "sparse": set(),
    "transport": set(),
    "store": {"transport", "jit", "sparse"},
    "checkpoint": {"store"},
    "model_parallel": {"store", "jit"},
    "nn": {"store", "data", "jit"},
    "data": {"sparse"},
    "lazy": {"data"},
    "runtime": {"store", "checkpoint", "model_parallel", "transport", "data", "results"},
    "results": {"store"},
    "unchanged": set(),
    "saving": {""},  # the version
    "base": {"runtime", "data", "results", "saving", "store"},
    "algorithms": {
        "base",
        "unchanged",
        "results",
        "runtime",
        "store",
        "model_parallel",
        "nn",
        "data",
        "lazy",
        "jit",
    },
    "readers": set(),
    "environment": {"runtime"},
    "demo": {"", "runtime"},
    "cli": {"", "readers", "environment", "demo"},
    "": {
        "algorithms",
        "runtime",
        "store",
        "model_parallel",
        "data",
    },  # dask_petuum/__init__.py: lazy names
}
COMMON = {"exceptions", "config"}

#: Files that may import a library, as patterns of their paths.
PLACES = {
    "distributed": (
        r"dask_petuum/runtime/(adapter|arm|clients|cluster\w*|\w+_plugin|dask_\w+|session|rank|worker\w*)\.py",
        r"dask_petuum/transport/(dask\w*|comms?)\.py",
        r"dask_petuum/environment\.py",
        r"dask_petuum/demo/cluster\.py",
    ),
    "numba": (
        r"dask_petuum/jit\.py",
        r"(dask_petuum|algorithms)/(\w+/)*kernels/\w+\.py",
        r"dask_petuum/\w+/kernels\.py",
    ),
    "xarray": (
        r"dask_petuum/results\.py",
        r"dask_petuum/data/\w+\.py",
        r"dask_petuum/store/(labels|spec)\.py",
    ),
    "torch": (r"dask_petuum/nn/\w+\.py",),
}
#: Attributes of Dask's servers that are not public; one file knows them.
PRIVATE = {"handlers", "stream_handlers", "extensions", "stream_comms", "http_application"}
#: What a kernel may see: arrays, numbers, other kernels.
KERNEL_IMPORTS = re.compile(
    r"(__future__|typing|collections\.abc|math|numpy|numba|llvmlite|dask_petuum\.jit"
    r"|dask_petuum\.algorithms\.kernels|dask_petuum\.\w+\.kernels)(\.|$)"
)

FILES = source_files()
OWN = "dask_petuum"


def part_of(name: str) -> str:
    """Return the part of the package that a module or an imported name belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else ""


def is_in(file: Path, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, file.as_posix()) for pattern in patterns)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_down(file: Path) -> None:
    module = module_name(file)
    part = module.split(".")[1] if module != OWN else ""
    assert part in MAY_IMPORT, f"{part!r} has no place in the layers yet: add it to MAY_IMPORT"
    allowed = MAY_IMPORT[part] | COMMON | {part}
    wrong = [
        f"line {line}: {name}"
        for name, line in imports_of(file)
        if name.split(".")[0] == OWN and part_of(name) not in allowed
    ]
    assert not wrong, f"{file} ({part or 'the package itself'}) must not import {wrong}"


@pytest.mark.parametrize("library", PLACES)
def test_libraries_are_imported_in_their_places_only(library: str) -> None:
    wrong = [
        f"{file}:{line}"
        for file in FILES
        if not is_in(file, PLACES[library])
        for name, line in imports_of(file)
        if name.split(".")[0] == library
    ]
    assert not wrong, f"{library} is imported outside of its places: {wrong}"


def test_private_names_of_distributed_are_in_one_file() -> None:
    users = {
        str(file)
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE
    }
    assert len(users) <= 1, f"{sorted(PRIVATE)} are used in more than one file: {sorted(users)}"


def test_nothing_imports_the_source_folder_by_its_name() -> None:
    wrong = [
        f"{file}:{line}"
        for file in FILES
        for name, line in imports_of(file)
        if name.split(".")[0] in ("algorithms", "tests", "benchmarks")
    ]
    assert not wrong, f"use the installed name dask_petuum.algorithms: {wrong}"


def test_siblings_in_algorithms_import_each_other_relatively() -> None:
    wrong = [
        f"{file}:{node.lineno}"
        for file in FILES
        if file.parts[0] == "algorithms"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ImportFrom)
        and node.level == 0
        and (node.module or "").startswith("dask_petuum.algorithms")
    ]
    assert not wrong, f"in algorithms/ write `from .sibling import name`: {wrong}"


@pytest.mark.parametrize(
    "file", [file for file in FILES if is_in(file, PLACES["numba"][1:])], ids=str
)
def test_kernels_get_arrays_and_numbers_only(file: Path) -> None:
    wrong = [name for name, _ in imports_of(file) if not KERNEL_IMPORTS.match(name)]
    assert not wrong, f"{file} is a kernel and must not import {wrong}"


def test_kernels_are_compiled_through_the_one_wrapper() -> None:
    wrong = [
        f"{file}:{line}"
        for file in FILES
        if file.as_posix() != "dask_petuum/jit.py"
        for name, line in imports_of(file)
        if name in ("numba.njit", "numba.jit", "numba.vectorize", "numba.guvectorize")
    ]
    assert not wrong, f"use dask_petuum.jit.kernel: {wrong}"


def narrows_a_type(test: ast.expr) -> bool:
    """Tell whether an assert only says to mypy that something is not None."""
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)


def test_no_argument_check_is_an_assert() -> None:
    wrong = [
        f"{file}:{node.lineno}"
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Assert) and not narrows_a_type(node.test)
    ]
    assert not wrong, f"asserts vanish under python -O; raise an error: {wrong}"
