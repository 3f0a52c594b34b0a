"""What single units and whole taps do: class selectivity, effective rank."""

import numpy as np
import torch
from jaxtyping import Float64, Num
from torch import Tensor

from fusionscope.errors import InputError

from ._arrays import as_tensor

Array = np.ndarray
EPS = 1e-7


def class_selectivity_index(class_means: Num[Tensor, "K U"] | Num[Array, "K U"]) -> Float64[Tensor, "U"]:
    """Class selectivity index of each unit, from its mean activation in each class.

    ``CSI = (μ_max - μ_rest) / (μ_max + μ_rest + 1e-7)``; ``μ_max`` is the largest class mean, ``μ_rest`` the mean of
    the others. No unit: 0 for a unit that answers to all classes alike (and for a dead one), 1 for one that answers to
    a single class. It is defined for activations that are never negative (after a ReLU), so a unit with a negative
    class mean is NaN, as is one with a mean that is not finite, and every unit where there are fewer than two classes.
    Source: Morcos et al. 2018, arXiv 1803.06959.

    Args:
        class_means: mean activation of each unit over the samples of each class; leave absent classes out.

    >>> class_selectivity_index(torch.tensor([[3.0, 1.0, -1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 2.0]])).round(decimals=4)
    tensor([0.5000, 0.0000,    nan], dtype=torch.float64)
    """
    means = as_tensor(class_means).double()
    K, U = means.shape
    if K < 2:
        return means.new_full((U,), torch.nan)
    largest = means.max(0).values
    rest = (means.sum(0) - largest) / (K - 1)
    sound = ((means >= 0) & means.isfinite()).all(0)
    return torch.where(sound, (largest - rest) / (largest + rest + EPS), torch.nan)


def effective_rank(x: Num[Tensor, "N U"] | Num[Array, "N U"], *, covariance: bool = False) -> float:
    """Effective rank of features: how many directions of equal strength would spread as evenly.

    ``exp(-Σ_i p_i ln p_i)`` with ``p_i = σ_i / Σ_j σ_j`` and ``σ`` the singular values of the features centred over
    samples, which are the square roots of their covariance's eigenvalues up to a factor. No unit; between 1 and U.
    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO.

    Args:
        x: features of N samples; or, with ``covariance=True``, their covariance ``[U, U]`` or a positive multiple.
        covariance: what ``x`` is.

    Returns:
        NaN where nothing varies or a value is not finite.

    Raises:
        InputError: a covariance that is not square.

    >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])), 4)  # p = 1/4, 3/4
    1.7548
    """
    strength = _spectrum(x, covariance).sqrt()
    p = strength / strength.sum()
    return float(torch.special.entr(p).sum().exp()) if len(p) else float("nan")


def participation_ratio(x: Num[Tensor, "N U"] | Num[Array, "N U"], *, covariance: bool = False) -> float:
    """Participation ratio of features: ``tr(C)² / tr(C²)``, C their covariance. No unit; between 1 and U.

    It weighs variances where the effective rank weighs standard deviations, so it is never larger than that.

    Args:
        x: features of N samples; or, with ``covariance=True``, their covariance ``[U, U]`` or a positive multiple.
        covariance: what ``x`` is.

    Returns:
        NaN where nothing varies or a value is not finite.

    Raises:
        InputError: a covariance that is not square.

    >>> round(participation_ratio(torch.diag(torch.tensor([1.0, 9.0])), covariance=True), 4)  # 100 / 82
    1.2195
    """
    strength = _spectrum(x, covariance)
    return float(strength.sum() ** 2 / strength.square().sum()) if len(strength) else float("nan")


def _spectrum(x: Tensor | Array, covariance: bool) -> Tensor:
    """Eigenvalues of the covariance above its rounding; none where nothing varies or a value is not finite."""
    x = as_tensor(x).double()
    if covariance and x.shape[0] != x.shape[1]:
        raise InputError(
            f"expected a covariance [U, U], got shape {tuple(x.shape)}; leave out covariance=True for features [N, U]"
        )
    if not x.numel() or not bool(x.isfinite().all()):
        return x.new_zeros(0)
    if covariance:
        values, floor = torch.linalg.eigvalsh(x), 0.0
    else:
        y = x - x.mean(0)
        values, floor = torch.linalg.svdvals(y).square(), float(x.square().sum()) * 1e-30
    floor = max(floor, float(values.max()) * max(x.shape) * torch.finfo(x.dtype).eps)
    return values[values > floor]
