"""Modules that do more than call their layers: ranks train them as plain torch does."""

from __future__ import annotations

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from nn_ranks import assert_all_the_same, assert_as_plain, recipe, train, train_plainly
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from dask_petuum.nn import units
from dask_petuum.nn.trainer import Settings


class Wide(nn.Module):
    """Its middle layer is cheap as factors."""

    def __init__(self):
        super().__init__()
        self.start, self.inner = nn.Linear(20, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 4)

    def forward(self, rows):
        return self.head(torch.tanh(self.inner(torch.tanh(self.start(rows)))))


class WithGradient(Wide):
    """Adds the gradient of its own output by its rows, as models of forces do."""

    def forward(self, rows):
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            out = super().forward(rows)
            (gradient,) = torch.autograd.grad(out.square().sum(), rows, create_graph=True)
        return out + 0.3 * gradient[:, :4]


class WithInnerStep(Wide):
    """Takes a step of its own along the gradient of a weight, as meta-learning does."""

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        error = self.inner(code).square().mean()
        (gradient,) = torch.autograd.grad(error, self.inner.weight, create_graph=True)
        moved = self.inner.weight - 0.5 * gradient
        return self.head(torch.tanh(functional.linear(code, moved, self.inner.bias)))


class Mapped(Wide):
    """Calls its layers row by row, and takes derivatives of them."""

    def forward(self, rows):
        call = super().forward
        return call(rows) + 0.1 * torch.vmap(torch.func.jacrev(call))(rows).sum(-1)


class Swapped(Wide):
    """Calls a layer with another weight in its place."""

    def forward(self, rows):
        code = self.inner(torch.tanh(self.start(rows)))
        weights = {"weight": 2 * self.inner.weight, "bias": self.inner.bias}
        return self.head(torch.func.functional_call(self.inner, weights, (torch.tanh(code),)))


class Patched(Wide):
    """A layer whose forward is another one."""

    def __init__(self):
        super().__init__()
        forward = self.inner.forward
        self.inner.forward = lambda rows: 2 * forward(rows)


class Hooked(Wide):
    """A hook changes the gradient of a weight."""

    def __init__(self):
        super().__init__()
        self.inner.weight.register_hook(lambda gradient: 0.5 * gradient)


class ByKeyword(Wide):
    """Calls a layer with torch's name for its rows."""

    def forward(self, rows):
        return self.head(torch.tanh(self.inner(input=torch.tanh(self.start(rows)))))


class Copied(Wide):
    """Trains a copy of a layer within a step, as meta-learning does."""

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        with torch.enable_grad():
            fast = copy.deepcopy(self.inner)
            fast(code.detach()).square().sum().backward()
        return self.head(torch.tanh(self.inner(code) - 0.1 * fast.weight.grad.mean()))


class Double(Wide):
    """In float64."""

    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, rows):
        return super().forward(rows.double()).float()


@pytest.mark.parametrize(
    "module",
    [
        *(Wide, WithGradient, WithInnerStep, Mapped, Swapped, Patched, Hooked, ByKeyword, Copied),
        Double,
    ],
)
@pytest.mark.parametrize(("n_ranks", "n_parts"), [(2, 2), (3, 4)])
def test_factors_are_of_the_loss_and_of_plain_layers_only(module, n_ranks, n_parts):
    """With several partitions on a rank, layers leave factors for good in the first step."""
    built = recipe(module)
    together, _ = train(built, n_ranks, n_parts=n_parts, settings=Settings(factors=True))
    assert_as_plain(together, train_plainly(built, n_parts))
    assert_all_the_same(together, together[0], 0)


class Pruned(Wide):
    """A hook of a layer makes its weight of another one before each call."""

    def __init__(self):
        super().__init__()
        prune.random_unstructured(self.inner, "weight", 0.3)


class ParentLooks(Wide):
    """A hook uses a parameter of a layer that is called later."""

    def __init__(self):
        super().__init__()
        self.register_forward_pre_hook(lambda part, given: given[0] * (1 + part.head.bias.sum()))


class UsedFirst(Wide):
    """A penalty before layers are called, and a copy of a weight in a layer's place."""

    def forward(self, rows):
        shift = rows @ self.head.weight[:, :20].t()
        weights = {"weight": 2 * self.inner.weight, "bias": self.inner.bias}
        code = torch.tanh(self.start(rows))
        code = torch.func.functional_call(self.inner, weights, (code,))
        return self.head(torch.tanh(self.inner(torch.tanh(code)))) + shift


