"""Ranks that compute in narrow numbers, or send such."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nn_modules import Perceptron
from nn_ranks import PATIENCE, Ranks, assert_all_the_same, recipe, train

from dask_petuum.nn import loss_scale
from dask_petuum.nn.loss_scale import FIRST, LossScale
from dask_petuum.nn.loss_scale import PATIENCE as STEPS_TO_GROW
from dask_petuum.nn.trainer import Settings, Trainer
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


def go_on(built, saved, parts, settings, clock):
    """New ranks that begin with what others were; they train one clock."""
    ranks = Ranks(len(saved))
    trainers = [
        Trainer(built, parts[0]._plan, settings, None, ranks.mesh(rank), 1)
        for rank in range(len(saved))
    ]
    for rank, trainer in enumerate(trainers):
        for old in parts[rank :: len(saved)]:
            trainer.partitions += old.partitions
        trainer.load(saved[rank], clock)

    def run(trainer):
        try:
            trainer.train(clock)
        except BaseException as error:
            for box in ranks.boxes:
                box.interrupt(error)
            raise

    with ThreadPoolExecutor(len(saved)) as pool:
        for each in [pool.submit(run, trainer) for trainer in trainers]:
            each.result(PATIENCE)
    return trainers


@pytest.mark.parametrize("n_after", [2, 3, 5])
@pytest.mark.parametrize("local_steps", [1, 4])
def test_other_ranks_go_on_from_a_checkpoint_with_narrow_numbers(n_after, local_steps):
    built, settings = recipe(Perceptron, "Adam", 0.01), Settings(wire="bfloat16")
    old, _ = train(
        built, 4, n_parts=5, clocks=1, epochs=4, settings=settings, local_steps=local_steps
    )
    saved = [trainer.arrays() for trainer in old]
    assert any(name.startswith("w.") for name in saved[0])
    new = go_on(built, [saved[min(rank, 3)] for rank in range(n_after)], old, settings, 1)
    assert_all_the_same(new, new[0], 0)
    assert not np.array_equal(new[0].weights()["head.weight"], saved[0]["p.head.weight"])


def test_as_many_ranks_go_on_with_what_rounding_took():
    """In another order: only what an owner's sum lost is of a rank."""
    built, settings = recipe(Perceptron), Settings(wire="bfloat16")
    old, _ = train(built, 3, n_parts=3, clocks=1, epochs=4, settings=settings)
    saved = [trainer.arrays() for trainer in old]
    for rank, trainer in enumerate(old):
        trainer.load(saved[rank - 1], 1)
        assert trainer.wire.lost
        sent = {n.removeprefix("w."): v for n, v in saved[rank - 1].items() if n[:2] == "w."}
        assert {name for name in sent if name not in trainer.wire.lost} == {
            name for name in sent if name.endswith(".sum")
        }
        for name, lost in trainer.wire.lost.items():
            np.testing.assert_array_equal(lost, sent[name])
        trainer.load(saved[rank], 1)
        assert any(name.endswith(".sum") for name in trainer.wire.lost)
