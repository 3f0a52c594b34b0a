"""Data sets as the training loop reads them: chosen modalities, held in memory where they fit."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from fusionscope.data import DataSplits
from fusionscope.errors import InputError, did_you_mean

LIMIT = 2**31


class Chosen(Dataset):
    """A data set with some of its modalities."""

    def __init__(self, dataset: Dataset, modalities: Sequence[str]):
        self.dataset = dataset
        self.modalities = tuple(modalities)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return {**item, "inputs": {m: item["inputs"][m] for m in self.modalities}}


def choose(data: DataSplits, modalities: Sequence[str]) -> DataSplits:
    """Return the splits with these modalities only; all of them where none is named.

    Raises:
        InputError: if one is unknown or named twice.
    """
    if not modalities or tuple(modalities) == data.modalities:
        return data
    for name in modalities:
        if name not in data.modalities:
            raise InputError(
                f"modalities: no modality {name!r} in {data.spec}; it has {', '.join(map(repr, data.modalities))}."
                + did_you_mean(name, data.modalities)
            )
    if len(set(modalities)) < len(modalities):
        raise InputError(f"modalities: one is named twice: {', '.join(modalities)}")
    return replace(
        data,
        splits={name: _only(split, modalities) for name, split in data.splits.items()},
        modalities=tuple(modalities),
        axes={m: data.axes[m] for m in modalities},
        shapes={m: data.shapes[m] for m in modalities},
    )


class Memory(Dataset):
    """Samples as stacked tensors; a whole batch is taken by one index operation."""

    def __init__(self, inputs: dict[str, Tensor], target: Tensor):
        self.inputs = inputs
        self.target = target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": {m: x[index] for m, x in self.inputs.items()}, "target": self.target[index]}

    def __getitems__(self, index: list[int]) -> dict[str, Any]:
        at = torch.as_tensor(index)
        return {"inputs": {m: x[at] for m, x in self.inputs.items()}, "target": self.target[at]}

    def __add__(self, other: Memory) -> Memory:  # ty: ignore[incompatible-method-override]
        inputs = {m: torch.cat([x, other.inputs[m]]) for m, x in self.inputs.items()}
        return Memory(inputs, torch.cat([self.target, other.target]))


def remember(dataset: Dataset) -> Dataset:
    """Return the data set as a :class:`Memory` if it takes less than 2 GiB, else as it is."""
    if isinstance(dataset, Memory):
        return dataset
    count = len(cast(Sized, dataset))
    first = dataset[0]
    size = sum(t.numel() * t.element_size() for t in [*first["inputs"].values(), first["target"]])
    if size * count > LIMIT:
        return dataset
    batches = list(DataLoader(dataset, batch_size=256))
    inputs = {m: torch.cat([b["inputs"][m] for b in batches]) for m in first["inputs"]}
    return Memory(inputs, torch.cat([b["target"] for b in batches]))


def loader(dataset: Dataset, batch_size: int, *, seed: int | None = None, workers: int = 0) -> DataLoader:
    """Batches in order; with a seed shuffled, and without the last batch if it is not full."""
    memory = isinstance(dataset, Memory)
    count = len(cast(Sized, dataset))
    return DataLoader(
        dataset,
        batch_size=min(batch_size, count),
        shuffle=seed is not None,
        drop_last=seed is not None,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        collate_fn=_as_is if memory else default_collate,
        num_workers=0 if memory else workers,
    )


def _only(dataset: Dataset, modalities: Sequence[str]) -> Dataset:
    if isinstance(dataset, Memory):  # the same tensors, not copied
        return Memory({m: dataset.inputs[m] for m in modalities}, dataset.target)
    return Chosen(dataset, modalities)


def _as_is(batch: Any) -> Any:
    return batch
