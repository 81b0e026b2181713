"""The pages on programs of one's own and on failures show code that runs, here and on a cluster."""

from __future__ import annotations

import importlib.util
import re
import sys

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import sklearn.linear_model
from source_tree import ROOT

import dask_petuum as petuum


def examples(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def load(tmp_path):
    """Make a module of an example, as a user's script would be; sent to workers by value."""
    loaded = []

    def load_module(number, page="own_program.md"):
        name = f"{page.removesuffix('.md')}_{number}"
        path = tmp_path / f"{name}.py"
        path.write_text(examples(page)[number])
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


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_the_model_parallel_program(load, where, request):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 60))
    X[:, 1::2] += 2 * X[:, ::2]  # neighbours are correlated
    true = np.zeros(60)
    true[[0, 7, 20, 33]] = 3.0, -2.0, 1.0, 4.0
    y = X @ true + rng.normal(size=800)
    code = examples("own_model_parallel.md")[0]
    assert len([line for line in code.splitlines() if line.strip()]) < 60
    main = load(0, "own_model_parallel.md").main
    scale = (X * X).sum(axis=0)
    if where == "local":
        w, history = main(X, y, scale, X[:200])
    else:
        lazy = da.from_array(X, chunks=(200, 60)), da.from_array(y, chunks=200)
        w, history = main(*lazy, scale, X[:200], request.getfixturevalue("client"))
    solved = sklearn.linear_model.Lasso(alpha=50 / 800, fit_intercept=False, tol=1e-10).fit(X, y)
    assert 4 <= np.count_nonzero(solved.coef_) < 30
    np.testing.assert_allclose(w, solved.coef_, atol=1e-4)
    assert history[-1]["sse"] < history[0]["sse"]


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_the_model_parallel_program_with_violations(load, where, request):
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(800, 15)), 4, axis=1) + rng.normal(size=(800, 60)) / 3
    y = X[:, ::15] @ [3.0, -2.0, 1.0, 4.0] + rng.normal(size=800)
    module = load(0, "own_model_parallel.md")
    code = examples("own_model_parallel.md")[1]
    exec(compile(code, module.__file__, "exec"), module.__dict__)
    given, client = (X, y), None
    if where == "cluster":
        given = da.from_array(X, chunks=(200, 60)), da.from_array(y, chunks=200)
        client = request.getfixturevalue("client")
    program = module.LassoByViolation(50.0, (X * X).sum(axis=0), X)
    assert program.rounds_per_clock() == 1
    with petuum.open_job(petuum.open_dataset(*given), client=client) as job:
        result = job.run(program, petuum.RunOptions(max_clocks=400))
    w = np.concatenate([block["w"] for block in result.blocks])
    solved = sklearn.linear_model.Lasso(alpha=50 / 800, fit_intercept=False, tol=1e-10).fit(X, y)
    assert 4 <= np.count_nonzero(solved.coef_) < 30
    np.testing.assert_allclose(w, solved.coef_, atol=1e-4)


def test_blocks_that_are_tasks(load, client):
    rng = np.random.default_rng(0)
    data = [rng.normal(loc=group, size=(20, 2)) for group in range(6)]
    reads = {group: ((group - 1) % 6, (group + 1) % 6) for group in range(6)}
    means, n_updates = load(2, "own_model_parallel.md").main(client, data, reads)
    own = np.stack([rows.mean(axis=0) for rows in data])
    pulled = (np.roll(means, 1, axis=0) + np.roll(means, -1, axis=0)) / 2
    np.testing.assert_allclose(means, 0.6 * own + 0.4 * pulled, atol=1e-5)
    assert n_updates < 500


def test_the_audit_of_the_page_on_failures(capsys):
    (code,) = examples("what_happens.md")
    shown = re.search(r"print\(report\)  # (.*) \.\.\. (.*)", code)
    exec(code, {"__name__": "an_example"})
    printed = capsys.readouterr().out
    assert printed.startswith(shown[1])
    assert printed.strip().endswith(shown[2])


def test_every_error_of_the_page_exists():
    text = (ROOT / "docs" / "what_happens.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+Error)`", text))
    ours = {name for name in named if hasattr(petuum, name)}
    assert len(ours) >= 5
    assert named - ours == {"ValueError", "TypeError"}
