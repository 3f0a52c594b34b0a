"""Correlation of corresponding channels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fusionscope.errors import InputError

from ._pairs import Combining, Rows, check_reduced, check_rows, take_rows
from ._whole_cka import RowsContext, check_widths
from .functional._variance import CONSTANT

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class PairChannels:
    """One pair of taps: Pearson's ``correlation [U]`` of each channel, its ``mean`` over channels that have one.

    ``null_high`` is what the largest ``|correlation|`` of any channel of any pair exceeds by chance with probability
    ``alpha`` (NaN for location rows). ``reason`` and ``unit_reason [U]`` say why something is NaN.
    """

    correlation: Float64[Array, "U"]
    mean: float
    null_high: float
    reason: str
    unit_reason: Any


@dataclass(frozen=True, eq=False)
class ChannelCorrelationResult:
    """Every pair ``(a, b)`` of taps, and how many rows they share."""

    pairs: dict[tuple[str, str], PairChannels]
    rows: int
    samples: int
    batches: int


class ChannelCorrelation(Combining):
    """Correlation of each channel of one tap with the channel of the same number of another.

    ``r_u = Σ (x_u - x̄_u)(y_u - ȳ_u) / sqrt(Σ (x_u - x̄_u)² Σ (y_u - ȳ_u)²)`` over rows. In [-1, 1], no unit. For taps
    whose channels correspond: two modalities in one shared encoder, or the same call in two trainings that began alike.
    A row is a sample averaged over its locations, or a cell of a common ``grid`` (see ``CKA``).

    The null is Student's distribution of ``r`` for independent rows, with Bonferroni's correction over all channels of
    all pairs; none is given for location rows, which are not independent. Moments are kept in float64 about running
    means (Chan et al. 1983, doi:10.1080/00031305.1983.10483115).

    Args:
        pairs: of tap names.
        rows: "image", one row per sample, or "location".
        grid: cells per location axis; a number stands for two axes.
        alpha: level of the bound.

    Raises:
        InputError: settings out of range, unknown or missing taps, or a pair whose channels are not equally many.

    >>> import torch
    >>> metric = ChannelCorrelation([("a", "b")])
    >>> x, context = torch.tensor([[1.0, 4], [2, 4], [3, 4]]), metric.context(3, None, 0)
    >>> metric.update({"a": metric.reduce(x, context), "b": metric.reduce(5 - 2 * x, context)}, context)
    >>> metric.compute().pairs["a", "b"].correlation.round(6)
    array([-1., nan])
    """

    moments: Tensor
    widths: Tensor
    misfits: Tensor
    tally: Tensor

    def __init__(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        rows: str = "image",
        grid: int | Sequence[int] = 4,
        alpha: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pairs = tuple((a, b) for a, b in pairs)
        if not self.pairs or len(set(self.pairs)) < len(self.pairs) or not 0 < alpha < 1:
            raise InputError(f"expected one or more different pairs and 0 < alpha < 1, got {self.pairs} and {alpha}")
        self.taps = tuple(dict.fromkeys(tap for pair in self.pairs for tap in pair))
        self.grid, self.alpha = check_rows(rows, grid), alpha
        P = len(self.pairs)
        # Rows: means of x and y, sums of centred x², y², xy, and the sums of x² and y² about 0.
        self.add_state("moments", torch.zeros(7, 0, dtype=torch.float64), "sum")
        self.add_state("widths", torch.zeros(P, dtype=torch.int64), "sum")
        self.add_state("misfits", torch.zeros(P, dtype=torch.int64), "sum")
        self.add_state("tally", torch.zeros(3, dtype=torch.int64), "sum")  # rows, samples, batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {"pairs": self.pairs, "grid": self.grid, "alpha": self.alpha}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> RowsContext:
        """Return the batch's size; nothing else is used."""
        return RowsContext(size)

    def _reduce(self, features: Tensor, context: RowsContext, tap: str) -> Rows:
        return take_rows(features, self.grid)

    def update(self, reduced: dict[str, Rows], context: RowsContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        n = context.size * int(np.prod(self.grid, dtype=int))
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for a, b in self.pairs:
            U, V = reduced[a].rows.shape[1], reduced[b].rows.shape[1]
            if U != V:
                raise InputError(
                    f"expected pairs of taps with corresponding channels, got {U} of {a!r} and {V} of {b!r}; compare "
                    "these by CKA or PairwiseSimilarity"
                )
            for side, tap in zip(sides, (a, b), strict=True):
                rows = reduced[tap].rows.to(self.device)
                side.append(rows if reduced[tap].fits else rows.new_full((n, U), torch.nan))
        X, Y = (torch.cat(side, 1) for side in sides)
        new = dict(self.empty(), tally=torch.tensor([n, context.size, 1], device=self.device))
        new["widths"] = torch.tensor([part.shape[1] for part in sides[0]], device=self.device)
        new["misfits"] = torch.tensor(
            [int(not (reduced[a].fits and reduced[b].fits)) for a, b in self.pairs], device=self.device
        )
        x, y = X.mean(0), Y.mean(0)
        squares = [(X - x).square().sum(0), (Y - y).square().sum(0), ((X - x) * (Y - y)).sum(0)]
        new["moments"] = torch.stack([x, y, *squares, X.square().sum(0), Y.square().sum(0)])
        with torch.inference_mode(False):
            states = self._combine(self.empty() | {k: getattr(self, k) for k in self._defaults}, new)
            self._keep({name: value.clone() for name, value in states.items()})

    def empty(self) -> dict[str, Tensor]:
        """The states of an instrument that has seen nothing."""
        return {name: value.to(self.device) for name, value in self._defaults.items() if isinstance(value, Tensor)}

    @classmethod
    def _combine(cls, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        if not (a["tally"][0] and b["tally"][0]):
            return a if a["tally"][0] else b
        check_widths([f"pair {i}" for i in range(len(a["widths"]))], a["widths"], b["widths"])
        n, m = a["tally"][0].double(), b["tally"][0].double()
        A, B = a["moments"], b["moments"]
        dx, dy = B[0] - A[0], B[1] - A[1]
        means = torch.stack([A[0] + dx * m / (n + m), A[1] + dy * m / (n + m)])
        between = torch.stack([dx * dx, dy * dy, dx * dy]) * (n * m / (n + m))
        moments = torch.cat([means, A[2:5] + B[2:5] + between, A[5:] + B[5:]])
        added = {name: a[name] + b[name] for name in ("misfits", "tally")}
        return a | added | {"moments": moments}

    def compute(self) -> ChannelCorrelationResult:
        """Return every pair."""
        n, samples, batches = (int(v) for v in self.tally)
        moments = self.moments.cpu().numpy()
        xx, yy, xy = moments[2:5]
        with np.errstate(invalid="ignore"):
            flat = ~((xx > CONSTANT * moments[5]) & (yy > CONSTANT * moments[6]))
        flat &= np.isfinite(moments).all(0)
        r = xy / np.sqrt(np.where(flat, np.nan, xx)) / np.sqrt(np.where(flat, np.nan, yy))
        high = self._bound(n, int(np.isfinite(r).sum()))
        units = np.where(np.isfinite(r), "", np.where(flat, "constant", "not finite"))
        pairs, start = {}, 0
        for i, width in enumerate(self.widths.tolist()):
            part = slice(start, start := start + width)
            some = np.isfinite(r[part])
            mean = float(r[part][some].mean()) if some.any() else float("nan")
            reason = ""
            if not some.any():
                reason = "every channel is " + " or ".join(sorted(set(units[part]) - {""}))
            if self.misfits[i]:
                reason = f"a tap's location axes do not match the grid {self.grid}"
            if not batches:
                reason = "no batch was seen"
            elif n < 2:
                reason = "fewer than 2 rows"
            pairs[self.pairs[i]] = PairChannels(r[part], mean, high, reason, units[part])
        return ChannelCorrelationResult(pairs, n, samples, batches)

    def _bound(self, n: int, channels: int) -> float:
        from scipy.special import stdtrit

        if self.grid or n < 3 or not channels:
            return float("nan")
        t = stdtrit(n - 2, 1 - self.alpha / (2 * channels))
        return float(t / np.sqrt(n - 2 + t**2))