class Again(Wide):
    """A layer that is called three times, each time once more in the backward pass."""

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        for _ in range(3):
            code = checkpoint(lambda code: torch.tanh(self.inner(code)), code, use_reentrant=True)
        return self.head(code)


class AgainByName(nn.Module):
    """The same with parameters that belong to no layer."""

    def __init__(self):
        super().__init__()
        self.start, self.head = nn.Linear(20, 20), nn.Linear(20, 4)
        self.scale = nn.Parameter(torch.ones(20))

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        for _ in range(3):
            code = checkpoint(lambda code: torch.tanh(self.scale * code), code, use_reentrant=True)
        return self.head(code)


@pytest.mark.parametrize("module", [Pruned, ParentLooks, UsedFirst, Again, AgainByName])
@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_no_layer_is_early_or_late_where_it_is_used_otherwise(monkeypatch, module, factors, near):
    """Each parameter leaves and arrives by itself."""
    monkeypatch.setattr(units, "BUCKET_BYTES", 1)
    monkeypatch.setattr(units, "SMALL_BYTES", 0)
    built = recipe(module)
    together, _ = train(built, 2, near=near, settings=Settings(factors=factors))
    assert_as_plain(together, train_plainly(built))
    assert_all_the_same(together, together[0], 0)


@pytest.mark.parametrize("module", [ParentLooks, UsedFirst, Swapped])
@pytest.mark.parametrize("near", [True, False])
def test_a_rank_without_rows_in_the_first_step_uses_no_weight_too_early(monkeypatch, module, near):
    """Others have sent gradients before its first forward pass."""
    monkeypatch.setattr(units, "BUCKET_BYTES", 1)
    monkeypatch.setattr(units, "SMALL_BYTES", 0)
    how = {"sizes": (12, 3, 4), "batch_size": 8}
    (alone,), _ = train(recipe(module), 1, **how)
    together, _ = train(recipe(module), 3, near=near, **how)
    assert together[1]._plan.bounds(1, 0) == (0, 0)
    assert_all_the_same(together, alone)


class Alternating(Wide):
    """A counter of its calls, and what the last one gave, decide which layers it uses, and how."""

    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def forward(self, rows):
        self.n_calls += 1
        code = torch.tanh(self.start(rows)) + getattr(self, "last", 0)
        self.last = code.detach().mean(0)
        return self.head(torch.tanh(self.inner(code)) if self.n_calls % 3 else code)


@pytest.mark.parametrize("near", [True, False])
def test_a_forward_pass_that_is_made_again_finds_the_same_attributes(monkeypatch, near):
    monkeypatch.setattr(units, "BUCKET_BYTES", 1)
    monkeypatch.setattr(units, "SMALL_BYTES", 0)
    built = recipe(Alternating)
    apart, _ = train(built, 2, near=near, settings=Settings(overlap=False))
    together, _ = train(built, 2, near=near)
    assert_all_the_same(together, apart[0], 1e-6)
    n_steps = together[0]._plan.n_steps
    assert [trainer.replica.module.n_calls for trainer in together] == [n_steps] * 2


class BackwardInBackward(Wide):
    """Adds to a gradient by a backward pass of its own."""

    def forward(self, rows):
        code = torch.tanh(self.inner(torch.tanh(self.start(rows))))
        code.register_hook(self.add)
        return self.head(code)

    @torch.enable_grad()
    def add(self, _gradient):
        self.head.weight.square().sum().backward()


def test_a_gradient_that_comes_twice_is_refused_or_waited_for(monkeypatch):
    monkeypatch.setattr(units, "BUCKET_BYTES", 1)
    built = recipe(BackwardInBackward)
    with pytest.raises(RuntimeError, match=r"head\.weight .* was made twice .* overlap=False"):
        train(built, 2)
    apart, _ = train(built, 2, settings=Settings(overlap=False))
    assert_as_plain(apart, train_plainly(built))


