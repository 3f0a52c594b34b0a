"""What every data source delivers: three splits and a description of what an item holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusionscope.errors import InputError, did_you_mean


@dataclass(frozen=True, repr=False, eq=False)
class DataSplits:
    """Splits "train", "val" and "test" of one data source.

    Args:
        spec: what :func:`load_data` was given.
        splits: map-style datasets whose items are ``{"inputs": {modality: Tensor}, "target": Tensor}``, with an int
            ``"group"`` where samples are not independent.
        modalities: names of the inputs.
        axes: per modality, axes of a batch: "NC", "NTC", "NCHW" or "NTCHW".
        shapes: per modality, shape of one sample.
        task: "classification" (int64 target []), "multilabel" (float32 [K] of 0 and 1), "dense" (int64 [H, W],
            negative = ignored), "regression" (float32 [] or [D]) or "translation" (float32 [C, H, W] in 0..1).
        classes: names of classes or labels by index; empty for regression and translation.
        truth: for planted data, type and carrying modalities of each class.
        fingerprint: sha256 of the content, first 16 hex digits.
    """

    spec: str
    splits: dict[str, Dataset]
    modalities: tuple[str, ...]
    axes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    task: str
    classes: tuple[str, ...]
    truth: dict[str, dict] | None
    fingerprint: str

    def size(self, split: str) -> int:
        """Number of samples in a split."""
        return len(cast(Sized, self._split(split)))

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> DataLoader:
        """Return a loader of one split that keeps every sample; ``seed`` fixes the order when shuffling.

        Each pass over a shuffling loader has a new order; a loader made anew with the same seed repeats them.

        Raises:
            InputError: unknown split, a batch size below 1.

        >>> from fusionscope.data import load_data
        >>> batch = next(iter(load_data("digits").loader("test", 7)))
        >>> {name: tuple(x.shape) for name, x in batch["inputs"].items()}, tuple(batch["target"].shape)
        ({'top': (7, 1, 4, 8), 'bottom': (7, 1, 4, 8)}, (7,))
        """
        dataset = self._split(split)
        if batch_size < 1:
            raise InputError(f"expected a batch size of at least 1, got {batch_size}.")
        rng = torch.Generator().manual_seed(seed)
        return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, generator=rng)

    def _split(self, name: str) -> Dataset:
        if name not in self.splits:
            raise InputError(
                f"no split {name!r} in {self.spec!r}.{did_you_mean(name, self.splits)} It has {', '.join(self.splits)}."
            )
        return self.splits[name]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {self.size(name)}" for name in self.splits)
        shown = ", ".join(self.classes[:12]) + (", ..." if len(self.classes) > 12 else "")
        what = "labels" if self.task == "multilabel" else "classes"
        lines = [f"DataSplits({self.spec!r}): {sizes}; fingerprint {self.fingerprint}"]
        lines.append(f"  task: {self.task}" + (f", {len(self.classes)} {what}: {shown}" if self.classes else ""))
        width = max(map(len, self.modalities))
        for name in self.modalities:
            lines.append(f"  {name:{width}}  {self.axes[name]:5}  {'x'.join(map(str, self.shapes[name]))}")
        for word in dict.fromkeys(entry["planted"] for entry in (self.truth or {}).values()):
            members = [c for c, entry in (self.truth or {}).items() if entry["planted"] == word]
            lines.append(f"  planted {word}: {', '.join(members)}")
        return "\n".join(lines)


def fingerprint(parts: Iterable[np.ndarray | Tensor | str]) -> str:
    """Sha256 over content, dtype and shape of all parts in order, first 16 hex digits.

    >>> fingerprint(["a", np.zeros(2)]) == fingerprint(["a", np.zeros(2)])
    True
    >>> fingerprint(["a", np.zeros(2)]) == fingerprint(["a", np.zeros(2, "f4")])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"str {len(part.encode())}:{part}".encode())
            continue
        array = np.ascontiguousarray(part.numpy() if isinstance(part, Tensor) else part)
        digest.update(f"{array.dtype.str} {array.shape}:".encode())
        digest.update(array.data.cast("B") if array.dtype.kind in "buif" and array.size else array.tobytes())
    return digest.hexdigest()[:16]
