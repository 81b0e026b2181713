"""Bad input to the neural nets, from the same lists as to the other estimators."""

from __future__ import annotations

from functools import cache
from typing import Any

import bad_input
import numpy as np
import pytest
import scipy.sparse as sp
from bad_input import CLEAN, LABELS, REFUSED, TARGETS
from test_bad_input_estimators import BAD_TARGETS, check_refused

pytest.importorskip("torch")

NETS = ("NeuralNetClassifier", "NeuralNetRegressor")


def net(name: str) -> Any:
    from dask_petuum import nn

    options = {"hidden_layer_sizes": (4,), "max_epochs": 2, "random_state": 0}
    return getattr(nn, name)(**options, scheduler="local")


def target(name: str) -> Any:
    return LABELS if name == "NeuralNetClassifier" else TARGETS


def learnt(model: Any) -> Any:
    return np.concatenate([np.ravel(values) for values in model.weights_.values()])


@cache
def clean_net(name: str, *, sparse: bool) -> Any:
    return net(name).fit(sp.csr_array(CLEAN) if sparse else CLEAN, target(name))


def check_equal(name: str, rows: Any, *, sparse: bool) -> None:
    clean = clean_net(name, sparse=sparse)
    np.testing.assert_array_equal(learnt(net(name).fit(rows, target(name))), learnt(clean))
    np.testing.assert_array_equal(clean.predict(rows), clean.predict(CLEAN))


@pytest.mark.parametrize("case", bad_input.EQUAL_DENSE)
@pytest.mark.parametrize("name", NETS)
def test_odd_dense_rows_give_the_clean_net(name: str, case: str) -> None:
    check_equal(name, bad_input.EQUAL_DENSE[case](), sparse=False)


@pytest.mark.parametrize("case", bad_input.EQUAL_SPARSE)
@pytest.mark.parametrize("name", NETS)
def test_odd_sparse_rows_give_the_clean_net(name: str, case: str) -> None:
    check_equal(name, bad_input.EQUAL_SPARSE[case](), sparse=True)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", NETS)
def test_bad_rows_are_refused_before_any_work(name: str, case: str) -> None:
    make, expected = REFUSED[case]
    model, y = net(name), target(name)
    if case.endswith("without rows") or case == "no rows":
        y = y[:0]
    check_refused(expected, lambda: model.fit(make(), y))
    assert not hasattr(model, "weights_")
    check_refused(expected, lambda: clean_net(name, sparse=False).predict(make()))


@pytest.mark.parametrize("case", BAD_TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_bad_targets_are_refused(name: str, case: str) -> None:
    make, expected = BAD_TARGETS[case]
    model = net(name)
    check_refused(expected, lambda: model.fit(CLEAN, make(target(name))))
    assert not hasattr(model, "weights_")


@pytest.mark.parametrize("name", NETS)
def test_other_widths_are_refused_after_fit(name: str) -> None:
    model = net(name).fit(CLEAN, target(name))
    before = learnt(model).copy()
    for call in (model.predict, lambda rows: model.partial_fit(rows, target(name))):
        with pytest.raises(ValueError, match=r"X has 4 features.* 5 features"):
            call(CLEAN[:, :4])
    np.testing.assert_array_equal(learnt(model), before)


def test_one_class_is_refused_and_one_row_is_learnt() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        net("NeuralNetClassifier").fit(CLEAN, np.zeros_like(LABELS))
    model = net("NeuralNetRegressor").fit(CLEAN[:1], TARGETS[:1])
    assert np.isfinite(learnt(model)).all()


@pytest.mark.parametrize("name", NETS)
def test_zeros_are_learnt_from(name: str) -> None:
    assert np.isfinite(learnt(net(name).fit(np.zeros_like(CLEAN), target(name)))).all()
