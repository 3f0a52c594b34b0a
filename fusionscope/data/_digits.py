"""``digits``: scikit-learn's handwritten digits, each image cut into two views."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from fusionscope.errors import InputError

from ._arrays import ArrayDataset, View
from ._layout import find_layout
from ._spec import DigitsOptions
from ._splits import DataSplits, fingerprint


def load_digit_views(spec: str, options: DigitsOptions, seed: int) -> DataSplits:
    """Real handwritten digits (1,797 images of 8x8) as two modalities, the top and the bottom half of each image.

    Both views come from one sensor: this is a multi-view set, not a multi-sensor one. Halves are used because they
    share no pixel, neither is a blurred copy of the other (as odd and even pixels would be), and each alone is
    ambiguous for some digits. Grey values are divided by 16, to [0, 1]. The split is stratified by digit and fixed by
    the seed. Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, doi:10.24432/C50P49;
    the copy in scikit-learn does not say who wrote which digit, so the same writers are in every split.
    """
    if options.val + options.test > 0.9:
        raise InputError(f"expected val + test of at most 0.9, got val={options.val} and test={options.test}.")
    raw = load_digits()
    images, target = raw.images.astype(np.uint8), raw.target.astype(np.int16)
    index = _stratified(target, {"val": options.val, "test": options.test}, seed)
    views = {}
    for name, half in (("top", images[:, :4]), ("bottom", images[:, 4:])):
        views[name] = View(half, find_layout(name, "NHW", half.shape), np.zeros(1), np.full(1, 16.0))
    return DataSplits(
        spec=spec,
        splits={name: ArrayDataset(views, target, rows) for name, rows in index.items()},
        modalities=tuple(views),
        axes={name: view.layout.axes for name, view in views.items()},
        shapes={name: view.layout.shape for name, view in views.items()},
        task="classification",
        classes=tuple(str(digit) for digit in range(10)),
        truth=None,
        fingerprint=fingerprint(["digits", images, target, *(index[name] for name in ("train", "val", "test"))]),
    )


def _stratified(target: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Draw ``shares`` of every class; the rest is "train", which comes first."""
    rng = np.random.default_rng([seed, 1797])
    parts: dict[str, list[np.ndarray]] = {"train": [], **{name: [] for name in shares}}
    for value in np.unique(target):
        rows = rng.permutation(np.flatnonzero(target == value))
        for name, share in shares.items():
            taken = max(1, round(share * int((target == value).sum())))
            parts[name].append(rows[:taken])
            rows = rows[taken:]
        parts["train"].append(rows)
    return {name: np.sort(np.concatenate(rows)).astype(np.int64) for name, rows in parts.items()}
