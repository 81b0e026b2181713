"""The pages on programs of one's own and on failures show code that runs, here and on a cluster."""

from __future__ import annotations

import importlib.util
import re
import sys

import cloudpickle
import dask.array as da
import numpy as np
import pytest
from source_tree import ROOT

import dask_petuum as petuum


def examples(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def load(tmp_path):
    """Make a module of an example, as a user's script would be; sent to workers by value."""
    loaded = []

    def load_module(number):
        name = f"own_program_{number}"
        path = tmp_path / f"{name}.py"
        path.write_text(examples("own_program.md")[number])
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        cloudpickle.register_pickle_by_value(module)
        loaded.append(module)
        return module

    yield load_module
    for module in loaded:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]


@pytest.mark.parametrize("number", [0, 1])
def test_examples_are_under_fifty_lines(number):
    lines = [line for line in examples("own_program.md")[number].splitlines() if line.strip()]
    assert len(lines) < 50


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_the_plain_way(load, where, request):
    client = "local" if where == "local" else request.getfixturevalue("client")
    results, w = load(0).main(client)
    assert results == ([(0, 2000)] if where == "local" else [(0, 900), (1, 1100)])
    assert w.dims == ("feature", "output")
    np.testing.assert_allclose(w.values[:, 0], [2.0, -1.0, 0.0], atol=0.2)


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_the_program(load, where, request):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3))
    y = rng.random(2000) < 1 / (1 + np.exp(-X @ [2.0, -1.0, 0.0]))
    main = load(1).main
    if where == "local":
        result = main(X, y)
    else:
        client = request.getfixturevalue("client")
        result = main(da.from_array(X, chunks=(500, 3)), da.from_array(y, chunks=500), client)
        assert len(result.outputs) == 4
    assert result.stopped_by == "converged"
    np.testing.assert_allclose(result.tables["w"][:, 0], [2.0, -1.0, 0.0], atol=0.2)
    p = np.concatenate([out["p"] for out in result.outputs])
    assert p.shape == (2000,)
    assert result.history[-1]["correct"] == pytest.approx(((p > 0.5) == y).mean())
    losses = [record["loss"] for record in result.history]
    assert losses == sorted(losses, reverse=True)


def test_the_audit_of_the_page_on_failures(capsys):
    (code,) = examples("what_happens.md")
    shown = re.search(r"print\(report\)  # (.*) \.\.\. (.*)", code)
    exec(code, {"__name__": "an_example"})
    printed = capsys.readouterr().out
    assert printed.startswith(shown[1])
    assert printed.strip().endswith(shown[2])


def test_every_error_of_the_page_exists():
    text = (ROOT / "docs" / "what_happens.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+Error)`", text)) - {"ValueError", "KeyboardInterrupt"}
    assert named
    assert all(hasattr(petuum, name) for name in named)
