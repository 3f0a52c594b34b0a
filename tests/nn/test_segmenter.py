"""Standardised inputs, the RefineNet decoder, and the Segmenter made of them (prime sizes)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusionscope as fs
from fusionscope.errors import InputError
from fusionscope.nn import RefineNet, ResNet, Segmenter
from fusionscope.nn._refine import ChainedPooling, ResidualUnit
from fusionscope.nn._standardise import Standardise

CHANNELS = {"rgb": 3, "depth": 1}


def sample(batch: int = 3, size: tuple[int, int] = (37, 43), channels: dict[str, int] = CHANNELS) -> dict[str, Tensor]:
    return {m: torch.randn(batch, c, *size) for m, c in channels.items()}


def small(channels: dict[str, int] = CHANNELS, classes: int = 5, **settings) -> Segmenter:
    torch.manual_seed(0)
    encoder = ResNet(max(channels.values()), (1,) * settings.pop("stages", 4), width=8)
    return Segmenter(channels, classes, encoder, **{"width": 7, "dropout": 0.0, **settings})


def criterion(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=-1)


def test_standardise_is_a_batch_norm_of_those_who_are_there():
    part = Standardise({"rgb": 3})
    x = torch.randint(-999, 9999, (11, 3, 5, 7), dtype=torch.int16)
    keep = torch.arange(11) % 3 > 0
    out = part({"rgb": x}, {"rgb": keep})["rgb"]
    norm = nn.BatchNorm2d(3, affine=False)
    torch.testing.assert_close(out[keep], norm(x[keep].float()), rtol=1e-4, atol=1e-4)
    assert (out[~keep] == 0).all()
    for name, value in part.norms["rgb"].named_buffers():
        torch.testing.assert_close(value.squeeze(0), norm.get_buffer(name), rtol=1e-4, atol=1e-4)
    part({"rgb": torch.full((2, 3, 5, 7), torch.nan)}, {"rgb": torch.zeros(2, dtype=torch.bool)})
    for name, value in part.norms["rgb"].named_buffers():
        torch.testing.assert_close(value.squeeze(0), norm.get_buffer(name), rtol=1e-4, atol=1e-4)
    alone, other = part.eval()({"rgb": x})["rgb"], norm.eval()(x.float())
    torch.testing.assert_close(alone, other, rtol=1e-4, atol=1e-4)


def test_standardise_wants_maps():
    with pytest.raises(InputError, match=r"takes maps \[B,C,H,W\], got \{'rgb': \[2, 3, 5\]\}"):
        Standardise({"rgb": 3}, "Segmenter")({"rgb": torch.zeros(2, 3, 5)})
    with pytest.raises(InputError, match="Segmenter: 'rgb' must have 3 channels"):
        Standardise({"rgb": 3}, "Segmenter")({"rgb": torch.zeros(2, 5, 7, 11)})


def test_residual_unit_and_pooling_against_plain_formulas():
    x = torch.randn(2, 5, 11, 13)
    unit = ResidualUnit(5)
    one, two = unit.body[1], unit.body[3]
    torch.testing.assert_close(unit(x), x + two(F.relu(one(F.relu(x)))))
    pool = ChainedPooling(5, stages=3)
    expected, top = x, x
    for stage in pool.stages:
        padded = F.pad(top, (2, 2, 2, 2), value=-torch.inf)
        windows = padded.unfold(2, 5, 1).unfold(3, 5, 1).amax((4, 5))
        top = torch.einsum("oc,bchw->bohw", stage[1].weight[:, :, 0, 0], windows)
        expected = expected + top
    torch.testing.assert_close(pool(x), expected)


@pytest.mark.parametrize("units", [0, 2])
def test_refine_net_step_by_step(units):
    channels = (3, 5, 7)
    decoder = RefineNet(channels, 4, dropout=0.0, units=units, pools=2)
    maps = [torch.randn(2, c, *s) for c, s in zip(channels, [(13, 17), (7, 11), (3, 5)], strict=True)]
    own = [decoder.units[i](decoder.reduce[i](x)) for i, x in enumerate(maps)]
    deep = decoder.pools[2](F.relu(own[2]))
    grown = F.interpolate(decoder.below[1](deep), (7, 11), mode="bilinear", align_corners=True)
    middle = decoder.pools[1](F.relu(own[1] + grown))
    grown = F.interpolate(decoder.below[0](middle), (13, 17), mode="bilinear", align_corners=True)
    torch.testing.assert_close(decoder(maps), decoder.pools[0](F.relu(own[0] + grown)))
    with pytest.raises(
        InputError, match=r"takes 3 maps of \(3, 5, 7\) channels, got \[2, 3, 13, 17\], \[2, 5, 7, 11\]"
    ):
        decoder(maps[:2])


def test_dropout_is_on_the_two_deepest_maps_only():
    decoder = RefineNet((3, 5, 7), 4, dropout=0.5)
    maps = [torch.randn(1, c, 5, 7) for c in (3, 5, 7)]
    seen: list[Tensor] = []
    for i, conv in enumerate(decoder.reduce):
        conv.register_forward_pre_hook(lambda _, args, i=i: seen.append((i, (args[0] == 0).any().item())))
    decoder(maps)
    assert seen == [(0, False), (1, True), (2, True)]


@pytest.mark.parametrize("channels", [CHANNELS, {"a": 2, "b": 2, "c": 2}, {"only": 3}])
def test_shapes_and_every_parameter_learns(channels):
    model = small(channels)
    x = sample(channels=channels)
    outputs = model.outputs(x)
    assert list(outputs) == ["prediction", *channels]
    assert {v.shape for v in outputs.values()} == {(3, 5, 37, 43)}
    assert model.modalities == tuple(channels)
    model.loss(outputs, torch.randint(-1, 5, (3, 37, 43)), criterion).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    still = [n for n, p in model.named_parameters() if not p.grad.any()]
    assert still == ([] if len(channels) > 1 else ["ensemble.alpha"])
    torch.testing.assert_close(model.eval()(x), model.outputs(x)["prediction"], rtol=0, atol=0)


def test_the_ensemble_trains_its_weights_alone():
    model = small()
    outputs = model.outputs(sample())
    target = torch.randint(5, (3, 37, 43))
    criterion(outputs["prediction"], target).backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()] == ["ensemble.alpha"]
    expected = 0.5 * outputs["rgb"] + 0.5 * outputs["depth"]
    torch.testing.assert_close(outputs["prediction"], expected)
    total = sum(criterion(x, target) for x in outputs.values())
    torch.testing.assert_close(model.loss(outputs, target, criterion), total)


def test_decoder_and_classifier_are_shared():
    """Nothing but stems, norms and the ensemble's weights exists per modality."""
    one = {n: p.numel() for n, p in small({"a": 3}).named_parameters()}
    two = {n: p.numel() for n, p in small({"a": 3, "b": 3}).named_parameters()}
    assert all(two[n] == c for n, c in one.items() if n.startswith(("decoder", "classifier")))
    grown = {n for n, c in one.items() if two.get(n, 0) != c}
    assert grown
    assert all("bn" in n or "downsample.1" in n or n == "ensemble.alpha" for n in grown), grown


