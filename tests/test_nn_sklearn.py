"""Neural networks as scikit-learn estimators, in this process."""

from __future__ import annotations

import pickle
import re
from functools import partial

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import torch
import xarray as xr
from nn_modules import Perceptron, make_rows
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from source_tree import ROOT
from test_kmeans_interrupts import StopAfter
from test_resume import interrupt

from dask_petuum.nn import NeuralNetClassifier, NeuralNetRegressor
from dask_petuum.nn.weights_file import read_weights

#: Random batches, as in SoftmaxRegression: repeated rows fall into other batches.
BATCHES = "sample_weight is not equivalent to repeating rows: other random batches"
EXCUSED = {
    "check_sample_weight_equivalence_on_dense_data": BATCHES,
    "check_sample_weight_equivalence_on_sparse_data": BATCHES,
}
QUICK = {"lr": 0.01, "batch_size": 32, "max_epochs": 30, "n_jobs": 1, "scheduler": "local"}


@parametrize_with_checks(
    [NeuralNetClassifier(**QUICK), NeuralNetRegressor(**QUICK)],
    expected_failed_checks=lambda estimator: EXCUSED,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def fitted(**more):
    rows, labels = load_iris(return_X_y=True)
    return NeuralNetClassifier(**{**QUICK, "random_state": 0, **more}).fit(rows, labels)


def test_a_step_is_that_of_plain_torch():
    rows, labels = make_rows(64)
    settings = {"optimizer": "AdamW", "lr": 0.01, "batch_size": 64, "random_state": 0}
    model = NeuralNetClassifier(
        Perceptron, scheduler="local", max_epochs=0, module__width=8, shuffle=False, **settings
    ).fit(rows, labels)
    module = model.to_module()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        out = module(torch.from_numpy(rows))
        torch.nn.functional.cross_entropy(out, torch.from_numpy(labels)).backward()
        optimizer.step()
    model.set_params(max_epochs=10).fit(rows, labels)
    for name, values in module.state_dict().items():
        np.testing.assert_allclose(model.weights_[name], values.numpy(), atol=1e-6)


def test_nested_parameters_are_cloned_set_and_refused():
    model = NeuralNetClassifier(Perceptron, module__width=8, optimizer__weight_decay=0.1)
    assert clone(model).get_params()["module__width"] == 8
    assert model.set_params(module__width=16).module__width == 16
    with pytest.raises(TypeError, match="no parameter 'width'"):
        NeuralNetClassifier(width=8)


def test_layers_probabilities_pickles_and_lazy_rows():
    model = fitted()
    rows = load_iris(return_X_y=True)[0]
    proba = model.predict_proba(rows)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.predict(rows), proba.argmax(axis=1))
    assert model.transform(rows, layer="1").min() == 0, "the outputs of a ReLU"
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(sp.csr_array(rows)), proba)
    lazy = da.from_array(rows, chunks=(40, 4))
    np.testing.assert_allclose(model.predict_proba(lazy).compute(), proba, atol=1e-6)
    with pytest.raises(ValueError, match="layer must be one of"):
        model.transform(rows, layer="9")


def test_weights_go_out_and_in_as_safetensors_and_models_as_files(tmp_path):
    rows = load_iris(return_X_y=True)[0]
    model, other = fitted(), fitted(random_state=1)
    model.save_weights(tmp_path / "w.safetensors")
    other.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.predict_proba(rows), model.predict_proba(rows))
    model.save(tmp_path / "model")
    again = NeuralNetClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(rows), model.predict_proba(rows))
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="no safetensors file"):
        other.load_weights(tmp_path / "w.safetensors")
    fitted(hidden_layer_sizes=(3,)).save_weights(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="another module"):
        other.load_weights(tmp_path / "w.safetensors")


