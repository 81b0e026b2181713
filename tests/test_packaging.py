"""What is installed is what is in the tree, under the names that the tree's folders stand for."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from source_tree import ROOT, SOURCES

import dask_petuum

DATA = {"dask_petuum/py.typed", "dask_petuum/dask_petuum.yaml"}


def run_python(command: str) -> str:
    """Run a command in a fresh interpreter, away from the repository; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=Path(__file__).anchor,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def source_of(installed: str) -> str:
    """Return the path in the tree of a file of the wheel."""
    return installed.removeprefix("dask_petuum/") if "/algorithms/" in installed else installed


def test_setup_cfg_lists_every_package() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = parser["options"]["packages"].split()
    in_tree = [
        ".".join([package, *file.parent.relative_to(ROOT / source).parts])
        for source, package in SOURCES.items()
        for file in (ROOT / source).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(in_tree)


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {file.parent for source in SOURCES for file in (ROOT / source).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_the_version_is_said_once() -> None:
    from importlib import metadata

    assert metadata.version("dask_petuum") == dask_petuum.__version__


def test_importing_the_package_does_no_work() -> None:
    loaded = run_python("import dask_petuum, sys; print(*sys.modules)").split()
    heavy = {"numba", "distributed", "xarray", "sklearn", "dask", "numpy", "scipy", "pandas"}
    assert not heavy & set(loaded)


def test_dir_shows_the_public_names_and_each_can_be_loaded() -> None:
    command = (
        "import dask_petuum as p\n"
        "assert set(p.__all__) <= set(dir(p)), set(p.__all__) - set(dir(p))\n"
        "for name in p.__all__:\n"
        "    assert getattr(p, name).__name__ == name\n"
        "print(len(p.__all__))"
    )
    assert run_python(command) == str(len(dask_petuum.__all__))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LDa'"):
        dask_petuum.LDa  # noqa: B018


def test_no_module_is_imported_under_the_name_of_its_folder() -> None:
    command = (
        "import pkgutil, sys, dask_petuum, dask_petuum.algorithms\n"
        "for package in (dask_petuum, dask_petuum.algorithms):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        __import__(found.name)\n"
        "print(*[name for name in sys.modules if name.split('.')[0] == 'algorithms'])"
    )
    assert run_python(command) == ""


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    for source in SOURCES:
        shutil.copytree(ROOT / source, copy / source, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, copy],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata_files = {name.split("/", 1)[1] for name in archive.namelist()} - names
    in_tree = {
        file.relative_to(copy).as_posix()
        for source in SOURCES
        for file in (copy / source).rglob("*.py")
    }
    assert {source_of(name) for name in names} == in_tree | DATA
    assert {"licenses/LICENSE", "entry_points.txt"} <= metadata_files
