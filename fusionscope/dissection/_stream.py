"""Batches from a user's loader, once, in order, with short tails joined and a fingerprint of what came."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fusionscope._nest import tensors
from fusionscope.batch import Adapter, Batch
from fusionscope.errors import InputError

SHORTEST = 4


class Stream:
    """Iterate a loader as :class:`Batch`; a batch of fewer than 4 samples joins the one before it.

    ``samples``, ``batches`` and ``fingerprint`` tell what was read so far.

    Raises:
        InputError: (while iterating) if the loader is empty, or its batches do not hold the same modalities.
    """

    def __init__(self, loader: Iterable[Any], adapter: Adapter) -> None:
        self.loader, self.adapter = loader, adapter
        self.samples = self.batches = 0
        self._hash = hashlib.sha256()

    @property
    def fingerprint(self) -> str:
        """A short hash of all inputs and targets read so far."""
        return self._hash.hexdigest()[:16]

    def __len__(self) -> int:
        try:
            return len(self.loader)  # ty: ignore[invalid-argument-type]
        except TypeError:
            return 0

    def __iter__(self) -> Iterator[Batch]:
        held: Batch | None = None
        for raw in self.loader:
            batch = self.adapter.batch(raw)
            if held is not None and batch.modalities != held.modalities:
                raise InputError(
                    f"batch {self.batches + 1} has the modalities {', '.join(batch.modalities)}, the one before it "
                    f"{', '.join(held.modalities)}; every batch must have the same (mark missing ones with `present`)"
                )
            if held is None:
                held = batch
            elif batch.size < SHORTEST:
                held = held.join(batch)
            else:
                yield self._count(held)
                held = batch
        if held is None:
            raise InputError("the loader gave no batch; check that the data set is not empty")
        yield self._count(held)

    def _count(self, batch: Batch) -> Batch:
        self.batches += 1
        self.samples += batch.size
        for _, tensor in (*tensors(batch.inputs), *tensors(batch.target)):
            self._hash.update(_bytes(tensor))
        return batch


def _bytes(tensor: Tensor) -> memoryview | bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b""