def test_the_file_is_laid_out_as_the_format_says(tmp_path):
    import json

    model = fitted(max_epochs=1)
    model.save_weights(tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first, end = header["0.bias"]["data_offsets"]
    assert header["0.bias"]["dtype"] == "F32"
    body = np.frombuffer(data[8 + length :][first:end], "<f4")
    np.testing.assert_array_equal(body, model.weights_["0.bias"])


def test_early_stopping_schedules_clipping_and_warm_starts():
    rows, labels = load_digits(return_X_y=True)
    settings = {**QUICK, "random_state": 0, "max_epochs": 200, "lr": 0.05}
    model = NeuralNetClassifier(early_stopping=True, n_iter_no_change=3, **settings)
    model = make_pipeline(StandardScaler(), model).fit(rows, labels)[-1]
    losses = [record["valid_loss"] for record in model.history_]
    assert model.n_iter_ == len(losses) < 200
    assert min(losses[-3:]) > min(losses[:-3]) - model.tol
    still = fitted(lr_scheduler="StepLR", lr_scheduler__step_size=1, lr_scheduler__gamma=0.0)
    once = fitted(max_epochs=1)
    np.testing.assert_array_equal(still.weights_["0.weight"], once.weights_["0.weight"])
    clipped = fitted(optimizer="SGD", gradient_clip=1e-6, max_epochs=1)
    first = fitted(max_epochs=0)
    moved = clipped.weights_["0.weight"] - first.weights_["0.weight"]
    assert 0 < np.linalg.norm(moved) <= 5 * 0.01 * 1e-6 * 1.01
    on = fitted(max_epochs=3).set_params(warm_start=True)
    before = on.history_[0]["loss"]
    assert on.fit(*load_iris(return_X_y=True)).history_[0]["loss"] < before


def test_a_schedule_goes_on_over_partial_fits():
    rows, labels = load_iris(return_X_y=True)
    decay = {"lr_scheduler": "StepLR", "lr_scheduler__step_size": 1, "lr_scheduler__gamma": 0.0}
    model = NeuralNetClassifier(**QUICK, **decay, random_state=0)
    model.partial_fit(rows, labels, classes=[0, 1, 2])
    first = model.weights_["0.weight"]
    np.testing.assert_array_equal(model.partial_fit(rows, labels).weights_["0.weight"], first)
    assert [record["clock"] for record in model.history_] == [1, 2]
    assert model.n_iter_ == 2


@pytest.mark.parametrize("estimator", [NeuralNetClassifier, NeuralNetRegressor])
def test_a_partial_fit_goes_on_after_the_passes_of_a_fit(estimator):
    """With SGD, which remembers nothing, it is the next pass: its step size and order of rows."""
    rows, labels = load_iris(return_X_y=True)
    decay = {"lr_scheduler": "StepLR", "lr_scheduler__step_size": 2, "lr_scheduler__gamma": 0.1}
    settings = {**QUICK, **decay, "optimizer": "SGD", "random_state": 0}
    whole = estimator(**{**settings, "max_epochs": 4}).fit(rows, labels)
    model = estimator(**{**settings, "max_epochs": 3}).fit(rows, labels)
    model.partial_fit(rows, labels)
    np.testing.assert_array_equal(model.weights_["0.weight"], whole.weights_["0.weight"])
    assert model.n_iter_ == 4
    assert [record["clock"] for record in model.history_] == [1, 2, 3, 4]


@pytest.mark.parametrize("estimator", [NeuralNetClassifier, NeuralNetRegressor])
def test_a_partial_fit_cannot_stop_early(estimator):
    rows, labels = load_iris(return_X_y=True)
    model = estimator(**QUICK, early_stopping=True)
    with pytest.raises(ValueError, match="does not support early_stopping=True"):
        model.partial_fit(rows, labels)
    assert not hasattr(model, "weights_")


class Lazy(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.LazyLinear(3))


class WithSettings(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class TrainedLoss(torch.nn.CrossEntropyLoss):
    def __init__(self, reduction):
        super().__init__(reduction=reduction)
        self.scale = torch.nn.Parameter(torch.ones(()))


def lazy_but_called():
    module = Lazy()
    module(torch.zeros(2, 4))
    return module


def test_a_lazy_module_that_was_called_once_is_trained():
    assert (
        fitted(module=lazy_but_called, optimizer__lr=0.1).score(*load_iris(return_X_y=True)) > 0.6
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"optimizer": "LBFGS"}, "cannot be LBFGS"),
        ({"optimizer": "Nothing"}, "optimizer must be a class"),
        ({"criterion": "Linear"}, "reduction"),
        ({"lr_scheduler": "ReduceLROnPlateau"}, "cannot be ReduceLROnPlateau"),
        ({"module": torch.nn.Flatten}, "no parameter that could be trained"),
        ({"module": torch.nn.Linear(4, 3)}, "module must be a class or a function, got a Linear"),
        ({"module": Lazy}, r"lazy, the shape of .*weight. is not known: call it once"),
        ({"module": WithSettings}, "'_extra_state' in its state_dict, a dict"),
        ({"criterion": TrainedLoss}, "criterion cannot be trained, it has 'scale'"),
        ({"criterion__reduction": "sum"}, "criterion__reduction cannot be set"),
        ({"wire_dtype": "int8"}, "wire_dtype must be"),
        ({"wire_dtype": "float16", "consistency": "ssp"}, 'needs consistency="bsp", got .ssp'),
        ({"outer_lr": 0.7}, "outer_lr=0.7 needs .* local_steps > 1, got 'bsp' and 1"),
        ({"outer_momentum": 0.9, "local_steps": 1}, "outer_momentum=0.9 needs"),
        ({"outer_lr": 0.7, "local_steps": 4, "consistency": "asp"}, "there is no outer optimiser"),
        ({"device": "gpu"}, "device must be one of torch"),
        ({"device": "cuda:99"}, "this process sees"),
        ({"early_stopping": True, "validation_fraction": 0.0}, "early_stopping needs rows"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_any_work(wrong, words):
    with pytest.raises(ValueError, match=words):
        fitted(**wrong)


def test_a_model_with_a_class_is_loaded_with_it(tmp_path):
    rows, labels = make_rows(64)
    model = NeuralNetClassifier(Perceptron, module__width=8, **{**QUICK, "max_epochs": 1})
    model.fit(rows, labels).save(tmp_path / "model")
    again = NeuralNetClassifier.load(tmp_path / "model", module=Perceptron)
    assert again.get_params() == model.get_params() | {"random_state": None}
    np.testing.assert_array_equal(again.predict_proba(rows), model.predict_proba(rows))
    with pytest.raises(ValueError, match=r"saved with module=nn_modules.Perceptron: give it"):
        NeuralNetClassifier.load(tmp_path / "model")
    with pytest.raises(ValueError, match="another module"):
        NeuralNetClassifier.load(tmp_path / "model", module=narrower)
    with pytest.raises(TypeError, match="got 'modul'"):
        NeuralNetClassifier.load(tmp_path / "model", modul=Perceptron)


def test_what_is_set_after_a_fit_changes_no_prediction(tmp_path):
    rows, labels = load_iris(return_X_y=True)
    model = fitted(module=as_logarithms, module__width=16, criterion="NLLLoss", max_epochs=1)
    proba, layer = model.predict_proba(rows), model.transform(rows, layer="0")
    model.set_params(module=None, module__width=7, criterion=None, hidden_layer_sizes=(9,))
    np.testing.assert_array_equal(model.predict_proba(rows), proba)
    np.testing.assert_array_equal(model.transform(rows, layer="0"), layer)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(rows), proba)
    assert model.to_module()[0].out_features == 16
    model.save(tmp_path / "model")
    model.save_weights(tmp_path / "weights")
    model.load_weights(tmp_path / "weights")
    again = NeuralNetClassifier.load(tmp_path / "model", module=as_logarithms)
    assert again.module__width == 16
    np.testing.assert_array_equal(again.predict_proba(rows), proba)
    model.set_params(module__width=7, module=as_logarithms, criterion="NLLLoss")
    assert model.fit(rows, labels).to_module()[0].out_features == 7
    with pytest.raises(ValueError, match="another module"):
        model.set_params(module__width=8).partial_fit(rows, labels)
    assert model.to_module()[0].out_features == 7


def as_logarithms(width):
    layers = [torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)]
    return torch.nn.Sequential(*layers, torch.nn.LogSoftmax(dim=1))


