"""How often a class that a modality cannot know is called encoded there.

    fusionscope train --data scenes --epochs 6 --width 12 --lr 0.004 --out runs/demo
    python benchmarks/scenes_null.py runs/demo [--sets 20] [--scenes 200]

Dissects a trained model on fresh sets of ``scenes``. No hidden class should lie above its null (colour in depth,
geometry in rgb, the class that needs both in either), but for a share of at most about alpha of the sets.
"""

from __future__ import annotations

import argparse

import fusionscope as fs


def main() -> None:
    """Print each set's false positives and their share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.05)
    options = parser.parse_args()
    model = fs.load_run(options.run, data=False).model
    wrong = 0
    for seed in range(100, 100 + options.sets):
        data = fs.load_data(f"scenes?train=2&val=2&test={options.scenes}", seed=seed)
        loader = data.loader("test", 50)
        found = fs.dissect(
            model, loader, classes=data.classes, measures="selectivity", alpha=options.alpha, seed=seed, progress=False
        )
        table = found.tables["selectivity"]
        truth = data.truth or {}
        hidden = [
            concept in truth
            and truth[concept]["planted"] != "none"
            and (truth[concept]["planted"] == "both" or modality not in truth[concept]["modalities"])
            for concept, modality in zip(table["concept"], table["modality"], strict=True)
        ]
        false = table[hidden][table[hidden]["encoded"]]
        wrong += len(false) > 0
        for row in false.itertuples():
            print(f"set {seed}: {row.concept} in {row.modality} level {row.level}, epsilon2 {row.epsilon2:.4f}")
    print(f"{wrong} of {options.sets} sets have a hidden class above its null (alpha {options.alpha})")


if __name__ == "__main__":
    main()
