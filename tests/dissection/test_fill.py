"""Subsets and fill-ins."""

from __future__ import annotations

import pytest
import torch

from fusionscope.batch import Batch
from fusionscope.dissection import fill_in
from fusionscope.dissection._fill import donors
from fusionscope.errors import InputError

B = 11


@pytest.fixture
def batch() -> Batch:
    text = {"ids": torch.arange(B * 3).view(B, 3), "mask": torch.ones(B, 3, dtype=torch.long)}
    clip = {"frames": torch.arange(float(B * 2)).view(B, 2), "lengths": torch.arange(1, B + 1)}
    return Batch({"rgb": torch.arange(float(B * 5)).view(B, 5), "text": text, "clip": clip})


def test_resample_takes_whole_modalities_from_other_samples(batch: Batch) -> None:
    filled = fill_in(batch, ["text", "clip"], "resample", seed=3, index=5)
    assert torch.equal(filled.inputs["rgb"], batch.inputs["rgb"])
    source = filled.inputs["text"]["ids"][:, 0] // 3
    assert not (source == torch.arange(B)).any()
    frames = filled.inputs["clip"]["frames"][:, 0] // 2
    assert torch.equal(filled.inputs["clip"]["lengths"], frames.long() + 1)
    assert not torch.equal(source, frames.long())
    again = fill_in(batch, ["text"], "resample", seed=3, index=5)
    assert torch.equal(again.inputs["text"]["ids"], filled.inputs["text"]["ids"])
    other = fill_in(batch, ["text"], "resample", seed=3, index=6)
    assert not torch.equal(other.inputs["text"]["ids"], filled.inputs["text"]["ids"])


def test_donors_are_never_the_sample_itself_and_are_uniform() -> None:
    counts = torch.zeros(B, B)
    for index in range(400):
        counts[torch.arange(B), donors(B, "rgb", seed=0, index=index)] += 1
    assert counts.diagonal().sum() == 0
    assert counts.sum(0).min() > 250
    assert len(set(donors(B, "rgb", seed=0, index=1).tolist())) < B


def test_zero_and_mean_keep_lengths_and_refuse_integers(batch: Batch) -> None:
    zero = fill_in(batch, ["clip"], "zero")
    assert zero.inputs["clip"]["frames"].abs().sum() == 0
    assert torch.equal(zero.inputs["clip"]["lengths"], batch.inputs["clip"]["lengths"])
    mean = fill_in(batch, ["rgb"], "mean")
    assert torch.allclose(mean.inputs["rgb"], batch.inputs["rgb"].mean(0).expand(B, 5))
    with pytest.raises(InputError, match="'text' has integers only.*use fill='resample', 'present' or a function"):
        fill_in(batch, ["text"], "zero")


def test_present_marks_and_functions_fill(batch: Batch) -> None:
    marked = fill_in(batch, ["rgb"], "present")
    assert marked.present is not None
    assert {m: bool(flags.all()) for m, flags in marked.present.items()} == {"rgb": False, "text": True, "clip": True}
    assert torch.equal(marked.inputs["rgb"], batch.inputs["rgb"])
    ones = fill_in(batch, ["rgb"], lambda modality, values, whole: torch.ones_like(values))
    assert ones.inputs["rgb"].sum() == B * 5


def test_unknown_fill_and_single_sample(batch: Batch) -> None:
    with pytest.raises(InputError, match="unknown fill-in 'zeros'.*Did you mean 'zero'"):
        fill_in(batch, ["rgb"], "zeros")
    with pytest.raises(InputError, match="needs two samples"):
        fill_in(batch.take(torch.tensor([0])), ["rgb"])
