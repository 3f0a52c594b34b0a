"""Which samples each step of a training takes, and reading them."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from ._memory import Memory


class Order:
    """Shuffled batches of one epoch after another, shared out over ranks and parts of a step.

    Every epoch is a new permutation from one seeded generator; a last batch that is not full is left out. What a step
    takes does not depend on the number of ranks and parts: rank r of W computes the samples r, r + W, ... of it.

    Args:
        count: number of samples.
        batch_size: samples per step over all ranks; the nearest lower multiple of ``ranks * parts`` where there are not
            so many samples.
        seed: of the permutations.
        rank: this process's number.
        ranks: number of processes.
        parts: how many parts each process computes its share in.

    Attributes:
        steps: steps per epoch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1, parts: int = 1):
        self.count, self.rank, self.ranks, self.parts = count, rank, ranks, parts
        self.batch = min(batch_size, count // (ranks * parts) * ranks * parts)
        self.steps = count // self.batch if self.batch else 0
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = 0
        self.rows = torch.arange(count)

    def epoch(self, epoch: int, start: int = 0) -> list[list[int]]:
        """Return this rank's samples of the epoch (counted from 1), a list per part, from step ``start`` on.

        Epochs must be asked for in ascending order.
        """
        while self.drawn < epoch:
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # as torch's DataLoader draws
            self.rows = torch.randperm(self.count, generator=self.generator)
            self.drawn += 1
        found = []
        for step in range(start, self.steps):
            mine = self.rows[step * self.batch : (step + 1) * self.batch][self.rank :: self.ranks]
            found += [part.tolist() for part in mine.tensor_split(self.parts)]
        return found


class Feed:
    """Read batches by their samples: from memory at once, else through a ``DataLoader`` whose workers stay."""

    def __init__(self, dataset: Dataset, workers: int = 0, pin: bool = False):
        self.dataset = dataset
        self.lists: list[list[int]] = []
        self.loader = None
        if not isinstance(dataset, Memory):
            self.loader = DataLoader(
                dataset,
                batch_sampler=self,
                collate_fn=default_collate,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=pin,
                generator=torch.Generator(),  # else every epoch would draw from the global one
            )

    def __len__(self) -> int:
        return len(self.lists)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.lists)

    def read(self, lists: list[list[int]]) -> Iterator[dict[str, Any]]:
        """Yield a batch for each list of samples."""
        self.lists = lists
        if self.loader is not None:
            yield from self.loader
            return
        memory = cast(Memory, self.dataset)
        for samples in lists:
            yield memory.__getitems__(samples)


def samples(dataset: Dataset) -> int:
    """How many samples a data set has."""
    return len(cast(Sized, dataset))
