"""A shared encoder against separate encoders, one call per modality."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusionscope._nest import tensors
from fusionscope.errors import InputError
from fusionscope.nn import AsymFusion, ModalityNorm, SharedEncoder, share, unshare

from .shared_models import MODELS, OURS, Folded, built, inputs, resnet

NAMES = ("rgb", "depth")
models = pytest.mark.parametrize("name", MODELS)


def apart(encoder: SharedEncoder) -> SharedEncoder:
    """Give each modality's norms other values."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for part in encoder.inner():
            for value in part.parameters():
                value += 0.1 * torch.rand(value.shape, generator=generator)
    return encoder


def assert_same(got: object, expected: object, tolerance: float = 1e-5) -> None:
    ours, theirs = tensors(got), tensors(expected)
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    assert ours
    for (path, one), (_, two) in zip(ours, theirs, strict=True):
        scale = two.detach().abs().max().clamp(min=1)
        torch.testing.assert_close(one / scale, two / scale, rtol=0, atol=tolerance, msg=lambda t, p=path: f"{p} {t}")


@models
@pytest.mark.parametrize("training", [False, True])
def test_one_modality_gives_the_backbones_own_output(name: str, training: bool) -> None:
    backbone = built(name).train(training)
    x = inputs(name)["depth"]
    encoder = share(backbone, ("depth",))
    assert encoder.training == training
    assert_same(encoder({"depth": x})["depth"], backbone(x), 1e-6)
    both = share(backbone, NAMES)
    with both.only("depth"):
        backbone = built(name).train(training)
        assert_same(both({"depth": x})["depth"], backbone(x), 1e-6)


@models
@pytest.mark.parametrize("training", [False, True])
def test_equals_separate_encoders(name: str, training: bool) -> None:
    encoder = apart(share(built(name), NAMES)).train(training)
    separate = unshare(encoder)
    x = inputs(name)
    out = encoder(x)
    for m in NAMES:
        assert type(separate[m]) is type(built(name))
        assert_same(out[m], separate[m].train(training)(x[m]))
    if training:
        for m, after in unshare(encoder).items():
            for key, value in after.state_dict().items():
                torch.testing.assert_close(value, separate[m].state_dict()[key], rtol=1e-3, atol=1e-4)


def test_the_backbone_stays_as_it_was_and_its_weights_are_kept() -> None:
    backbone = built("resnet")
    before = copy.deepcopy(backbone.state_dict())
    encoder = share(backbone, NAMES).train()
    encoder(inputs("resnet"))["rgb"]["feature_maps"][0].sum().backward()
    assert not any(isinstance(m, ModalityNorm) for m in backbone.modules())
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    convolutions = {key: value for key, value in encoder.backbone.state_dict().items() if "convolution" in key}
    assert len(convolutions) > 5
    assert all(torch.equal(before[key], value) for key, value in convolutions.items())


def test_resnet_101_has_105344_norm_parameters_more_per_modality() -> None:
    with torch.device("meta"):
        backbone = resnet(embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[3, 4, 23, 3])
        counts = [
            sum(p.numel() for p in share(backbone, names).parameters())
            for names in (("rgb",), ("rgb", "depth"), ("rgb", "depth", "ir"))
        ]
    assert counts[0] == sum(p.numel() for p in backbone.parameters())
    assert [b - a for a, b in itertools.pairwise(counts)] == [105_344, 105_344]
    assert counts[1] < 1.01 * counts[0]


@pytest.mark.parametrize("norm", ["private", "affine", "statistics", "shared"])
def test_what_is_private(norm: str) -> None:
    encoder = share(built("resnet"), NAMES, norm)
    affine, statistics = norm in ("private", "affine"), norm in ("private", "statistics")
    norms = [m for m in encoder.inner() if isinstance(m, ModalityNorm)]
    assert norms
    assert all(m.weight.shape[: m.weight.ndim - 1] == ((2,) if affine else ()) for m in norms)
    assert all(m.running_mean.shape[: m.running_mean.ndim - 1] == ((2,) if statistics else ()) for m in norms)
    backbone = built("resnet").train()
    x = inputs("resnet")
    out = encoder.train()(x)
    if not statistics:
        whole = backbone(torch.stack(list(x.values()), 1).flatten(0, 1))["feature_maps"][0]
        torch.testing.assert_close(out["depth"]["feature_maps"][0], whole[1::2], rtol=1e-4, atol=1e-4)
    tokens = share(built("tokens"), NAMES, norm)
    assert len(tokens.inner()) == (4 if affine else 0)


