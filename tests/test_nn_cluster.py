"""Neural networks on a cluster: the same numbers as DistributedDataParallel, as one process."""

from __future__ import annotations

import sys

import dask.array as da
import numpy as np
import pytest
import torch
from nn_modules import Perceptron, in_chunks, make_rows, train_with_ddp

from dask_petuum.nn import NeuralNetClassifier

#: Rows of 640 in two chunks, 16 rows a step: 20 steps a pass, 100 in five.
N_RANKS, BATCH, EPOCHS = 2, 16, 5
OPTIMIZERS = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "Adam": {"lr": 1e-3},
}


@pytest.fixture(scope="module", autouse=True)
def modules_on_workers(cluster):
    """Workers find the tests' modules by value."""
    import cloudpickle
    import nn_modules

    here = (nn_modules, sys.modules[__name__])
    for module in here:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in here:
        cloudpickle.unregister_pickle_by_value(module)


def train(client, n_chunks=N_RANKS, optimizer="SGD", **more):
    """Train on so many chunks, here where there is no client; the weights and the model."""
    arguments = dict(OPTIMIZERS[optimizer])
    lr = arguments.pop("lr")
    nested = {f"optimizer__{name}": value for name, value in arguments.items()}
    settings = {"batch_size": BATCH, "max_epochs": EPOCHS, "random_state": 0}
    settings |= {"sufficient_factors": True, **more}
    model = NeuralNetClassifier(Perceptron, optimizer=optimizer, lr=lr, **settings, **nested)
    if client is None:
        model.set_params(scheduler="local", n_jobs=1)
    model.client = client
    return model.fit(*in_chunks(*make_rows(), n_chunks))


def assert_same(weights, expected, tolerance):
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_hundred_steps_are_those_of_ddp(client, tmp_path, optimizer):
    untrained = train(None, optimizer=optimizer, max_epochs=0)
    setup = {
        "optimizer": optimizer,
        "arguments": OPTIMIZERS[optimizer],
        "batch_size": BATCH,
        "seed": untrained._first_seed,
    }
    expected = train_with_ddp(tmp_path, untrained.to_module(), N_RANKS, 100, setup)
    model = train(client, optimizer=optimizer)
    assert_same(model.weights_, expected, 1e-5)
    assert not np.allclose(model.weights_["head.weight"], untrained.weights_["head.weight"])
    layers = model.history_[-1]["layers"]
    assert {name: told["sent"] for name, told in layers.items()} == {
        "body.0.weight": "gradient",
        "body.2.weight": "factors",
        "head.weight": "gradient",
    }
    full, factors = 64 * 64, BATCH * (64 + 64)
    assert layers["body.2.weight"]["bytes_saved"] == N_RANKS * 20 * 4 * (full - factors)


@pytest.mark.parametrize("n_chunks", [3, 4, 8])
def test_one_process_and_several_ranks_come_to_the_same(client, n_chunks):
    here, there = train(None, n_chunks), train(client, n_chunks)
    assert_same(there.weights_, here.weights_, 1e-5)
    for one, other in zip(here.history_, there.history_, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def normalised():
    layers = [torch.nn.Linear(20, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 4))


def test_a_small_chunk_beside_a_large_one_is_learnt_from(client):
    """Of its 10 rows, 13 steps would get one or none; BatchNorm needs two."""
    rows, labels = make_rows(210)
    given = (
        da.from_array(rows, chunks=((200, 10), 20)),
        da.from_array(labels, chunks=((200, 10),)),
    )
    fits = []
    for where in (None, client):
        model = NeuralNetClassifier(
            normalised, batch_size=16, max_epochs=3, optimizer="SGD", lr=0.05, random_state=0
        )
        if where is None:
            model.set_params(scheduler="local", n_jobs=1)
        model.client = where
        fits.append(model.fit(*given).weights_)
    assert_same(fits[1], fits[0], 1e-5)


@pytest.mark.parametrize("more", [{"overlap": False}, {"sufficient_factors": "auto"}], ids=str)
def test_how_gradients_travel_changes_nothing(client, more):
    assert_same(train(client, **more).weights_, train(client).weights_, 1e-6)


def test_history_says_how_a_layer_was_sent_that_gets_too_many_rows(client):
    layers = [record["layers"] for record in train(client, 2 * 4).history_]
    assert {told["sent"] for layer in layers for told in layer.values()} == {"gradient"}
    assert layers[0]["body.2.weight"]["bytes_saved"] <= 0
    assert layers[-1]["body.2.weight"]["bytes_saved"] == 0


def test_ranks_of_one_host_send_gradients_past_the_event_loops(client):
    """Where nothing crosses a network, factors would only cost their product."""
    layers = train(client, sufficient_factors="auto").history_[-1]["layers"]
    assert {told["sent"] for told in layers.values()} == {"gradient"}


@pytest.mark.parametrize(
    "more",
    [
        {"consistency": "essp", "staleness": 1},
        {"consistency": "asp"},
        {"local_steps": 4},
        {"local_steps": 4, "consistency": "ssp", "staleness": 2},
        {"early_stopping": True, "n_iter_no_change": 4, "consistency": "asp", "local_steps": 7},
    ],
    ids=str,
)
def test_ranks_that_step_apart_learn_too(client, more):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20)).astype(np.float32)
    y = (X[:, :3].sum(axis=1) > 0).astype(int)
    model = NeuralNetClassifier(hidden_layer_sizes=(32,), max_epochs=15, random_state=0, **more)
    model.client = client
    model.fit(da.from_array(X, chunks=(1000, 20)), da.from_array(y, chunks=1000))
    assert model.score(X, y) > 0.88
    assert max(record["staleness"] for record in model.history_) <= more.get("staleness", 100)
