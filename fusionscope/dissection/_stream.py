"""Batches from a user's loader, once, in order, with short ones joined and a fingerprint of what came."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fusionscope._nest import tensors
from fusionscope.batch import Adapter, Batch
from fusionscope.errors import InputError
from fusionscope.tracing import rng_state, set_rng

SHORTEST = 4


class Stream:
    """Iterate a loader as :class:`Batch` of at least 4 samples, its modalities in the order of the first batch.

    Smaller batches are joined until they are 4 samples; what then remains at the end joins the batch before it. Batches
    that cannot be joined (padded to another length, a ``present`` or target of another form) are not: such a remainder
    comes alone, with 1 to 3 samples, and the measures have to skip it.

    ``samples``, ``batches`` and ``fingerprint`` tell what was read so far, ``marks`` the fingerprint after each batch.

    Args:
        expected: the ``marks`` of an earlier reading, which this one has to repeat.

    Raises:
        InputError: (while iterating) if the loader is empty, its batches do not hold the same modalities, or they are
            not those that were expected.
    """

    def __init__(self, loader: Iterable[Any], adapter: Adapter, expected: Sequence[str] | None = None) -> None:
        self.loader, self.adapter, self.expected = loader, adapter, expected
        self.samples = self.batches = 0
        self.marks: list[str] = []
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
        for group in self._groups():
            joined = _joined(held, group) if group.size < SHORTEST else None
            if held is not None and joined is None:
                yield self._count(held)
            held = group if joined is None else joined
        if held is None:
            raise InputError("the loader gave no batch; check that the data set is not empty")
        yield self._count(held)
        if self.expected is not None and self.batches < len(self.expected):
            raise _changed(f"it ended after {self.batches} of {len(self.expected)} batches")

    def _groups(self) -> Iterator[Batch]:
        """Small batches joined up to 4 samples; fewer where the next batch does not fit, and at the end."""
        short: Batch | None = None
        for batch in self._batches():
            group = _joined(short, batch)
            if short is not None and group is None:
                yield short
            group = batch if group is None else group
            short = group if group.size < SHORTEST else None
            if short is None:
                yield group
        if short is not None:
            yield short

    def _batches(self) -> Iterator[Batch]:
        order: tuple[str, ...] = ()
        for number, raw in enumerate(self.loader, 1):
            batch = self.adapter.batch(raw)
            order = order or batch.modalities
            if set(batch.modalities) != set(order):
                raise InputError(
                    f"batch {number} has the modalities {', '.join(batch.modalities)}, the first one "
                    f"{', '.join(order)}; every batch must have the same (mark missing ones with `present`)"
                )
            yield replace(batch, inputs={modality: batch.inputs[modality] for modality in order})

    def _count(self, batch: Batch) -> Batch:
        self.batches += 1
        self.samples += batch.size
        for _, tensor in (*tensors(batch.inputs), *tensors(batch.target)):
            self._hash.update(_bytes(tensor))
        self.marks.append(self.fingerprint)
        if self.expected is not None and self.marks[-1] != dict(enumerate(self.expected, 1)).get(self.batches):
            raise _changed(f"batch {self.batches} is another one")
        return batch


class LoaderState:
    """The random numbers that a loader draws from, so that it can shuffle alike when it is read again."""

    def __init__(self, loader: Any) -> None:
        self.rng = rng_state()
        owners = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))]
        owners.append(getattr(owners[-1], "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        self.own = {id(g): (g, g.get_state()) for g in found if isinstance(g, torch.Generator)}

    def restore(self) -> None:
        """Put all generators back."""
        set_rng(self.rng)
        for generator, state in self.own.values():
            generator.set_state(state)


def _changed(what: str) -> InputError:
    return InputError(
        f"the loader gives other batches when it is read again ({what}): it shuffles or augments differently each "
        "time. Shuffle once with a fixed seed and switch augmentation off, or leave out what reads the data twice: "
        "measures=('similarity', 'selectivity', 'removal')"
    )


def _joined(first: Batch | None, second: Batch) -> Batch | None:
    if first is None:
        return None
    try:
        return first.join(second)
    except InputError:
        return None


def _bytes(tensor: Tensor) -> memoryview | bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b""