def test_stems_repeat_channels() -> None:
    backbone = built("resnet").eval()
    x = {"rgb": torch.randn(2, 3, 32, 32), "depth": torch.randn(2, 1, 32, 32), "hyper": torch.randn(2, 5, 32, 32)}
    encoder = share(backbone, {"rgb": 3, "depth": 1, "hyper": 5})
    assert list(encoder.stems) == ["depth", "hyper"]
    out = encoder(x)
    assert_same(out["depth"], backbone(x["depth"].expand(-1, 3, -1, -1)))
    h = x["hyper"]
    folded = torch.stack([(h[:, 0] + h[:, 3]) / 2, (h[:, 1] + h[:, 4]) / 2, h[:, 2]], 1)
    assert_same(out["hyper"], backbone(folded))
    separate = unshare(encoder)
    assert isinstance(separate["depth"], nn.Sequential)
    assert_same(out["depth"], separate["depth"](x["depth"]))
    own = share(backbone, ("rgb", "depth"), stems={"depth": nn.Conv2d(1, 3, 1)})
    assert own({"rgb": x["rgb"], "depth": x["depth"]})["depth"]["feature_maps"][0].shape == (2, 20, 8, 8)
    linear = share(nn.Sequential(nn.Linear(20, 5)), {"text": 20, "audio": 7})
    assert linear.stems["audio"].weight.shape == (20, 7)
    assert (linear.stems["audio"].weight.sum(1) == 1).all()


@pytest.mark.parametrize("name", OURS)
def test_absent_samples(name: str) -> None:
    """They are zero in what comes out, get no gradient, and the others see statistics of those that are there."""
    encoder = apart(share(built(name), NAMES)).train()
    separate = unshare(encoder)
    x = {m: v.requires_grad_() for m, v in inputs(name, batch=4).items()}
    keep = torch.tensor([True, False, True, True])
    with torch.no_grad():
        x["depth"][~keep] = torch.nan
    out = encoder(x, {"depth": keep})
    assert_same(out["rgb"], separate["rgb"].train()(x["rgb"]), 1e-4)
    whole = [v for _, v in tensors(out["depth"])]
    there = [v for _, v in tensors(separate["depth"].train()(x["depth"][keep]))]
    for one, two in zip(whole, there, strict=True):
        assert (one[~keep] == 0).all()
        torch.testing.assert_close(one[keep], two, rtol=1e-3, atol=1e-4)
    torch.stack([v.sum() for v in whole]).sum().backward()
    assert (x["depth"].grad[~keep] == 0).all()
    assert all(part.present is None for part in encoder.inner())


@pytest.mark.parametrize("name", OURS)
def test_gradients_reach_every_modality_and_parameter(name: str) -> None:
    encoder = share(built(name), NAMES).train()
    x = {m: v.requires_grad_() for m, v in inputs(name).items()}
    out = encoder(x)
    weights = torch.Generator().manual_seed(3)
    loss = [(v * torch.randn(v.shape, generator=weights)).sum() for m in out for _, v in tensors(out[m])]
    torch.stack(loss).sum().backward()
    assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in x.values())
    # Swin has a last norm that its backbone does not use.
    assert [n for n, p in encoder.named_parameters() if p.grad is None and "swin.layernorm." not in n] == []


def test_active_subset_and_errors() -> None:
    encoder = share(built("maps"), ("rgb", "depth", "ir")).eval()
    x = inputs("maps", ("rgb", "depth", "ir"))
    whole = encoder(x)
    with encoder.only("ir", "rgb"):
        assert encoder.active == ("rgb", "ir")
        assert all(part.active == ("rgb", "ir") for part in encoder.inner())
        assert_same(encoder({m: x[m] for m in ("rgb", "ir")}), {m: whole[m] for m in ("rgb", "ir")})
        with pytest.raises(InputError, match=r"set encoder.active = \('rgb', 'depth', 'ir'\)"):
            encoder(x)
    assert encoder.active == ("rgb", "depth", "ir")
    with pytest.raises(InputError, match="Did you mean 'depth'"):
        encoder({"rgb": x["rgb"], "dept": x["depth"], "ir": x["ir"]})
    with pytest.raises(InputError, match=r"one shape, got rgb \[3, 3, 5, 11\], depth \[3, 3, 5, 7\]"):
        encoder({**x, "depth": x["depth"][..., :7]})
    with pytest.raises(InputError, match="norm must be one of"):
        share(built("maps"), NAMES, "own")
    with pytest.raises(InputError, match="Did you mean 'depth'"):
        encoder.active = ("dept",)


def test_several_rows_per_sample() -> None:
    torch.manual_seed(0)
    backbone = Folded()
    x = {m: torch.randn(4, 6, 5, 7) for m in NAMES}
    with pytest.raises(InputError, match=r"backbone.norm sees 24 rows for 4 samples of 2 modalities.*example="):
        share(backbone, NAMES)(x)
    encoder = apart(share(backbone, NAMES, example=x)).train()
    assert [part.rows for part in encoder.inner()] == [3]
    assert encoder.training
    separate = unshare(encoder)
    out = encoder(x)
    for m in NAMES:
        assert_same(out[m], separate[m].train()(x[m]))
        assert out[m]["frames"].shape == (12, 5)
        assert out[m]["out"][1] == "text"
    keep = torch.tensor([True, True, False, True])
    hidden = encoder(x, {"rgb": keep})["rgb"]
    assert (hidden["frames"].view(4, 3, 5)[2] == 0).all()


