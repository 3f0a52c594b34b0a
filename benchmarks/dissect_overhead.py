"""What dissecting costs beyond the forwards it needs.

    python benchmarks/dissect_overhead.py [--rounds 5] [--batches 10] [--batch-size 32] [--size 224] [--device cpu]

Model: two ResNet-18 encoders (3 and 1 input channels) whose pooled features are concatenated. Measured: the time of
``fusionscope.dissect`` with CKA, η², ridge probes and semantic variance (``--removal`` adds the table V(S)), the trace
excluded. Rival: the same number of bare forwards of the same model over the same batches, under
``torch.inference_mode``. Both are timed in turn, round by round; the ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import fusionscope as fs


class BasicBlock(nn.Module):
    """ResNet's basic block (arXiv 1512.03385)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.down(x))


def resnet18(channels: int) -> nn.Sequential:
    """ResNet-18 up to its last stage."""
    stages = [nn.Sequential(nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))]
    stages.append(nn.Sequential(nn.MaxPool2d(3, 2, 1), BasicBlock(64, 64, 1), BasicBlock(64, 64, 1)))
    for c_in, c_out in ((64, 128), (128, 256), (256, 512)):
        stages.append(nn.Sequential(BasicBlock(c_in, c_out, 2), BasicBlock(c_out, c_out, 1)))
    return nn.Sequential(*stages)


class TwoStream(nn.Module):
    """An encoder per modality, pooled features side by side, a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.rgb, self.depth, self.head = resnet18(3), resnet18(1), nn.Linear(1024, classes)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.head(torch.cat([self.rgb(rgb).mean((2, 3)), self.depth(depth).mean((2, 3))], 1))


def main() -> None:
    """Time both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--removal", action="store_true", help="measure the table V(S) as well")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: its own choice)")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    measures = ("similarity", "selectivity", "semantics") + ("removal",) * options.removal
    device = torch.device(options.device)
    model = TwoStream(options.classes).to(device).eval()
    n, s = options.batch_size, options.size
    batches = [
        {
            "rgb": torch.randn(n, 3, s, s),
            "depth": torch.randn(n, 1, s, s),
            "label": torch.randint(0, options.classes, (n,)),
        }
        for _ in range(options.batches)
    ]

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def dissected() -> tuple[float, int]:
        found = fs.dissect(model, batches, measures=measures, device=device, progress=False)
        return found.manifest["wall_s"]["stream"], found.manifest["forwards"]["stream"]

    def bare(forwards: int) -> float:
        wait()
        start = time.perf_counter()
        with torch.inference_mode():
            for i in range(forwards):
                batch = batches[i % len(batches)]
                model(batch["rgb"].to(device), batch["depth"].to(device))
        wait()
        return time.perf_counter() - start

    _, forwards = dissected()
    bare(len(batches))
    ratios = []
    for number in range(options.rounds):
        ours, _ = dissected()
        theirs = bare(forwards)
        ratios.append(ours / theirs)
        print(f"round {number}: dissect {ours:.2f} s, {forwards} bare forwards {theirs:.2f} s, ratio {ratios[-1]:.3f}")
    print(f"ratio: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f} (limit 1.2)")


if __name__ == "__main__":
    main()
