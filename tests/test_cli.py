"""The command line, as it is typed."""

from __future__ import annotations

import csv
from importlib import metadata
from pathlib import Path
from unittest import mock

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dask_petuum
from dask_petuum.cli import main

GROUPS = [["apple", "pear", "plum", "cherry"], ["dog", "cat", "horse", "mouse"]]


def run(*arguments: str) -> Result:
    """Run the command; an error of ours (not the user's) is raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write 60 documents of two planted topics, one a line."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(GROUPS[i % 2], size=12)) for i in range(60)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_lda_finds_planted_topics_and_topics_prints_them(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    result = run("lda", corpus, "--topics", 2, "--passes", 30, "--seed", 0, "--output", output)
    assert result.exit_code == 0, result.output
    with (output / "topics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(sorted(row["words"].split()[:4]) for row in rows) == [
        sorted(GROUPS[0]),
        sorted(GROUPS[1]),
    ]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
    documents = np.load(output / "documents.npy")
    assert documents.shape == (60, 2)
    assert len(set(documents[::2].argmax(axis=1))) == len(set(documents[1::2].argmax(axis=1))) == 1
    printed = run("topics", output, "--words", 4).output
    assert "50.0 %" in printed
    assert all(word in printed for group in GROUPS for word in group)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lda", "absent.ldac", "--topics", "2", "--output", "x"], "absent.ldac"),
        (["lda", "corpus.bin", "--topics", "2", "--output", "x"], "cannot tell the format"),
        (["lda", "a.ldac", "--topics", "0", "--output", "x"], "--topics"),
        (["lda", "a.ldac", "--topics", "2", "--output", "x", "--format", "csv"], "--format"),
        (["info", "--scheduler", "tcp://127.0.0.1:1", "--timeout", "0.2"], "127.0.0.1:1"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_topics_of_a_folder_without_a_model(tmp_path: Path) -> None:
    result = run("topics", tmp_path)
    assert result.exit_code == 1
    assert "model.npz" in result.output


def test_info_says_what_is_here() -> None:
    result = run("info")
    assert result.exit_code == 0
    assert dask_petuum.__version__ in result.output


def test_info_fails_where_a_fit_would() -> None:
    with mock.patch("dask_petuum.environment.versions_here") as versions:
        versions.return_value = {"python": "3.11", "numba": None}
        result = run("info")
    assert result.exit_code == 1
    assert "numba is not installed" in result.output


def test_dask_has_it_as_a_subcommand() -> None:
    (entry,) = metadata.entry_points(group="dask_cli", name="petuum")
    command = entry.load()
    assert isinstance(command, click.Group)
    assert command.name == "petuum"


def test_version() -> None:
    assert dask_petuum.__version__ in run("--version").output