def test_rows_that_cannot_be_told_apart() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": x.mean()}

    with pytest.raises(InputError, match=r"returned loss \[\] for 3 samples of 2 modalities"):
        share(Mean(), NAMES)({m: torch.randn(3, 5) for m in NAMES})

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.transpose(0, 1)).transpose(0, 1)

    x = {m: torch.randn(3, 7, 5) for m in NAMES}
    with pytest.raises(InputError, match="cannot tell the modalities apart"):
        share(First(), NAMES)(x)
    with pytest.raises(InputError, match="cannot tell the modalities apart"):
        share(First(), NAMES, example=x)


def test_frozen_statistics() -> None:
    encoder = apart(share(built("resnet"), NAMES, frozen=True)).train()
    x = inputs("resnet")
    before = copy.deepcopy(encoder.state_dict())
    assert_same(encoder(x), copy.deepcopy(encoder).eval()(x))
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_channels_last_memory(training: bool) -> None:
    encoder = apart(share(built("resnet"), NAMES)).train(training)
    twin = copy.deepcopy(encoder).to(memory_format=torch.channels_last)
    x = inputs("resnet")
    last = {m: v.contiguous(memory_format=torch.channels_last) for m, v in x.items()}
    assert_same(twin(last), encoder(x), 1e-4)


def test_copies_and_weights() -> None:
    encoder = apart(share(built("resnet"), {"rgb": 3, "depth": 1})).eval()
    x = {"rgb": torch.randn(2, 3, 32, 32), "depth": torch.randn(2, 1, 32, 32)}
    expected = encoder(x)
    other = share(built("resnet"), {"rgb": 3, "depth": 1}).eval()
    other.load_state_dict(encoder.state_dict())
    stream = io.BytesIO()
    torch.save(encoder, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(encoder), other, torch.load(stream, weights_only=False)):
        assert_same(twin(x), expected, 0)
    text = repr(encoder)
    assert "rgb, depth" in text
    assert "stem of depth" in text


def test_norms_used_at_several_places_and_fast_paths() -> None:
    norm = nn.LayerNorm(12)
    backbone = nn.Sequential(nn.Linear(7, 12), norm, nn.Linear(12, 12), norm)
    encoder = apart(share(backbone, NAMES))
    assert len(encoder.inner()) == 1
    x = {m: torch.randn(3, 7) for m in NAMES}
    for m, one in unshare(encoder).items():
        assert one[1] is one[3]
        torch.testing.assert_close(encoder(x)[m], one(x[m]))
    layer = nn.TransformerEncoderLayer(12, 3, 17, batch_first=True, dropout=0.0)
    encoder = apart(share(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), NAMES)).eval()
    x = {m: torch.randn(3, 5, 12) for m in NAMES}
    with torch.no_grad():
        for m, one in unshare(encoder).items():
            torch.testing.assert_close(encoder(x)[m], one(x[m]), rtol=1e-4, atol=1e-5)


class Again(nn.Module):
    """A block whose activations are computed again in the backward."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem, self.reentrant = nn.Conv2d(3, 7, 3), reentrant
        self.block = nn.Sequential(nn.Conv2d(7, 7, 3, padding=1), nn.BatchNorm2d(7), nn.Conv2d(7, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_sees_who_was_there(reentrant: bool) -> None:
    names = (*NAMES, "ir")
    x = {m: torch.randn(4, 3, 5, 7) for m in names}
    masks = {m: torch.tensor(keep) for m, keep in {"depth": [True, False] * 2, "ir": [False, True, True, True]}.items()}
    found = []
    for kind in (None, reentrant):
        torch.manual_seed(0)
        encoder = apart(share(Again(kind), names, exchange=AsymFusion(), at="block")).train()
        outs = [encoder(x), encoder(x, masks)]
        with encoder.only("depth"):
            outs.append(encoder({"depth": x["depth"]}))
        outs.append(encoder(x, {"rgb": masks["depth"]}))
        with encoder.only("rgb", "ir"):
            outs.append(encoder({m: x[m] for m in ("rgb", "ir")}))
        sum(k * v.square().sum() for k, out in enumerate(outs, 1) for v in out.values()).backward()
        assert all(part.active == names and part.present is None for part in encoder.inner())
        found.append({name: p.grad for name, p in encoder.named_parameters()})
    torch.testing.assert_close(*found)
