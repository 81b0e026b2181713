"""Modules that are not plain, and the other ways to agree, on ranks that are threads here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nn_modules import Perceptron, make_rows
from nn_ranks import Ranks, assert_all_the_same, recipe, train

from dask_petuum.nn.clip import clip_gradients
from dask_petuum.nn.exchange import GradientExchange
from dask_petuum.nn.replica import Replica
from dask_petuum.nn.trainer import Settings, Trainer
from dask_petuum.nn.units import plan_units


class Frozen(Perceptron):
    def __init__(self):
        super().__init__()
        self.body[0].requires_grad_(False)


class Tied(torch.nn.Module):
    """One layer used twice, and its weight once more without a call of it."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(20, 20)
        self.twin = torch.nn.Linear(20, 20)
        self.twin.weight = self.inner.weight
        self.head = torch.nn.Linear(20, 4)

    def forward(self, rows):
        twice = self.twin(torch.tanh(self.inner(torch.tanh(self.inner(rows)))))
        return self.head(torch.tanh(torch.nn.functional.linear(twice, self.inner.weight)))


class Raw(torch.nn.Module):
    """Uses a layer's weight without ever calling the layer."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(20, 20)
        self.head = torch.nn.Linear(20, 4)

    def forward(self, rows):
        return self.head(torch.tanh(rows @ self.inner.weight + self.inner.bias))


class TiedWide(torch.nn.Module):
    """An autoencoder's layer, cheap as factors: called, and then used by name, transposed."""

    def __init__(self):
        super().__init__()
        self.start, self.inner = torch.nn.Linear(20, 64), torch.nn.Linear(64, 64)
        self.head = torch.nn.Linear(64, 4)

    def forward(self, rows):
        code = torch.tanh(self.inner(torch.tanh(self.start(rows))))
        return self.head(torch.nn.functional.linear(code, self.inner.weight.t()))


class RawWide(TiedWide):
    """Its wide layer is never called."""

    def forward(self, rows):
        return self.head(torch.tanh(torch.tanh(self.start(rows)) @ self.inner.weight))


class SometimesTied(TiedWide):
    """Its wide layer's weight is used by name for some batches only."""

    def forward(self, rows):
        if rows.sum() > 0:
            return super().forward(rows)
        return self.head(torch.tanh(self.inner(torch.tanh(self.start(rows)))))


class WordsByName(torch.nn.Module):
    """The table of a sparse embedding, looked up and used as a matrix."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(40, 16, sparse=True)
        self.head = torch.nn.Linear(40, 4)

    def forward(self, rows):
        looked_up = self.table(2 * torch.arange(20) + (rows > 0)).sum(1)
        return self.head(torch.tanh(looked_up @ self.table.weight.t()))


class Skipping(torch.nn.Module):
    """Uses one of two layers, by the rows; a third one never."""

    def __init__(self):
        super().__init__()
        self.one, self.other = torch.nn.Linear(20, 20), torch.nn.Linear(20, 20)
        self.never = torch.nn.Linear(20, 20)
        self.head = torch.nn.Linear(20, 4)

    def forward(self, rows):
        layer = self.one if rows.sum() > 0 else self.other
        return self.head(torch.tanh(layer(rows)))


class Words(torch.nn.Module):
    """A sparse embedding of the signs of the columns."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.EmbeddingBag(40, 16, mode="sum", sparse=False)
        self.table = torch.nn.Embedding(40, 16, sparse=True)
        self.head = torch.nn.Linear(16, 4)

    def forward(self, rows):
        numbers = 2 * torch.arange(20) + (rows > 0)
        return self.head(torch.tanh(self.words(numbers) + self.table(numbers).sum(1)))