def test_who_is_absent_neither_counts_nor_learns():
    model = small().eval()
    x, present = sample(), {"depth": torch.tensor([True, False, True])}
    worse = {"rgb": x["rgb"], "depth": x["depth"].clone()}
    worse["depth"][1] = torch.nan
    outputs, other = model.outputs(x, present), model.outputs(worse, present)
    assert all(torch.equal(a, b) for a, b in zip(outputs.values(), other.values(), strict=True))
    assert (outputs["depth"][1] == 0).all()
    torch.testing.assert_close(outputs["prediction"][1], outputs["rgb"][1])
    nobody = dict.fromkeys(CHANNELS, torch.zeros(3, dtype=torch.bool))
    model.train()
    lost = model.outputs({m: torch.full_like(v, torch.nan) for m, v in x.items()}, nobody)
    assert all((v == 0).all() for v in lost.values())
    assert all(v.isfinite().all() for v in model.state_dict().values())


def test_it_overfits_four_pictures():
    model = small({"rgb": 3, "depth": 1}, classes=2, stages=2)
    x = sample(4, (31, 37))
    edges = F.avg_pool2d(x["rgb"][:, :1] + x["depth"], 9, stride=1, padding=4)[:, 0]
    target = (edges > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = None
    for _ in range(60):
        loss = model.loss(model.outputs(x), target, criterion)
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 2
    assert (model.outputs(x)["prediction"].argmax(1) == target).float().mean() > 0.85


def test_errors():
    with pytest.raises(InputError, match=r"unknown encoder 'resnet81': one of resnet18.* Did you mean 'resnet18'"):
        Segmenter(CHANNELS, 2, "resnet81")
    with pytest.raises(InputError, match=r"an encoder that returns a list of maps .*, got Conv2d with channels None"):
        Segmenter(CHANNELS, 2, nn.Conv2d(3, 2, 1))
    with pytest.raises(InputError, match="unknown exchange 'asym': .* None or a module"):
        Segmenter(CHANNELS, 2, exchange="asym")
    with pytest.raises(InputError, match="names an output 'prediction'"):
        Segmenter({"rgb": 3, "prediction": 1}, 2)
    model = small()
    x = sample()
    with pytest.raises(InputError, match="missing: 'depth'"):
        model({"rgb": x["rgb"]})
    with pytest.raises(InputError, match="depth"):
        model({"rgb": x["rgb"], "depth": x["depth"][:, :, :31]})
    with pytest.raises(InputError, match="present names the unknown modality 'rbg': Segmenter takes .* mean 'rgb'"):
        model(x, {"rbg": torch.ones(len(x["rgb"]), dtype=torch.bool)})


def test_trace_without_an_exchange():
    """The ensemble is the only place where the modalities meet; up to it there is one stream per modality."""
    found = fs.trace(small(exchange=None, stages=2), sample(3))
    assert [(p.kind, p.call.path) for p in found.fusion_points] == [("mix", "ensemble")]
    assert any("rows [0::2] rgb, [1::2] depth" in message for message in found.messages)
    for m in CHANNELS:
        assert found.streams[m][0].path == f"standardise.norms.{m}"
        assert found.streams[m][-1].path == "classifier"


def test_trace_with_asymfusion():
    """One pair in each stage's last block, before and after training; the lanes go on between them."""
    model = small(stages=2)
    batch, target = sample(3, (17, 19)), torch.randint(5, (3, 17, 19))
    places = [f"encoder.exchanges.{i}.exchange.{half}" for i in range(2) for half in ("before", "after")]
    found = fs.trace(model, batch)
    assert [p.call.path for p in found.fusion_points] == [*places, "ensemble"]
    assert all(c.wired_to == {"rgb", "depth"} for c in found.calls if c.path == "ensemble")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(model.outputs(batch), target, criterion).backward()
        optimizer.step()
    found = fs.trace(model, batch)
    assert [p.call.path for p in found.fusion_points] == [*places, "ensemble"]
    assert [len(found.lanes[m]) for m in CHANNELS] == [5, 5]
    for m in CHANNELS:
        assert {c.path for c in found.lanes[m][0]} >= {f"standardise.norms.{m}", "encoder.backbone.conv1"}
        assert found.lanes[m][-1][-1].path == "classifier"
    deepest = [c for c in found.calls if c.path == "encoder.backbone.layer2"]
    assert deepest
    assert all(c.depends_on == {"rgb", "depth"} for c in deepest)
