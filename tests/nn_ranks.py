"""Ranks of a training that are threads of this process, for the tests of `dask_petuum.nn`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import accumulate

import numpy as np
import torch
from nn_modules import make_rows

from dask_petuum.data import Partition
from dask_petuum.nn.plan import Plan
from dask_petuum.nn.recipe import Recipe
from dask_petuum.nn.seeds import own_random_numbers, seed_all
from dask_petuum.nn.trainer import Settings, Trainer
from dask_petuum.runtime.mailbox import Mailbox

#: Longest wait of a test, seconds.
PATIENCE = 120


class Ranks:
    """Ranks of one process: each has a real mailbox, messages are put into it at once."""

    def __init__(self, n_ranks, near=False):
        self.near = near
        self.boxes = [Mailbox() for _ in range(n_ranks)]
        self.n_bytes = [0] * n_ranks
        #: Loss on the rows held out, of each clock, by rank.
        self.losses = [[] for _ in range(n_ranks)]

    def mesh(self, rank):
        return _Mesh(self, rank)


class _Mesh:
    def __init__(self, ranks, rank):
        self._ranks, self.rank, self.n_ranks = ranks, rank, len(ranks.boxes)
        self.is_near, self.position = ranks.near, rank

    def send(self, ranks, block, stamp, arrays):
        for rank in ranks:
            self._ranks.n_bytes[self.rank] += sum(v.nbytes for v in arrays.values())
            copies = {name: values.copy() for name, values in arrays.items()}
            self._ranks.boxes[rank].put(block, stamp, copies)

    def take(self, rank, block, stamp):
        return self._ranks.boxes[self.rank].take(block, stamp)


def recipe(module, optimizer="SGD", lr=0.05, **arguments):
    return Recipe(module, "CrossEntropyLoss", optimizer, lr, arguments=arguments, n_inputs=20)


def train(built, n_ranks, data=None, n_parts=2, *, settings=None, near=False, **plan):
    """Train on partitions; the trainers, and the ranks.

    On ``n_parts`` equal ones, or on those of ``sizes``; from clock ``first`` with what trainers
    had ``saved``, for so many ``clocks``.
    """
    rows, labels = make_rows(320) if data is None else data
    sizes = plan.pop("sizes", (len(rows) // n_parts,) * n_parts)
    first, saved, clocks = plan.pop("first", 0), plan.pop("saved", None), plan.pop("clocks", None)
    planned = Plan(sizes, plan.pop("batch_size", 16), plan.pop("epochs", 2), 0, **plan)
    last = planned.n_clocks if clocks is None else first + clocks
    ranks, places = Ranks(n_ranks, near), [0, *accumulate(sizes)]
    # made one by one: ranks that are threads share torch's random state
    made = [
        Trainer(built, planned, settings or Settings(), None, ranks.mesh(rank), 1)
        for rank in range(n_ranks)
    ]

    def run(rank):
        trainer = made[rank]
        for index in range(len(sizes)):
            if index * n_ranks // len(sizes) == rank:
                part = slice(places[index], places[index + 1])
                given = Partition(rows[part], labels[part], None, index, places[index])
                trainer.partitions.append((given, labels[part].astype(np.int64)))
        if saved is not None:
            trainer.load(saved[rank], first)
        for clock in range(first, last):
            ranks.losses[rank].append(trainer.train(clock)["valid_loss"])
        return trainer

    with ThreadPoolExecutor(n_ranks) as pool:
        trainers = [pool.submit(run, rank) for rank in range(n_ranks)]
        try:
            for each in as_completed(trainers, PATIENCE):
                each.result()
            return [each.result() for each in trainers], ranks
        finally:  # the pool waits for all
            for box in ranks.boxes:
                box.interrupt(TimeoutError("the test is over"))


def train_plainly(built, n_parts=2, epochs=2, batch_size=16):
    """The loop that one writes in plain torch over the same batches; the trained module."""
    rows, labels = make_rows(320)
    n = len(rows) // n_parts
    plan = Plan((n,) * n_parts, batch_size, epochs, 0)
    module, loss = built.build_module(), built.build_loss()
    optimizer = built.build_optimizer(module.parameters())
    module.train()
    with own_random_numbers():
        for step in range(plan.n_steps):
            optimizer.zero_grad()
            for index in range(n_parts):
                low, high = plan.bounds(index, step)
                chosen = index * n + plan.training_rows(index, step)[low:high]
                seed_all(int(plan.step_seeds(index, step)[step % plan.steps_per_pass]))
                losses = loss(
                    module(torch.from_numpy(rows[chosen])), torch.from_numpy(labels[chosen])
                )
                (losses.sum() / plan.n_rows(step)).backward()
            optimizer.step()
    return module


def assert_as_plain(trainers, module, tolerance=1e-5):
    """Each rank has the parameters of a module that was trained plainly."""
    for name, parameter in module.named_parameters():
        expected = parameter.detach()
        for trainer in trainers:
            own = torch.from_numpy(trainer.weights()[name]).to(expected.dtype)
            torch.testing.assert_close(own, expected, rtol=0, atol=tolerance)


def assert_all_the_same(trainers, expected, tolerance=1e-5):
    for trainer in trainers:
        for name, values in expected.weights().items():
            np.testing.assert_allclose(trainer.weights()[name], values, atol=tolerance)
