"""Linear centred kernel alignment (CKA) and the unbiased HSIC behind it."""

import torch
from jaxtyping import Float, Float64, Num
from torch import Tensor

from fusionscope.errors import InputError

# Below this share of the kernel's own power, what U-centring leaves is rounding of a float32 Gram matrix.
ROUNDING = 1e-12


def centred_gram(x: Num[Tensor, "n *features"]) -> Float64[Tensor, "n n"]:
    """Gram matrix of the samples after subtracting their mean, safe where the mean is far larger than the spread.

    ``K = Y Yᵀ`` with ``Y = X - mean(X)``. Features are first shifted by sample 0 (exact where the spread is small),
    then centred and scaled in their own precision (half types in float32); the product is scaled back in float64.
    A constant ``x`` gives exact zeros, a value that is not finite gives NaN everywhere.

    Args:
        x: features, one sample per row, any unit.

    >>> import torch
    >>> centred_gram(torch.tensor([[10001.0], [10005.0]])).tolist()
    [[4.0, -4.0], [-4.0, 4.0]]
    """
    y = x.detach().flatten(1)
    y = y if y.dtype in (torch.float32, torch.float64) else y.float()
    y = y - y[:1]
    y -= y.mean(0, keepdim=True)
    if not y.shape[1]:
        return torch.zeros(len(y), len(y), dtype=torch.float64, device=y.device)
    largest = torch.linalg.vector_norm(y, torch.inf)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    y /= scale
    finite = largest.isfinite().double()
    return (y @ y.T).double() * scale.double().square() * finite / finite


def u_center(K: Float[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch n n"]:
    """U-centred kernel: zero diagonal, and rows and columns that sum to zero.

    ``Ã_ij = K_ij - Σ_l K_il/(n-2) - Σ_k K_kj/(n-2) + Σ_kl K_kl/((n-1)(n-2))`` over off-diagonal entries, ``Ã_ii = 0``.
    Source: Székely and Rizzo 2014, doi:10.1214/14-AOS1255.

    Args:
        K: kernel matrices of ``n >= 4`` samples.

    Raises:
        InputError: fewer than 4 samples.

    >>> import torch
    >>> x = torch.arange(5.0)[:, None]
    >>> u_center(x @ x.T).sum(0).abs().max() < 1e-12
    tensor(True)
    """
    n = K.shape[-1]
    if n < 4:
        raise InputError(f"expected a kernel of at least 4 samples, got {n}; use a larger batch")
    eye = torch.eye(n, dtype=torch.bool, device=K.device)
    A = K.double().masked_fill(eye, 0.0)
    rows, columns = A.sum(-1, keepdim=True), A.sum(-2, keepdim=True)
    total = rows.sum(-2, keepdim=True)
    return (A - rows / (n - 2) - columns / (n - 2) + total / ((n - 1) * (n - 2))).masked_fill(eye, 0.0)


def hsic1(K: Float[Tensor, "*batch n n"], L: Float[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch"]:
    """Unbiased Hilbert-Schmidt independence criterion of two symmetric kernels.

    ``HSIC1 = <Ã, B̃> / (n(n-3))`` with the U-centred kernels, which equals
    ``[tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2/(n-2)·1ᵀK̃L̃1] / (n(n-3))``; may be negative.
    Source: Song et al. 2012 (JMLR 13:1393); arXiv 2010.15327 Eq. 3.

    Args:
        K, L: kernels of the same ``n >= 4`` samples; the unit is the product of theirs.

    Raises:
        InputError: fewer than 4 samples.

    >>> import torch
    >>> x = torch.arange(1.0, 6.0)[:, None]
    >>> hsic1(x @ x.T, x @ x.T)
    tensor(5.1667, dtype=torch.float64)
    """
    n = K.shape[-1]
    return (u_center(K) * u_center(L)).sum((-2, -1)) / (n * (n - 3))


def linear_cka(
    x: Num[Tensor, "n *xfeatures"], y: Num[Tensor, "n *yfeatures"], *, unbiased: bool = True
) -> Float64[Tensor, ""]:
    """Linear CKA of two representations of the same samples.

    ``HSIC(K, L) / (sqrt(HSIC(K, K)) sqrt(HSIC(L, L)))`` with ``K = XXᵀ``, ``L = YYᵀ``: ``unbiased=True`` takes HSIC1
    (it may be below 0 or above 1, and is not clamped), ``False`` takes ``||YcᵀXc||²/(||XcᵀXc|| ||YcᵀYc||)``. No unit.
    Invariant to rotation, isotropic scale and translation. Source: arXiv 1905.00414, 2010.15327.
    NaN where one side is constant or not finite.

    Raises:
        InputError: unbiased with fewer than 4 samples.

    >>> import torch
    >>> x = torch.arange(1.0, 6.0)[:, None]
    >>> round(linear_cka(x, x**2).item(), 6), round(linear_cka(x, x**2, unbiased=False).item(), 6)
    (0.984602, 0.962567)
    """
    K, L = centred_gram(x), centred_gram(y)
    power = torch.stack([K.square().sum(), L.square().sum()]) / max(len(K) * (len(K) - 3), 1)
    if unbiased:
        cross, own = hsic1(K, L), torch.stack([hsic1(K, K), hsic1(L, L)])
    else:
        cross, own = (K * L).sum(), torch.stack([K.square().sum(), L.square().sum()])
    own = torch.where(own > ROUNDING * power, own, torch.nan)
    return cross / own.sqrt().prod()
