"""DataSplits: loaders and what it shows of itself."""

import numpy as np
import pytest
import torch

from fusionscope.data import load_data
from fusionscope.data._splits import fingerprint
from fusionscope.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def targets(loader):
    return torch.cat([batch["target"] for batch in loader])


def test_loader_keeps_every_sample(digits):
    plain = digits.loader("val", 11)
    assert len(targets(plain)) == digits.size("val")
    assert torch.equal(targets(plain), targets(plain))


def test_shuffling_is_seeded(digits):
    first, again, other = (digits.loader("train", 13, shuffle=True, seed=seed) for seed in (5, 5, 7))
    a, b, c = targets(first), targets(again), targets(other)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a.bincount(), c.bincount())
    assert not torch.equal(a, targets(first)), "each pass has a new order"


def test_loader_errors(digits):
    with pytest.raises(
        InputError, match=r"no split 'tset' in 'digits'\. Did you mean 'test'\? It has train, val, test"
    ):
        digits.loader("tset", 3)
    with pytest.raises(InputError, match="batch size of at least 1, got 0"):
        digits.loader("test", 0)


def test_fingerprint_sees_content_dtype_shape_and_order():
    a, b = np.arange(6), np.arange(6)[::-1]
    marks = [
        fingerprint([a, b]),
        fingerprint([b, a]),
        fingerprint([a.reshape(2, 3), b]),
        fingerprint([a.astype("i4"), b]),
        fingerprint(["ab", "c"]),
        fingerprint(["a", "bc"]),
        fingerprint([np.array(["x", "y"])]),
        fingerprint([np.array(["x", "z"])]),
    ]
    assert len(set(marks)) == len(marks)
    assert fingerprint([torch.from_numpy(a.copy()), b]) == marks[0]
