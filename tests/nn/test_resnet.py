"""Residual networks: published sizes and names, shapes, loading of published weights."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from fusionscope.errors import InputError
from fusionscope.nn import _resnet
from fusionscope.nn._resnet import ResNet, resnet18, resnet50

SIZES = {"18": 11_176_512, "34": 21_284_672, "50": 23_508_032, "101": 42_500_160, "152": 58_143_808}


@pytest.fixture
def _undrawn(monkeypatch):
    """Weights that nobody reads need not be drawn."""
    for name in ("kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda *_, **__: None)


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("depth", SIZES)
def test_parameter_counts(depth):
    net = getattr(_resnet, f"resnet{depth}")()
    assert sum(p.numel() for p in net.parameters()) == SIZES[depth]
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    beside = 3 if depth in ("18", "34") else 4  # convolutions on the skips; the classifier is the last layer
    assert len(layers) - beside + 1 == int(depth)


@pytest.mark.usefixtures("_undrawn")
def test_names_and_shapes_are_the_published_ones():
    state = {name: tuple(p.shape) for name, p in resnet50().state_dict().items()}
    assert state["conv1.weight"] == (64, 3, 7, 7)
    assert state["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert state["layer2.0.conv2.weight"] == (128, 128, 3, 3)
    assert state["layer4.2.bn3.running_var"] == (2048,)
    assert "layer4.1.downsample.0.weight" not in state
    assert len(state) == 318, "of the published file's 320 entries all but the classifier's two"


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_maps_of_every_stage(bottleneck, small):
    net = ResNet(5, (1, 2, 1, 1), bottleneck, 4, small=small)
    maps = net(torch.randn(3, 5, 53, 71))
    wide = 4 if bottleneck else 1
    assert net.channels == (4 * wide, 8 * wide, 16 * wide, 32 * wide)
    sizes = [(53, 71), (27, 36), (14, 18), (7, 9)] if small else [(14, 18), (7, 9), (4, 5), (2, 3)]
    assert [tuple(x.shape) for x in maps] == [(3, c, *s) for c, s in zip(net.channels, sizes, strict=True)]
    torch.stack([(x * torch.randn_like(x)).sum() for x in maps]).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_the_stride_sits_on_the_3x3_convolution():
    net = ResNet(blocks=(1, 1), bottleneck=True, width=4)
    block = net.get_submodule("layer2.0")
    strides = [m.stride[0] for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides == [1, 2, 1, 2], "conv1, conv2, conv3, downsample"


def test_published_weights_load_strictly_without_their_classifier():
    torch.manual_seed(0)
    net, other = resnet18(width=4), resnet18(width=4)
    published = {**net.state_dict(), "fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}
    stream = io.BytesIO()
    torch.save(copy.deepcopy(other), stream)
    stream.seek(0)
    x = torch.randn(2, 3, 37, 41)
    expected = net.eval()(x)
    for twin in (other, copy.deepcopy(other), torch.load(stream, weights_only=False)):
        twin.load_state_dict(published)
        assert all(torch.equal(a, b) for a, b in zip(twin.eval()(x), expected, strict=True))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**net.state_dict(), "head.weight": torch.zeros(3)})


def test_errors():
    with pytest.raises(InputError, match=r"blocks=\(2, 0\)"):
        ResNet(blocks=(2, 0))
    with pytest.raises(InputError, match="inputs=0"):
        ResNet(0)
