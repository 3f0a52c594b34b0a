"""Backbones of transformers: shapes, weights from a folder, what cannot be had."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from fusionscope.errors import InputError
from fusionscope.nn import Classifier, hf_backbone
from fusionscope.nn._standardise import RawNorm

transformers = pytest.importorskip("transformers")

STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
TOKENS = {"hidden_size": 8, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
KINDS = {
    "resnet": STAGES | {"embedding_size": 8},
    "convnext": STAGES,
    "swin": {"embed_dim": 4, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32},
    "dinov2": TOKENS | {"num_hidden_layers": 5},
}
MAPS = {
    "resnet": [(8, 8, 8), (12, 4, 4), (16, 2, 2), (20, 1, 1)],
    "convnext": [(8, 8, 8), (12, 4, 4), (16, 2, 2), (20, 1, 1)],
    "swin": [(4, 8, 8), (8, 4, 4)],
    "dinov2": [(8, 4, 4)] * 4,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_every_stage(kind):
    net = hf_backbone(kind, 5, **KINDS[kind])
    maps = net(torch.randn(3, 5, 32, 32))
    assert [tuple(x.shape) for x in maps] == [(3, *s) for s in MAPS[kind]]
    assert net.channels == tuple(s[0] for s in MAPS[kind])
    torch.stack([(x * torch.randn_like(x)).sum() for x in maps]).sum().backward()
    assert [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_of_many_layers_four_are_taken():
    net = hf_backbone("dinov2", **KINDS["dinov2"])
    assert net.backbone.out_indices == [1, 2, 4, 5]


def test_a_configuration_is_not_changed():
    config = transformers.ResNetConfig(**KINDS["resnet"])
    net = hf_backbone(config, 7, out=(2, 4))
    assert net.channels == (12, 20)
    assert [x.shape[1] for x in net(torch.randn(2, 7, 32, 32))] == [12, 20]
    assert (config.num_channels, config.out_indices) == (3, [4])


def test_weights_from_a_folder_and_never_a_pickle(tmp_path):
    net = hf_backbone("resnet", **KINDS["resnet"])
    net.backbone.save_pretrained(tmp_path)
    again = hf_backbone(f"hf:{tmp_path}")
    assert again.channels == net.channels
    for (name, a), b in zip(again.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    other = hf_backbone(f"hf:{tmp_path}", 2)
    assert other.channels == net.channels
    drawn = dict(net.named_parameters())
    new = [n for n, p in other.named_parameters() if not torch.equal(p, drawn[n])]
    assert new == ["backbone.embedder.embedder.convolution.weight"], "the stem alone"
    random = hf_backbone(str(tmp_path), pretrained=False)
    assert not torch.equal(next(random.parameters()), next(net.parameters()))
    (tmp_path / "model.safetensors").unlink()
    torch.save(net.backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no file named model.safetensors"):
        hf_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "settings", "text"),
    [
        ("hf:someone/something", {}, "cannot get 'someone/something'.*Without the hub, give a folder.*model type"),
        ("hf:resnett", {}, "cannot get 'resnett'.*Did you mean 'resnet'"),
        ("vit", {}, "no backbone of type 'vit'; it has beit.*Did you mean 'vitdet'"),
        ("resnet", {"hiden_sizes": [3]}, "no setting 'hiden_sizes'. Did you mean 'hidden_sizes'"),
        ("resnet", {"pretrained": True}, "needs the name or folder"),
        ("resnet", {"out": (3, 7)}, r"stages 0 to 4 \(stem, stage1"),
        (7, {}, "a configuration of transformers, got int"),
    ],
)
def test_errors(source, settings, text):
    with pytest.raises(InputError, match=text):
        hf_backbone(source, **settings)


def test_error_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'fusionscope\[hf\]'"):
        hf_backbone("resnet")


def test_in_a_classifier():
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    shapes, axes = {"rgb": (3, 17, 19), "depth": (1, 17, 19)}, {"rgb": "NCHW", "depth": "NCHW"}
    inputs = {m: torch.randn(5, *s) for m, s in shapes.items()}
    for shared in (False, True):
        model = Classifier.build(shapes, axes, 3, encoder=config, shared=shared)
        assert model.channels == {"rgb": 8, "depth": 8}
        assert sum(isinstance(part, RawNorm) for part in model.modules()) == 2
        assert model(inputs).shape == (5, 3)


def test_export():
    net = hf_backbone("dinov2", **KINDS["dinov2"]).eval()
    x = torch.randn(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.export.export(net, (x,)).module()(x)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, net(x), strict=True))
