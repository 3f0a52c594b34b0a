"""Shapley values of three modalities: ``dissect`` against captum's exact ``ShapleyValues``.

    python benchmarks/shapley_rival.py [--rounds 5] [--samples 2048] [--batch-size 64]

Needs captum (``pip install -c constraints.txt -e ".[peers]"``). Model: an encoder each for an image, a sequence and a
vector, their features concatenated, a two-layer head. Both replace absent modalities by zeros and value the mean
log-likelihood of the label, so both give the same three numbers (printed). captum values every sample over n·n!
evaluations; we score each of the 2^3 subsets once per batch, and run each encoder once with and once without its input.
Times are of the whole call, the trace included; the ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from torch import Tensor, nn

import fusionscope as fs

NAMES = ("image", "sequence", "vector")


class ThreeStreams(nn.Module):
    """An encoder per modality and a head."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.sequence = nn.Sequential(
            nn.Conv1d(6, 32, 5, 2), nn.ReLU(), nn.Conv1d(32, 32, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()
        )
        self.vector = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, classes))

    def forward(self, image: Tensor, sequence: Tensor, vector: Tensor) -> Tensor:
        features = [self.image(image), self.sequence(sequence), self.vector(vector)]
        return self.head(torch.cat(features, 1))


def main() -> None:
    """Time both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import ShapleyValues
    torch.manual_seed(0)
    model = ThreeStreams().eval()
    calls: list[int] = []
    model.register_forward_pre_hook(lambda module, args: calls.append(1))
    batches = [
        {
            "image": torch.randn(options.batch_size, 3, 32, 32),
            "sequence": torch.randn(options.batch_size, 6, 128),
            "vector": torch.randn(options.batch_size, 64),
            "label": torch.randint(0, 10, (options.batch_size,)),
        }
        for _ in range(options.samples // options.batch_size)
    ]

    def ours() -> tuple[float, dict[str, float], float]:
        calls.clear()
        start = time.perf_counter()
        found = fs.dissect(
            model, batches, measures=("removal", "contribution"), fill="zero", metric="loglik", progress=False
        )
        spent = time.perf_counter() - start
        table = found.tables["contribution"].query("metric == 'loglik' and concept == ''")
        forwards = (len(calls) - found.manifest["forwards"]["trace"]) / len(batches)
        return spent, dict(zip(table["modality"], table["shapley"], strict=True)), forwards

    def captums() -> tuple[float, dict[str, float], float]:
        calls.clear()
        masks = (torch.zeros(1, 3, 32, 32).long(), torch.ones(1, 6, 128).long(), torch.full((1, 64), 2).long())
        sums = torch.zeros(3, dtype=torch.float64)
        start = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                shapley = ShapleyValues(
                    lambda *x, y=batch["label"]: model(*x).log_softmax(1).gather(1, y[:, None])[:, 0]
                )
                inputs = tuple(batch[name] for name in NAMES)
                found = shapley.attribute(inputs, feature_mask=masks)
                sums += torch.stack([part.flatten(1)[:, 0].double().sum() for part in found])
        spent = time.perf_counter() - start
        values = dict(zip(NAMES, (sums / options.samples).tolist(), strict=True))
        return spent, values, len(calls) / len(batches)

    ours(), captums()
    ratios = []
    for number in range(options.rounds):
        mine, values, forwards = ours()
        theirs, expected, asked = captums()
        ratios.append(theirs / mine)
        print(
            f"round {number}: dissect {mine:.2f} s, {forwards:.2f} forwards a batch; captum {theirs:.2f} s, "
            f"{asked:.0f} forwards; {ratios[-1]:.2f} times faster"
        )
    worst = max(abs(values[name] - expected[name]) for name in NAMES)
    print(f"values {values}, largest difference {worst:.1e}")
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    print(f"faster: median {middle:.2f}, range {least:.2f} to {most:.2f} (limit: at least 3)")


if __name__ == "__main__":
    main()