@pytest.mark.parametrize(("n_ranks", "near"), [(2, False), (2, True), (3, False), (4, True)])
@pytest.mark.parametrize(
    "module", [Perceptron, Frozen, Tied, Raw, Skipping, Words, WordsByName, TiedWide, RawWide]
)
def test_ranks_have_the_weights_of_one(module, n_ranks, near):
    built = recipe(module)
    (alone,), _ = train(built, 1, n_parts=4)
    together, _ = train(built, n_ranks, n_parts=4, near=near)
    assert_all_the_same(together, alone)
    bits = [trainer.vector.numpy().tobytes() for trainer in together]
    assert len(set(bits)) == 1, "replicas have the same bits"


@pytest.mark.parametrize("module", [TiedWide, RawWide, SometimesTied])
@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_factors_have_what_uses_of_the_weight_by_name_gave(module, n_ranks, near, overlap):
    built, settings = recipe(module), {"n_parts": n_ranks, "epochs": 1}
    (alone,), _ = train(built, 1, **settings)
    how = Settings(factors=True, overlap=overlap)
    together, _ = train(built, n_ranks, near=near, settings=how, **settings)
    assert [u.kind for u in together[0].replica.units if u.names == ["inner.weight"]] == ["factors"]
    assert_all_the_same(together, alone, 1e-6)
    assert_all_the_same(together, together[0], 0)


class Sequences(torch.nn.Module):
    """Twenty rows for its wide layer of each row that it gets."""

    def __init__(self):
        super().__init__()
        self.start, self.inner = torch.nn.Linear(1, 64), torch.nn.Linear(64, 64)
        self.head = torch.nn.Linear(64, 4)

    def forward(self, rows):
        return self.head(torch.tanh(self.inner(torch.tanh(self.start(rows[..., None])))).mean(1))


@pytest.mark.parametrize(("n_ranks", "n_parts"), [(2, 2), (4, 4), (2, 8), (4, 8)])
def test_factors_of_more_rows_than_planned_cost_no_more_than_gradients(n_ranks, n_parts):
    """Because of sequences, or of several partitions on a rank."""
    built = recipe(Sequences if n_parts == n_ranks else Perceptron)
    how = {"n_parts": n_parts, "batch_size": 10, "epochs": 4}
    apart, full = train(built, n_ranks, settings=Settings(factors=False), **how)
    together, ours = train(built, n_ranks, settings=Settings(factors=True), **how)
    assert "factors" in {unit.kind for unit in together[0].replica.units}
    assert_all_the_same(together, apart[0], 1e-6)
    assert_all_the_same(together, together[0], 0)
    # votes, what travels alone, and sums that show that products are the same
    assert max(ours.n_bytes) <= max(full.n_bytes) + 800 * n_ranks
    assert together[0].replica.exchange.saved == {}


class Growing(torch.nn.Module):
    """After some calls its wide layer gets 20 times as many rows."""

    def __init__(self):
        super().__init__()
        self.start, self.inner = torch.nn.Linear(20, 64), torch.nn.Linear(64, 64)
        self.head = torch.nn.Linear(64, 4)
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, rows):
        self.n_calls += 1
        code = torch.tanh(self.start(rows))[:, None]
        code = code.expand(-1, 20 if self.n_calls > 5 else 1, -1)
        return self.head(torch.tanh(self.inner(code)).mean(1))


@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_a_layer_leaves_factors_for_good_when_they_become_dearer(n_ranks, wire):
    built, how = recipe(Growing), {"n_parts": n_ranks, "batch_size": 10}
    apart, _ = train(built, n_ranks, settings=Settings(factors=False), **how)
    together, _ = train(built, n_ranks, settings=Settings(factors=True, wire=wire), **how)
    assert_all_the_same(together, apart[0], 1e-6 if wire == "float32" else 0.02)
    assert_all_the_same(together, together[0], 0)
    saved = together[0].replica.exchange.saved["inner.weight"]
    once = 4 * 64 * 64 * (n_ranks - 1)  # to all, in the step that shows it
    assert 0 < saved + once < 5 * once, "four steps with factors, and one in which it is seen"