class EarlyLater(Wide):
    """Looks at a weight before it calls the layer, but not in its first steps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, rows):
        self.n_calls += 1
        penalty = self.head.weight.square().mean() if self.n_calls > 3 else 0
        return super().forward(rows) * (1 + penalty)


def test_a_weight_that_is_looked_at_early_in_later_steps_only_needs_no_overlap(monkeypatch):
    monkeypatch.setattr(units, "BUCKET_BYTES", 1)
    built = recipe(EarlyLater)
    with pytest.raises(RuntimeError, match=r"inplace operation.* the fit needs overlap=False"):
        train(built, 2)
    (alone,), _ = train(built, 1)
    apart, _ = train(built, 2, settings=Settings(overlap=False))
    assert_all_the_same(apart, alone)


class Means(Wide):
    """Puts a new tensor in its buffer's place in each step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * code.detach().mean(0)
        return self.head(torch.tanh(self.inner(code)))


class MeansInPlace(Means):
    """The same numbers, in the tensor that is there."""

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * code.detach().mean(0))
        return self.head(torch.tanh(self.inner(code)))


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("plan", [{}, {"local_steps": 3}, {"stale": True, "clocks": 1}], ids=str)
def test_a_buffer_that_is_replaced_is_averaged_as_one_that_is_changed(n_ranks, plan):
    replaced, _ = train(recipe(Means), n_ranks, n_parts=4, **plan)
    changed, _ = train(recipe(MeansInPlace), n_ranks, n_parts=4, **plan)
    for one, other in zip(replaced, changed, strict=True):
        assert torch.equal(one.vector, other.vector)
        assert_all_the_same([one], other, 0)
    assert changed[0].weights()["mean"].any()


class Counting(nn.Module):
    """Uses how many batches there were, as whole numbers beyond float32, and a truth value."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(20, momentum=None)
        self.head = nn.Linear(20, 4)
        self.register_buffer("n_rows", torch.tensor([2**40]))
        self.register_buffer("has_seen", torch.zeros(20, dtype=torch.bool))

    def forward(self, rows):
        if self.training:
            self.n_rows += len(rows)
            self.has_seen |= (rows > 1).any(0)
        return self.head(self.norm(rows)) * (self.n_rows - 2**40) ** 0.1 * self.has_seen.sum()


def test_whole_numbers_are_those_of_the_first_partition_however_partitions_lie():
    """Partitions of many batches, and of few."""
    how = {"sizes": (10, 160, 70), "batch_size": 8, "epochs": 3}
    (alone,), _ = train(recipe(Counting, lr=0.005), 1, **how)
    for n_ranks in (2, 3):
        together, _ = train(recipe(Counting, lr=0.005), n_ranks, **how)
        assert_all_the_same(together, alone)
        for trainer in together:
            assert trainer.weights()["norm.num_batches_tracked"] == 3 * 5
            assert trainer.weights()["n_rows"] == 2**40 + 3 * 10


class FirstWeights(Wide):
    """Draws first weights, a frozen one too, and dropout, from generators besides torch's."""

    def __init__(self, generator=np.random):
        super().__init__()
        self.inner.bias.requires_grad_(False)
        with torch.no_grad():
            for tensor in (self.inner.weight, self.inner.bias, self.head.weight):
                tensor.copy_(torch.from_numpy(generator.normal(0, 0.1, tensor.shape)))
            self.start.bias.fill_(random.random())
        self.register_buffer("scale", torch.from_numpy(generator.uniform(0.5, 1, 4)).float())

    def forward(self, rows):
        code = torch.tanh(self.start(rows))
        if random.random() + np.random.rand() < 1:
            code = torch.tanh(self.inner(code))
        return self.head(code) * self.scale


def test_random_numbers_of_numpy_and_python_depend_on_the_seed_only():
    built, states = recipe(FirstWeights), (random.getstate(), np.random.get_state())
    fits = [train(built, 1)[0][0] for _ in range(2)]
    assert_as_plain(fits, train_plainly(built), 0)
    assert states[0] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(states[1], np.random.get_state(), strict=True))


def drawn_anew():
    return FirstWeights(np.random.default_rng())


@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize("plan", [{}, {"local_steps": 3}], ids=str)
def test_ranks_begin_with_the_weights_of_rank_0(n_ranks, plan):
    """Though each rank draws its own, and the first step is 0."""
    trainers, _ = train(recipe(drawn_anew, lr=0.0), n_ranks, epochs=1, n_parts=n_ranks, **plan)
    other = recipe(drawn_anew).build_module()
    assert not torch.equal(other.head.weight, trainers[0].replica.module.head.weight)
    assert_all_the_same(trainers, trainers[0], 0)


