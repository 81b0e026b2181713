"""Saved models: what comes back is what was learnt, and no changed file is read."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dask_petuum as petuum
from dask_petuum.saving import FORMAT, read_model, write_model

ROWS = np.random.default_rng(0).integers(0, 5, size=(24, 5)).astype(np.float64)
ROWS[:, 0] += 1.0
LABELS = (ROWS[:, 0] > ROWS[:, 1]).astype(int) + (ROWS[:, 2] > 2)
NAMED = pd.DataFrame(ROWS, columns=list("abcde"))
RATINGS = (list("aabcc"), ["tea", "rum", "tea", "rum", "ale"], [5.0, 1.0, 4.0, 2.0, 3.0])

MODELS: dict[str, tuple[Any, tuple[Any, ...], str, Any]] = {
    "LDA": (
        petuum.LDA(3, max_iter=4, random_state=0, staleness=(0, 2), consistency="ssp"),
        (NAMED,), "transform", NAMED,
    ),
    "KMeans": (
        petuum.KMeans(2, init=ROWS[:2], random_state=np.random.RandomState(0)),
        (ROWS,), "predict", ROWS,
    ),
    "SoftmaxRegression": (
        petuum.SoftmaxRegression(max_iter=2, random_state=0, class_weight={0: 2.0, 1: 1.5}),
        (NAMED, LABELS), "predict_proba", NAMED,
    ),
    "Lasso": (petuum.Lasso(alpha=0.1), (ROWS.astype(np.float32), ROWS[:, 0]), "predict", ROWS),
    "ElasticNet": (petuum.ElasticNet(alpha=0.1), (NAMED, ROWS[:, 0]), "predict", NAMED),
    "LogisticRegression": (
        petuum.LogisticRegression(C=np.inf, max_iter=50, tol=1e-2),
        (ROWS, np.array(["no", "yes", "maybe"])[LABELS]), "predict", ROWS,
    ),
    "LinearSVC": (
        petuum.LinearSVC(random_state=0), (ROWS, LABELS == 1), "decision_function", ROWS,
    ),
    "LinearSVR": (
        petuum.LinearSVR(epsilon=0.1, random_state=0), (NAMED, ROWS[:, 0]), "predict", NAMED,
    ),
    "MatrixFactorization": (
        petuum.MatrixFactorization(2, max_iter=2, random_state=0), (RATINGS,), "predict",
        (["b", "e"], ["rum", "tea"]),
    ),
}  # fmt: skip


def fitted(name: str) -> Any:
    model, data, _, _ = MODELS[name]
    return model.set_params(scheduler="local").fit(*data)


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_is_the_saved_one(name: str, tmp_path: Path) -> None:
    model, (_, _, method, given) = fitted(name), MODELS[name]
    path = tmp_path / "model.npz"
    model.save(path)
    loaded = type(model).load(path)
    np.testing.assert_array_equal(getattr(loaded, method)(given), getattr(model, method)(given))
    parameters = {**model.get_params(), **({"random_state": None} if name == "KMeans" else {})}
    assert str(loaded.get_params()) == str(parameters)
    assert loaded.history_ == model.history_
    before, after = vars(model), vars(loaded)
    assert set(before) == set(after)
    for attribute, value in before.items():
        assert type(after[attribute]) is type(value) or attribute == "random_state"
        if isinstance(value, np.ndarray):
            assert after[attribute].dtype == value.dtype
            np.testing.assert_array_equal(after[attribute], value)
    xarray = pytest.importorskip("xarray")
    xarray.testing.assert_identical(loaded.to_xarray(), model.to_xarray())
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("name", ["LDA", "KMeans", "SoftmaxRegression", "MatrixFactorization"])
def test_a_loaded_model_learns_on(name: str, tmp_path: Path) -> None:
    model, (_, data, method, given) = fitted(name), MODELS[name]
    model.set_params(random_state=0).save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    loaded.partial_fit(*data)
    model.partial_fit(*data)
    np.testing.assert_array_equal(getattr(loaded, method)(given), getattr(model, method)(given))


def test_numpy_opens_the_file(tmp_path: Path) -> None:
    model = fitted("KMeans")
    model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as arrays:
        found = [arrays[name] for name in arrays.files if "cluster_centers" in name]
    np.testing.assert_array_equal(found[0], model.cluster_centers_)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("saved") / "lasso.npz"
    fitted("Lasso").save(path)
    return path


def test_a_file_with_any_byte_changed_is_refused_or_read_right(saved: Path, tmp_path: Path) -> None:
    """What no part of the model depends on (times, say) may change; nothing else."""
    whole, model = saved.read_bytes(), petuum.Lasso.load(saved)
    path, n_refused = tmp_path / "flipped.npz", 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            loaded = petuum.Lasso.load(path)
        except ValueError as error:
            n_refused += str(path) in str(error)
        else:
            np.testing.assert_array_equal(loaded.coef_, model.coef_)
            assert loaded.get_params() == model.get_params()
    assert n_refused > len(whole) // 6


def test_a_file_that_was_cut_off_is_refused(saved: Path, tmp_path: Path) -> None:
    whole, path = saved.read_bytes(), tmp_path / "cut.npz"
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.npz cannot be loaded"):
            petuum.Lasso.load(path)


def rewritten(source: Path, target: Path, change: Any) -> Path:
    """Write an archive with other members, sealed as if it were ours."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = hashlib.sha256(members.get("manifest.json", b"")).hexdigest().encode()
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def in_manifest(change: Any) -> Any:
    def apply(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()

    return apply


def first_array(members: dict[str, Any]) -> str:
    return next(name for name in members if name.endswith("_coef.npy"))


def other_array(members: dict[str, bytes]) -> None:
    name = first_array(members)
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


CHANGES: dict[str, tuple[Any, str]] = {
    "no manifest": (lambda m: m.pop("manifest.json"), "no manifest.json"),
    "a manifest that is cut off": (
        lambda m: m.update({"manifest.json": m["manifest.json"][:-9]}),
        "no manifest of a model",
    ),
    "a manifest that is a list": (
        lambda m: m.update({"manifest.json": b"[1]"}),
        "no manifest of a model",
    ),
    "a missing member": (lambda m: m.pop(first_array(m)), "coef.npy is missing"),
    "a foreign member": (lambda m: m.update(x=b"1"), "x is not in the manifest"),
    "another array": (other_array, "coef.npy is not what was written: its hash"),
    "a shorter array": (
        lambda m: m.update({first_array(m): m[first_array(m)][:-4]}),
        "bytes, the manifest says",
    ),
    "a newer format": (
        in_manifest(lambda m: m.update(format=FORMAT + 1, version="9.9")),
        f"has format {FORMAT + 1}, written by dask_petuum 9.9; this version reads {FORMAT}, update",
    ),
    "another class": (
        in_manifest(lambda m: m.update({"class": "KMeans"})),
        "holds a KMeans, not a Lasso; use KMeans.load",
    ),
    "another shape": (
        in_manifest(lambda m: next(iter(m["arrays"].values())).update(shape=[1, 5])),
        "the manifest says",
    ),
    "a parameter that is none": (
        in_manifest(lambda m: m["content"]["parameters"]["dict"].append(["x", 1])),
        "a Lasso has no 'x'",
    ),
    "a method among what was learnt": (
        in_manifest(lambda m: m["content"]["learnt"]["dict"].append(["_open_job", 1])),
        "a Lasso has no '_open_job'",
    ),
    "an array that is none": (
        in_manifest(lambda m: m["content"].update(learnt={"array": "q"})),
        "KeyError",
    ),
    "an unknown form": (
        in_manifest(lambda m: m["content"].update(learnt={"call": "os.system"})),
        "unknown form 'call'",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_archives_are_refused(case: str, saved: Path, tmp_path: Path) -> None:
    change, text = CHANGES[case]
    path = rewritten(saved, tmp_path / "changed.npz", change)
    with pytest.raises(ValueError, match=text) as caught:
        petuum.Lasso.load(path)
    assert str(path) in str(caught.value)


def test_pickles_are_not_read(saved: Path, tmp_path: Path) -> None:
    """A sealed file whose array is a pickle that would run code."""
    import io
    import pickle

    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Evil()], dtype=object), allow_pickle=True)
    evil = file.getvalue()
    assert pickle.dumps(Evil())[-1:] in evil

    def change(members: dict[str, bytes]) -> None:
        name = first_array(members)
        members[name] = evil
        manifest = json.loads(members["manifest.json"])
        about = manifest["arrays"][name.removesuffix(".npy")]
        about.update(size=len(evil), sha256=hashlib.sha256(evil).hexdigest(), shape=[1], dtype="|O")
        members["manifest.json"] = json.dumps(manifest).encode()

    path = rewritten(saved, tmp_path / "evil.npz", change)
    with pytest.raises(ValueError, match="allow_pickle"):
        petuum.Lasso.load(path)
    assert not ran.exists()