class Bags(torch.nn.Module):
    """Rows that are nearly all zeros, in front of a wide layer."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(1000, 32), torch.nn.ReLU())
        self.head = torch.nn.Linear(32, 4)

    def forward(self, rows):
        return self.head(self.body(rows))


def bags_of_words(n_rows):
    rng = np.random.default_rng(0)
    rows = (rng.random((n_rows, 1000)) < 0.01) * rng.random((n_rows, 1000))
    return rows.astype(np.float32), rng.integers(4, size=n_rows)


@pytest.mark.parametrize("n_ranks", [2, 3, 4])
@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_zeros_count_where_factors_are_chosen(n_ranks, wire):
    """Dense factors of 64 rows would be more than the gradient."""
    built, rows = recipe(Bags), bags_of_words(64 * n_ranks)
    how = {"n_parts": n_ranks, "batch_size": 64, "epochs": 10}
    apart, full = train(built, n_ranks, rows, settings=Settings(factors=False, wire=wire), **how)
    together, ours = train(built, n_ranks, rows, settings=Settings(factors=True, wire=wire), **how)
    n_steps = together[0]._plan.n_steps
    assert n_steps == 10
    assert max(ours.n_bytes) < 0.5 * max(full.n_bytes), "one step of ten is whole"
    assert_all_the_same(together, apart[0], 1e-6 if wire == "float32" else 0.02)
    assert_all_the_same(together, together[0], 0)


@pytest.mark.parametrize("n_ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("n_rows", [4, 16, 64, 256])
def test_no_choice_costs_more_than_gradients(n_ranks, n_rows):
    """Whatever is measured, with half of the numbers zero."""

    def module():
        layers = [torch.nn.Linear(20, 160), torch.nn.ReLU(), torch.nn.Linear(160, 160)]
        return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(160, 4))

    rows = make_rows(3 * n_rows * n_ranks)
    how = {"n_parts": n_ranks, "batch_size": n_rows, "epochs": 1}
    _, full = train(recipe(module), n_ranks, rows, settings=Settings(factors=False), **how)
    together, ours = train(recipe(module), n_ranks, rows, settings=Settings(factors=True), **how)
    assert max(ours.n_bytes) <= max(full.n_bytes) + 200 * n_ranks
    cheap = (n_ranks - 1) * n_rows * (160 + 160) < 2 * (n_ranks - 1) / n_ranks * 160 * 160
    if cheap:
        assert together[0].replica.exchange.saved["2.weight"] > 0


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_a_rank_without_rows_in_a_step_holds_nobody_up(n_ranks):
    rows, labels = make_rows(12)
    settings = {"batch_size": 1, "n_parts": n_ranks}
    (alone,), _ = train(recipe(Perceptron), 1, (rows, labels), **settings)
    together, _ = train(recipe(Perceptron), n_ranks, (rows, labels), **settings)
    assert_all_the_same(together, alone)


def test_factors_are_the_same_gradient_for_fewer_bytes(monkeypatch):
    """Each gradient that is applied in the first step, before weights can differ."""
    seen = []
    apply = Replica._apply

    def noted(self, number):
        unit = self.units[number]
        grads = [None if p.grad is None else p.grad.clone() for p in unit.parameters]
        seen.append((id(self), dict(zip(unit.names, grads, strict=True))))
        apply(self, number)

    monkeypatch.setattr(Replica, "_apply", noted)
    gradients, sent = [], []
    for factors in (False, True):
        seen.clear()
        settings = Settings(factors=factors)
        trainers, ranks = train(recipe(Perceptron), 2, settings=settings, clocks=1)
        kinds = {unit.kind for unit in trainers[0].replica.units}
        assert ("factors" in kinds) == factors
        first = {}
        for owner, grads in seen:
            if owner == id(trainers[0].replica):
                first = grads | first
        gradients.append(first)
        sent.append(sum(ranks.n_bytes))
    assert (
        gradients[0].keys() == gradients[1].keys() == dict(Perceptron().named_parameters()).keys()
    )
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)
    assert sent[1] < 0.75 * sent[0]


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_narrow_numbers_lose_little_and_keep_replicas_the_same(wire, n_ranks):
    built = recipe(Perceptron)
    (alone,), _ = train(built, 1, n_parts=3)
    _, full = train(built, n_ranks, n_parts=3)
    together, half = train(built, n_ranks, n_parts=3, settings=Settings(wire=wire))
    assert sum(half.n_bytes) < 0.6 * sum(full.n_bytes)
    assert_all_the_same(together, together[0], 0)
    assert_all_the_same(together, alone, 0.02)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_local_steps_average_models(n_ranks):
    """H steps apart and the plain average: what one gets by hand."""
    rows, labels = make_rows(64 * n_ranks)  # a clock is one pass: four steps, one meeting
    built, how = recipe(Perceptron, "AdamW", 0.01), {"n_parts": n_ranks, "local_steps": 4}
    together, _ = train(built, n_ranks, (rows, labels), epochs=1, **how)
    assert together[0]._plan.n_steps == 4
    assert_all_the_same(together, together[0], 0)
    plain, _ = train(built, n_ranks, (rows, labels), stale=True, clocks=1, **how)
    assert (plain[0].vector - plain[1].vector).abs().max() > 0.01
    mean = sum(trainer.vector * trainer.share for trainer in plain)
    np.testing.assert_allclose(together[0].vector, mean, atol=1e-6)


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_outer_steps_are_nesterov_s(n_ranks):
    """Over several meetings, by hand: each rank's steps from where the last meeting left it."""
    built, rate, momentum = recipe(Perceptron), 0.7, 0.9
    how = {"n_parts": n_ranks, "local_steps": 5, "epochs": 2}
    settings = Settings(outer_rate=rate, outer_momentum=momentum)
    fast, _ = train(built, n_ranks, settings=settings, **how)
    # clocks of H steps, after which nobody meets
    apart, _ = train(built, n_ranks, stale=True, clocks=0, **how)
    n_meetings = apart[0]._plan.n_steps // 5
    assert n_meetings >= 4
    start = apart[0].vector
    velocity = torch.zeros_like(start)
    for clock in range(n_meetings):
        change = torch.zeros_like(start)
        for trainer in apart:
            trainer.train(clock, start.numpy())
            change += (trainer.vector - start) * trainer.share
        velocity = momentum * velocity + change
        start = start + rate * (momentum * velocity + change)
    for trainer in fast:
        np.testing.assert_allclose(trainer.vector, start, atol=1e-5)