class Complex(nn.Module):
    """Complex weights, bias and buffer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(20, 16, dtype=torch.complex64)
        self.head = nn.Linear(16, 4)
        self.register_buffer("turn", torch.tensor([1j]))

    def forward(self, rows):
        code = self.inner(rows * self.turn)
        return self.head(torch.view_as_real(code).sum(2).tanh() + code.abs())


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_complex_parameters_keep_both_parts(n_ranks, optimizer):
    built = recipe(Complex, optimizer, 0.01)
    together, _ = train(built, n_ranks, n_parts=3, settings=Settings(factors=True))
    assert_as_plain(together, train_plainly(built, 3))
    assert together[0].weights()["turn"] == 1j


class OddComplex(nn.Module):
    """Complex numbers behind an odd number of real ones, a moving buffer too."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(20, dtype=torch.complex64))
        self.register_buffer("mean", torch.zeros(20, dtype=torch.complex64))
        self.head, self.odd = nn.Linear(20, 4), nn.Linear(20, 1)

    def forward(self, rows):
        code = rows * self.turn
        if self.training:
            self.mean.lerp_(code.detach().mean(0), 0.2)
        code = code - self.mean
        return self.head(code.real) * torch.tanh(self.odd(code.imag + rows))


@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize("plan", [{}, {"local_steps": 2}, {"stale": True, "clocks": 1}], ids=str)
def test_complex_numbers_lie_anywhere_in_a_message(n_ranks, plan):
    built = recipe(OddComplex)
    together, _ = train(built, n_ranks, n_parts=3, **plan)
    assert all(trainer.weights()["mean"].all() for trainer in together)
    if not plan:
        (alone,), _ = train(built, 1, n_parts=3)
        assert_all_the_same(together, alone)


@pytest.mark.parametrize("plan", [{"local_steps": 4}, {"stale": True}], ids=str)
def test_complex_parameters_where_ranks_step_apart(plan):
    built = recipe(Complex)
    (whole,), _ = train(built, 1, n_parts=1, epochs=1, **plan)
    (clipped,), _ = train(built, 1, n_parts=1, epochs=1, settings=Settings(clip=1e9), **plan)
    assert_as_plain([whole, clipped], train_plainly(built, 1, epochs=1))
    vector = whole.vector.numpy()
    whole.place(0 * vector)
    whole.place(vector)
    assert_all_the_same([whole], clipped, 1e-6)


class Bag(nn.Module):
    """A bag of sparse embeddings of the signs of the columns; most of its table is never used."""

    def __init__(self, **more):
        super().__init__()
        self.words = nn.EmbeddingBag(4000, 16, mode="sum", **more)
        self.head = nn.Linear(16, 4)

    def forward(self, rows):
        return self.head(torch.tanh(self.words(100 * torch.arange(20) + (rows > 0))))


class TiedBags(Bag):
    """Two lookups of one table."""

    def __init__(self):
        super().__init__(sparse=True)
        self.others = nn.Embedding(4000, 16, sparse=True)
        self.others.weight = self.words.weight
        self.head.requires_grad_(False)

    def forward(self, rows):
        return super().forward(rows) + self.head(self.others((rows[:, 0] > 0).long()))


def test_a_tied_table_is_sent_as_rows():
    """For an optimiser that takes nothing else."""
    built = recipe(TiedBags, "SparseAdam", 0.01)
    together, _ = train(built, 2)
    assert_as_plain(together, train_plainly(built))


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_a_sparse_bag_is_sent_as_rows(n_ranks):
    built = recipe(partial(Bag, sparse=True))
    together, ranks = train(built, n_ranks)
    assert_as_plain(together, train_plainly(built))
    assert_all_the_same(together, together[0], 0)
    whole = 4 * 4000 * 16
    assert max(ranks.n_bytes) < whole * together[0]._plan.n_steps / 4
    assert "rows" in {unit.kind for unit in together[0].replica.units}


def test_a_table_that_lookups_change_needs_one_rank():
    built = recipe(partial(Bag, max_norm=1.0))
    with pytest.raises(ValueError, match=r"words has max_norm=1\.0.* one rank"):
        train(built, 2)
    (alone,), _ = train(built, 1)
    assert_as_plain([alone], train_plainly(built))
    train(built, 2, local_steps=5)
