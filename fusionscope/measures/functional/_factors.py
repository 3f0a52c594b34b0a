"""What each similarity measure needs of one side, so that pairs and permutations of samples only cost a product.

A factor is NaN everywhere where its side has no value. Factors ``[n, r]`` are compared by the nuclear norm of ``AᵀB``,
square ones ``[n, n]`` by the inner product; permuting samples permutes rows, of square ones also columns.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from ._cka import ROUNDING, centred_gram, rbf_gram, u_center
from ._variance import CONSTANT

Features = Float64[Tensor, "n D"]
# Dissimilarities closer than this share of the largest are ties: they differ by rounding.
GRAIN = 2.0**-40


def centred(x: Features) -> Features:
    """Return ``x`` less its mean, its largest entry scaled to 1; NaN where samples do not differ or are not finite."""
    y = x - x[:1]
    y = y - y.mean(0)
    if not y.numel():
        return y * torch.nan
    largest = y.abs().amax()
    top = x.abs().amax()
    return y / torch.where((largest > CONSTANT**0.5 * top) & largest.isfinite(), largest, torch.nan)


def nothing(x: Features, *shape: int) -> Tensor:
    return x.new_full(shape or (len(x), 1), torch.nan)


def thin(y: Features) -> tuple[Float64[Tensor, "n r"], Float64[Tensor, "r"]]:
    """Left singular vectors and singular values of finite ``y``."""
    U, s, _ = torch.linalg.svd(y, full_matrices=False)
    return U, s


def procrustes_factor(x: Features) -> Float64[Tensor, "n r"]:
    """``U diag(s)`` of the centred features, of Frobenius norm 1."""
    y = centred(x)
    if not y.isfinite().all() or not y.numel():
        return nothing(x)
    if y.shape[1] > y.shape[0]:
        U, s = thin(y)
        y = U * s
    return y / torch.linalg.vector_norm(y)


def svcca_factor(x: Features, keep: float) -> Float64[Tensor, "n r"]:
    """Orthonormal basis of the directions that hold the share ``keep`` of the variance."""
    y = centred(x)
    if not y.isfinite().all() or not y.numel():
        return nothing(x)
    U, s = thin(y)
    rank = int((s > s[0] * max(y.shape) * torch.finfo(s.dtype).eps).sum())
    share = s.square().cumsum(0) / s.square().sum()
    return U[:, : min(rank, int((share < keep - 1e-12).sum()) + 1)]


def dissimilarity(x: Features, distance: str) -> Float64[Tensor, "n n"]:
    """Squared Euclidean distances, or 1 less Pearson's correlation over units or the cosine; NaN where undefined."""
    y = centred(x)
    if distance == "euclidean":
        K = y @ y.T
        own = K.diagonal()
        return own[:, None] + own - 2 * K
    rows = x - x.mean(1, keepdim=True) if distance == "correlation" else x
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    limit = CONSTANT**0.5 * torch.linalg.vector_norm(x, dim=1, keepdim=True)
    rows = rows / torch.where(length > limit, length, torch.nan)
    return 1 - rows @ rows.T + 0.0 * y.sum()


def rsa_factor(x: Features, distance: str) -> Float64[Tensor, "n n"]:
    """Centred ranks of the dissimilarities, zero on the diagonal, of Frobenius norm 1."""
    n = len(x)
    D = dissimilarity(x, distance)
    rows, columns = torch.triu_indices(n, n, 1, device=x.device)
    pairs = D[rows, columns]
    if not len(pairs) or not D.isfinite().all() or (distance == "correlation" and x.shape[1] < 3):
        return nothing(x, n, n)
    _, place, counts = (pairs / (pairs.abs().amax() * GRAIN)).round().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2).double()[place]
    ranks = ranks - ranks.mean()
    if len(counts) < 2:
        return nothing(x, n, n)
    out = torch.zeros_like(D)
    out[rows, columns] = ranks / (torch.linalg.vector_norm(ranks) * 2**0.5)
    return out + out.T


def knn_factor(x: Features, k: int, distance: str) -> Float64[Tensor, "n n"]:
    """Chance of each sample (columns) to be among the ``k`` nearest of each other one (rows), over ``sqrt(n k)``.

    1 or 0, but for samples tied for the last places, which share them.
    """
    n = len(x)
    D = dissimilarity(x, distance)
    if n < k + 2 or not D.isfinite().all():
        return nothing(x, n, n)
    gaps = (D / (D.abs().amax() * GRAIN)).round().fill_diagonal_(torch.inf)
    last = gaps.kthvalue(k, 1, keepdim=True).values
    closer, tied = gaps.lt(last), gaps.eq(last)
    left = (k - closer.sum(1, keepdim=True)).double()
    return (closer + tied * (left / tied.sum(1, keepdim=True))) / (n * k) ** 0.5


def rbf_factor(x: Features, bandwidth: float) -> Float64[Tensor, "n n"]:
    """U-centred Gaussian kernel of Frobenius norm 1."""
    if len(x) < 4:
        return nothing(x, len(x), len(x))
    K = rbf_gram(centred_gram(x), bandwidth)
    A = u_center(K)
    own = A.square().sum()
    return A / torch.where(own > ROUNDING * K.square().sum(), own, torch.nan).sqrt()