def test_running_means_of_batchnorm_are_averaged():
    def module():
        return torch.nn.Sequential(
            torch.nn.Linear(20, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4)
        )

    together, _ = train(recipe(module), 2)
    assert_all_the_same(together, together[0], 0)
    assert np.abs(together[0].weights()["1.running_mean"]).max() > 0


class Normalised(torch.nn.Module):
    """BatchNorm, a buffer that never changes, and a weight that is used without a call."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(20, 20)
        self.norm = torch.nn.BatchNorm1d(20)
        self.head = torch.nn.Linear(20, 4)
        self.register_buffer("scale", torch.tensor([1 / 3, torch.inf]))

    def forward(self, rows):
        return self.head(self.norm(rows @ self.inner.weight + self.inner.bias)) * self.scale[0]


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_the_loss_of_rows_held_out_does_not_depend_on_the_spread(n_ranks):
    """Running means are each partition's own, and averaged before the loss is taken."""
    built, settings = recipe(Normalised), {"n_parts": 6, "validation_fraction": 0.2, "epochs": 4}
    (alone,), one = train(built, 1, **settings)
    together, several = train(built, n_ranks, **settings)
    assert_all_the_same(together, alone, 1e-6)
    assert_all_the_same(together, together[0], 0)
    np.testing.assert_allclose(np.sum(several.losses, axis=0), one.losses[0], rtol=1e-5)
    assert together[0].weights()["scale"].tobytes() == np.array([1 / 3, np.inf], "f4").tobytes()