def narrower(width):
    return Perceptron(width // 2)


def test_xarray_rows_are_taken():
    rows, labels = load_iris(return_X_y=True, as_frame=True)
    labelled = xr.DataArray(rows, dims=("flower", "feature"))
    settings = {**QUICK, "random_state": 0, "max_epochs": 2}
    model = NeuralNetClassifier(**settings).fit(labelled, labels)
    same = NeuralNetClassifier(**settings).fit(rows.to_numpy(), labels.to_numpy())
    np.testing.assert_array_equal(
        model.predict_proba(labelled), same.predict_proba(rows.to_numpy())
    )


@pytest.mark.parametrize("estimator", [NeuralNetClassifier, NeuralNetRegressor])
def test_the_best_weights_are_kept_where_training_stops_early(estimator):
    """Those of the pass with the least loss: as if training had ended there."""
    rows, labels = make_rows(300)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(300) < 0.3, rng.integers(4, size=300), labels)
    settings = {**QUICK, "random_state": 0, "lr": 0.03, "max_epochs": 60, "early_stopping": True}
    model = estimator(n_iter_no_change=5, **settings).fit(rows, labels)
    losses = [record["valid_loss"] for record in model.history_]
    best = int(np.argmin(losses)) + 1
    assert best < len(losses) < 60
    until = estimator(n_iter_no_change=100, **{**settings, "max_epochs": best}).fit(rows, labels)
    for name, values in until.weights_.items():
        np.testing.assert_array_equal(model.weights_[name], values)


