"""The examples of the README do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file
from source_tree import ROOT


def example(heading: str) -> str:
    """Return the code under a heading of the README."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    found = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert found is not None
    return found[1]


def run(code: str, **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = dict(names)
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("heading", ["On a laptop", "On a cluster", "A program of your own"])
def test_examples_are_short(heading: str) -> None:
    lines = [line for line in example(heading).splitlines() if line.strip()]
    assert len(lines) <= 15


def test_laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    topics = np.kron(np.eye(3), np.ones(10))  # each topic has ten words of its own
    counts = sp.csr_array(rng.poisson(2 * topics[rng.integers(3, size=120)]))
    dump_svmlight_file(counts, np.zeros(120), str(tmp_path / "train.svmlight"))
    monkeypatch.chdir(tmp_path)
    code = example("On a laptop").replace("100, max_iter=200", "3, max_iter=5")
    lda = run(code)["lda"]
    assert lda.components_.shape == (3, 30)
    assert lda.perplexity(counts) < 15  # 10 is the least, 30 that of no topics


def test_program_of_your_own() -> None:
    rng = np.random.default_rng(0)
    X, truth = rng.normal(size=(500, 4)), np.array([1.0, -2.0, 0.5, 0.0])
    w = run(example("A program of your own"), X=X, y=X @ truth, client="local")["w"]
    np.testing.assert_allclose(w.ravel(), truth, atol=1e-6)
