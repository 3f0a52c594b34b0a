"""Centred kernel alignment (CKA) and the unbiased HSIC behind it."""

import torch
from jaxtyping import Float, Float64, Num
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean

from ._arrays import ArrayLike, as_tensor, paired

# Below this share of the kernel's own power, what U-centring leaves is rounding of a float32 Gram matrix.
ROUNDING = 1e-12


# Columns per step on a CPU: a block of them stays in the cache between centring and the product.
COLUMNS = 4096


def scaled_gram(x: Num[Tensor, "n *features"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, ""]]:
    """Gram matrix of nearly centred samples, times the square of a power of two; both in the features' precision.

    ``K = s² Y Yᵀ`` with ``Y = X - m``, ``m`` the mean of about 8 of the samples: what it leaves of the mean is of the
    size of the spread, and goes when ``K`` is centred in float64. The scale ``s`` keeps ``K`` from overflowing. A value
    that is not finite makes the whole of ``K`` NaN.
    """
    x = x.detach().flatten(1)
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    n, D = x.shape
    K, one = x.new_zeros(n, n), x.new_ones(())
    if not x.numel():
        return K, one
    on_cpu = x.device.type == "cpu"
    shift = x[:: max(n // 8, 1)].mean(0)
    # Over two rows: the first may be the mean itself.
    exponent = torch.frexp((x[[0, n // 2]] - shift).abs().amax()).exponent.clamp(-100, 100)
    scale = torch.ldexp(one, -exponent)
    # Reading a number back costs nothing on a CPU; there, one pass less where nothing can overflow.
    needless = on_cpu and abs(int(exponent)) < 30
    scale = one if needless else scale
    shift = shift if needless else shift * -scale
    half, step = n // 2, COLUMNS if on_cpu else D
    for start in range(0, D, step):
        part, mean = x[:, start : start + step], shift[start : start + step]
        # Multiplying by a power of two is exact: this is the difference of X and m, rounded once.
        y = part - mean if needless else torch.addcmul(mean, part, scale)
        K[:half].addmm_(y[:half], y.T)
        K[half:, half:].addmm_(y[half:], y[half:].T)
    K[half:, :half] = K[:half, half:].T
    sound = (K.diagonal().sum() * 0.0).add_(1.0)
    return K.mul_(sound), scale


def centred_gram(x: Num[ArrayLike, "n *features"]) -> Float64[Tensor, "n n"]:
    """Gram matrix of the samples after subtracting their mean, safe where the mean is far larger than the spread.

    ``K = Y Yᵀ`` with ``Y = X - mean(X)``. The mean (of some samples) is subtracted before the product, which is
    made in the features' own precision (half types in float32); what is left of it is removed from ``K`` in float64.
    A constant ``x`` gives zeros up to rounding, a value that is not finite gives NaN everywhere.

    Args:
        x: features, one sample per row, any unit.

    >>> import torch
    >>> centred_gram(torch.tensor([[10001.0], [10005.0]])).tolist()
    [[4.0, -4.0], [-4.0, 4.0]]
    """
    scaled, scale = scaled_gram(as_tensor(x))
    K = scaled.double() / scale.double().square()
    return K - K.mean(0) - K.mean(1, keepdim=True) + K.mean() if len(K) else K


def u_center(K: Num[ArrayLike, "*batch n n"]) -> Float64[Tensor, "*batch n n"]:
    """U-centred kernel: zero diagonal, and rows and columns that sum to zero.

    ``Ã_ij = K_ij - Σ_l K_il/(n-2) - Σ_k K_kj/(n-2) + Σ_kl K_kl/((n-1)(n-2))`` over off-diagonal entries, ``Ã_ii = 0``.
    Source: Székely and Rizzo 2014, doi:10.1214/14-AOS1255.

    Args:
        K: symmetric kernel matrices of ``n >= 4`` samples.

    Raises:
        InputError: fewer than 4 samples.

    >>> import torch
    >>> x = torch.arange(5.0)[:, None]
    >>> u_center(x @ x.T).sum(0).abs().max() < 1e-12
    tensor(True)
    """
    K = as_tensor(K)
    if K.shape[-1] < 4:
        raise InputError(f"expected a kernel of at least 4 samples, got {K.shape[-1]}; use a larger batch")
    return u_center_(K.to(torch.float64, copy=True))


def u_center_(K: Float64[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch n n"]:
    """As ``u_center``, of symmetric kernels and in their own memory."""
    n = K.shape[-1]
    K.diagonal(dim1=-2, dim2=-1).zero_()
    rows = K.sum(-1)
    shift = rows / (n - 2) - rows.sum(-1, keepdim=True) / (2 * (n - 1) * (n - 2))
    K -= shift.unsqueeze(-1)
    K -= shift.unsqueeze(-2)
    K.diagonal(dim1=-2, dim2=-1).zero_()
    return K


def hsic1(K: Num[ArrayLike, "*batch n n"], L: Num[ArrayLike, "*batch n n"]) -> Float64[Tensor, "*batch"]:
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


def rbf_gram(K: Num[Tensor, "n n"], bandwidth: float) -> Float64[Tensor, "n n"]:
    """Gaussian kernel of samples whose linear kernel is ``K``; NaN where more than half of the samples coincide.

    ``exp(-d²/(2σ²))`` with the Euclidean distance ``d`` and ``σ = bandwidth · median(d)`` over pairs of samples.
    """
    own = K.double().diagonal()
    squares = (own[:, None] + own - 2 * K.double()).relu()
    n = len(K)
    rows, columns = torch.triu_indices(n, n, 1, device=K.device)
    distances = squares[rows, columns].sqrt().sort().values
    if not len(distances):
        return torch.full_like(squares, torch.nan)
    median = (distances[len(distances) // 2] + distances[(len(distances) - 1) // 2]) / 2
    sigma2 = torch.where(median.square() > ROUNDING * own.amax(), bandwidth * median, torch.nan).square()
    return torch.exp(squares / (-2 * sigma2))


def cka(
    x: Num[ArrayLike, "n *xfeatures"],
    y: Num[ArrayLike, "n *yfeatures"],
    estimator: str = "unbiased",
    kernel: str = "linear",
    bandwidth: float = 0.5,
) -> Float64[Tensor, ""]:
    """Centred kernel alignment of two representations of the same samples.

    ``HSIC(K, L) / (sqrt(HSIC(K, K)) sqrt(HSIC(L, L)))`` of the kernels ``K`` of ``x`` and ``L`` of ``y``. "unbiased"
    takes HSIC1 (the value may be below 0 or above 1, and is not clamped); "biased" takes ``tr(HKHL)`` with
    ``H = I - 11ᵀ/n``, for linear kernels ``||YcᵀXc||²/(||XcᵀXc|| ||YcᵀYc||)``. No unit. Invariant to rotation,
    isotropic scale and translation of either side, not to other linear maps. Any ``n >= 4``, also fewer samples than
    features; there the biased value tends to 1 whatever the data. Source: arXiv 1905.00414, 2010.15327.

    NaN where one side is constant or not finite, or its samples are all equally distant.

    Args:
        x, y: features, one sample per row; locations are flattened into features.
        estimator: "unbiased" or "biased".
        kernel: "linear", ``XXᵀ``; or "rbf", ``exp(-d²/(2σ²))``.
        bandwidth: ``σ`` of the Gaussian kernel as a multiple of the median distance between samples.

    Raises:
        InputError: an unknown word, a bandwidth that is not positive, or "unbiased" with fewer than 4 samples.

    >>> import torch
    >>> x = torch.arange(1.0, 6.0)[:, None]
    >>> round(cka(x, x**2).item(), 6), round(cka(x, x**2, "biased").item(), 6)
    (0.984602, 0.962567)
    """
    check_word("estimator", estimator, ("unbiased", "biased"))
    check_word("kernel", kernel, ("linear", "rbf"))
    if not bandwidth > 0:
        raise InputError(f"expected bandwidth > 0, a multiple of the median distance, got {bandwidth}")
    K, L = (centred_gram(t) for t in paired(x, y))
    if kernel == "rbf":
        K, L = rbf_gram(K, bandwidth), rbf_gram(L, bandwidth)
    n = len(K)
    power = torch.stack([K.square().sum(), L.square().sum()])
    if estimator == "unbiased":
        K, L = u_center(K), u_center(L)
    else:
        K, L = (A - A.mean(0) - A.mean(1, keepdim=True) + A.mean() if n else A for A in (K, L))
    own = torch.stack([K.square().sum(), L.square().sum()])
    own = torch.where(own > ROUNDING * power, own, torch.nan)
    return (K * L).sum() / own.sqrt().prod()


def check_word(what: str, word: str, options: tuple[str, ...]) -> None:
    """Raise an error where ``word`` is none of ``options``."""
    if word not in options:
        raise InputError(f"expected {what} to be one of {list(options)}, got {word!r}.{did_you_mean(word, options)}")
