"""The probe: a few samples of the validation split on which the dynamics are measured, the same at every epoch."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from ._dynamics_views import forwards
from ._memory import Memory

MOST, LEAST = 128, 8
MOST_GRADIENTS, LEAST_GRADIENTS = 16, 2
# Passes through the model, in samples, that measuring an epoch may take of those that training it takes.
FORWARDS, GRADIENTS = 0.036, 0.015
COMPARED = 5  # about so many epochs whose gradients are compared, on so many more samples
BACKWARD = 3  # a forward with its backward, in forwards


@dataclass(frozen=True)
class Probe:
    """Samples of the validation split, as one batch in random order.

    Attributes:
        inputs: ``{modality: [P,...]}``.
        target: ``[P,...]``.
        index: the samples' numbers in their split, ``[P]``.
        gradients: how many of them, from the first on, the gradients are taken of.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    index: Tensor
    gradients: int

    def __len__(self) -> int:
        return len(self.index)


def probe_of(
    model: nn.Module,
    val: Dataset,
    *,
    task: str,
    train_size: int,
    epochs: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Probe:
    """Choose the probe: at most 128 samples, fewer where measuring them would take long beside an epoch of training.

    With classes (one per sample) every class has the same number, as far as the split has them. The order is random, so
    that the next sample's values are no hint to a sample's class. The seed decides all.

    Args:
        model: how many passes a sample takes depends on it.
        val: the split to choose from; of one that is not in memory, every class counts as often as it is drawn.
        task: as of :class:`Scores`.
        train_size: samples that an epoch of training sees.
        epochs: how many epochs the training takes at most.
        seed: seeds a generator of its own.
        device: where the batch goes.
    """
    count = len(cast(Sized, val))
    several = len(val[0]["inputs"])
    passes = BACKWARD * train_size
    size = min(count, MOST, max(LEAST, int(FORWARDS * passes / forwards(model, several, task))))
    gradients = min(
        size,
        MOST_GRADIENTS,
        max(LEAST_GRADIENTS, int(GRADIENTS * passes * compared_every(epochs) / (BACKWARD * several))),
    )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    if isinstance(val, Memory) and task == "classification" and val.target.ndim == 1:
        order = _balanced(order, val.target)
    chosen = order[:size]
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    batch = _taken(val, chosen.tolist())
    inputs = {m: x.to(device) for m, x in batch["inputs"].items()}
    return Probe(inputs, batch["target"].to(device), chosen, gradients)


def compared_every(epochs: int) -> int:
    """In which epochs gradients are compared: 0 and the multiples of this.

    >>> compared_every(3), compared_every(40)
    (1, 8)
    """
    return -(-epochs // COMPARED)


def _balanced(order: Tensor, target: Tensor) -> Tensor:
    """The same samples, first one of each class, then the second of each, and so on."""
    labels = target[order].long()
    place = torch.zeros_like(labels)
    for label in labels.unique():
        mine = labels == label
        place[mine] = torch.arange(int(mine.sum()))
    return order[torch.argsort(place, stable=True)]


def _taken(dataset: Dataset, index: Sequence[int]) -> dict[str, Any]:
    if isinstance(dataset, Memory):
        return dataset.__getitems__(list(index))
    return default_collate([dataset[i] for i in index])


def named_targets(target: Tensor, task: str, classes: Sequence[str]) -> list[str]:
    """What a table says of each sample: its class, the one that most of its pixels have, its classes joined by ``+``,
    its number where it has one, else nothing.

    >>> named_targets(torch.tensor([1, 0, -1]), "classification", ("cat", "dog"))
    ['dog', 'cat', '']
    """
    target = target.detach().cpu()
    if task == "multilabel":
        return ["+".join(classes[k] for k in row.nonzero().flatten().tolist()) for row in target]
    if task == "regression":
        flat = target.reshape(len(target), -1)
        return [f"{row.item():g}" if row.numel() == 1 else "" for row in flat]
    found = labels_of(target, task)
    return [""] * len(target) if found is None else [classes[k] if k >= 0 else "" for k in found.tolist()]


def labels_of(target: Tensor, task: str) -> Tensor | None:
    """One class per sample, ``[P]``, of a map the most frequent; -1 where there is none. None without classes."""
    if task == "classification":
        return target.long().clamp(min=-1)
    if task != "dense":
        return None
    flat = target.reshape(len(target), -1).long()
    kept = [row[row >= 0] for row in flat]
    return torch.stack([torch.bincount(row).argmax() if len(row) else row.new_tensor(-1) for row in kept])
