"""scikit-learn's digits as two views."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fusionscope.data import load_data
from fusionscope.errors import InputError


def stacked(data, split, name):
    return torch.stack([item["inputs"][name] for item in data.splits[split]])


def labels(data, split):
    return torch.stack([item["target"] for item in data.splits[split]])


def test_views_are_the_halves_of_the_images():
    data = load_data("digits")
    assert data.axes == {"top": "NCHW", "bottom": "NCHW"}
    assert data.shapes == {"top": (1, 4, 8), "bottom": (1, 4, 8)}
    assert (data.task, data.truth, data.classes) == ("classification", None, tuple("0123456789"))
    raw = load_digits()
    rows = data.splits["test"].rows
    whole = torch.cat((stacked(data, "test", "top"), stacked(data, "test", "bottom")), 2)[:, 0]
    assert torch.equal(whole, torch.from_numpy(raw.images[rows] / 16).float())
    assert torch.equal(labels(data, "test"), torch.from_numpy(raw.target[rows]))
    assert labels(data, "test").dtype == torch.int64


def test_split_is_stratified_disjoint_and_seeded():
    first, again, other = load_data("digits"), load_data("digits"), load_data("digits", seed=1)
    rows = [first.splits[name].rows for name in ("train", "val", "test")]
    assert sorted(np.concatenate(rows)) == list(range(1797))
    for split, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        counts = labels(first, split).bincount()
        assert ((counts - share * torch.from_numpy(load_digits().target).bincount()).abs() <= 1).all()
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_shares_are_options():
    data = load_data("digits?val=0.1&test=0.5")
    assert abs(data.size("test") - 898) < 10
    with pytest.raises(InputError, match=r"val \+ test of at most 0\.9, got val=0\.5 and test=0\.6"):
        load_data("digits?val=0.5&test=0.6")


def test_each_view_is_informative_and_both_are_better():
    data = load_data("digits")

    def accuracy(names):
        x = {s: torch.cat([stacked(data, s, n).flatten(1) for n in names], 1).numpy() for s in ("train", "test")}
        model = LogisticRegression(max_iter=2000).fit(x["train"], labels(data, "train"))
        return model.score(x["test"], labels(data, "test"))

    top, bottom, both = accuracy(["top"]), accuracy(["bottom"]), accuracy(["top", "bottom"])
    assert min(top, bottom) > 0.6
    assert max(top, bottom) + 0.03 < both
