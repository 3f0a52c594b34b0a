"""The rows with the smallest hashes: a random subsample of a whole run that merges exactly."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._pairs import Combining
from ._samples import smallest
from ._whole_cka import check_widths


class Subsample(Combining):
    """An instrument that keeps some rows of all taps; ``parts`` names the states that have one entry per kept row.

    The first of them, ``vectors``, holds all taps side by side, in columns of the ``widths``.
    """

    parts: tuple[str, ...] = ("vectors",)
    keys: Tensor
    vectors: Tensor
    widths: Tensor
    tally: Tensor
    limit: Tensor

    def _start(self, columns: int, samples: int) -> None:
        self.samples = samples
        self._halves: dict[str, tuple[Tensor | None, Tensor | None]] = {}  # of a part: in use, to be filled next
        self.add_state("limit", torch.tensor([samples]), "sum")
        self.add_state("keys", torch.zeros(0, dtype=torch.int64), "sum")
        self.add_state("vectors", torch.zeros(0, 0, dtype=torch.float64), "sum")
        self.add_state("widths", torch.zeros(columns, dtype=torch.int64), "sum")
        self.add_state("tally", torch.zeros(2, dtype=torch.int64), "sum")  # samples, batches

    def _picked(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows of a batch may belong to the subsample, and their hashes: none above its largest one."""
        keys, (picked,) = smallest(keys, [torch.arange(len(keys))], self.samples)
        if len(self.keys) >= self.samples:
            below = keys < int(self.keys.max())
            keys, picked = keys[below], picked[below]
        return picked.to(self.device), keys.to(self.device)

    def _add_rows(self, names: Sequence[str], keys: Tensor, columns: Sequence[Tensor], *others: Tensor) -> None:
        """Add rows: ``columns`` side by side to ``vectors``, ``others`` to the other parts."""
        sides = [part.to(self.device) for part in columns]
        widths = torch.tensor([part.shape[1] for part in sides], device=self.device)
        with torch.inference_mode(False):
            if not self.widths.any():
                self.widths = widths
                self.vectors = torch.zeros(0, int(widths.sum()), dtype=torch.float64, device=self.device)
            check_widths(names, self.widths, widths)
            new = [torch.cat(sides, 1), *(other.to(self.device) for other in others)]
            rows = torch.arange(len(self.keys) + len(keys), device=self.device)
            self.keys, (order,) = smallest(torch.cat([self.keys, keys]), [rows], self.samples)
            for name, part in zip(self.parts, new, strict=True):
                setattr(self, name, self._refilled(name, part, order))

    def _refilled(self, name: str, new: Tensor, order: Tensor) -> Tensor:
        """Return the kept rows, in one of two buffers of full size: growing tensors would leave memory in pieces."""
        old, shape = getattr(self, name), (self.samples, *new.shape[1:])
        at, target = self._halves.get(name, (None, None))
        if target is None or target.shape != shape or target.dtype != new.dtype or target.device != new.device:
            target = new.new_empty(shape)
        known = order < len(old)
        kept = target[: len(order)]
        kept[known] = old[order[known]]
        kept[~known] = new[order[~known] - len(old)]
        self._halves[name] = (target, at if at is not None and at.data_ptr() == old.data_ptr() else None)
        return kept

    @classmethod
    def _combine(cls, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        if not (a["widths"].any() and b["widths"].any()):
            return a if a["widths"].any() else b
        check_widths([f"tap {i}" for i in range(len(a["widths"]))], a["widths"], b["widths"])
        keys = torch.cat([a["keys"], b["keys"]])
        keys, kept = smallest(keys, [torch.cat([a[name], b[name]]) for name in cls.parts], int(a["limit"]))
        return a | {"keys": keys, "tally": a["tally"] + b["tally"]} | dict(zip(cls.parts, kept, strict=True))

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        raise NotImplementedError
