"""Several processes that measure one model on one common partition of the batches."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from fusionscope.errors import InputError


def place() -> tuple[int, int]:
    """Return this process's rank and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def same_batches(fingerprint: str) -> None:
    """Check that every rank has read the same batches.

    Raises:
        InputError: if one has not: the loader shuffles differently there, or already deals out the data.
    """
    if place()[1] == 1:
        return
    found: list[str | None] = [None] * place()[1]
    distributed.all_gather_object(found, fingerprint)
    if len(set(found)) > 1:
        raise InputError(
            "the ranks were given different batches; give every rank the same loader (no DistributedSampler, and "
            "shuffle with one fixed seed): the batches are dealt out here"
        )


def gathered(rows: list[Any]) -> list[Any]:
    """Return the rows of all ranks, those of rank 0 first."""
    if place()[1] == 1:
        return list(rows)
    found: list[list[Any]] = [[] for _ in range(place()[1])]
    distributed.all_gather_object(found, rows)
    return [row for part in found for row in part]


@contextmanager
def launched(device: str) -> Generator[str, None, None]:
    """Join the processes that torchrun started, if it did; yields the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or place()[1] > 1:
        yield device
        return
    cuda = device.startswith("cuda") or (not device and torch.cuda.is_available())
    distributed.init_process_group("nccl" if cuda else "gloo")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    try:
        yield f"cuda:{local}" if cuda and ":" not in device else device
    finally:
        distributed.destroy_process_group()
