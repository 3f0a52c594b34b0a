"""The synthetic generator of arXiv:2302.12247, decomposed by ``CVX``, beside the published values (nats).

    python benchmarks/pid_synthetic.py [--seeds 5] [--samples 1800] [--dropout 0.2 0.5] [--components 2 5] [--batch]

``z1, z2, zc ~ N(0, 1.5 I_5)``, projected by uniform matrices: ``X1 = [z1 T1, zc Tc]``, ``X2 = [z2 T2, zc Tc]``, 64
dimensions each. The label is the upper half of ``mean(dropout(components))``; each sample draws the coordinates that a
mix is made from, as in the authors' code. 20 clusters of each side. Printed per row, as Markdown: R, U1, U2, S as
published; our estimate, mean over seeds; what the same gives with shuffled labels; the difference; and which part is
largest in each.

The published text and code do not fix all settings, and they decide how near the values come, so the table is printed
for each combination of two of them. No combination was chosen by its outcome to stand for the others; this is what is
known of each:

- Dropout. The code says 0.2; then R, U1 and U2 are twice the published ones. With 0.5 they agree to 0.02, and the best
  accuracies printed beside the published values say 0.5 too: 0.74 to 0.75 in all four pure settings. Even the exact
  components predict the label only with ``1 - arccos(sqrt(1 - dropout))/pi``: 0.75 for 0.5, but 0.85 for 0.2.
- Samples. Those accuracies are multiples of 1/1800, so the test split seems to have had 1,800 samples. The fewer, the
  more of S is binning bias: the published S of 0.05 in rows that are made without synergy is that bias and nothing
  else. Corrected for it, S is not the largest part of mix1, mix2 and mix5.
- Principal components: 2 in the authors' notebook, 5 as their function's default. mix2 (published: S 0.07, U1 0.06) is
  a near tie, in which S is the largest with 5 and U1 with 2; nothing but this outcome speaks for 5.
"""

from __future__ import annotations

import argparse

import numpy as np

from fusionscope.measures.functional import batch_decomposition, decompose, discretise

PARTS = ("R", "U1", "U2", "S")
# Values and, for the label, the share of z1, z2 and zc that it is made from.
ROWS: dict[str, tuple[tuple[float, ...], tuple[float, float, float]]] = {
    "redundancy": ((0.16, 0, 0, 0.05), (0, 0, 1)),
    "uniqueness0": ((0, 0.16, 0, 0.05), (1, 0, 0)),
    "uniqueness1": ((0, 0, 0.17, 0.05), (0, 1, 0)),
    "synergy": ((0.07, 0, 0.01, 0.14), (1, 1, 0)),
    "mix1": ((0.04, 0.01, 0, 0.07), (0.5, 0.5, 0.5)),
    "mix2": ((0.04, 0.06, 0, 0.07), (1, 0.5, 0.5)),
    "mix3": ((0.07, 0, 0, 0.12), (1, 1, 0.5)),
    "mix4": ((0.10, 0, 0.01, 0.07), (0.5, 0.5, 1)),
    "mix5": ((0.03, 0, 0.04, 0.05), (0, 0.5, 0.5)),
    "mix6": ((0.10, 0, 0.04, 0.05), (0, 0.5, 1)),
}


def generate(
    shares: tuple[float, float, float], n: int, seed: int, dropout: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both modalities ``[n, 64]`` and the label ``[n]``."""
    rng = np.random.default_rng(seed)
    z1, z2, zc = rng.normal(scale=1.5**0.5, size=(3, n, 5))
    T1, T2, Tc = rng.uniform(size=(3, 5, 32))
    # Every sample draws its own coordinates: in the mixes that is noise which no estimator can take out.
    picked = [
        np.take_along_axis(z, rng.random((n, 5)).argsort(1)[:, : int(share * 5)], 1)
        for z, share in zip((z1, z2, zc), shares, strict=True)
    ]
    components = np.concatenate(picked, 1)
    score = (components * (rng.random(components.shape) >= dropout) / (1 - dropout)).mean(1)
    label = np.zeros(n, dtype=np.int64)
    label[np.argsort(score)[n // 2 :]] = 1
    return np.concatenate([z1 @ T1, zc @ Tc], 1), np.concatenate([z2 @ T2, zc @ Tc], 1), label


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1800)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--components", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--batch", action="store_true", help="the learned estimator too, on 20,000 samples")
    options = parser.parse_args()
    counts = {}
    for dropout in options.dropout:
        for components in options.components:
            print(f"\ndropout {dropout}, {components} components, {options.samples} samples, {options.seeds} seeds\n")
            counts[dropout, components] = table(dropout, components, options.samples, options.seeds)
    if options.batch:
        print("\nBATCH, 20,000 samples\n")
        for name, (_, shares) in ROWS.items():
            learned = batch_decomposition(*generate(shares, 20_000, 0, options.dropout[-1]), unit="nats")
            print(f"{name}: {show(learned.value[:4])}, largest {PARTS[int(learned.value[:4].argmax())]}")
    print()
    for (dropout, components), same in counts.items():
        print(f"dropout {dropout}, {components} components: largest part as published in {same} of {len(ROWS)} rows")


def table(dropout: float, components: int, samples: int, seeds: int) -> int:
    """Print the rows of one setting; return in how many the largest part is the published one."""
    print("| row | published | value | shuffled | corrected | largest: published, value, corrected |")
    print("|---|---|---|---|---|---|")
    same = 0
    for name, (published, shares) in ROWS.items():
        found = []
        for seed in range(seeds):
            x1, x2, y = generate(shares, samples, seed, dropout)
            sides = [discretise(x, 20, components, seed) for x in (x1, x2)]
            found.append(decompose(*sides, y, seed=seed, unit="nats"))
        value, shuffled, corrected = (
            np.mean([getattr(f, k)[:4] for f in found], 0) for k in ("value", "shuffled", "corrected")
        )
        largest = [PARTS[int(np.argmax(v))] for v in (published, value, corrected)]
        same += largest[0] == largest[1]
        print("|", " | ".join([name, *map(show, (published, value, shuffled, corrected)), ", ".join(largest)]), "|")
    return same


def show(values: np.ndarray | tuple[float, ...]) -> str:
    """Four numbers."""
    return " ".join(f"{v + 0.0:.3f}" for v in values)


if __name__ == "__main__":
    main()
