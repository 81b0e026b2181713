"""Run the benchmarks and print them as one table; keep it under ``benchmarks/results/``.

``python -m benchmarks.run [--quick] [NAME ...]``, from the repository's root, with the package
installed with the extra ``bench``. Every module of this folder with a function
``run(quick: bool) -> list[Row]`` is a benchmark. Each runs in a process of its own, one after the
other, so that none inherits another's memory, threads or compiled state. One that fails is
reported, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import COLUMNS, Row, cells, to_json, to_markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
#: packages whose versions stand above the table, where they are installed
VERSIONS = (
    "dask_petuum numpy scipy numba scikit-learn dask distributed tomotopy torch".split()  # noqa: SIM905
)


def main() -> int:
    """Parse the command line, run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # where a child leaves its rows
    arguments = parser.parse_args()
    if arguments.child:
        return run_here(arguments.names[0], arguments.quick, Path(arguments.child))
    names = choose(arguments.names)
    console = Console(width=None if sys.stdout.isatty() else 200)
    environment = describe_machine(arguments.quick)
    rows: list[Row] = []
    failed = []
    for name in names:
        console.rule(f"{name}{' (quick)' if arguments.quick else ''}")
        found = run_apart(name, arguments.quick)
        rows += found or []
        if found is None:
            failed.append(name)
    print_table(console, rows, environment)
    if rows:
        console.print(f"kept in {keep(rows, environment, arguments)}")
    if failed:
        console.print(f"[bold red]failed: {', '.join(failed)}[/]")
    return 1 if failed else 0


def choose(asked: list[str]) -> list[str]:
    """Return the benchmarks asked for, all if none is; refuse one that does not exist."""
    known = [file.stem for file in sorted(HERE.glob("*.py")) if has_run(file)]
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise SystemExit(f"no benchmark called {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in asked] if asked else known


def has_run(file: Path) -> bool:
    """Tell from its source whether a module is a benchmark."""
    body = ast.parse(file.read_bytes()).body
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name == "run"
        and [argument.arg for argument in node.args.args] == ["quick"]
        for node in body
    )


def run_here(name: str, quick: bool, target: Path) -> int:
    """Run one benchmark in this process and leave its rows in a file."""
    rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run(quick)
    target.write_text(json.dumps([vars(row) for row in rows], default=list), encoding="utf-8")
    return 0


def run_apart(name: str, quick: bool) -> list[Row] | None:
    """Run one benchmark in a process of its own; None where it fails (it prints why)."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks.run", name, "--child", str(target)]
        done = subprocess.run([*command, *(["--quick"] if quick else [])], cwd=HERE.parent)
        if done.returncode != 0 or not target.exists():
            return None
        return [Row(**fields) for fields in json.loads(target.read_text(encoding="utf-8"))]


def describe_machine(quick: bool) -> dict[str, Any]:
    """Return what a reader must know to judge the figures."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "sizes": "quick: too small for claims" if quick else "full",
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "load before": ", ".join(f"{load:.1f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(_versions()),
        "commit": _commit(),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _versions() -> list[str]:
    versions = []
    for name in VERSIONS:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return versions


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not a git checkout"


def print_table(console: Console, rows: list[Row], environment: dict[str, Any]) -> None:
    """Print the environment, the table and the notes."""
    for name, value in environment.items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    table = Table(show_lines=True)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        *front, reached = cells(row)
        colour = {"yes": "green", "no": "bold red"}.get(reached, "dim")
        table.add_row(*front, f"[{colour}]{reached}[/]")
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"[dim]{row.work}:[/] {row.note}", highlight=False)


def keep(rows: list[Row], environment: dict[str, Any], arguments: argparse.Namespace) -> Path:
    """Write the report as JSON and markdown; return the markdown's path."""
    parts = [time.strftime("%Y-%m-%d"), *(["quick"] if arguments.quick else []), *arguments.names]
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{'-'.join(parts)}.md"
    target.write_text(to_markdown(rows, environment), encoding="utf-8")
    text = json.dumps(to_json(rows, environment), indent=1, ensure_ascii=False)
    target.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return target.relative_to(HERE.parent)


if __name__ == "__main__":
    sys.exit(main())
