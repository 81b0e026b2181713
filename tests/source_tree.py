"""The source tree as the tests of its layout read it: files, installed names, imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: source folder to the package it is installed as
SOURCES = {"dask_petuum": "dask_petuum", "algorithms": "dask_petuum.algorithms"}


def source_files() -> list[Path]:
    """Return every module of both roots, relative to the repository."""
    found = (file for source in SOURCES for file in (ROOT / source).rglob("*.py"))
    return sorted(file.relative_to(ROOT) for file in found)


def module_name(file: Path) -> str:
    """Return the name under which a source file is installed."""
    package = SOURCES[file.parts[0]]
    rest = [part for part in file.with_suffix("").parts[1:] if part != "__init__"]
    return ".".join([package, *rest])


@cache
def tree_of(file: Path) -> ast.Module:
    """Parse a source file."""
    return ast.parse((ROOT / file).read_bytes(), filename=str(file))


def imports_of(file: Path) -> Iterator[tuple[str, int]]:
    """Yield (absolute name, line) of all that a file imports, wherever in the file.

    ``from a.b import c`` yields ``a.b.c``; what is imported for type checkers only counts too.
    """
    parts = module_name(file).split(".")
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{home}.{alias.name}", node.lineno
