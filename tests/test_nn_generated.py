"""Generated networks: ranks, however they send, are plain torch; and go on after an interruption.

The networks are made of blocks that differ in how they use their parameters; see `nn_generated`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nn_generated import BLOCKS, Generated, Plain, Remembering, Words
from nn_modules import make_rows
from nn_ranks import assert_all_the_same, train

from dask_petuum.nn import plan, units
from dask_petuum.nn.recipe import Recipe
from dask_petuum.nn.trainer import Settings

#: Name, step size, arguments; with eps so large that a gradient that is rounding only stays small.
OPTIMIZERS = [
    ("Adagrad", 0.05, {"eps": 0.01}),
    ("SGD", 0.05, {"momentum": 0.9}),
    ("SGD", 0.05, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", 0.01, {"eps": 0.01}),
    ("AdamW", 0.01, {"eps": 0.01, "weight_decay": 0.1}),
]
#: Those that take sparse gradients.
N_SPARSE = 2


@dataclass(frozen=True)
class Case:
    """A network, its rows and how ranks train it."""

    blocks: tuple
    optimizer: int
    sizes: tuple
    n_ranks: int
    batch_size: int
    epochs: int
    n_before: int
    bucket: int
    small: int
    near: bool
    how: Settings

    @property
    def recipe(self):
        n = N_SPARSE if Words in self.blocks else len(OPTIMIZERS)
        name, lr, more = OPTIMIZERS[self.optimizer % n]
        arguments = {"module": {"blocks": self.blocks}, "optimizer": more}
        return Recipe(Generated, "CrossEntropyLoss", name, lr, arguments=arguments)

    @property
    def data(self):
        return make_rows(sum(self.sizes))

    def train(self, settings, near, **more):
        about = {"sizes": self.sizes, "batch_size": self.batch_size, "epochs": self.epochs}
        how = {"settings": settings, "near": near, **about, **more}
        return train(self.recipe, self.n_ranks, self.data, **how)[0]


@st.composite
def cases(draw):
    sizes = tuple(draw(st.lists(st.integers(2, 12), min_size=1, max_size=4)))
    return Case(
        blocks=tuple(draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3))),
        optimizer=draw(st.integers(0, len(OPTIMIZERS) - 1)),
        sizes=sizes,
        n_ranks=draw(st.integers(1, min(3, len(sizes)))),
        batch_size=draw(st.sampled_from([3, 4, 6, 100])),
        epochs=draw(st.integers(1, 3)),
        n_before=draw(st.integers(1, 3)),
        bucket=draw(st.sampled_from([1, 3000, 2**20])),
        small=draw(st.sampled_from([0, 2**16])),
        near=draw(st.booleans()),
        how=Settings(
            factors=draw(st.booleans()),
            overlap=draw(st.booleans()),
            clip=draw(st.sampled_from([None, None, 0.1])),
            wire=draw(st.sampled_from(["float32", "float32", "bfloat16"])),
        ),
    )


def assert_as(trainers, module, tolerance):
    expected = dict(module.named_parameters()) | dict(module.named_buffers())
    for trainer in trainers:
        own = trainer.replica.module
        found = dict(own.named_parameters()) | dict(own.named_buffers())
        for name, values in expected.items():
            torch.testing.assert_close(
                found[name], values, rtol=tolerance, atol=tolerance, msg=name
            )


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of torch's Adagrad
@given(cases())
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_ranks_are_plain_torch_however_they_send(case):
    with (
        patch.object(units, "BUCKET_BYTES", case.bucket),
        patch.object(units, "SMALL_BYTES", case.small),
        patch.object(plan, "MAX_STEPS", 3),  # several clocks a pass
    ):
        trained = case.train(case.how, case.near)
        assert_all_the_same(trained, trained[0], 0)
        schedule = trained[0]._plan
        plain = Plain(case.recipe, case.sizes, case.n_ranks, case.how.clip)
        module = plain.train(*case.data, schedule)
        assert_as(trained, module, 3e-5 if case.how.wire == "float32" else 0.1)
        other = Settings(
            factors=not case.how.factors, overlap=not case.how.overlap, clip=case.how.clip
        )
        assert_as(case.train(other, not case.near), module, 3e-5)
        n_before = min(case.n_before, schedule.n_clocks - 1)
        if n_before and Remembering not in case.blocks:  # plain attributes are in no checkpoint
            before = case.train(case.how, case.near, clocks=n_before)
            saved = [copy.deepcopy(trainer.arrays()) for trainer in before]
            after = case.train(case.how, case.near, first=n_before, saved=saved)
            for one, whole in zip(after, trained, strict=True):
                assert torch.equal(one.vector, whole.vector)