class Growing(torch.nn.Linear):
    """Makes a buffer, or gives it another shape, when it is called."""

    def __init__(self, first, persistent=True):
        super().__init__(4, 3)
        self.register_buffer("cache", first, persistent=persistent)

    def forward(self, rows):
        self.cache = torch.zeros(5)
        return super().forward(rows)


@pytest.mark.parametrize("first", [None, torch.zeros(2)])
def test_a_buffer_that_a_new_module_could_not_take_is_refused(first):
    words = r"'cache' of shape \(5,\) .* built with .*persistent=False"
    with pytest.raises(ValueError, match=words):
        fitted(module=Growing, module__first=first)
    model = fitted(module=Growing, module__first=first, module__persistent=False, max_epochs=2)
    assert set(model.weights_) == {"weight", "bias"}


class Drawing(torch.nn.Linear):
    """Drops numbers out where nothing is learnt, too."""

    def forward(self, rows):
        return super().forward(torch.nn.functional.dropout(rows))


def test_rows_held_out_are_looked_at_with_random_numbers_of_the_seed():
    settings = {"module": Drawing, "module__in_features": 4, "module__out_features": 3}
    settings |= {"early_stopping": True, "max_epochs": 5, "random_state": 0}
    state = torch.random.get_rng_state()
    first = fitted(**settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    losses = [[record["valid_loss"] for record in m.history_] for m in (first, fitted(**settings))]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("more", [{"consistency": "ssp", "staleness": 2}, {"consistency": "asp"}])
def test_the_best_weights_are_kept_where_ranks_may_be_stale(more):
    """A clock, one step, is a pass here."""
    rows, labels = make_rows(300)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(300) < 0.3, rng.integers(4, size=300), labels)
    settings = {**QUICK, **more, "random_state": 0, "lr": 0.03, "batch_size": 300}
    settings |= {"early_stopping": True, "max_epochs": 200}
    model = NeuralNetClassifier(n_iter_no_change=5, **settings).fit(rows, labels)
    losses = [record["valid_loss"] for record in model.history_]
    best = int(np.argmin(losses)) + 1
    assert best < len(losses) < 200
    settings |= {"early_stopping": True, "max_epochs": best}
    until = NeuralNetClassifier(n_iter_no_change=500, **settings).fit(rows, labels)
    for name, values in until.weights_.items():
        np.testing.assert_allclose(model.weights_[name], values, atol=1e-5)


@pytest.mark.parametrize("more", [{"consistency": "ssp"}, {"local_steps": 2}])
def test_rows_held_out_are_looked_at_where_a_pass_ends(more):
    """Nine steps a pass: clocks of one step, or of eight."""
    model = fitted(batch_size=15, max_epochs=4, early_stopping=True, n_iter_no_change=100, **more)
    looks = [record["clock"] for record in model.history_ if "valid_loss" in record]
    assert looks == ([9, 18, 27, 36] if "consistency" in more else [2, 3, 4, 5])


