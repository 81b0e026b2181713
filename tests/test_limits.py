"""Sizes that ruff does not keep: lines of a module, code lines of a function.

Where there is a good reason to be longer, a comment says it: ``# over the limit: ...`` on the line
above the function, or among the first forty lines of the module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import ROOT, source_files, tree_of

MODULE_LINES = 400
FUNCTION_LINES, KERNEL_LINES = 50, 80
EXEMPT = "# over the limit: "


def functions_of(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Count a function's lines without its docstring, comments and blank lines."""
    body = function.body
    has_docstring = (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )
    skipped = body[0].end_lineno if has_docstring else body[0].lineno - 1
    counted = lines[function.lineno - 1 : body[0].lineno - 1] + lines[skipped : function.end_lineno]
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in counted)


def is_exempt(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> bool:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return first > 1 and lines[first - 2].lstrip().startswith(EXEMPT)


@pytest.mark.parametrize("file", source_files(), ids=str)
def test_sizes(file: Path) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    if not any(line.startswith(EXEMPT) for line in lines[:40]):
        assert len(lines) <= MODULE_LINES, f"{file} has {len(lines)} lines: split it"
    limit = KERNEL_LINES if "kernels" in file.with_suffix("").parts else FUNCTION_LINES
    sizes = {
        function.name: code_lines(function, lines)
        for function in functions_of(file)
        if not is_exempt(function, lines)
    }
    long = {name: size for name, size in sizes.items() if size > limit}
    assert not long, f"{file}: more than {limit} code lines in {long}: split them"
