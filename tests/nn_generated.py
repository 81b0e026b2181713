"""Networks of random blocks, and their training by plain torch, for `test_nn_generated`."""

from __future__ import annotations

import copy
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from dask_petuum.nn.plan import Plan

#: Numbers between two blocks; even. Wide enough that Linear layers of few rows are sent as factors.
WIDTH = 24


def dense():
    return nn.Linear(WIDTH, WIDTH)


class Block(nn.Module):
    """From rows of WIDTH numbers to as many; most have two Linear layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = dense(), dense()

    def forward(self, rows):
        return self.two(torch.tanh(self.one(rows)))


class Twice(Block):
    """One layer in three dimensions and again in two, called by keyword."""

    def forward(self, rows):
        pair = torch.tanh(self.one(torch.stack([rows, -0.5 * rows], 1)))
        return self.two(self.one(input=pair.mean(1)))


class Convolved(nn.Sequential):
    def __init__(self):
        inner = nn.Conv1d(1, 3, 3, padding=1)
        super().__init__(nn.Unflatten(1, (1, -1)), inner, nn.Tanh(), nn.Conv1d(3, 1, 1))

    def forward(self, rows):
        return super().forward(rows)[:, 0]


class Normed(nn.Module):
    """Running statistics that depend on the number of batches."""

    def __init__(self):
        super().__init__()
        self.batch, self.layer = nn.BatchNorm1d(WIDTH, momentum=None), nn.LayerNorm(WIDTH)

    def forward(self, rows):
        return self.batch(rows) + self.layer(rows) * self.batch.running_mean.clone()


class Words(nn.Module):
    """Tables with sparse gradients, one of them tied."""

    def __init__(self):
        super().__init__()
        self.table, self.twin = (nn.Embedding(40, WIDTH, sparse=True) for _ in range(2))
        self.twin.weight = self.table.weight
        self.bag = nn.EmbeddingBag(40, WIDTH, mode="sum", sparse=True)

    def forward(self, rows):
        numbers = (10 * rows[:, :3]).long().abs().clamp(max=39)
        looked_up = self.table(numbers[:, 0]) - self.twin(numbers[:, 1])
        return rows + looked_up + (self.bag(numbers) if rows.sum() > 0 else 0)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        half = WIDTH // 2
        self.memory = nn.GRU(half, half, batch_first=True)
        self.attention = nn.MultiheadAttention(half, 2, batch_first=True)

    def forward(self, rows):
        pair = self.memory(rows.reshape(-1, 2, WIDTH // 2))[0]
        return self.attention(pair, pair, pair, need_weights=False)[0].flatten(1)


class Parametrized(nn.Sequential):
    def __init__(self):
        norm, spectral = parametrizations.weight_norm, parametrizations.spectral_norm
        super().__init__(norm(dense()), nn.Tanh(), spectral(dense()))


class Tied(Block):
    """A weight in two layers, another one that is used transposed besides its call."""

    def __init__(self):
        super().__init__()
        self.twin = dense()
        self.twin.weight = self.one.weight

    def forward(self, rows):
        code = torch.tanh(self.two(self.twin(torch.tanh(self.one(rows)))))
        return functional.linear(code, self.two.weight.t())


class ByName(Block):
    """One layer is never called, the other one for some batches only."""

    def forward(self, rows):
        code = torch.tanh(rows @ self.one.weight + self.one.bias)
        return self.two(code) if rows.sum() > 0 else code @ self.two.weight.t()


class Frozen(Block):
    def __init__(self):
        super().__init__()
        self.one.weight.requires_grad_(False)
        self.two.bias.requires_grad_(False)


class Skipping(Block):
    """Rows, and a counter of batches, decide which layers are used."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros((), dtype=torch.int64))

    def forward(self, rows):
        self.n += self.training
        code = self.one(rows) if rows[0, 0] > 0 else rows
        return self.two(torch.tanh(code)) if self.n % 3 else code


class Remembering(Block):
    """The same by plain attributes."""

    n = 0
    last = None

    def forward(self, rows):
        self.n += self.training
        code = self.one(rows) + (0 if self.last is None else self.last)
        self.last = code.detach().mean(0)
        return self.two(torch.tanh(code)) if self.n % 3 else code


