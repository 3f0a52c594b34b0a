"""Exchanges inside a shared encoder: where they stand, and that they see each modality's features there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fusionscope.errors import InputError
from fusionscope.nn import (
    AsymFusion,
    ChannelExchange,
    ChannelShuffle,
    ConsistencySpeciality,
    PixelShift,
    share,
    unshare,
)
from fusionscope.nn._places import middle, prefix_tokens, stages, token_grid

from .parts_share import Block, TokenBlock, maps
from .shared_models import MODELS, built, inputs
from .test_share import NAMES, apart, assert_same

PLACES = {
    "maps": (["1.1"], ("conv2", "conv3", "bn2")),
    "tokens": (["0.1"], None),
    "our resnet": ([f"layer{i}.1" for i in range(1, 5)], ("conv2", None, "bn2")),
    "resnet": (
        ["encoder.stages.0.layers.1", "encoder.stages.1.layers.1"],
        ("layer.1.convolution", "layer.2.convolution", "layer.1.normalization"),
    ),
    "resnet basic": (
        ["encoder.stages.0.layers.1", "encoder.stages.1.layers.1"],
        ("layer.1.convolution", None, "layer.1.normalization"),
    ),
    "convnext": (["encoder.stages.0.layers.0", "encoder.stages.1.layers.1"], ("dwconv", "pwconv1", "layernorm")),
    "swin": (["swin.encoder.layers.0.blocks.1", "swin.encoder.layers.1.blocks.1"], None),
    "vit": (["layers.1"], None),
    "torchvision resnet50": (["layer1.2", "layer2.3", "layer3.5", "layer4.2"], ("conv2", "conv3", "bn2")),
    "timm convnext": ([f"stages.{i}.blocks.{n}" for i, n in enumerate((1, 1, 5, 1))], ("conv_dw", "mlp.fc1", "norm")),
}


class Swap(nn.Module):
    """Each modality gets the other's features, so that what comes out is the other's."""

    placement = "after"

    def forward(self, features: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        first, second = features
        return {first: features[second], second: features[first]}


class Spy(nn.Module):
    """Keeps the shapes that it sees."""

    def __init__(self, placement: str) -> None:
        super().__init__()
        self.placement = placement

    @property
    def before(self) -> nn.Module:
        return self

    @property
    def after(self) -> nn.Module:
        return self

    def forward(
        self,
        features: dict[str, Tensor],
        present: dict[str, Tensor] | None = None,
        scales: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        self.seen = {m: list(x.shape) for m, x in features.items()}
        if scales is not None:
            channels = features["rgb"].shape[1 if features["rgb"].ndim == 4 else -1]
            assert {m: list(s.shape) for m, s in scales.items()} == {m: [channels] for m in features}
        return features


@pytest.mark.parametrize("name", MODELS)
def test_places(name: str) -> None:
    backbone = built(name)
    last, within = PLACES[name]
    assert [blocks[-1] for blocks in stages(backbone)] == last
    found = middle(backbone.get_submodule(last[-1]))
    assert (None if found is None else (found.conv, found.follows, found.norm)) == within


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("exchange", [AsymFusion, PixelShift, ChannelShuffle, ChannelExchange])
def test_every_exchange_stands_in_every_backbone(name: str, exchange: type[nn.Module]) -> None:
    backbone = built(name).eval()
    part = ChannelExchange(threshold=0.6) if exchange is ChannelExchange else exchange()
    if name == "tokens" and exchange in (AsymFusion, PixelShift):
        part = exchange(grid=(7, 1))
    encoder = apart(share(backbone, NAMES, exchange=part))
    x = inputs(name, batch=2)
    out, without = encoder(x), {m: one(x[m]) for m, one in unshare(encoder).items()}
    for m in NAMES:
        with pytest.raises(AssertionError):
            assert_same(out[m], without[m], 1e-7)
    assert len(encoder.exchanges) == (
        len(PLACES[name][0]) if exchange is not ChannelExchange else sum(map(len, stages(backbone)))
    )
    assert (encoder.penalty() > 0) == (exchange is ChannelExchange)
    with encoder.only("depth"):
        assert_same(encoder({"depth": x["depth"]})["depth"], without["depth"])
    absent = encoder(x, {"depth": torch.zeros(2, dtype=torch.bool)})
    worse = encoder({**x, "depth": x["depth"] * torch.nan}, {"depth": torch.zeros(2, dtype=torch.bool)})
    assert_same(absent, worse, 0)
    assert not hasattr(encoder.exchanges[0], "seen")


@pytest.mark.parametrize("name", ["maps", "tokens", "resnet", "resnet basic", "convnext", "swin", "vit"])
@pytest.mark.parametrize("placement", ["after", "around", "norm"])
def test_exchanges_see_channels_first_maps_or_tokens(name: str, placement: str) -> None:
    shapes = {
        "maps": [[3, 13, 5, 11], [3, 11, 5, 11], [3, 11, 5, 11]],
        "tokens": [[3, 7, 20]] * 3,
        "resnet": [[3, 28, 4, 4], [3, 7, 4, 4], [3, 7, 4, 4]],
        "resnet basic": [[3, 28, 4, 4]] * 3,
        "convnext": [[3, 20, 4, 4]] * 3,
        "swin": [[3, 16, 24]] * 3,
        "vit": [[3, 17, 24]] * 3,
    }
    encoder = share(built(name), NAMES, exchange=Spy(placement)).eval()
    encoder(inputs(name))
    expected = shapes[name][("after", "around", "norm").index(placement)]
    assert encoder.exchanges[-1].exchange.seen == {m: expected for m in NAMES}


def test_what_is_swapped_behind_the_last_block_comes_out_swapped() -> None:
    for name in ("maps", "tokens", "resnet", "vit"):
        encoder = share(built(name), NAMES, exchange=Swap(), at=PLACES[name][0][-1]).eval()
        x = inputs(name)
        plain = share(built(name), NAMES).eval()
        got, expected = encoder(x), plain(x)
        # Features that the backbone takes of earlier stages are not swapped: compare the last.
        one, two = (v["feature_maps"][-1] if name == "resnet" else v for v in (got["rgb"], expected["depth"]))
        assert_same(one, two)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(11), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(1, 11)])
def test_layers_between_convolutions_give_maps_with_channels_first(layer: nn.Module) -> None:
    encoder = share(nn.Sequential(nn.Conv2d(3, 11, 3), layer), NAMES, exchange=Spy("after"), at="1")
    out = encoder({m: torch.randn(2, 3, 7, 9) for m in NAMES})
    assert encoder.exchanges[0].exchange.seen == {m: list(x.shape) for m, x in out.items()}


def test_asymmetric_fusion_in_a_bottleneck_equals_the_algorithm_written_out() -> None:
    torch.manual_seed(0)
    encoder = apart(share(nn.Sequential(Block(13, 11)), NAMES, exchange=AsymFusion(), at="0")).eval()
    x = {m: torch.randn(2, 13, 5, 7) for m in NAMES}
    blocks = {m: one[0] for m, one in unshare(encoder).items()}
    g = 11 // 5
    s = 4 * g
    y = {m: b.relu(b.bn1(b.conv1(x[m]))) for m, b in blocks.items()}
    other = {"rgb": "depth", "depth": "rgb"}
    shifts = {}
    for m in NAMES:
        shift = torch.zeros_like(y[m])
        shift[:, :g, 1:] = y[m][:, :g, :-1]
        shift[:, g : 2 * g, :, 1:] = y[m][:, g : 2 * g, :, :-1]
        shift[:, 2 * g : 3 * g, :, :-1] = y[m][:, 2 * g : 3 * g, :, 1:]
        shift[:, 3 * g : s, :-1] = y[m][:, 3 * g : s, 1:]
        shifts[m] = shift
    z = {m: torch.cat([y[m][:, :s], y[other[m]][:, s:]], 1) for m in NAMES}
    z = {m: b.relu(b.bn2(b.conv2(z[m]))) + shifts[other[m]] for m, b in blocks.items()}
    z = {m: torch.cat([z[m][:, :s], z[other[m]][:, s:]], 1) for m in NAMES}
    out = encoder(x)
    for m, b in blocks.items():
        torch.testing.assert_close(out[m], b.relu(b.bn3(b.conv3(z[m])) + x[m]), rtol=1e-4, atol=1e-5)


def test_grids_are_read_from_the_backbone() -> None:
    vit, swin = built("vit"), built("swin")
    assert (token_grid(vit), prefix_tokens(vit)) == ((4, 4), 1)
    assert (token_grid(swin), prefix_tokens(swin)) == ((8, 8), 0)
    assert token_grid(built("tokens")) is None
    own = share(vit, NAMES, exchange=PixelShift(grid=(2, 8)), at="layers.0")
    assert own.exchanges[0].exchange.grid == (2, 8)
    own = share(vit, NAMES, exchange=PixelShift(), at="layers.0")
    assert (own.exchanges[0].exchange.grid, own.exchanges[0].exchange.prefix) == ((4, 4), 1)
    with pytest.raises(InputError, match="grid"):
        share(built("tokens"), NAMES, exchange=PixelShift())(inputs("tokens"))


def test_where_to_place() -> None:
    backbone = built("resnet")
    names = ["encoder.stages.0.layers.0", "encoder.stages.0.layers.1"]
    for at in (names, r"encoder\.stages\.0\.layers\.\d", lambda name, module: name in names):
        encoder = share(backbone, NAMES, exchange=ChannelShuffle(), at=at)
        assert [place.name for place in encoder.exchanges] == names
    encoder = share(backbone, NAMES, exchange={names[0]: ChannelShuffle(), names[1]: PixelShift()})
    assert [type(place.exchange) for place in encoder.exchanges] == [ChannelShuffle, PixelShift]
    given = AsymFusion()
    encoder = share(backbone, NAMES, exchange=given)
    assert all(place.exchange is not given for place in encoder.exchanges)
    assert "AsymFusion at encoder.stages.0.layers.1" in repr(encoder)
    convolution = share(maps(), NAMES, exchange=AsymFusion(), at="1.0.conv2")
    assert convolution.exchanges[0].name == "1.0.conv2"


def test_errors_of_places() -> None:
    with pytest.raises(InputError, match="Did you mean '1.0'"):
        share(maps(), NAMES, exchange=ChannelShuffle(), at="1.O")
    with pytest.raises(InputError, match="no stages of repeated blocks"):
        share(nn.Sequential(nn.Conv2d(3, 5, 1)), NAMES, exchange=ChannelShuffle())
    with pytest.raises(InputError, match="true for none"):
        share(maps(), NAMES, exchange=ChannelShuffle(), at=lambda name, module: False)
    with pytest.raises(InputError, match="no exchange was given"):
        share(maps(), NAMES, at="1.0")
    with pytest.raises(InputError, match="placement"):
        share(maps(), NAMES, exchange=nn.Identity())
    with pytest.raises(InputError, match="private norms"):
        share(maps(), NAMES, "statistics", exchange=ChannelExchange(), at=["0.0"])


def test_nothing_is_kept_after_a_forward_that_failed() -> None:
    encoder = share(maps(20), NAMES, exchange=AsymFusion())
    x = {m: torch.randn(2, 20, 5, 7) for m in NAMES}
    encoder(x)
    encoder.backbone[1][0].bn2.register_forward_hook(stop)
    with pytest.raises(KeyError):
        encoder(x, {"rgb": torch.ones(2, dtype=torch.bool)})
    assert encoder.exchanges[0].exchange._pair.heads is None
    assert all(part.present is None for part in encoder.inner())


def stop(*_: object) -> None:
    raise KeyError("stop")


@pytest.mark.parametrize(
    "exchange",
    [
        AsymFusion(modalities=(*NAMES, "ir")),
        AsymFusion(receivers=("rgb",)),
        PixelShift(modalities=(*NAMES, "ir")),
        ConsistencySpeciality(20, (*NAMES, "ir")),
        ChannelExchange(0.99),
    ],
    ids=lambda exchange: type(exchange).__name__,
)
def test_an_inactive_modality_is_absent_to_exchanges(exchange: nn.Module) -> None:
    encoder = apart(share(maps(20), (*NAMES, "ir"), exchange=exchange)).eval()
    x = {m: torch.randn(2, 20, 5, 7) for m in encoder.modalities}
    weight = encoder.penalty()
    for chosen in (("depth", "ir"), ("rgb", "ir")):
        (left,) = {*x} - {*chosen}
        expected = encoder(x, {left: torch.zeros(2, dtype=torch.bool)})
        with encoder.only(*chosen):
            assert_same(encoder({m: x[m] for m in chosen}), {m: expected[m] for m in chosen})
            assert torch.equal(encoder.penalty(), weight)


def test_copies_hold_their_own_exchanges() -> None:
    encoder = share(built("maps"), NAMES, exchange=Spy("around")).eval()
    twin = copy.deepcopy(encoder)
    twin(inputs("maps"))
    assert hasattr(twin.exchanges[0].exchange, "seen")
    assert not hasattr(encoder.exchanges[0].exchange, "seen")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unshare(encoder)["rgb"].modules())


def test_token_blocks_of_maps_with_channels_last() -> None:
    class Grid(nn.Module):
        """A transformer's block on ``[B,H,W,C]``."""

        def __init__(self) -> None:
            super().__init__()
            self.block = TokenBlock(35, 11)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x.flatten(1, 2)).view(x.shape)

    encoder = share(nn.Sequential(Grid(), Grid()), NAMES, exchange=Spy("around"), at="0")
    encoder({m: torch.randn(2, 5, 7, 11) for m in NAMES})
    assert encoder.exchanges[0].exchange.seen == {m: [2, 11, 5, 7] for m in NAMES}
