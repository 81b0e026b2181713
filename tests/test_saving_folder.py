"""Models saved as folders of arrays: what comes back is what was learnt, and no change is read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from test_saving import MODELS, fitted

import dask_petuum as petuum
from dask_petuum.saving import folder, read_model, write_model

ABOUT: dict[str, Any] = {
    "numbers": [1, 2.5, True, None, "é"],
    "rows": np.arange(35, dtype=np.float32).reshape(7, 5),
    "zeros": np.zeros((9, 5)),
    "fortran": np.asfortranarray(np.arange(12).reshape(4, 3)),
    "text": np.array([["a", "bcé"], ["", "ß"]]),
    "bytes": np.array([b"a", b"bc"]),
    "dates": np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
    "other order": np.arange(4, dtype=">f8"),
    "other text": np.array(["ab"], dtype=">U2"),
    "long": np.arange(3, dtype=np.longdouble),
    "one": np.float32(0.1),
    "word": np.str_("word"),
    "yes": np.array([True, False]),
    "none": np.zeros((0, 3)),
    "no columns": np.zeros((3, 0), dtype=np.int16),
    "no text": np.array([], dtype=str),
    "cube": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of five float32 a chunk."""
    monkeypatch.setattr(folder, "CHUNK_BYTES", 40)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.zarr", "Any", ABOUT)
    return tmp_path / "m.zarr"


def assert_whole(found: dict[str, Any], about: dict[str, Any] = ABOUT) -> None:
    assert set(found) == set(about)
    for name, value in about.items():
        assert type(found[name]) is type(value), name
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file())


def test_values_come_back_as_they_were(saved: Path) -> None:
    assert_whole(read_model(saved, "Any"))


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_is_the_saved_one(name: str, tmp_path: Path) -> None:
    model, (_, _, method, given) = fitted(name), MODELS[name]
    model.save(tmp_path / "model.zarr")
    loaded = type(model).load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(getattr(loaded, method)(given), getattr(model, method)(given))
    assert loaded.history_ == model.history_
    assert set(vars(loaded)) == set(vars(model))


@pytest.mark.parametrize("name", ["model.npz", "model.zarr"])
def test_models_lie_at_urls(name: str) -> None:
    model = fitted("Lasso")
    fs = fsspec.filesystem("memory")
    url = f"memory://test_models_lie_at_urls/{name}"
    for alpha in (0.1, 0.2):  # the second in place of the first
        model.set_params(alpha=alpha).save(url)
        assert petuum.Lasso.load(url).alpha == alpha
    assert [path.rpartition("/")[2] for path in fs.ls("/test_models_lie_at_urls", False)] == [name]
    assert len(fs.ls(f"/test_models_lie_at_urls/{name}")) == (2 if name.endswith("zarr") else 1)
    with pytest.raises(FileNotFoundError):
        petuum.Lasso.load(f"memory://test_models_lie_at_urls/absent/{name}")
    fs.rm("/test_models_lie_at_urls", recursive=True)


def test_zarr_opens_the_folder(saved: Path) -> None:
    """Any reader of zarr: plain types, every chunk there, those of zeros too."""
    ((_, group),) = zarr.open_group(saved, mode="r").groups()
    arrays = {name[4:]: array for name, array in group.arrays()}
    np.testing.assert_array_equal(arrays["rows"][...], ABOUT["rows"])
    assert arrays["rows"].chunks == (2, 5)
    assert arrays["zeros"].nchunks_initialized == 9
    np.testing.assert_array_equal(arrays["fortran"][...], ABOUT["fortran"])
    assert arrays["text"].dtype == np.uint32


def test_a_changed_file_is_refused(saved: Path, tmp_path: Path) -> None:
    """A bit of any file of the manifest's, and of the manifest."""
    for path in files(saved):
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            if path.parent.name == saved_group(saved):  # for other readers
                assert_whole(read_model(saved, "Any"))
                continue
            with pytest.raises(ValueError, match=r"m\.zarr cannot be loaded: .*"):
                read_model(saved, "Any")
        path.write_bytes(whole)
    assert_whole(read_model(saved, "Any"))


def saved_group(path: Path) -> str:
    (group,) = (each.name for each in path.iterdir() if each.is_dir())
    return group


def test_a_missing_or_a_longer_file_is_refused(saved: Path) -> None:
    for path in files(saved):
        if path.parent.name == saved_group(saved):
            continue
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(ValueError, match=r"is missing|has no zarr\.json"):
            read_model(saved, "Any")
        path.write_bytes(whole + b" ")
        if path.parent == saved:
            assert_whole(read_model(saved, "Any"))  # JSON ends where it ends
        else:
            with pytest.raises(ValueError, match="bytes, the manifest says"):
                read_model(saved, "Any")
        path.write_bytes(whole)


def reseal(path: Path, change: Any) -> None:
    """Change a manifest as a stranger would who knows how it is made."""
    metadata = json.loads((path / "zarr.json").read_text())
    body = metadata["attributes"]["dask_petuum"]
    del body["sha256"]
    change(body)
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (path / "zarr.json").write_text(json.dumps(metadata))


