"""A dataset over arrays in memory, kept in their own number type until an item is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fusionscope.errors import InputError

from ._layout import Layout

_STEP = 256


@dataclass(frozen=True, eq=False)
class View:
    """One modality: an array, its layout, and the shift and scale per channel that make its items."""

    array: np.ndarray
    layout: Layout
    shift: np.ndarray
    scale: np.ndarray

    def __getitem__(self, index: int) -> Tensor:
        sample = self.layout(self.array[index : index + 1])
        wide = np.float32 if sample.dtype.itemsize <= 2 else np.float64  # large offsets do not survive float32
        values = (sample.astype(wide) - self.layout.per_channel(self.shift)) / self.layout.per_channel(self.scale)
        return torch.from_numpy(values[0].astype(np.float32))


def scaled_view(array: np.ndarray, layout: Layout, train: np.ndarray) -> View:
    """uint8 to [0, 1], booleans as 0 and 1, other numbers standardised per channel by the training samples.

    A channel that is constant in training is centred and left at its scale.
    """
    zeros, ones = np.zeros(layout.channels), np.ones(layout.channels)
    if array.dtype.kind == "b":
        return View(array, layout, zeros, ones)
    if array.dtype == np.uint8:
        return View(array, layout, zeros, 255 * ones)
    shift, scale = _moments(array, layout, train)
    return View(array, layout, shift, scale)


def _moments(array: np.ndarray, layout: Layout, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel in float64, in two passes; (value, 1) for a constant channel."""
    axis = layout.axes.index("C")

    def chunks():
        for start in range(0, len(train), _STEP):
            block = layout(array[train[start : start + _STEP]]).astype(np.float64)
            yield np.moveaxis(block, axis, -1).reshape(-1, layout.channels)

    count, total = 0, np.zeros(layout.channels)
    low, high = np.full(layout.channels, np.inf), np.full(layout.channels, -np.inf)
    for block in chunks():
        count, total = count + len(block), total + block.sum(0)
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    mean = np.where(low == high, low, total / count)
    square = sum(((block - mean) ** 2).sum(0) for block in chunks())
    scale = np.where(low == high, 1.0, np.sqrt(square / count))
    if not (np.isfinite(mean) & np.isfinite(scale)).all():
        raise InputError("values are too large to be standardised (their mean or spread overflows); rescale the data")
    return mean, scale


class ArrayDataset(Dataset):
    """Samples ``rows`` of shared arrays. Items: float32 inputs, int64 or float32 target, group if given."""

    def __init__(
        self, views: dict[str, View], target: np.ndarray, rows: np.ndarray, group: np.ndarray | None = None
    ) -> None:
        self.views, self.rows = views, rows
        self._target, self._group = target, group

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        at = int(self.rows[index])
        dtype = torch.float32 if self._target.dtype.kind == "f" else torch.int64
        sample = {
            "inputs": {name: view[at] for name, view in self.views.items()},
            "target": torch.as_tensor(self._target[at]).to(dtype),
        }
        if self._group is not None:
            sample["group"] = torch.tensor(int(self._group[at]))
        return sample

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {'x'.join(map(str, view.layout.shape))}" for name, view in self.views.items())
        return f"ArrayDataset({len(self)} samples: {shapes})"
