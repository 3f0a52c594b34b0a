"""Peak memory of dissecting 20,000 samples over that of 1,000.

    python benchmarks/dissect_memory.py [--few 1000] [--many 20000]

Two small encoders; the loader makes each batch when asked, so that the data take no memory. Each size runs in a process
of its own (``getrusage``). First the measures of features and removal, whose ratio should not exceed 1.05; then all
that ``dissect`` runs unless told otherwise: contribution and valuation keep values per sample, about 1 kB each here.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fusionscope as fs

BATCH = 100


class Made:
    """A loader whose batches are drawn from their number."""

    def __init__(self, samples: int) -> None:
        self.count = samples // BATCH

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for i in range(self.count):
            rng = torch.Generator().manual_seed(i)
            label = torch.randint(0, 10, (BATCH,), generator=rng)
            a = torch.randn(BATCH, 3, 16, 16, generator=rng)
            a[:, 0] += label[:, None, None] / 5
            yield {"a": a, "b": torch.randn(BATCH, 1, 16, 16, generator=rng), "label": label}


class Net(nn.Module):
    """An encoder of three convolutions per modality, pooled, concatenated, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = self.encoder(3), self.encoder(1), nn.Linear(128, 10)

    @staticmethod
    def encoder(channels: int) -> nn.Sequential:
        sizes = ((channels, 16), (16, 32), (32, 64))
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.ReLU()) for i, o in sizes))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(a).mean((2, 3)), self.b(b).mean((2, 3))], 1))


FEATURES = ("similarity", "selectivity", "semantics", "units", "removal")


def child(samples: int, everything: bool) -> None:
    """Dissect, and print the peak of this process in MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    more: dict[str, Any] = {} if everything else {"measures": FEATURES}
    fs.dissect(Net(), Made(samples), progress=False, **more)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run both sizes and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=20000)
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--everything", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.everything)
    for what, more in (("features and removal", []), ("all default measures", ["--everything"])):
        peaks = []
        for samples in (options.few, options.many):
            command = [sys.executable, __file__, "--child", str(samples), *more]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(f"{what}, {samples} samples: {peaks[-1]:.0f} MiB")
        ratio = peaks[1] / peaks[0]
        verdict = "" if more else f" (limit 1.05) {'PASS' if ratio <= 1.05 else 'FAIL'}"
        print(f"ratio {ratio:.3f}{verdict}")


if __name__ == "__main__":
    main()
