"""Ranks that compute in narrow numbers, or send such."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nn_modules import Perceptron
from nn_ranks import assert_all_the_same, recipe, train

from dask_petuum.nn import loss_scale
from dask_petuum.nn.loss_scale import FIRST, LossScale
from dask_petuum.nn.loss_scale import PATIENCE as STEPS_TO_GROW
from dask_petuum.nn.trainer import Settings
from dask_petuum.nn.wire import Wire


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
@pytest.mark.parametrize("factors", [True, False])
def test_ranks_in_mixed_precision_stay_the_same(autocast, factors):
    built = recipe(Perceptron)
    (alone,), _ = train(built, 1, settings=Settings(autocast=autocast))
    settings = Settings(autocast=autocast, factors=factors)
    together, _ = train(built, 2, settings=settings)
    assert_all_the_same(together, together[0], 0)
    assert_all_the_same(together, alone, 0.02)


def test_a_step_that_is_not_finite_is_left_out_and_the_scale_halved():
    scaling = LossScale()
    first = scaling.scale
    assert not scaling.unscale([torch.ones(3), torch.tensor([1.0, torch.inf])])
    assert scaling.scale == first / 2
    gradient = torch.full((3,), scaling.scale)
    for _ in range(STEPS_TO_GROW):
        assert scaling.unscale([gradient.fill_(scaling.scale)])
    np.testing.assert_array_equal(gradient, 1)
    assert scaling.scale == first


class Blowing(Perceptron):
    """Its third batch has gradients beyond float32."""

    n_calls = 0

    def forward(self, rows):
        out = super().forward(rows)
        self.n_calls += self.training
        return out * torch.tensor(1e30) * 1e10 if self.n_calls == 3 and self.training else out


@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("factors", [True, False])
def test_training_goes_on_after_numbers_that_are_not_finite(wire, factors):
    settings = Settings(autocast="float16", wire=wire, factors=factors)
    together, _ = train(recipe(Blowing), 2, settings=settings)
    for trainer in together:
        assert trainer.replica.scaling.scale == FIRST / 2
        assert all(torch.isfinite(lost).all() for lost in trainer.wire.lost.values())
    (alone,), _ = train(recipe(Blowing), 1, n_parts=1, settings=settings)
    assert alone.replica.scaling.scale == FIRST / 2
    assert_all_the_same(together, together[0], 0)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_what_rounding_took_grows_with_the_scale_of_the_loss(n_ranks, monkeypatch):
    """The scale is doubled in every step: sums of gradients without it are as they were given."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**-8)
    monkeypatch.setattr(loss_scale, "PATIENCE", 1)
    packs = {}
    pack = Wire.pack

    def seen(self, values, name=None):
        given, packed = values.clone(), pack(self, values, name)
        packs.setdefault((id(self), name), []).append((given, self.unpack(packed).clone()))
        return packed

    monkeypatch.setattr(Wire, "pack", seen)
    settings = Settings(autocast="float16", wire="bfloat16", factors=False)
    together, _ = train(recipe(Perceptron), n_ranks, n_parts=n_ranks, settings=settings, epochs=1)
    for trainer in together:
        last = trainer.replica.scaling.scale
        assert trainer.wire.lost
        for name, lost in trainer.wire.lost.items():
            pairs = packs[id(trainer.wire), name]
            assert last == 2.0 ** (len(pairs) - 8)
            scales = [2.0 ** (n - 8) for n in range(len(pairs))]
            given, arrived = (
                sum(pair[n].double() / scale for pair, scale in zip(pairs, scales, strict=True))
                for n in (0, 1)
            )
            np.testing.assert_allclose(arrived + lost / last, given, atol=1e-6)
            assert (given - arrived).abs().max() > 1e-5
