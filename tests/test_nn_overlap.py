"""Wait-free backpropagation: in which order gradients leave, and layers wait for them."""

from __future__ import annotations

import pytest
import torch
from nn_ranks import assert_all_the_same, recipe, train

from dask_petuum.nn.exchange import GradientExchange
from dask_petuum.nn.trainer import Settings

#: What happens in a rank: (what, name of a layer or a weight), by the rank's module.
EVENTS = {}


class Note(torch.autograd.Function):
    """Passes numbers on; notes when their gradient comes back."""

    @staticmethod
    def forward(ctx, rows, module, name):
        ctx.module, ctx.name = module, name
        return rows.clone()

    @staticmethod
    def backward(ctx, grad):
        EVENTS[ctx.module].append(("backward", ctx.name))
        return grad, None, None


class Watched(torch.nn.Module):
    """Three layers, each too large for a bucket with another."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = torch.nn.Linear(20, 512), torch.nn.Linear(512, 1024)
        self.last = torch.nn.Linear(1024, 600)
        EVENTS[self] = []

    def forward(self, rows):
        for name, layer in self.named_children():
            rows = Note.apply(torch.tanh(layer(rows)), self, name)
            EVENTS[self].append(("forward", name))
        return rows


def events_of(monkeypatch, near, **settings):
    """Two ranks make two steps; what rank 0 did."""
    noted = {}
    leave, arrive = GradientExchange.leave, GradientExchange.arrive

    def seen(what, call):
        def method(self, number):
            if what == "arrives" or number not in self._left:
                noted.setdefault(id(self), lambda *_: None)(what, self._units[number].names)
            call(self, number)

        return method

    monkeypatch.setattr(GradientExchange, "leave", seen("leaves", leave))
    monkeypatch.setattr(GradientExchange, "arrive", seen("arrives", arrive))
    init = GradientExchange.__init__

    def opened(self, *given):
        init(self, *given)
        events = list(EVENTS.values())[-1]  # of the module that was built last: this rank's
        noted[id(self)] = lambda what, names: events.extend((what, name) for name in names)

    monkeypatch.setattr(GradientExchange, "__init__", opened)
    EVENTS.clear()
    trainers, _ = train(
        recipe(Watched), 2, epochs=1, batch_size=80, near=near, settings=Settings(**settings)
    )
    assert_all_the_same(trainers, trainers[0], 0)
    assert trainers[0]._plan.n_steps == 2
    return EVENTS[trainers[0].replica.module]


def second(events, event):
    """Place of the second time that something happens."""
    return events.index(event, events.index(event) + 1)


@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_gradients_leave_before_the_backward_pass_ends(monkeypatch, factors, near):
    events = events_of(monkeypatch, near, factors=factors)
    for later, earlier in (("last", "middle"), ("middle", "first")):
        left, goes_on = ("leaves", f"{later}.weight"), ("backward", earlier)
        assert events.index(("backward", later)) < events.index(left) < events.index(goes_on)


@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_a_layer_waits_for_its_own_gradient_only(monkeypatch, factors, near):
    """The next forward pass goes through the layers before the last one without its gradient."""
    events = events_of(monkeypatch, near, factors=factors)
    for earlier, later in (("first", "middle"), ("middle", "last")):
        waits = events.index(("arrives", f"{later}.weight"))
        assert second(events, ("forward", earlier)) < waits < second(events, ("forward", later))


def test_without_overlap_gradients_leave_after_the_backward_pass(monkeypatch):
    events = events_of(monkeypatch, False, overlap=False)
    ended = events.index(("backward", "first"))
    assert min(events.index(event) for event in events if event[0] == "leaves") > ended
    began = second(events, ("forward", "first"))
    assert events.index(("arrives", "last.weight")) < began
