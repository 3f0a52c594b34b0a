"""How alike two representations of the same samples are, beyond CKA."""

import torch
from jaxtyping import Float64, Num
from torch import Tensor

from fusionscope.errors import InputError

from ._arrays import ArrayLike, paired
from ._cka import check_word
from ._factors import knn_factor, procrustes_factor, rsa_factor, svcca_factor
from ._variance import CONSTANT


def nuclear(M: Float64[Tensor, "a b"]) -> Float64[Tensor, ""]:
    """Sum of singular values; NaN where an entry is."""
    return torch.linalg.svdvals(M).sum() if M.isfinite().all() else M.new_tensor(torch.nan)


def procrustes(x: Num[ArrayLike, "n *xfeatures"], y: Num[ArrayLike, "n *yfeatures"]) -> Float64[Tensor, ""]:
    """Orthogonal Procrustes similarity: how well a rotation, shift and scale lay one representation on the other.

    ``||XcᵀYc||_* / (||Xc||_F ||Yc||_F)``, the nuclear norm of the product of column-centred features; in [0, 1], no
    unit. The smallest ``||Xc/||Xc|| - Yc/||Yc|| Q||²`` over orthogonal ``Q`` is 2 less twice this value (features
    padded with zeros to a common width). Invariant to rotation, isotropic scale and translation of either side. For
    fewer samples than features it is large whatever the data: compare it with its null. NaN where one side is
    constant or not finite. Source: Schönemann 1966, doi:10.1007/BF02289451; arXiv 2108.01661.

    Args:
        x, y: features, one sample per row; locations are flattened into features.

    Raises:
        InputError: other numbers of samples.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    >>> round(procrustes(x, x[:, [1, 0]] * 3 + 5).item(), 6)
    1.0
    """
    a, b = (procrustes_factor(t) for t in paired(x, y))
    return nuclear(a.T @ b) if len(a) else a.new_tensor(torch.nan)


def svcca(
    x: Num[ArrayLike, "n *xfeatures"], y: Num[ArrayLike, "n *yfeatures"], keep: float = 0.99
) -> Float64[Tensor, ""]:
    """Singular vector canonical correlation: mean canonical correlation of the directions that carry the variance.

    Each side is centred and reduced to its first singular directions that hold at least the share ``keep`` of its
    variance, ``a`` and ``b`` of them; the mean is over the ``min(a, b)`` canonical correlations ``svd(UxᵀUy)`` of their
    orthonormal bases. In [0, 1], no unit. Invariant to rotation, isotropic scale and translation, and with ``keep=1``
    to every invertible linear map. Source: arXiv 1706.05806.

    NaN where one side is constant or not finite, and where ``a + b > n - 1``: so many directions of ``n`` samples meet
    in any case, and their correlations say nothing.

    Args:
        x, y: features, one sample per row; locations are flattened into features.
        keep: share of the variance, above 0 and at most 1.

    Raises:
        InputError: ``keep`` out of range, or other numbers of samples.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [3, 5]])
    >>> round(svcca(x, x @ torch.tensor([[1.0, 9], [0, 1]]), keep=1.0).item(), 6)
    1.0
    """
    if not 0 < keep <= 1:
        raise InputError(f"expected 0 < keep <= 1, a share of the variance, got {keep}")
    a, b = (svcca_factor(t, keep) for t in paired(x, y))
    ranks = a.shape[1] + b.shape[1]
    return nuclear(a.T @ b) / min(a.shape[1], b.shape[1]) if ranks < len(a) else a.new_tensor(torch.nan)


