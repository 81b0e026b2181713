"""Trainers that go on from what others had saved come to the same bits as undisturbed ones."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from nn_modules import Perceptron
from nn_ranks import assert_all_the_same, recipe, train
from torch import nn

from dask_petuum.nn.exchange import WHOLE
from dask_petuum.nn.plan import MAX_STEPS
from dask_petuum.nn.trainer import Settings

#: Clocks of a training here: passes of a few steps.
N_CLOCKS, AT = 4, 2


def assert_goes_on(built, n_ranks, **more):
    how = {"n_parts": n_ranks, "epochs": N_CLOCKS, **more}
    whole, _ = train(built, n_ranks, **how)
    assert whole[0]._plan.n_clocks == N_CLOCKS
    assert whole[0]._plan.steps_per_pass < MAX_STEPS
    before, _ = train(built, n_ranks, clocks=AT, **how)
    saved = [copy.deepcopy(trainer.arrays()) for trainer in before]
    assert all(type(values) is np.ndarray for arrays in saved for values in arrays.values())
    after, _ = train(built, n_ranks, first=AT, saved=saved, **how)
    for one, other in zip(after, whole, strict=True):
        assert torch.equal(one.vector, other.vector)
        assert_all_the_same([one], other, 0)
    return whole


class Sparse(nn.Module):
    """A sparse embedding of the signs of the columns, which looks rows up twice."""

    def __init__(self, kind=torch.float32):
        super().__init__()
        self.table = nn.Embedding(60, 16, sparse=True, dtype=kind)
        self.head = nn.Linear(16, 4)

    def forward(self, rows):
        numbers = 3 * torch.arange(20) + (rows > 0).long() + (rows > 1)
        return self.head(torch.tanh(self.table(numbers).float().sum(1)))


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_momentum_of_sparse_gradients_is_kept(n_ranks, kind):
    arguments = {"optimizer": {"momentum": 0.9}, "module": {"kind": kind}}
    assert_goes_on(replace(recipe(Sparse), arguments=arguments), n_ranks)


class Passing(nn.Module):
    """Subtracts a running mean that no state_dict has."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(20), persistent=False)
        self.head = nn.Linear(20, 4)

    def forward(self, rows):
        if self.training:
            self.mean.lerp_(rows.mean(0), 0.3)
        return self.head(rows - self.mean)


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("local_steps", [1, 2])
def test_buffers_that_are_not_persistent_are_kept(n_ranks, local_steps):
    whole = assert_goes_on(recipe(Passing), n_ranks, batch_size=80, local_steps=local_steps)
    assert whole[0].replica.module.mean.abs().max() > 0.01
    assert "mean" not in whole[0].weights()


@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize("wire", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("n_each", [1, 4])
def test_layers_are_sent_as_ranks_had_agreed(n_ranks, wire, n_each):
    """As factors, or as a gradient where several partitions of a rank make factors dearer."""
    settings = Settings(factors=True, wire=wire)
    how = {"batch_size": 10, "sizes": (20,) * n_each * n_ranks}
    whole = assert_goes_on(recipe(Perceptron), n_ranks, settings=settings, **how)
    assert (WHOLE in whole[0].replica.exchange.ways) == (n_each == 4)


class Narrow(nn.Module):
    """Weights in bfloat16: the outer optimiser has more digits of them."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(20, 4, dtype=torch.bfloat16)

    def forward(self, rows):
        return self.head(rows.bfloat16()).float()


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_where_local_steps_began_is_kept_in_all_digits(n_ranks):
    settings = Settings(outer_rate=0.7, outer_momentum=0.9)
    how = {"settings": settings, "local_steps": 2, "batch_size": 80}
    assert_goes_on(recipe(Narrow, lr=0.01), n_ranks, **how)
