"""The U-Net generator, the Translator made of it, and its discriminator (prime sizes)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fusionscope as fs
from fusionscope.errors import InputError
from fusionscope.nn import PatchDiscriminator, Translator, UNet

CHANNELS = {"texture": 3, "shade": 1}


def sample(batch: int = 3, size: tuple[int, int] = (37, 43), channels: dict[str, int] = CHANNELS) -> dict[str, Tensor]:
    return {m: torch.randn(batch, c, *size) for m, c in channels.items()}


def small(channels: dict[str, int] = CHANNELS, outputs: int = 2, **settings) -> Translator:
    torch.manual_seed(0)
    return Translator(channels, outputs, **{"width": 8, "depth": 3, **settings})


@pytest.mark.parametrize("size", [(37, 43), (16, 32), (47, 17), (240, 320)])
def test_unet_keeps_any_size(size):
    assert UNet(3, 5, width=2, depth=3)(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_unet_too_small():
    with pytest.raises(InputError, match=r"depth 4 halves 16x31 until less than two pixels .* \(a side of 32\)"):
        UNet(3, 5, width=2)(torch.randn(1, 3, 16, 31))
    assert UNet(3, 5, width=2)(torch.randn(1, 3, 16, 32)).isfinite().all()
    with pytest.raises(InputError, match="a depth of 2 or more"):
        UNet(3, 5, depth=1)


def test_brightness_comes_through_the_norms():
    """Instance norms take away a picture's mean; the first convolution has none, so that it is not lost."""
    torch.manual_seed(0)
    net = UNet(1, 1, width=4, depth=3)
    x = torch.randn(1, 1, 31, 37)
    assert (net(x + 3).mean() - net(x).mean()).abs() > 1e-3


@pytest.mark.parametrize("channels", [CHANNELS, {"a": 2, "b": 2, "c": 2}, {"only": 3}])
def test_shapes_and_every_parameter_learns(channels):
    model = small(channels)
    outputs = model.outputs(sample(channels=channels))
    assert list(outputs) == ["prediction", *channels]
    assert {v.shape for v in outputs.values()} == {(3, 2, 37, 43)}
    assert model.modalities == tuple(channels)
    model.loss(outputs, torch.rand(3, 2, 37, 43), F.mse_loss).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    still = [n for n, p in model.named_parameters() if not p.grad.any()]
    assert still == ([] if len(channels) > 1 else ["ensemble.alpha"])


def test_one_source_is_its_own_ensemble():
    model = small({"vi": 3}, 1).eval()
    outputs = model.outputs(sample(channels={"vi": 3}))
    torch.testing.assert_close(outputs["prediction"], outputs["vi"])
    assert not outputs["prediction"].requires_grad or model.ensemble.alpha.requires_grad


def test_the_range_of_what_comes_out():
    model = small().eval()
    x = sample()
    plain = model(x)
    model.set_range(torch.tensor([100.0, -3.0]), torch.tensor([20.0, 1.0]))
    torch.testing.assert_close(model(x)[:, 0], 100 + 20 * (2 * plain[:, 0] - 1))
    torch.testing.assert_close(model.outputs(x)["shade"][:, 1].clamp(-4, -2), model.outputs(x)["shade"][:, 1])
    with pytest.raises(InputError, match=r"must be above 0, got \[0.0, 1.0\]"):
        model.set_range(torch.zeros(2), torch.tensor([0.0, 1.0]))


def test_who_is_absent_neither_counts_nor_learns():
    model = small().eval()
    x, present = sample(), {"shade": torch.tensor([True, False, True])}
    worse = {"texture": x["texture"], "shade": x["shade"].clone()}
    worse["shade"][1] = torch.nan
    outputs, other = model.outputs(x, present), model.outputs(worse, present)
    assert all(torch.equal(a, b) for a, b in zip(outputs.values(), other.values(), strict=True))
    assert (outputs["shade"][1] == 0.5).all()
    torch.testing.assert_close(outputs["prediction"][1], outputs["texture"][1])


def test_it_overfits_two_pictures():
    model = small({"vi": 3}, 1)
    x = sample(2, (31, 37), {"vi": 3})
    target = torch.sigmoid(F.avg_pool2d(x["vi"][:, :1], 3, stride=1, padding=1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = None
    for _ in range(60):
        loss = model.loss(model.outputs(x), target, F.l1_loss)
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 3


def test_trace_with_and_without_an_exchange():
    found = fs.trace(small(exchange=None, depth=2), sample(3))
    assert [(p.kind, p.call.path) for p in found.fusion_points] == [("mix", "ensemble")]
    assert [found.streams[m][0].path for m in CHANNELS] == [f"standardise.norms.{m}" for m in CHANNELS]
    model, batch = small(depth=2), sample(3, (17, 19))
    places = [f"generator.exchanges.0.exchange.{half}" for half in ("before", "after")]
    assert [p.call.path for p in fs.trace(model, batch).fusion_points] == [*places, "ensemble"]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(model.outputs(batch), torch.rand(3, 2, 17, 19), F.l1_loss).backward()
        optimizer.step()
    found = fs.trace(model, batch)
    assert [p.call.path for p in found.fusion_points] == [*places, "ensemble"]
    assert [len(found.lanes[m]) for m in CHANNELS] == [3, 3]
    last = [c for c in found.calls if c.path == "generator.backbone.last.2"]
    assert last
    assert all(c.depends_on == set(CHANNELS) for c in last)


def test_trace_of_one_source():
    found = fs.trace(small({"vi": 3}, depth=2), {"vi": torch.randn(3, 3, 17, 19)})
    assert found.fusion_points == ()
    assert found.call("ensemble").depends_on == {"vi"}


def test_discriminator_sees_patches_of_seventy_pixels():
    judge = PatchDiscriminator({"vi": 1}, 1, width=2)
    for module in judge.layers:
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.forward = lambda x: x  # its mean would join all places
    image = torch.rand(1, 1, 128, 128, requires_grad=True)
    said = judge({"vi": torch.zeros(1, 1, 128, 128)}, image)
    assert said.shape == (1, 1, 14, 14)
    said[0, 0, 7, 7].backward()
    seen = image.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_discriminator_needs_the_inputs_and_enough_pixels():
    judge = PatchDiscriminator({"a": 3, "b": 1}, 2, width=2, depth=2)
    x = {"a": torch.zeros(2, 3, 13, 17, dtype=torch.uint8), "b": torch.zeros(2, 1, 7, 5)}
    assert judge(x, torch.zeros(2, 2, 13, 17)).shape[1] == 1
    with pytest.raises(InputError, match="missing: 'b'"):
        judge({"a": x["a"]}, torch.zeros(2, 2, 13, 17))
    with pytest.raises(InputError, match="at least 12x12 pixels, got 11x17; make depth smaller"):
        judge(x, torch.zeros(2, 2, 11, 17))
    assert judge(x, torch.zeros(2, 2, 12, 12)).isfinite().all()