@pytest.mark.parametrize(("n_steps", "n_passes"), [(1, 5), (5, 8), (10, 10)])
def test_patience_counts_passes(n_steps, n_passes):
    """Nothing gets better; a pass is two steps, and a clock may be several passes."""
    model = fitted(
        batch_size=75,
        consistency="ssp",
        local_steps=n_steps,
        lr=1e-12,
        early_stopping=True,
        n_iter_no_change=4,
        max_epochs=40,
    )
    assert model.n_iter_ == n_passes


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_mixed_precision_learns_as_well(autocast):
    rows, labels = load_iris(return_X_y=True)
    seen = []
    settings = {**QUICK, "random_state": 0, "autocast": autocast}
    model = NeuralNetClassifier(partial(watched, seen), **settings).fit(rows, labels)
    assert getattr(torch, autocast) in seen
    assert model.score(rows, labels) > 0.9
    assert model.weights_["0.weight"].dtype == np.float32
    with pytest.raises(ValueError, match="autocast must be"):
        fitted(autocast="int8")


def watched(seen):
    """A perceptron that notes the types of its first layer's outputs."""
    layers = torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.ReLU(), torch.nn.Linear(30, 3))
    layers[0].register_forward_hook(lambda layer, given, out: seen.append(out.dtype))
    return layers


def test_predictions_are_made_on_the_device():
    """A device that keeps no numbers gets as far as giving them back."""
    model = fitted(max_epochs=1).set_params(device="meta")
    with pytest.raises(NotImplementedError, match="meta tensor"):
        model.predict(load_iris(return_X_y=True)[0])
    assert len(model.set_params(device="cuda").predict(np.zeros((3, 4)))) == 3


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_a_device_is_named_in_any_way(tmp_path, device):
    fitted(device=device, max_epochs=2).save(tmp_path / "model.petuum")
    model = NeuralNetClassifier.load(tmp_path / "model.petuum")
    assert model.device == str(device)
    np.testing.assert_array_equal(
        model.predict_proba(np.ones((2, 4))), fitted(max_epochs=2).predict_proba(np.ones((2, 4)))
    )


def test_the_example_of_the_docs_learns_digits():
    text = (ROOT / "docs" / "nn.md").read_text(encoding="utf-8")
    names = {"__name__": "example"}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    assert names["main"]() > 0.95


def halves(n_outputs=1):
    """A module in bfloat16."""
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, n_outputs)
    ).to(torch.bfloat16)
    module.register_forward_pre_hook(lambda part, given: (given[0].to(torch.bfloat16),))
    module.register_forward_hook(lambda part, given, out: out.float())
    return module


def test_a_module_in_bfloat16_is_trained_and_its_weights_are_read(tmp_path):
    rows, labels = load_iris(return_X_y=True)
    model = fitted(module=halves, module__n_outputs=3, checkpoint=str(tmp_path / "kept"))
    assert model.score(rows, labels) > 0.8
    assert model.weights_["0.weight"].dtype == np.float32
    module = model.to_module()
    assert module[0].weight.dtype == torch.bfloat16
    np.testing.assert_array_equal(module[0].weight.detach().float(), model.weights_["0.weight"])
    body = module[0].bias.detach().view(torch.int16).numpy().tobytes()
    text = f'{{"a": {{"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, {len(body)}]}}}}'
    (tmp_path / "w").write_bytes(len(text).to_bytes(8, "little") + text.encode() + body)
    read = read_weights(tmp_path / "w")["a"]
    np.testing.assert_array_equal(read, model.weights_["0.bias"].reshape(2, 4))


def test_a_regressor_needs_one_output_a_row():
    rows, labels = load_iris(return_X_y=True)
    settings = {**QUICK, "random_state": 0, "max_epochs": 1}
    with pytest.raises(ValueError, match=r"one output a row, it gives \(2,\)"):
        NeuralNetRegressor(partial(torch.nn.Linear, 4, 2), **settings).fit(rows[:2], labels[:2])
    NeuralNetRegressor(partial(torch.nn.Linear, 4, 1), **settings).fit(rows, labels)


