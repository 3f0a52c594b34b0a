"""Parameters and multiply-adds of sharing a backbone, as a Markdown table; it times nothing.

    python benchmarks/shared_cost.py [--norm private]

For published shapes (random weights, transformers): one encoder, encoders shared by two and three modalities
(`fusionscope.nn.share`), and as many separate encoders. Multiply-adds are of one sample of all modalities at
224 x 224, by `torch.utils.flop_counter` (matrix products and convolutions). Fails if sharing two costs more than 1.01
times one encoder's parameters.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    ConvNextBackbone,
    ConvNextConfig,
    ResNetBackbone,
    ResNetConfig,
    SwinBackbone,
    SwinConfig,
    ViTConfig,
    ViTModel,
)

from fusionscope.nn import share

NAMES = ("rgb", "depth", "ir")


def resnet(kind: str, sizes: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    return ResNetBackbone(ResNetConfig(layer_type=kind, hidden_sizes=list(sizes), depths=list(depths)))


BACKBONES = {
    "ResNet-18": lambda: resnet("basic", (64, 128, 256, 512), (2, 2, 2, 2)),
    "ResNet-50": lambda: resnet("bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "ResNet-101": lambda: resnet("bottleneck", (256, 512, 1024, 2048), (3, 4, 23, 3)),
    "ConvNeXt-T": lambda: ConvNextBackbone(ConvNextConfig(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3])),
    "Swin-T": lambda: SwinBackbone(SwinConfig()),
    "ViT-B/16": lambda: ViTModel(ViTConfig(), add_pooling_layer=False),
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, names: tuple[str, ...]) -> int:
    """Count those of one sample; without names, of a plain backbone."""
    x = torch.zeros(1, 3, 224, 224, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model({m: x for m in names}) if names else model(x)
    return counter.get_total_flops() // 2


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norm", default="private", help="what is private, as share takes it")
    options = parser.parse_args()
    print(
        "| backbone | modalities | parameters, shared | of one encoder | separate | multiply-adds, shared | separate |"
    )
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for name, build in BACKBONES.items():
        with torch.device("meta"):
            backbone = build().eval()
        one, cost = parameters(backbone), multiply_adds(backbone, ())
        for count in (1, 2, 3):
            encoder = share(backbone, NAMES[:count], options.norm)
            ours = parameters(encoder)
            if count == 2:
                worst = max(worst, ours / one)
            print(
                f"| {name} | {count} | {ours / 1e6:.3f} M | {ours / one:.4f} | {count * one / 1e6:.3f} M | "
                f"{multiply_adds(encoder, NAMES[:count]) / 1e9:.3f} G | {count * cost / 1e9:.3f} G |"
            )
    print(f"\nSharing two modalities costs at most {worst:.4f} times one encoder's parameters (limit 1.01).")
    return int(worst > 1.01)


if __name__ == "__main__":
    sys.exit(main())
