"""Small backbones of published shapes, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .parts_share import maps, tokens

_KEPT: list[Any] = []


def resnet(layer: str = "bottleneck", **options: Any) -> nn.Module:
    from transformers import ResNetBackbone, ResNetConfig

    sizes = {"embedding_size": 11, "hidden_sizes": [20, 28], "depths": [2, 2], **options}
    return ResNetBackbone(ResNetConfig(layer_type=layer, out_features=["stage1", "stage2"], **sizes))


def convnext() -> nn.Module:
    from transformers import ConvNextBackbone, ConvNextConfig

    config = ConvNextConfig(
        hidden_sizes=[12, 20],
        depths=[1, 2],
        num_stages=2,
        out_features=["stage1", "stage2"],
        layer_scale_init_value=0.5,
    )
    return ConvNextBackbone(config)


def swin() -> nn.Module:
    from transformers import SwinBackbone, SwinConfig

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=12, depths=[2, 2], num_heads=[2, 3], window_size=4, drop_path_rate=0.0
    )
    config.out_features = ["stage1", "stage2"]
    return SwinBackbone(config)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=31, image_size=32, patch_size=8
    )
    return ViTModel(config, add_pooling_layer=False)


def torchvision_resnet() -> nn.Module:
    """ResNet-50; without torchvision's compiled operators, a stub lets it import."""
    return _visitor("torchvision.models").resnet50()


def timm_convnext() -> nn.Module:
    return _visitor("timm").create_model("convnext_atto")


def _visitor(name: str) -> Any:
    import importlib.util

    if importlib.util.find_spec(name.split(".")[0]) is None or importlib.util.find_spec("torchvision") is None:
        pytest.skip(f"{name.split('.')[0]} is not installed (with --no-deps beside torchvision)")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return importlib.import_module(name)


class Folded(nn.Module):
    """Frames folded into the batch: the norm sees three rows per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        frames = x.unflatten(1, (3, 2)).flatten(0, 1)
        y = self.norm(self.conv(frames)).relu().mean((2, 3))
        return {"frames": y, "out": [self.head(y.unflatten(0, (-1, 3)).flatten(1)), "text"]}


OURS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "maps": (lambda: maps(13, 11, 2, 3), (3, 5, 11)),
    "tokens": (lambda: tokens(20, 7, 2), (7, 20)),
    "resnet": (resnet, (3, 32, 32)),
    "resnet basic": (lambda: resnet("basic"), (3, 32, 32)),
    "convnext": (convnext, (3, 32, 32)),
    "swin": (swin, (3, 32, 32)),
    "vit": (vit, (3, 32, 32)),
}
VISITORS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "torchvision resnet50": (torchvision_resnet, (3, 64, 64)),
    "timm convnext": (timm_convnext, (3, 64, 64)),
}
MODELS = OURS | VISITORS


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]()
    # Norms that differ between channels, so that a norm in the wrong place shows.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and module.weight is not None:
                module.weight.uniform_(0.3, 1.0)
                module.bias.uniform_(-0.3, 0.3)
    return model


def inputs(name: str, names: tuple[str, ...] = ("rgb", "depth"), batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {m: (i + 1) * torch.randn(batch, *MODELS[name][1], generator=generator) for i, m in enumerate(names)}
