"""What must agree for a fit to go on from files: its parameters and its data, wherever it runs."""

from __future__ import annotations

import json
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import PATIENCE
from programs import LeastSquares, make_data
from sklearn.base import clone
from test_resume import CASES, LABELS, ROWS, interrupt

from dask_petuum import CheckpointError, LinearSVC, SoftmaxRegression
from dask_petuum.data import measure, open_dataset
from dask_petuum.data.fingerprint import SLICE, fingerprint
from dask_petuum.runtime.checkpoints import Checkpoints
from dask_petuum.runtime.fit_identity import differences, identity_of
from dask_petuum.runtime.job import LocalJob
from dask_petuum.runtime.options import RunOptions
from dask_petuum.store.spec import TableSpec, UpdateRule


class Part:
    """What a program may hold of its own."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Program(LeastSquares):
    """A program with attributes of all kinds, and a table with a rule."""

    def __init__(self, rule=None, **attributes):
        super().__init__(5, 400)
        self.rule = rule or UpdateRule()
        self.__dict__.update(attributes)

    def tables(self):
        return [TableSpec("w", (5, 1), "float64", rule=self.rule)]


def identity(program=None, max_clocks=9, **options):
    return identity_of(program or Program(), RunOptions(max_clocks, **options), [])


ORIGINAL = {
    "alpha": 0.1,
    "penalty": "l2",
    "init": np.arange(6.0),
    "labels": np.array(["a", "bc"]),
    "words": sp.csr_array(np.eye(3)),
    "part": Part(rates=[1.0, 2.0], kind=None, cost=np.float32(3)),
    "loss": Part,
    "_cache": object(),
}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"alpha": 0.2}, "program.alpha"),
        ({"alpha": None}, "program.alpha"),
        ({"penalty": "l1"}, "program.penalty"),
        ({"init": np.arange(6.0) + 1e-3}, "program.init"),
        ({"init": np.arange(6.0).reshape(2, 3)}, "program.init"),
        ({"labels": np.array(["a", "bd"])}, "program.labels"),
        ({"words": sp.csr_array(np.diag([1.0, 1, 2]))}, "program.words.data"),
        ({"part": Part(rates=[1.0, 2.5], kind=None, cost=3.0)}, "program.part.rates [1]"),
        ({"loss": LeastSquares}, "program.loss"),
        ({"extra": 1}, "program.extra"),
        ({"rule": UpdateRule("clip", 0, 1)}, "program.rule.kind"),
    ],
)
def test_a_parameter_that_differs_is_named(change, name):
    here, there = identity(Program(**ORIGINAL)), identity(Program(**{**ORIGINAL, **change}))
    assert any(text.startswith(f"{name}: ") for text in differences(there, here))
    assert differences(here, identity(Program(**ORIGINAL))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"max_clocks": 8},
        {"seed": 2},
        {"consistency": "ssp"},
        {"staleness": 1},
        {"staleness": "auto"},
    ],
)
def test_an_option_that_differs_is_named(change):
    (text,) = differences(identity(**change), identity())
    assert text.startswith("consistency" if "staleness" in change else next(iter(change)))


def test_last_bits_and_what_is_remembered_are_no_difference():
    """Sums over the data may have other last bits on another machine."""
    other = {**ORIGINAL, "alpha": 0.1 * 3 / 3, "init": np.arange(6.0) * (1 + 1e-15), "_cache": 5}
    assert differences(identity(Program(**other)), identity(Program(**ORIGINAL))) == []
    loop = Part()
    loop.itself = loop
    assert identity(Program(loop=loop)) == identity(Program(loop=loop))


def test_it_is_json_and_the_same_in_another_process():
    """Where text hashes otherwise."""
    here = identity(Program(**ORIGINAL))
    script = f"import sys; sys.path[:0] = {sys.path!r}\n" + (
        "import json, test_fit_identity as t; "
        "print(json.dumps(t.identity(t.Program(**t.ORIGINAL))))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(here)) == here


# Data

X, Y = make_data()
SPARSE = sp.csr_array(X * (X > 0))


@pytest.mark.parametrize(
    "other",
    [
        (X + (X[3, 2] == X), Y),
        (X[::-1], Y),
        (X.astype(np.float32), Y),
        (X.reshape(200, 10), Y[:200]),
        (X, Y + 1e-9),
        (X, None),
        (X, Y, np.ones(400)),
        (SPARSE, Y),
    ],
)
def test_other_data_have_another_fingerprint(other):
    assert fingerprint(*other) != fingerprint(X, Y)


def test_vectors_do_not_stand_in_for_each_other():
    assert fingerprint(X, Y, None) != fingerprint(X, None, Y)


def test_how_data_lie_in_memory_is_no_difference():
    wide = SPARSE.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert fingerprint(wide) == fingerprint(SPARSE)
    texts = np.array(["a", "bc"])
    assert fingerprint(X, texts) == fingerprint(X, texts.astype("U9"))
    assert fingerprint(X, texts.astype(object)) != fingerprint(X, np.array([1, 2], object))
    big = np.arange(2.0 * SLICE + 5).reshape(-1, 1)
    assert fingerprint(big) != fingerprint(big + (big == big[-1]))


def test_pieces_are_hashed_where_it_is_asked_for():
    assert measure((X, Y, None)).digest == ""
    assert measure((X, Y, None), hashed=True).digest == fingerprint(X, Y, None)


# Fits


@pytest.mark.parametrize(
    ("parameters", "data", "what"),
    [
        ({"C": 10.0}, (ROWS, LABELS), "program.objective_"),
        ({"learning_rate": 0.5}, (ROWS, LABELS), "program.schedule"),
        ({"consistency": "ssp", "staleness": 1}, (ROWS, LABELS), "consistency"),
        ({}, (-ROWS, LABELS), r"data of partitions \[0\]"),
        ({}, (ROWS, 1 - LABELS), r"data of partitions \[0\]"),
    ],
)
def test_another_fit_is_refused_with_what_differs(tmp_path, parameters, data, what):
    given = {"max_iter": 400, "tol": 0, "random_state": 0, "scheduler": "local"}
    first = SoftmaxRegression(**given, checkpoint=str(tmp_path))
    interrupt(first, (ROWS, LABELS), tmp_path)
    other = SoftmaxRegression(**given)
    with pytest.raises(CheckpointError, match=f"of another fit: .*{what}"):
        other.set_params(**parameters).fit(*data, resume=str(tmp_path))


def test_weights_of_rows_are_data(tmp_path):
    given = {"C": 100, "tol": 1e-12, "max_iter": 400, "dual": True, "random_state": 0}
    given["scheduler"] = "local"
    interrupt(LinearSVC(**given, checkpoint=str(tmp_path)), (ROWS, LABELS), tmp_path)
    with pytest.raises(CheckpointError, match=r"of another fit: .*data of partitions"):
        LinearSVC(**given).fit(ROWS, LABELS, sample_weight=np.arange(600.0), resume=str(tmp_path))


def lazy(values):
    """A Dask array of three partitions."""
    chunk = -(-values.shape[0] // 3)
    return da.from_array(values, chunks=(chunk, *values.shape[1:]), asarray=False)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_the_same_one_here_and_on_workers(name, client, tmp_path, monkeypatch):
    """Of three lazy partitions, on one rank and on as many as there are workers."""
    seen = []
    begin = Checkpoints.begin

    def spy(self):
        seen.append(json.loads(json.dumps(self.identity)))
        return begin(self)

    monkeypatch.setattr(Checkpoints, "begin", spy)
    estimator, data, _ = CASES[name]
    pieces = [lazy(values) for values in data]
    fits = {}
    for place, where in {"here": "local", "there": client.scheduler.address}.items():
        seen.clear()
        fit = clone(estimator).set_params(max_iter=3, checkpoint=str(tmp_path / place))
        fit.set_params(scheduler=where).fit(*pieces)
        fits[place] = list(seen)
    assert len(fits["here"]) == len(fits["there"]) > 0
    for here, there in zip(fits["here"], fits["there"], strict=True):
        assert differences(there, here) == []


def test_a_job_without_files_hashes_nothing():
    with LocalJob(open_dataset(X, Y)) as job:
        assert [size.digest for size in job.sizes] == [""]