def rsa(
    x: Num[ArrayLike, "n *xfeatures"], y: Num[ArrayLike, "n *yfeatures"], distance: str = "correlation"
) -> Float64[Tensor, ""]:
    """Representational similarity: Spearman's correlation of the two dissimilarity matrices, over pairs of samples.

    "correlation" is ``1 - r`` with Pearson's ``r`` between two samples over their features: invariant to scale and to
    what is added to all features of a sample, not to rotation. "euclidean" is invariant to rotation, isotropic scale
    and translation. In [-1, 1], no unit; ties get their mean rank. Source: Kriegeskorte et al. 2008,
    doi:10.3389/neuro.06.004.2008.

    NaN with fewer than 3 samples, where samples do not differ, are not finite or all equally distant, and for
    "correlation" with fewer than 3 features or a sample whose features are all equal.

    Args:
        x, y: features, one sample per row; locations are flattened into features.
        distance: "correlation" or "euclidean".

    Raises:
        InputError: an unknown distance, or other numbers of samples.

    >>> import torch
    >>> x = torch.tensor([[0.0, 1, 5], [2, 4, 1], [3, 3, 9], [7, 0, 2]])
    >>> round(rsa(x, 2 * x + 1).item(), 6), round(rsa(x[:, :1], x[:, 1:], distance="euclidean").item(), 6)
    (1.0, -0.828571)
    """
    check_word("distance", distance, ("correlation", "euclidean"))
    a, b = (rsa_factor(t, distance) for t in paired(x, y))
    return (a * b).sum() if len(a) > 2 else a.new_tensor(torch.nan)


def mutual_knn(
    x: Num[ArrayLike, "n *xfeatures"], y: Num[ArrayLike, "n *yfeatures"], k: int = 10, distance: str = "cosine"
) -> Float64[Tensor, ""]:
    """Mean share of a sample's ``k`` nearest neighbours that it has in common in both representations.

    ``(1/n) Σ_i |N_x(i) ∩ N_y(i)| / k``; in [0, 1], about ``k/(n-1)`` by chance, no unit. Invariant to rotation and
    isotropic scale, with "euclidean" also to translation. Samples that tie for the last places share them, so the value
    is what ties broken at random give on average, and the order of samples does not matter (with such ties a
    representation's value with itself is below 1). Source: arXiv 2405.07987, which takes the cosine.

    NaN with fewer than ``k + 2`` samples, where samples do not differ or are not finite, and for "cosine" with a
    sample whose features are all 0.

    Args:
        x, y: features, one sample per row; locations are flattened into features.
        k: number of neighbours.
        distance: "cosine" or "euclidean".

    Raises:
        InputError: ``k`` below 1, an unknown distance, or other numbers of samples.

    >>> import torch
    >>> x, y = torch.tensor([[0.0], [1], [3], [7], [15]]), torch.tensor([[0.0], [1], [15], [7], [3]])
    >>> round(mutual_knn(x, y, k=1, distance="euclidean").item(), 6)
    0.4
    """
    check_word("distance", distance, ("cosine", "euclidean"))
    if k < 1:
        raise InputError(f"expected k >= 1 neighbours, got {k}")
    a, b = (knn_factor(t, k, distance) for t in paired(x, y))
    return (a * b).sum() if len(a) else a.new_tensor(torch.nan)


def channel_correlation(x: Num[ArrayLike, "n U"], y: Num[ArrayLike, "n U"]) -> Float64[Tensor, "U"]:
    """Pearson's correlation of each channel with the channel of the same number, over samples.

    ``Σ_i (x_iu - x̄_u)(y_iu - ȳ_u) / sqrt(Σ_i (x_iu - x̄_u)² Σ_i (y_iu - ȳ_u)²)``; in [-1, 1], no unit. Of use only
    where channels correspond, as in a shared encoder. Invariant to translation and positive scale of each channel;
    not to rotation, nor to another order of channels on one side. NaN for a channel that is constant or not finite on
    either side, and with fewer than 2 samples.

    Args:
        x, y: one row per sample or location, one column per channel.

    Raises:
        InputError: other numbers of samples or channels.

    >>> import torch
    >>> x = torch.tensor([[1.0, 4], [2, 4], [3, 4]])
    >>> channel_correlation(x, 5 - 2 * x)
    tensor([-1.0000,     nan], dtype=torch.float64)
    """
    a, b = paired(x, y)
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"expected the same channels on both sides, got {a.shape[1]} and {b.shape[1]}; where channels do not "
            "correspond use cka, procrustes or svcca"
        )
    if not len(a):
        return a.new_full(a.shape[1:], torch.nan)
    sides = []
    for t in (a, b):
        y0 = t - t[0]
        y0 = y0 - y0.mean(0)
        spread = y0.square().sum(0)
        sides.append(y0 / torch.where(spread > CONSTANT * t.square().sum(0), spread, torch.nan).sqrt())
    return (sides[0] * sides[1]).sum(0)
