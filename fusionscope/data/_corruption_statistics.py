"""What a corruption has to know of a modality's values as a whole, and must not take from one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionscope.errors import InputError

from ._corruption_layouts import check_kind, corruptible, layout, standard


@dataclass(frozen=True)
class CorruptionStatistics:
    """Mean, standard deviation, low and high of each channel (of vectors: each dimension), over samples and places.

    Each is a dict: path within the modality's nest ("" for a bare tensor) to float64 ``[C]``. NaN and infinite values
    are left out. Of a data set: those of its batches, merged.

    Attributes:
        kind: of the modality; it says which axis the channel is.
        count: number of values. mean, sd: of them (sd divides by the count). low, high: smallest and largest.

    >>> parts = [CorruptionStatistics.of(torch.tensor(values)[:, None], "vector") for values in ([0.0, 4.0], [8.0])]
    >>> whole = parts[0].merge(parts[1])
    >>> whole.mean[""].tolist(), whole.low[""].tolist(), whole.high[""].tolist()
    ([4.0], [0.0], [8.0])
    """

    kind: str
    count: dict[str, Tensor]
    mean: dict[str, Tensor]
    sd: dict[str, Tensor]
    low: dict[str, Tensor]
    high: dict[str, Tensor]

    @staticmethod
    def of(values: Any, kind: str) -> CorruptionStatistics:
        """Return the statistics of one batch of a modality.

        Raises:
            InputError: an unknown kind, or values that have not the axes of their kind.
        """
        check_kind(kind)
        found: dict[str, tuple[Tensor, ...]] = {}
        with torch.no_grad():
            for path, tensor in corruptible(values).items() if kind != "tokens" else ():
                form = layout(kind, tensor)
                found[path] = _statistics(standard(tensor, form).transpose(0, form.channel).flatten(1))
        return CorruptionStatistics(kind, *({path: parts[i] for path, parts in found.items()} for i in range(5)))

    def merge(self, other: CorruptionStatistics) -> CorruptionStatistics:
        """Return the statistics of both together.

        Raises:
            InputError: the two are not of the same modality.
        """
        mine, theirs = ({path: len(mean) for path, mean in one.mean.items()} for one in (self, other))
        if self.kind != other.kind or mine != theirs:
            raise InputError(
                f"expected statistics of one modality, got {self.kind} with channels {mine} and {other.kind} with "
                f"channels {theirs}; merge the batches of each modality by themselves"
            )
        found = {path: _merged(*(_parts(one, path) for one in (self, other))) for path in mine}
        return CorruptionStatistics(self.kind, *({path: parts[i] for path, parts in found.items()} for i in range(5)))


@dataclass(frozen=True)
class Scale:
    """The statistics of one tensor, shaped to broadcast over it."""

    mean: Tensor
    sd: Tensor
    low: Tensor
    high: Tensor

    @property
    def range(self) -> Tensor:
        """High - low."""
        return self.high - self.low

    @property
    def divisor(self) -> Tensor:
        """The range, or 1 where all values are the same."""
        return torch.where(self.range > 0, self.range, 1.0)


def scale_of(statistics: CorruptionStatistics, path: str, like: Tensor, axis: int) -> Scale:
    """Return the statistics at ``path`` for a tensor whose channels are at ``axis``.

    Raises:
        InputError: the statistics are of other values.
    """
    channels = like.shape[axis]
    if path not in statistics.mean or len(statistics.mean[path]) != channels:
        known = ", ".join(f"{where or 'the tensor'}: {len(mean)}" for where, mean in statistics.mean.items())
        raise InputError(
            f"expected statistics of {path or 'the tensor'} with {channels} channels, got {known or 'none'}; make them "
            "of this modality: CorruptionStatistics.of(values, kind)"
        )
    view = [1] * like.ndim
    view[axis] = channels
    _, *parts = _parts(statistics, path)
    return Scale(*(part.to(like.device, like.dtype, non_blocking=True).view(view) for part in parts))


def _parts(statistics: CorruptionStatistics, path: str) -> tuple[Tensor, ...]:
    names = ("count", "mean", "sd", "low", "high")
    return tuple(getattr(statistics, name)[path] for name in names)


def _statistics(x: Tensor) -> tuple[Tensor, ...]:
    """Return count, mean, standard deviation, low and high of the rows of ``[C, n]``."""
    if not x.numel():
        return tuple(x.new_zeros(len(x), dtype=torch.float64) for _ in range(5))
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    good = x.isfinite()
    count = good.sum(1).double()
    mean = torch.where(good, x, 0).sum(1, dtype=torch.float64) / count
    apart = torch.where(good, x - mean.to(x.dtype)[:, None], 0)
    # The mean is rounded to the values' type above; what that adds to the squares is taken off again.
    rest = apart.sum(1, dtype=torch.float64) / count
    sd = ((apart * apart).sum(1, dtype=torch.float64) / count - rest**2).clamp(min=0).sqrt()
    low, high = torch.where(good, x, torch.inf).amin(1).double(), torch.where(good, x, -torch.inf).amax(1).double()
    known = count > 0
    return count, *(torch.where(known, part, 0) for part in (mean, sd, low, high))


def _merged(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    second = tuple(part.to(first[0].device) for part in second)
    (n, mean, sd, low, high), (m, mean_, sd_, low_, high_) = first, second
    total = (n + m).clamp(min=1)
    apart = mean_ - mean
    variance = (n * sd**2 + m * sd_**2 + apart**2 * n * m / total) / total
    low = torch.where(n == 0, low_, torch.where(m == 0, low, low.minimum(low_)))
    high = torch.where(n == 0, high_, torch.where(m == 0, high, high.maximum(high_)))
    return n + m, mean + apart * m / total, variance.sqrt(), low, high
