"""Where a calibration cannot be attached exactly, it is refused, in words that name the call; the model stays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusionscope.errors import InputError, ModelError
from fusionscope.nn import Concat, attach_calibration, detach_calibration

from .attach_models import Cat, Early, encoder, vectors
from .test_attach import attached, run, same, state


class Net(nn.Module):
    """Encoders, a projection and a head, used by a function in ways that a calibration cannot stand in front of."""

    def __init__(self, code: Callable[..., Tensor]):
        super().__init__()
        self.a, self.b, self.more, self.head = encoder(7, 13), encoder(3, 13), nn.Linear(13, 13), nn.Linear(26, 2)
        self.side, self.steps, self.code = nn.Linear(7, 2), 0, code

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.code(self, a, b)


def skipped(net, a, b):
    return net.head(torch.cat([net.a(a), net.b(b)], 1)) + net.side(a)


def bare(net, a, b):
    return net.side(a.tanh()) + b[:, :2]


def twice(net, a, b):
    x = net.a(a)
    y = net.more(x)
    return net.head(torch.cat([x + y, net.b(b)], 1)) * y[:, :2]


def counting(net, a, b):
    x = net.a(a)
    net.steps += 1
    return net.head(torch.cat([x, net.b(b)], 1))


def apart(net, a, b):
    return torch.stack([net.a(a), torch.zeros(5, 13)]), net.b(b)


class Levels(nn.Module):
    """Encoders that give two levels each, fused level by level."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fuse1, self.fuse2 = Two(7), Two(3), nn.Linear(26, 2), nn.Linear(34, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.a(a), self.b(b)
        return self.fuse1(torch.cat([x[0], y[0]], 1)) + self.fuse2(torch.cat([x[1], y[1]], 1))


class Two(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.one, self.two = nn.Linear(inputs, 13), nn.Linear(13, 17)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.one(x)
        return [first, self.two(first.tanh())]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a skip connection": (lambda: Net(skipped), r"- a also reaches the output past the output of a#0"),
    "no call": (lambda: Net(bare), r"- no call is b's alone"),
    "a call behind": (lambda: Net(twice), r"- more#0, behind a's features, runs before .* would run twice"),
    "state": (lambda: Net(counting), r"at a#0, b#0 would not be exact: in training mode steps is left with another"),
    "apart": (lambda: Net(apart), r"a and b never meet"),
    "levels": (Levels, r"- a also reaches the output past the output of a#0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, words = REFUSED[name]
    torch.manual_seed(0)
    model, x = build(), vectors("a", "b")
    before = state(model)
    with pytest.raises(InputError, match=words):
        attach_calibration(model, x)
    assert same(state(model), before)


def test_a_modality_that_joins_later():
    with pytest.raises(InputError, match=r"- no call is c's alone before middle#0"):
        attach_calibration(Early(), vectors("a", "b", "c"))
    with pytest.raises(InputError, match="two modalities or more of a, b, c; got a"):
        attach_calibration(Early(), vectors("a", "b", "c"), among=("a",))


def test_wrapped_and_scripted_models():
    x = vectors("a", "b")
    with pytest.raises(InputError, match="attach before wrapping: this is a DataParallel"):
        attach_calibration(nn.DataParallel(Cat()), x)
    model = Cat()
    vars(model)["forward"] = model.forward
    with pytest.raises(InputError, match="forward is an attribute"):
        attach_calibration(model, x)


def test_a_sequential_model():
    class Encode(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = encoder(7, 13), encoder(3, 13)

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {m: getattr(self, m)(inputs[m]) for m in "ab"}

    model = nn.Sequential(Encode(), Concat(("a", "b")), nn.Linear(26, 2)).eval()
    x = vectors("a", "b")
    expected = model(x)
    calibration = attach_calibration(model, x)
    assert model[1].contextual_calibration is calibration
    assert torch.equal(model(x), expected)
    detach_calibration(model)
    assert torch.equal(model(x), expected)


def test_attached_twice_or_not_at_all():
    model, _, x = attached("cat")
    with pytest.raises(InputError, match="attached to this model already"):
        attach_calibration(model, x)
    detach_calibration(model)
    with pytest.raises(InputError, match="no calibration is attached to this Cat"):
        detach_calibration(model)
    model.contextual_calibration = nn.Identity()
    with pytest.raises(InputError, match="something named 'contextual_calibration' already"):
        attach_calibration(model, x)


def test_what_the_model_raises_passes_and_leaves_nothing_behind():
    model, _, x = attached("cat")
    before = copy.deepcopy(vars(model.enc_a))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(model, {**x, "b": torch.randn(5, 4)})
    assert vars(model.enc_a).keys() == before.keys()
    assert run(model, x).shape == (5, 2)


def test_another_path_than_when_attached():
    class Choice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head, self.take_b = encoder(7, 13), encoder(3, 13), nn.Linear(26, 2), True

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            y = self.b(b) if self.take_b else torch.zeros(5, 13)
            return self.head(torch.cat([self.a(a), y], 1))

    model, x = Choice(), vectors("a", "b")
    attach_calibration(model, x)
    model.take_b = False
    with pytest.raises(ModelError, match="b#0 ran when the calibration was attached, but not on this batch"):
        model(**x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_the_encoders(reentrant: bool):
    def again(net, a, b):
        x, y = (checkpoint(e, v, use_reentrant=reentrant) for e, v in ((net.a, a), (net.b, b)))
        return net.head(torch.cat([x, y], 1))

    def plainly(net, a, b):
        return net.head(torch.cat([net.a(a), net.b(b)], 1))

    x = {m: v.requires_grad_() for m, v in vectors("a", "b").items()}
    model = Net(again)
    calibration = attach_calibration(model, x)
    with torch.no_grad():
        for p in calibration.parameters():
            p += 0.1
        model(**x)
    if reentrant:
        with pytest.raises(ModelError, match="a#0 runs inside reentrant gradient checkpointing"):
            model(**x)
        return
    twin = copy.deepcopy(model)
    twin.code = plainly
    for one in (model, twin):
        one(**x).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.grad is q.grad is None or torch.equal(p.grad, q.grad)