class Squeezed(torch.nn.Module):
    """Gives a number for each row, and for a single one no row either; its LSTM gives a tuple."""

    def __init__(self, keeps=False):
        super().__init__()
        self.memory = torch.nn.LSTM(2, 3, batch_first=True)
        self.head, self.keeps = torch.nn.Linear(6, 1), keeps

    def forward(self, rows):
        out = self.head(self.memory(rows.reshape(-1, 2, 2))[0].flatten(1))
        return out[None].transpose(0, 1) if self.keeps else out.squeeze()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_row_that_comes_alone_and_the_first_of_several_outputs(batch_size):
    rows, labels = load_iris(return_X_y=True)
    settings = {**QUICK, "random_state": 0, "max_epochs": 1, "batch_size": batch_size}
    model = NeuralNetRegressor(Squeezed, **settings).fit(rows, labels)
    alone = np.concatenate([model.predict(row[None]) for row in rows[:5]])
    np.testing.assert_allclose(alone, model.predict(rows[:5]), rtol=1e-5)
    out = model.to_module().memory(torch.from_numpy(rows.astype(np.float32).reshape(-1, 2, 2)))[0]
    given = model.transform(rows, layer="memory")
    np.testing.assert_allclose(given, out.detach().flatten(1).numpy(), atol=1e-6)
    with pytest.raises(ValueError, match=r"one output a row, it gives \(1, 1\)"):
        NeuralNetRegressor(Squeezed, module__keeps=True, **settings).fit(rows, labels)


def test_the_step_size_may_be_given_as_skorch_s():
    plain, named = fitted(lr=0.05), fitted(optimizer__lr=0.05)
    for name, values in plain.weights_.items():
        np.testing.assert_array_equal(named.weights_[name], values)
    assert not np.array_equal(fitted().weights_["0.weight"], plain.weights_["0.weight"])


def test_a_module_is_built_once_for_all_rows():
    rows = load_iris(return_X_y=True)[0]
    model = fitted(module=counted, max_epochs=0)
    expected = model.predict_proba(rows)
    before = len(BUILT)
    many = np.tile(rows, (60, 1))  # 9,000: three pieces
    np.testing.assert_allclose(model.predict_proba(many)[-150:], expected, atol=1e-6)
    assert len(BUILT) == before + 1


BUILT = []


def counted():
    BUILT.append(1)
    return torch.nn.Linear(4, 3)


def test_callbacks_hear_of_every_clock_and_may_stop():
    callback = StopAfter(3)
    model = NeuralNetClassifier(**QUICK).set_callbacks(callback)
    model.fit(*load_iris(return_X_y=True))
    assert model.n_iter_ == 3


def test_an_infinite_buffer_goes_through_the_table_of_the_weights():
    model = fitted(module=masked, consistency="ssp", max_epochs=2)
    np.testing.assert_array_equal(model.weights_["1.mask"], [0, -np.inf, 0])
    assert np.isfinite(model.weights_["0.weight"]).all()


def masked():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Identity())
    module[1].register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))
    return module


def test_local_steps_of_one_rank_are_its_steps():
    plain, apart = fitted(), fitted(local_steps=4)
    np.testing.assert_allclose(apart.weights_["0.weight"], plain.weights_["0.weight"], atol=1e-5)


class Turning(Perceptron):
    """Complex parameters, a truth value, and a buffer that no state_dict has."""

    def __init__(self):
        super().__init__()
        self.turn = torch.nn.Parameter(torch.ones(20, dtype=torch.complex64))
        self.register_buffer("has_begun", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(20), persistent=False)

    def forward(self, rows):
        if self.training:
            self.has_begun |= True
            self.mean.lerp_(rows.mean(0), 0.1)
        return super().forward(((rows - self.mean) * self.turn).real + self.turn.imag)


@pytest.mark.parametrize("module", [None, Turning])
def test_a_fit_goes_on_from_its_files(tmp_path, module):
    rows, labels = make_rows(200)
    settings = {**QUICK, "max_epochs": 60, "random_state": 0, "module": module}
    whole = NeuralNetClassifier(**settings).fit(rows, labels)
    first = NeuralNetClassifier(**settings, checkpoint=str(tmp_path))
    interrupt(first, (rows, labels), tmp_path)
    again = NeuralNetClassifier(**settings).fit(rows, labels, resume=str(tmp_path))
    for name, values in whole.weights_.items():
        np.testing.assert_array_equal(again.weights_[name], values)
    assert len(again.history_) == len(whole.history_)
