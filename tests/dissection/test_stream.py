"""Batches of a loader are read once, in order, none shorter than need be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fusionscope.batch import Adapter, Batch
from fusionscope.dissection._stream import Stream
from fusionscope.errors import InputError


def batches(sizes: list[int], widths: list[int] | None = None) -> list[Any]:
    """Batches whose values count the samples through."""
    values = iter(torch.arange(sum(sizes), dtype=torch.float32).split(sizes))
    widths = widths or [3] * len(sizes)
    return [({"a": (v := next(values))[:, None].repeat(1, w), "b": v[:, None]}, v) for w in widths]


def read(loader: Any, adapter: Adapter | None = None) -> list[Batch]:
    return list(Stream(loader, adapter or Adapter()))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 11, [4, 7]),
        ([2] * 7, [4, 4, 6]),
        ([3] * 5, [6, 9]),
        ([5, 5, 3], [5, 8]),
        ([5, 2, 7, 1, 1], [5, 11]),
        ([5, 1], [6]),
        ([2], [2]),
        ([4, 4], [4, 4]),
        ([5, 3, 5], [5, 8]),
    ],
)
def test_small_batches_are_joined_up_to_four(sizes: list[int], expected: list[int]) -> None:
    stream = Stream(batches(sizes), Adapter())
    found = list(stream)
    assert [batch.size for batch in found] == expected
    assert (stream.samples, stream.batches) == (sum(sizes), len(expected))
    assert torch.cat([batch.target for batch in found]).tolist() == list(range(sum(sizes)))


@pytest.mark.parametrize(
    ("sizes", "widths", "expected"),
    [
        ([5, 1], [3, 2], [5, 1]),
        ([5, 5, 2, 1], [3, 3, 2, 2], [5, 5, 3]),
        ([1, 1, 1, 1], [3, 2, 2, 3], [1, 2, 1]),
        ([5, 1, 5], [3, 3, 2], [6, 5]),
    ],
)
def test_what_does_not_fit_comes_alone(sizes: list[int], widths: list[int], expected: list[int]) -> None:
    found = read(batches(sizes, widths))
    assert [batch.size for batch in found] == expected
    assert torch.cat([batch.target for batch in found]).tolist() == list(range(sum(sizes)))


def test_a_tail_of_another_form_comes_alone() -> None:
    flags = {"a": torch.ones(2, dtype=torch.bool)}
    inputs = {"a": torch.zeros(5, 3)}
    for tail in (Batch({"a": torch.zeros(2, 3)}, None, flags), Batch({"a": [torch.zeros(2, 3)]})):
        assert [batch.size for batch in read([Batch(inputs), tail])] == [5, 2]
    boxes = [torch.ones(n, 4) for n in (1, 0, 2, 5, 7)]
    found = read([(inputs, boxes), ({"a": torch.zeros(1, 3)}, boxes[:1])])
    assert [len(box) for box in found[0].target] == [1, 0, 2, 5, 7, 1]


def test_modalities_come_in_the_order_of_the_first_batch() -> None:
    whole = batches([5, 5, 1])
    turned = [(dict(reversed(inputs.items())), y) if i else (inputs, y) for i, (inputs, y) in enumerate(whole)]
    one, two = Stream(whole, Adapter()), Stream(turned, Adapter())
    assert [batch.modalities for batch in one] == [batch.modalities for batch in two] == [("a", "b")] * 2
    assert one.fingerprint == two.fingerprint
    with pytest.raises(InputError, match="batch 3 has the modalities a, the first one a, b"):
        read([*whole[:2], {"a": torch.zeros(5, 3)}])


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(InputError, match="the loader gave no batch"):
        read([])
