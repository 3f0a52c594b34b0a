"""Which sample is which: hashes that do not depend on the process, folds, and the subsample that merges exactly."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def mix(values: np.ndarray, seed: int) -> np.ndarray:
    """Hash unsigned 64-bit integers (SplitMix64: Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195).

    >>> int(mix(np.arange(3, dtype=np.uint64), 0)[0])
    16294208416658607535
    """
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * (seed & 0xFFFFFFFF) + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def sample_hash(size: int, index: int, seed: int) -> Int[Tensor, "B"]:
    """Return a non-negative hash of each sample of batch ``index``; its place in the run identifies a sample."""
    place = (np.uint64(index) << np.uint64(32)) + np.arange(size, dtype=np.uint64)
    return torch.from_numpy((mix(place, seed) >> np.uint64(1)).astype(np.int64))


def folds_of(size: int, index: int, seed: int, folds: int, group: Tensor | None = None) -> Int[Tensor, "B"]:
    """Return the fold of each sample, by the hash of its group where there is one, so that no group is split."""
    if group is None:
        return sample_hash(size, index, seed) % folds
    hashed = mix(group.detach().cpu().numpy().astype(np.int64).view(np.uint64), seed)
    return torch.from_numpy((hashed % np.uint64(folds)).astype(np.int64))


def smallest(keys: Int[Tensor, "n"], parts: Sequence[Tensor], k: int) -> tuple[Tensor, list[Tensor]]:
    """Return the ``k`` samples with the smallest hashes, in the order of their hashes: the same for any merge order."""
    order = keys.argsort()[:k]
    return keys[order], [part[order] for part in parts]
