"""How much of a unit's variance the classes explain."""

import torch
from jaxtyping import Float64, Int, Num
from torch import Tensor

from fusionscope.errors import InputError

from ._arrays import ArrayLike, as_tensor

# A spread below 3e-7 of the mean is the rounding of float32 values.
CONSTANT = 1e-13


def variance_shares(
    counts: Num[ArrayLike, "C"], sums: Num[ArrayLike, "*P C U"], squares: Num[ArrayLike, "*P U"]
) -> tuple[Float64[Tensor, "*P cells U"], Float64[Tensor, "*P cells U"]]:
    """Eta squared and its bias-corrected form from class sums, for all classes together and for each against the rest.

    ``η² = SSB/SST`` and ``ε² = (SSB - df_b·MSW)/SST`` with ``MSW = (SST - SSB)/(N - df_b - 1)``; ``df_b`` is the
    number of present classes less one, or 1 for one class against the rest. ``ε²`` has mean about 0 when nothing is
    there and rows are independent. No unit. Source: Kelley 1935, doi:10.1073/pnas.21.9.554; Okada 2013,
    doi:10.2333/bhmk.40.129.

    Args:
        counts: rows of each class.
        sums: sum of each unit over the rows of each class.
        squares: sum of squares of each unit over all rows.

    Returns:
        ``(eta2, epsilon2)``; cell 0 is overall, cell ``c + 1`` is class ``c`` against the rest. NaN where a class is
        absent or alone, where fewer rows than ``df_b + 2`` exist, and for a constant unit.

    >>> import torch
    >>> x, counts = torch.tensor([1.0, 2.0, 3.0, 5.0, 6.0, 7.0]).double(), torch.tensor([3.0, 3.0]).double()
    >>> eta2, epsilon2 = variance_shares(counts, x.view(2, 3, 1).sum(1), x.square().sum()[None])
    >>> eta2.flatten(), epsilon2.flatten()
    (tensor([0.8571, 0.8571, 0.8571], dtype=torch.float64), tensor([0.8214, 0.8214, 0.8214], dtype=torch.float64))
    """
    counts, sums, squares = (as_tensor(t).double() for t in (counts, sums, squares))
    N, n = counts.sum(), counts[:, None]
    mean = sums.sum(-2, keepdim=True) / N
    sst = squares - N * mean.squeeze(-2).square()
    sst = torch.where(sst > CONSTANT * squares, sst, torch.nan).unsqueeze(-2)
    gap = torch.where(n > 0, sums / n - mean, 0.0)
    within = n * gap.square()
    one = torch.where((n > 0) & (n < N), within * N / (N - n), torch.nan)
    present = (counts > 0).sum()
    overall = torch.where(present > 1, within.sum(-2, keepdim=True), torch.nan)
    ssb = torch.cat([overall, one], -2)
    df = torch.cat([(present - 1)[None], torch.ones_like(counts)])[:, None].to(sums)
    spare = torch.where(N - df - 1 > 0, N - df - 1, torch.nan)
    return ssb / sst, (ssb - df * (sst - ssb) / spare) / sst


def eta_squared(
    x: Num[ArrayLike, "n U"], labels: Int[ArrayLike, "n"], classes: int | None = None
) -> tuple[Float64[Tensor, "cells U"], Float64[Tensor, "cells U"]]:
    """Eta squared and epsilon squared of units given one label per row; see ``variance_shares`` for the formula.

    Args:
        x: one row per observation, one column per unit.
        labels: class of each row, negative = left out.
        classes: their number; by default the largest label plus one.

    Raises:
        InputError: a label that is not below ``classes``.

    >>> import torch
    >>> eta2, _ = eta_squared(torch.tensor([[1.0], [1.0], [3.0], [3.0], [99.0]]), torch.tensor([0, 0, 1, 1, -1]))
    >>> eta2.flatten()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    x, labels = as_tensor(x), as_tensor(labels)
    keep = labels >= 0
    x, labels = x[keep].double(), labels[keep].long()
    top = int(labels.max()) + 1 if len(labels) else 0
    C = classes or top
    if top > C:
        raise InputError(f"expected labels below {C}, got {top - 1}; give classes={top} or mark the rows as -1")
    counts = torch.bincount(labels, minlength=C).double()
    sums = torch.zeros(C, x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, labels, x)
    return variance_shares(counts, sums, x.square().sum(0))
