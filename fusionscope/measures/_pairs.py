"""What instruments that compare pairs of taps have in common."""

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from fusionscope.errors import InputError

from ._instrument import Instrument
from .functional._cka import check_word


def check_taps(taps: Iterable[str]) -> tuple[str, ...]:
    """Return the names of taps.

    Raises:
        InputError: none, or one twice.
    """
    names = tuple(taps)
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected one or more taps with different names, got {names}")
    return names


def check_reduced(reduced: Collection[str], taps: Collection[str]) -> None:
    """Raise an error where a batch brings other taps than it should."""
    if set(reduced) != set(taps):
        raise InputError(f"expected exactly the taps {list(taps)}, got {list(reduced)}; reduce each of them")


def pair_reasons(rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Join the reasons of both sides of each pair ``[L, A]``; each is said once."""
    joined = [["; ".join(dict.fromkeys(filter(None, (a, b)))) for b in columns] for a in rows]
    return np.array(joined, dtype=str).reshape(len(rows), len(columns))


class Combining(Instrument):
    """An instrument whose states are not plain sums: ``_combine`` joins the states of two parts into those of one."""

    @classmethod
    def _combine(cls, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            mine = {name: getattr(self, name) for name in self._defaults}
            theirs = {name: incoming_state[name].to(self.device).clone() for name in self._defaults}
            self._keep(self._combine(mine, theirs))

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None) -> None:
        group = process_group or self.process_group
        gathered = {name: dist_sync_fn(getattr(self, name), group=group) for name in self._defaults}
        ranks = [dict(zip(gathered, values, strict=True)) for values in zip(*gathered.values(), strict=True)]
        self._keep(functools.reduce(self._combine, ranks))

    def _keep(self, states: dict[str, Tensor]) -> None:
        for name, value in states.items():
            setattr(self, name, value)


class Rows(NamedTuple):
    """One tap's batch: a row per sample or per cell of the common grid; none where the tap has other location axes."""

    rows: Float64[Tensor, "n U"]
    fits: bool = True


def check_rows(rows: str, grid: int | Sequence[int]) -> tuple[int, ...]:
    """Return the grid that rows are taken from, () for whole samples.

    Raises:
        InputError: an unknown word, or a grid without cells.
    """
    check_word("rows", rows, ("image", "location"))
    cells = (grid, grid) if isinstance(grid, int) else tuple(grid)
    if not cells or min(cells) < 1:
        raise InputError(f"expected a grid of at least one cell per axis, got {grid}; give grid=4 or grid=(4, 4)")
    return () if rows == "image" else cells


def take_rows(x: Tensor, grid: tuple[int, ...]) -> Rows:
    """Return samples averaged over locations, or the cells of ``grid``: averages where the tap is finer, else nearest.

    A cell averages the locations that it touches, as adaptive average pooling does.
    """
    if not grid:
        return Rows(x.flatten(2).mean(2, dtype=torch.float64) if x.ndim > 2 else x.to(torch.float64, copy=True))
    if x.ndim - 2 != len(grid):
        return Rows(x.new_zeros(0, x.shape[1], dtype=torch.float64), False)
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    for axis, cells in enumerate(grid, 2):
        size = x.shape[axis]
        weight = torch.zeros(cells, size, dtype=x.dtype)
        for cell in range(cells):
            start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
            if size < cells:
                start = (2 * cell + 1) * size // (2 * cells)
                stop = start + 1
            weight[cell, start:stop] = 1 / (stop - start)
        x = torch.tensordot(x, weight.to(x.device), ([axis], [1])).movedim(-1, axis)
    return Rows(x.flatten(2).transpose(1, 2).flatten(0, 1).double())
