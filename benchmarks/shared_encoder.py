"""What a shared encoder costs beside one pass per modality through the same weights.

    python benchmarks/shared_encoder.py [--rounds 7] [--batch-size 4] [--size 224] [--modalities 2] [--compile]
        [--device cpu] [--channels-last] [--threads N] [--shapes 18,50]

Measured: `fusionscope.nn.share` of a residual network (ResNet-18 and ResNet-50 shapes, transformers) with private batch
norms, in inference and in training (forward and backward). Rival: a Python list of passes, one per modality, through
encoders that share every weight but the norms. Both are timed in turn, round by round; the ratio is taken within each
round. Limits: 1.15 on a CPU; 0.75 on a GPU in inference at batch 4, with and without ``--compile``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from fusionscope.nn import share, unshare

SHAPES = {
    "18": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "50": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
}


class Maps(nn.Module):
    """A backbone that returns its last feature map."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.net = ResNetBackbone(ResNetConfig(**SHAPES[shape]))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).feature_maps[-1]


def tied(encoders: dict[str, nn.Module]) -> nn.ModuleDict:
    """Let the encoders share every parameter of their convolutions."""
    first, *others = encoders.values()
    for name, module in first.named_modules():
        if isinstance(module, nn.Conv2d):
            for other in others:
                other.get_submodule(name).weight = module.weight
    return nn.ModuleDict(encoders)


def main() -> None:
    """Time both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--modalities", type=int, default=2)
    parser.add_argument("--shapes", default="18,50")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: its own choice)")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    names = [f"m{i}" for i in range(options.modalities)]

    def seconds(run: Callable[[], object]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for shape in options.shapes.split(","):
        encoder = share(Maps(shape), names).to(device=device, memory_format=layout)
        rival = tied(unshare(encoder)).to(device)
        size = (options.batch_size, 3, options.size, options.size)
        x = {m: torch.randn(size, device=device).contiguous(memory_format=layout) for m in names}
        with torch.no_grad():
            encoder.eval()(x)  # the first forward also checks the rows
        shared = torch.compile(encoder) if options.compile else encoder
        single = {m: torch.compile(rival[m]) if options.compile else rival[m] for m in names}

        def ours(shared: nn.Module = shared, x: dict[str, Tensor] = x) -> list[Tensor]:
            return list(shared(x).values())

        def theirs(single: dict[str, nn.Module] = single, x: dict[str, Tensor] = x) -> list[Tensor]:
            return [single[m](x[m]) for m in x]

        def trained(outputs: Callable[[], list[Tensor]]) -> None:
            torch.stack([y.mean() for y in outputs()]).sum().backward()

        encoder.eval(), rival.eval()
        with torch.no_grad():
            worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours(), theirs(), strict=True))
        print(f"ResNet-{shape}: largest relative difference of the outputs {worst:.1e}")
        for training in (False, True):
            encoder.train(training), rival.train(training)
            runs = [ours, theirs]
            if training:
                runs = [lambda: trained(ours), lambda: trained(theirs)]
            ratios, times = [], []
            with torch.set_grad_enabled(training):
                for run in runs:
                    run(), run()
                for _ in range(options.rounds):
                    mine, other = (seconds(run) for run in runs)
                    ratios.append(mine / other)
                    times.append((mine, other))
            mine, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"ResNet-{shape} {'training' if training else 'inference'}: shared {mine:.0f} ms, list {other:.0f} ms, "
                f"ratio median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}"
            )


if __name__ == "__main__":
    main()
