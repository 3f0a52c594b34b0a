"""Second moments of features with concepts, by fold: all that ridge probes need to be fitted, again and again."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Part(NamedTuple):
    """Moments of one fold's rows of a batch, about their own mean; ``scatter`` is None where it is not needed."""

    index: int
    weight: Float[Tensor, ""]
    mean: Float[Tensor, "U"]
    scatter: Float[Tensor, "U U"] | None
    sums: Float[Tensor, "K"]
    cross: Float[Tensor, "U K"]


def members(index: Int[Tensor, "B"], device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Yield each value of ``index`` with the rows that have it."""
    for value in index.unique().tolist():
        yield value, (index == value).nonzero().squeeze(1).to(device)


def moments(
    index: int,
    x: Float[Tensor, "b U n"],
    known: Float[Tensor, "b n"],
    masks: Float[Tensor, "rows K"],
    scatter: bool = True,
) -> Part:
    """Return the moments of the rows ``b·n``, weighted by ``known``; ``masks`` are zero where that is."""
    rows = x.transpose(0, 1).flatten(1)
    weight = known.flatten()
    total = weight.sum()
    mean = (rows @ weight) / total.clamp(min=1e-12)
    rows = rows - mean[:, None]
    weighted = rows * weight
    # Masks already hold the share that is known, so their products take plain rows; unknown rows add nothing.
    return Part(index, total, mean, weighted @ rows.T if scatter else None, masks.sum(0), rows @ masks)


class Centred(NamedTuple):
    """Moments about the mean of some folds: scatter ``S``, cross moments with ``C`` concepts, their prevalence."""

    weight: Float64[Tensor, ""]
    mean: Float64[Tensor, "U"]
    scatter: Float64[Tensor, "U U"]
    cross: Float64[Tensor, "U C"]
    prevalence: Float64[Tensor, "C"]


class Moments(NamedTuple):
    """Moments about the origin, by fold."""

    weight: Float64[Tensor, "F"]
    total: Float64[Tensor, "F U"]
    square: Float64[Tensor, "F U U"]
    sums: Float64[Tensor, "F C"]
    cross: Float64[Tensor, "F U C"]

    def over(self, folds: Sequence[int]) -> Centred:
        """Return the centred moments of some folds together."""
        weight, total, square, sums, cross = (part[list(folds)].sum(0) for part in self)
        mean = total / weight
        return Centred(weight, mean, square - torch.outer(total, mean), cross - torch.outer(mean, sums), sums / weight)


def solve(m: Centred, cross: Float64[Tensor, "U K"], strength: float) -> Float64[Tensor, "U K"]:
    """Return ridge weights ``(S + λ tr(S)/U)⁻¹ cross``, scaled so that their scores have variance 1 on these folds.

    A column is zero where its scores do not vary, NaN where the features are not finite.
    """
    U = len(m.mean)
    level = m.scatter.diagonal().sum() / max(U, 1)
    if not bool(level > 0):
        return torch.zeros_like(cross) if bool(level == 0) else torch.full_like(cross, torch.nan)
    ridge = m.scatter + torch.eye(U, dtype=torch.float64, device=cross.device) * (strength * level)
    factor, failed = torch.linalg.cholesky_ex(ridge)
    if int(failed):
        return torch.full_like(cross, torch.nan)
    weights = torch.cholesky_solve(cross, factor)
    power = (weights * (m.scatter @ weights)).sum(0) / m.weight
    # Targets lie in [0, 1]: scores that vary by less than this are rounding.
    return torch.where(power > 1e-18, weights / power.clamp(min=1e-18).sqrt(), 0.0)


def choose_strength(moments: Moments, sides: Sequence[Sequence[int]]) -> float:
    """Return the λ with the least squared error of one side's probes on the other, summed over concepts.

    Each concept's error counts in units of its variance.
    """
    error = dict.fromkeys(STRENGTHS, 0.0)
    parts = [moments.over(side) for side in sides]
    for fit, test in (parts, parts[::-1]):
        variance = test.weight * test.prevalence * (1 - test.prevalence)
        U = len(fit.mean)
        level = fit.scatter.diagonal().sum() / max(U, 1)
        eye = torch.eye(U, dtype=torch.float64, device=level.device)
        for strength in STRENGTHS:
            factor, failed = torch.linalg.cholesky_ex(fit.scatter + eye * (strength * level))
            if int(failed):
                error[strength] = float("inf")
                continue
            w = torch.cholesky_solve(fit.cross, factor)
            lost = (w * (test.scatter @ w)).sum(0) - 2 * (w * test.cross).sum(0)
            error[strength] += float(torch.where(variance > 0, lost / variance.clamp(min=1e-12), 0.0).sum())
    return min(error, key=lambda strength: (error[strength] != error[strength], error[strength]))