class DenseWords(Words):
    """The same numbers with a dense gradient."""

    def __init__(self):
        super().__init__()
        self.table.sparse = False


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_sparse_gradients_are_clipped_as_dense_ones(n_ranks):
    settings = {"settings": Settings(clip=0.05), "n_parts": n_ranks, "epochs": 1}
    sparse, _ = train(recipe(Words), n_ranks, **settings)
    dense, _ = train(recipe(DenseWords), n_ranks, **settings)
    assert_all_the_same(sparse, dense[0], 1e-5)
    free, _ = train(recipe(Words), n_ranks, **(settings | {"settings": Settings()}))
    moved = [
        np.abs(t.weights()["table.weight"] - free[0].weights()["table.weight"]) for t in sparse
    ]
    assert np.max(moved) > 1e-3


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_clipping_is_that_of_torch(largest):
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(n)) for n in (3, 5, 7)] for _ in range(2))
    for one, other in zip(ours[:2], theirs[:2], strict=True):  # the last one has no gradient
        one.grad = torch.randn(one.shape)
        other.grad = one.grad.clone()
    clip_gradients(ours, largest)
    torch.nn.utils.clip_grad_norm_(theirs, largest)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert ours[2].grad is None


class Masked(torch.nn.Module):
    """A constant mask, as of attention, and running means."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = torch.nn.Linear(20, 4), torch.nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, rows):
        return self.norm(self.inner(rows)) + torch.softmax(self.mask, 0)[1]


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_an_infinite_buffer_stays_what_it_is_where_ranks_step_apart(n_ranks):
    together, _ = train(recipe(Masked), n_ranks, n_parts=n_ranks, local_steps=4)
    for trainer in together:
        weights = trainer.weights()
        np.testing.assert_array_equal(weights["mask"], [0, -np.inf])
        assert all(np.isfinite(v).all() for name, v in weights.items() if name != "mask")


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_buffers_of_ranks_that_step_apart_are_not_rounded(wire):
    """With a step size of 0, they are all that moves: the same as on an exact wire."""
    settings = {"n_parts": 2, "local_steps": 4, "epochs": 1}
    built = recipe(Masked, lr=0.0)
    exact, _ = train(built, 2, **settings)
    narrow, _ = train(built, 2, settings=Settings(wire=wire), **settings)
    assert np.abs(exact[0].weights()["norm.running_mean"]).max() > 0
    assert_all_the_same(narrow, exact[0], 0)


def test_a_bias_travels_with_its_weight_where_messages_cost():
    def kinds(module, is_near):
        return [unit.names for unit in plan_units(module, 2, 16, False, is_near)]

    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Linear(512, 512))
    apart = [["1.bias"], ["1.weight"], ["0.bias"], ["0.weight"]]
    assert kinds(module, is_near=True) == apart
    assert kinds(module, is_near=False) == [["1.bias", "1.weight"], ["0.bias", "0.weight"]]


def test_a_trainer_goes_on_from_the_arrays_of_another():
    built = recipe(Perceptron, "Adam", 0.01)
    (whole,), _ = train(built, 1, epochs=4)
    (first,), _ = train(built, 1, epochs=4, clocks=2)
    ranks = Ranks(1)
    second = Trainer(built, first._plan, Settings(), None, ranks.mesh(0), 1)
    second.partitions = first.partitions
    second.load(first.arrays(), 2)
    for clock in (2, 3):
        second.train(clock)
    assert_all_the_same([second], whole, 0)


def test_products_that_differ_between_processors_are_put_right(monkeypatch):
    """Another rounding of one rank, as of another kind of processor."""
    product = GradientExchange._product

    def rounded(self, part):
        total = product(self, part)
        return total * (1 + 1e-6) if self._mesh.rank == 1 else total

    built = recipe(Perceptron)
    plain, _ = train(built, 2)
    monkeypatch.setattr(GradientExchange, "_product", rounded)
    together, _ = train(built, 2)
    assert_all_the_same(together, together[0], 0)
    assert_all_the_same(together, plain[0])