def test_files_that_are_none_of_ours(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    np.savez(tmp_path / "plain.npz", a=np.ones(3))
    for name, text in (("text", "no model file"), ("plain.npz", "no manifest.json")):
        with pytest.raises(ValueError, match=text):
            petuum.Lasso.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent"):
        petuum.Lasso.load(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        petuum.Lasso.load(tmp_path)
    with pytest.raises(ValueError, match=r"holds a Lasso, not a KMeans; use Lasso\.load"):
        petuum.KMeans.load(saved)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "model.npz"
    model = fitted("Lasso")
    model.save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    monkeypatch.undo()
    model.odd_ = object()
    with pytest.raises(TypeError, match="holds a object, which cannot be saved"):
        model.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]
    with pytest.raises(ValueError, match="not fitted"):
        petuum.Lasso().save(path)


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    about = {
        "numbers": [1, 2.5, -0.0, True, None, "é", 10**30],
        "odd": (np.inf, (), {}, [], {1: "a", (2, "b"): [None]}),
        "arrays": [np.arange(3)[::-1], np.array(["a", "bc"]), np.float32(0.1), np.zeros((0, 2))],
        "objects": np.array([["a", 1], [None, 2.5]], dtype=object),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
    }
    write_model(tmp_path / "m", "Any", about)
    found = read_model(tmp_path / "m", "Any")
    assert found["numbers"] == about["numbers"]
    assert found["odd"] == about["odd"]
    for value, before in zip(found["arrays"], about["arrays"], strict=True):
        assert type(value) is type(before)
        assert value.dtype == before.dtype
        np.testing.assert_array_equal(value, before)
    np.testing.assert_array_equal(found["objects"], about["objects"])
    np.testing.assert_array_equal(found["dates"], about["dates"])


def test_models_as_xarray_are_labelled() -> None:
    svc = fitted("LinearSVC").to_xarray()
    assert svc["coef"].dims == ("class", "feature")
    assert svc["class"].values.tolist() == [True]
    softmax = fitted("SoftmaxRegression").to_xarray()
    assert softmax["coef"].sel(feature="c").sizes == {"class": 3}
    assert softmax.attrs["model"] == "SoftmaxRegression"
    kmeans = fitted("KMeans").to_xarray()
    assert kmeans["cluster_center"].sizes == {"cluster": 2, "feature": 5}
    assert float(kmeans["cluster_weight"].sum()) == 24.0
    net = fitted("ElasticNet")
    labelled = net.to_xarray()
    assert labelled["coefficient"].sel(feature="a") == net.coef_[0]
    assert labelled["coefficient"].attrs["units"] == "of y per unit of X"
    ratings = fitted("MatrixFactorization").to_xarray()
    assert ratings["item_factor"].sel(item="tea").sizes == {"component": 2}
    with pytest.raises(ValueError, match="not fitted"):
        petuum.KMeans().to_xarray()
