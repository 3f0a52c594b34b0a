"""A calibration attached to a model is what one would write into its code by hand."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fusionscope as fs
from fusionscope.errors import InputError
from fusionscope.nn import Concat, ContextualCalibration, attach_calibration, build_model, detach_calibration

from .attach_models import Cat, Early, Gated, Shared, Siamese, Signals, Sum, Twice, vectors
from .test_part_laws import shaken


def signals() -> dict[str, Tensor]:
    return {"a": torch.randn(5, 3, 11), "b": torch.randn(5, 2, 11)}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], dict[str, Any]]] = {
    "cat": (Cat, lambda: vectors("a", "b"), {}),
    "sum": (Sum, lambda: vectors("a", "b"), {}),
    "gated": (Gated, lambda: vectors("a", "b"), {}),
    "twice": (Twice, lambda: vectors("a", "b"), {}),
    "siamese": (Siamese, lambda: vectors("a", "b"), {}),
    "interleaved": (lambda: Siamese(interleaved=True), lambda: vectors("a", "b"), {}),
    "shared": (Shared, lambda: vectors("a", "b"), {}),
    "signals": (Signals, signals, {}),
    "early": (Early, lambda: vectors("a", "b", "c"), {"among": ("a", "b")}),
}
each = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    build, inputs, options = MODELS[name]
    torch.manual_seed(0)
    model = build()
    return model, inputs(), options


@functools.cache
def _attached(name: str) -> nn.Module:
    model, x, options = made(name)
    attach_calibration(model, x, **options)
    return model


def attached(name: str) -> tuple[Any, Any, dict[str, Tensor]]:
    """A model with a calibration attached, the calibration, and inputs."""
    model = copy.deepcopy(_attached(name))
    return model, model.contextual_calibration, made(name)[1]


def run(model: nn.Module, x: dict[str, Tensor], seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return model(**{m: v.clone() for m, v in x.items()})


def state(model: nn.Module) -> dict[str, Any]:
    """What could be left behind: attributes, hooks, modules, values."""
    found: dict[str, Any] = {"": type(model)}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            empty = isinstance(value, dict) and key.startswith("_") and not value
            found[f"{path}/{key}"] = {} if empty else list(value) if isinstance(value, dict) else id(value)
    return found | {f"{k}=": v.clone() for k, v in model.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return list(one) == list(other) and all(
        torch.equal(v, other[k]) if isinstance(v, Tensor) else v == other[k] for k, v in one.items()
    )


@each
def test_nothing_changes_at_first_nor_after_detaching(name):
    model, x, options = made(name)
    twin = copy.deepcopy(model)
    before, rng = state(model), torch.get_rng_state()
    calibration = attach_calibration(model, x, **options)
    assert torch.equal(torch.get_rng_state(), rng)
    assert isinstance(model, type(twin))
    for training in (False, True):
        model.train(training)
        twin.train(training)
        assert calibration.training == training
        assert torch.equal(run(model, x), run(twin, x))
    assert same(twin.state_dict(), {k: v for k, v in model.state_dict().items() if "contextual_calibration" not in k})
    detach_calibration(model)
    model.load_state_dict(made(name)[0].state_dict())
    model.train()
    assert same(state(model), before)


@each
def test_as_if_written_by_hand(name):
    """Values and gradients, with the calibration far from the identity, in training mode with dropout."""
    model, calibration, x = attached(name)
    twin = made(name)[0]
    shaken(calibration)
    other = copy.deepcopy(calibration)
    got = run(model, x)
    torch.manual_seed(1)
    expected = twin.by_hand(**x, calibration=other)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, run(made(name)[0], x), atol=1e-3)
    (got**2).sum().backward()
    (expected**2).sum().backward()
    mine = {n: p.grad for n, p in model.named_parameters() if "contextual_calibration" not in n}
    theirs = {n: p.grad for n, p in twin.named_parameters()}
    assert list(mine) == list(theirs)
    for n in mine:
        torch.testing.assert_close(mine[n], theirs[n], msg=n)
    for (n, p), q in zip(calibration.named_parameters(), other.parameters(), strict=True):
        assert p.grad is not None, n
        torch.testing.assert_close(p.grad, q.grad, msg=n)


@each
def test_trained_weights_are_saved_and_loaded_with_the_model(name):
    model, _, x = attached(name)
    for number in range(3):
        model.zero_grad()
        (run(model, x, number) - 1).square().sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    fresh = attached(name)[0]
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(run(fresh.eval(), x), run(model.eval(), x))
    assert not torch.allclose(run(fresh, x), run(made(name)[0].eval(), x), atol=1e-3)


@each
def test_copies_have_a_calibration_of_their_own(name):
    model, calibration, x = attached(name)
    shaken(calibration)
    model.eval()
    expected = run(model, x)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, x), expected)
    saved = pickle.loads(pickle.dumps(model))
    assert torch.equal(run(saved, x), expected)
    assert saved.contextual_calibration is not calibration
    with torch.no_grad():
        for p in calibration.parameters():
            p += 0.3
    assert torch.equal(run(twin, x), expected)
    assert not torch.allclose(run(model, x), expected)
    changed = run(model, x)
    detach_calibration(twin)
    assert torch.equal(run(model, x), changed)
    detach_calibration(model)
    assert torch.equal(run(model, x), run(twin, x))


@pytest.mark.parametrize("name", ["cat", "gated"])
def test_each_encoder_runs_once(name):
    model, calibration, x = attached(name)
    shaken(calibration)
    counts = dict.fromkeys(("enc_a.0", "enc_b.0", "enc_a", "head"), 0)
    for path in counts:
        module = model.get_submodule(path)
        module.register_forward_hook(lambda *_, path=path: counts.__setitem__(path, counts[path] + 1))
    before = model.enc_a[1].num_batches_tracked.item()
    run(model, x)
    assert set(counts.values()) == {1}
    assert model.enc_a[1].num_batches_tracked.item() == before + 1


@pytest.mark.parametrize("name", ["cat", "gated"])
def test_a_trace_shows_where_the_modalities_meet_now(name):
    model, _, x = attached(name)
    found = fs.trace(model, x)
    first = found.fusion_points[0]
    assert first.modalities == {"a", "b"}
    assert "contextual_calibration" in (first.parent or (first.call.path if first.call else ""))
    inner = [c for c in found.calls if c.path == "contextual_calibration"]
    assert {(c.depends_on, c.wired_to) for c in inner} == {(frozenset({m}), frozenset("ab")) for m in "ab"}


@pytest.mark.parametrize("kind", ["mixed"])
def test_models_of_ours(kind):
    shapes: dict[str, tuple[int, ...]] = {
        "mixed": {"a": (7,), "b": (13, 5), "c": (3, 17, 19)},
    }[kind]
    axes = {m: {1: "NC", 2: "NTC", 3: "NCHW"}[len(s)] for m, s in shapes.items()}
    torch.manual_seed(0)
    model = build_model(shapes, axes, "classification", 5, width=4).eval()
    x = {m: torch.randn(5, *s) for m, s in shapes.items()}
    expected = model(x)
    calibration = attach_calibration(model, x)
    assert set(calibration.channels) == set(shapes)
    assert (model(x) - expected).abs().max() <= 1e-6
    shaken(calibration)
    features = model.encode(x)
    torch.testing.assert_close(model(x), model.head(torch.cat(list(calibration(features).values()), 1)))
    assert not torch.allclose(model(x), expected, atol=1e-4)
    detach_calibration(model)
    assert torch.equal(model(x), expected)


def test_mixed_precision_and_options():
    model, x, _ = made("cat")
    calibration = attach_calibration(model, x, calibration={"mode": "residual", "dim": 5})
    assert (calibration.mode, calibration.norm.normalized_shape) == ("residual", (5,))
    plain = made("cat")[0].eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(model.eval(), x), run(plain, x))
    detach_calibration(model)
    mine = ContextualCalibration({"a": 17, "b": 19}, shared=False)
    assert attach_calibration(model, x, calibration=mine) is mine
    detach_calibration(model)
    with pytest.raises(InputError, match=r"channels {'a': 17, 'b': 19}, not {'a': 5, 'b': 19}"):
        attach_calibration(model, x, calibration=ContextualCalibration({"a": 5, "b": 19}))
    half = made("cat")[0].double()
    assert attach_calibration(half, {m: v.double() for m, v in x.items()}).norm.weight.dtype == torch.float64


@pytest.mark.parametrize("by_module", [False, True])
def test_who_is_present_is_passed_on(by_module):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fuse, self.head = (
                nn.Linear(7, 13),
                nn.Linear(3, 13),
                Concat(("a", "b")),
                nn.Linear(26, 2),
            )

        def forward(self, a: Tensor, b: Tensor, present: dict[str, Tensor] | None = None) -> Tensor:
            x = {"a": self.a(a), "b": self.b(b)}
            return self.head(self.fuse(x, present) if by_module else torch.cat([x["a"], x["b"]], 1))

    torch.manual_seed(0)
    model, x = Net(), vectors("a", "b")
    calibration = shaken(attach_calibration(model, x))
    present = {"a": torch.tensor([True, False, True, True, False])}
    out = calibration({"a": model.a(x["a"]), "b": model.b(x["b"])}, present)
    expected = model.head(torch.cat([out["a"], out["b"]], 1))
    for given in (model(**x, present=present), model(x["a"], x["b"], present)):
        torch.testing.assert_close(given, expected)
    assert not torch.allclose(model(**x), expected)