def rows_of(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["arrays"]["000_rows"]
    return found


CHANGES: dict[str, tuple[Any, str]] = {
    "a newer format": (lambda m: m.update(format=3, version="9.9"), "has format 3, .*update"),
    "another class": (lambda m: m.update({"class": "KMeans"}), "holds a KMeans, not a Any"),
    "a group elsewhere": (lambda m: m.update(group="../model-0123456789abcdef"), "names a group"),
    "an array elsewhere": (
        lambda m: m["arrays"].update({"../../x": m["arrays"]["000_rows"]}), "names an array",
    ),
    "an array of objects": (lambda m: rows_of(m).update(dtype="|O"), "names an array .* of object"),
    "more rows": (lambda m: rows_of(m).update(shape=[9, 5]), "lacks .*000_rows/c/4/0"),
    "fewer rows": (lambda m: rows_of(m).update(shape=[5, 5]), "has a file .*000_rows/c/3/0"),
    "wider rows": (lambda m: rows_of(m).update(shape=[7, 6]), "or a damaged one"),
    "no chunks": (lambda m: rows_of(m).update(chunk_rows=0), "chunks of 0 rows"),
    "a file elsewhere": (lambda m: rows_of(m)["files"].update({"../x": [1, ""]}), "has a file"),
    "no arrays": (lambda m: m.update(arrays={}), "its content is no model's"),
    "a list": (lambda m: m.update(arrays=[1]), "or a damaged one"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_changed_manifests_are_refused(case: str, saved: Path) -> None:
    change, text = CHANGES[case]
    reseal(saved, change)
    with pytest.raises(ValueError, match=text):
        read_model(saved, "Any")


def test_what_decodes_a_chunk_is_not_the_file_s_to_say(saved: Path) -> None:
    """A codec of a stranger's that would run: metadata are compared, never followed."""
    path = saved / saved_group(saved) / "000_rows" / "zarr.json"
    text = path.read_text().replace('"zstd"', '"evil"')
    assert '"evil"' in text
    path.write_text(text)
    sealed = [len(text), hashlib.sha256(text.encode()).hexdigest()]
    reseal(saved, lambda m: rows_of(m)["files"].update({"zarr.json": sealed}))
    assert_whole(read_model(saved, "Any"))


def test_what_is_no_model_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    data = zarr.open_group(tmp_path / "data.zarr", mode="w")
    data.create_array("x", data=np.ones(3))
    model = fitted("Lasso")
    with pytest.raises(FileExistsError, match="is no saved model"):
        model.save(tmp_path / "data.zarr")
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "data.zarr")["x"][...], np.ones(3))
    with pytest.raises(ValueError, match="holds no manifest of a model"):
        petuum.Lasso.load(tmp_path / "data.zarr")
    (tmp_path / "file.zarr").write_text("hello")
    with pytest.raises(FileExistsError, match="is a file"):
        model.save(tmp_path / "file.zarr")
    with pytest.raises(FileNotFoundError, match="absent"):
        petuum.Lasso.load(tmp_path / "absent.zarr")
    with pytest.raises(TypeError, match="cannot be saved"):
        write_model(tmp_path / "new.zarr", "Any", {"odd": object()})
    assert not (tmp_path / "new.zarr").exists()


def test_a_save_that_fails_at_any_file_leaves_the_old_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, sync = files(saved), os.fsync
    n_syncs, n_failed = 0, 0

    def fail(number: int) -> None:
        nonlocal n_syncs
        n_syncs -= 1
        if n_syncs < 0:
            raise OSError("disk full")
        sync(number)

    monkeypatch.setattr(os, "fsync", fail)
    while True:
        n_syncs = n_failed
        try:
            write_model(saved, "Any", {"rows": np.ones((3, 5))})
        except OSError:
            n_failed += 1
            assert set(before) <= set(files(saved))
            found = read_model(saved, "Any")
            assert_whole(found, ABOUT if "text" in found else {"rows": np.ones((3, 5))})
        else:
            break
    assert n_failed > 6
    assert_whole(read_model(saved, "Any"), {"rows": np.ones((3, 5))})
    assert not set(files(saved)) & {path for path in before if path.parent != saved}


KILLED = """
import os, sys, numpy as np
from dask_petuum.saving import write_model
left, sync = int(sys.argv[2]), os.fsync
def die(number):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    sync(number)
os.fsync = die
write_model(sys.argv[1], "Any", {"rows": np.ones((3, 5))})
"""


@pytest.mark.parametrize("n_syncs", [0, 3, 6, 9])
def test_a_process_that_is_killed_leaves_one_of_both(n_syncs: int, saved: Path) -> None:
    """And what it left behind is gone with the next save."""
    arguments = [sys.executable, "-c", KILLED, str(saved), str(n_syncs)]
    assert subprocess.run(arguments, check=False).returncode in (0, -9)
    found = read_model(saved, "Any")
    assert_whole(found, ABOUT if "text" in found else {"rows": np.ones((3, 5))})
    write_model(saved, "Any", {"rows": np.zeros((1, 5))})
    assert saved_group(saved)
    assert_whole(read_model(saved, "Any"), {"rows": np.zeros((1, 5))})


def test_without_zarr_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pip install 'dask_petuum\[zarr\]'"):
        write_model(tmp_path / "m.zarr", "Any", ABOUT)
    with pytest.raises(ImportError, match=r"pip install 'dask_petuum\[zarr\]'"):
        read_model(tmp_path / "m.zarr", "Any")
    assert list(tmp_path.iterdir()) == []
