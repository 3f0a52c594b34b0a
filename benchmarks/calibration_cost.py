"""What calibration before fusion adds to the time of a model with two ResNet-18 encoders.

    python benchmarks/calibration_cost.py [--rounds 15] [--batch-size 8] [--size 112] [--threads 0]

Model: a ResNet-18 per modality (11.2 million parameters each, random weights), float32, CPU. Two ways: the pooled
features are concatenated in the model's own code, and ``fusionscope.nn.attach_calibration`` puts the calibration in
front; or a fuse takes the last maps of both as separate arguments, and the calibration stands in front of that.
Measured, for one forward (eval mode, no gradients) and for a forward with backward (training mode): the time with the
calibration attached over that without, the two in turn within one process on the same batch, the order swapped from
round to round. The median over the rounds counts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fusionscope.nn import attach_calibration

LIMIT = 1.03


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def resnet18(inputs: int) -> nn.Sequential:
    """The usual ResNet-18 without its classifier; gives the last map."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for width in (64, 128, 256, 512):
        layers += [Block(before, width, 1 if width == 64 else 2), Block(width, width, 1)]
        before = width
    return nn.Sequential(*layers)


class Fuse(nn.Module):
    """Two maps to one vector."""

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Concatenate and pool."""
        return torch.cat([rgb, depth], 1).mean((2, 3))


class Pair(nn.Module):
    """Two ResNet-18, fused in the model's own code, or by a module that takes the last maps."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        self.rgb, self.depth = resnet18(3), resnet18(1)
        self.fuse = Fuse() if maps else None
        if not maps:
            for encoder in (self.rgb, self.depth):
                encoder.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        self.head = nn.Linear(1024, 10)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Return logits."""
        x, y = self.rgb(rgb), self.depth(depth)
        return self.head(self.fuse(x, y) if self.fuse is not None else torch.cat([x, y], 1))


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batch = {m: torch.randn(options.batch_size, c, options.size, options.size) for m, c in (("rgb", 3), ("depth", 1))}
    print(f"two ResNet-18, batch of {options.batch_size} at {options.size} px, {torch.get_num_threads()} threads")
    for maps in (False, True):
        plain = Pair(maps)
        calibrated = copy.deepcopy(plain)
        attach_calibration(calibrated, {m: x[:4] for m, x in batch.items()})
        where = "in front of a fuse of maps" if maps else "pooled features, fused in the model's code"
        for backward in (False, True):
            compare(where, step(plain, batch, backward), step(calibrated, batch, backward), backward, options.rounds)


def step(model: nn.Module, batch: dict[str, Tensor], backward: bool) -> Callable[[], None]:
    """One forward, or one forward with backward."""

    def forward() -> None:
        model.eval()
        with torch.no_grad():
            model(**batch)

    def both() -> None:
        model.train()
        model.zero_grad()
        model(**batch).square().mean().backward()

    return both if backward else forward


def compare(where: str, plain: Callable[[], None], other: Callable[[], None], backward: bool, rounds: int) -> None:
    """Time the two in turn and print the median ratio."""
    for run in (plain, other):
        run()
    found: list[tuple[float, float, float]] = []
    for number in range(rounds):
        order = (plain, other) if number % 2 else (other, plain)
        times = {run: clock(run) for run in order}
        walls, busy = zip(times[other], times[plain], strict=True)
        found.append((walls[0] / walls[1], busy[0] / busy[1], walls[1]))
    wall, busy, seconds = (statistics.median(values) for values in zip(*found, strict=True))
    what = "forward + backward" if backward else "forward"
    told = "PASS" if wall <= LIMIT else "over"
    print(
        f"{where}, {what}: ratio {wall:.4f} (limit {LIMIT}: {told}), range {min(found)[0]:.3f} to {max(found)[0]:.3f}; "
        f"of processor time {busy:.4f}; plain {1e3 * seconds:.0f} ms"
    )


def clock(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, which other programs on the machine disturb less."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