class Experts(nn.Module):
    """Each row goes to one of three; some get none."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(dense() for _ in range(3))
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, rows):
        choice, out = (rows[:, :2] > 0.3).sum(1), rows * self.scale
        for number, expert in enumerate(self.experts):
            mine = choice == number
            out = out.index_add(0, mine.nonzero()[:, 0], expert(rows[mine]))
        return out


class Again(Block):
    """Segments that are computed again in the backward pass."""

    def forward(self, rows):
        rows = checkpoint(lambda given: torch.tanh(self.one(given)), rows, use_reentrant=False)
        for _ in range(2):
            rows = checkpoint(lambda given: torch.tanh(self.two(given)), rows, use_reentrant=True)
        return rows


class OtherNumbers(nn.Module):
    """float64 and complex parameters, the latter behind an odd number of real ones."""

    def __init__(self):
        super().__init__()
        self.exact = dense().double()
        self.turn = nn.Parameter(torch.ones(WIDTH, dtype=torch.complex64))
        self.odd = nn.Parameter(torch.ones(1))

    def forward(self, rows):
        rows = self.exact(rows.double()).float()
        return (rows * self.turn).real * self.odd + (rows * self.turn).imag


class Moving(Block):
    """Running means that are not persistent, complex, and replaced by others."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passing", torch.zeros(WIDTH), persistent=False)
        self.register_buffer("pairs", torch.zeros(WIDTH, dtype=torch.complex64))

    def forward(self, rows):
        if self.training:
            mean = rows.detach().mean(0)
            self.passing.lerp_(mean, 0.3)
            self.pairs = 0.7 * self.pairs + 0.3 * torch.complex(mean, mean**2)
        return super().forward(rows - self.passing + self.pairs.imag)


class Inner(Block):
    """A gradient within the forward pass, by a copy of a layer, too."""

    @torch.enable_grad()
    def forward(self, rows):
        given = rows.detach().requires_grad_()
        out = super().forward(given).square().sum()
        (gradient,) = torch.autograd.grad(out, given, create_graph=True)
        fast = copy.deepcopy(self.one)
        fast(rows.detach()).square().mean().backward()
        return super().forward(rows) + 0.2 * gradient - fast.bias.grad.mean()


BLOCKS = [
    *(Block, Twice, Convolved, Normed, Words, Sequence, Parametrized, Tied, ByName, Frozen),
    *(Skipping, Remembering, Experts, Again, OtherNumbers, Moving, Inner),
]


class Generated(nn.Module):
    """Some blocks, between a first and a last layer."""

    def __init__(self, blocks):
        super().__init__()
        self.start, self.head = nn.Linear(20, WIDTH), nn.Linear(WIDTH, 4)
        self.blocks = nn.ModuleList(block() for block in blocks)

    def forward(self, rows):
        rows = torch.tanh(self.start(rows))
        for block in self.blocks:
            rows = torch.tanh(block(rows))
        return self.head(rows)


class Plain:
    """Training by plain torch: a copy of the module a rank, whose gradients are added up.

    Each partition has its own buffers within a clock; at the end changes are averaged by rows, and
    what has no mean is as the first partition has it.
    """

    def __init__(self, built, sizes, n_ranks, clip=None):
        self.sizes, self.n_ranks, self.clip = sizes, n_ranks, clip
        self.copies = [built.build_module() for _ in range(n_ranks)]
        self.loss = built.build_loss()
        self.parameters = list(zip(*(c.parameters() for c in self.copies), strict=True))
        self.optimizer = built.build_optimizer(self.trained)

    @property
    def trained(self):
        return [copies[0] for copies in self.parameters if copies[0].requires_grad]

    def train(self, rows, labels, plan: Plan):
        first = [0, *accumulate(self.sizes)]
        for clock in range(plan.n_clocks):
            start = buffers_of(self.copies[0])
            own = [start] * len(self.sizes)
            for step in plan.steps(clock):
                for part in range(len(self.sizes)):
                    low, high = plan.bounds(part, step)
                    if low < high:
                        module = self.copies[part * self.n_ranks // len(self.sizes)]
                        chosen = first[part] + plan.training_rows(part, step)[low:high]
                        put_buffers(module, own[part])
                        out = module(torch.from_numpy(rows[chosen]))
                        losses = self.loss(out, torch.from_numpy(labels[chosen]))
                        (losses.sum() / plan.n_rows(step)).backward()
                        own[part] = buffers_of(module)
                self.step()
            shares = [plan.share(part) for part in range(len(self.sizes))]
            end = {name: averaged(name, start, own, shares) for name in start}
            for module in self.copies:
                put_buffers(module, end)
        return self.copies[0]

    def step(self):
        for copies in self.parameters:
            gradients = [each.grad for each in copies if each.grad is not None]
            copies[0].grad = sum(gradients[1:], gradients[0]) if gradients else None
        if self.clip is not None:
            clip_plainly([each.grad for each in self.trained if each.grad is not None], self.clip)
        self.optimizer.step()
        with torch.no_grad():
            for copies in self.parameters:
                for each in copies:
                    each.copy_(copies[0])
                    each.grad = None


def clip_plainly(gradients, largest):
    norm = sum(float(torch.norm(each.to_dense()) ** 2) for each in gradients) ** 0.5
    for each in gradients:
        each.mul_(min(1.0, largest / (norm + 1e-6)))


def buffers_of(module):
    return {name: each.clone() for name, each in module.named_buffers()}


def put_buffers(module, values):
    with torch.no_grad():
        for name, each in module.named_buffers():
            each.copy_(values[name])


def averaged(name, start, own, shares):
    first = start[name]
    if not (first.is_floating_point() or first.is_complex()):
        return own[0][name]
    changes = (share * (each[name] - first) for share, each in zip(shares, own, strict=True))
    return first + sum(changes)
