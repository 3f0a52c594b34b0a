"""What modalities share and what only one has, in two parts of the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._part import channel_axis, check_features, dimensions, pool, spread, there
from .functional._exchanges import check_alike, visible

Maps = dict[str, Float[Tensor, "b ..."]]
Present = dict[str, Bool[Tensor, " b"]] | None


class ConsistencySpeciality(nn.Module):
    """Merge the first channels of all modalities, let the rest stay apart: consistent and special parts.

    ``y_m = [mean over n of x_n,c ; x_m,s + W_m · mean over n != m of x_n,s]`` with ``c`` the first ``C · ratio``
    channels, ``s`` the rest, and ``W_m`` a 1x1 map that starts at zero. ``{m: x} -> {m: y}`` of ``[B,C]``, ``[B,T,C]``
    or ``[B,C,H,W]``, the same shape for every modality. ``losses`` pull the consistent parts together and the special
    parts apart. A *reconstruction*: the fusion strategy of arXiv:2308.10019 was not available, only its findings.

    Means are over the modalities that the sample has; absent samples come out as zeros.

    Args:
        channels: channels of each modality, a mapping or one number with ``modalities``; the same for all.
        modalities: names, with one number of channels.
        ratio: share of the channels that is consistent (rounded down).
        consistent, special: whether the part is fused; one that is not passes as it is, without parameters and loss.
        weights: of the losses of consistency and speciality.

    Raises:
        InputError: fewer than two modalities, unequal channels or shapes, or a part without channels.

    >>> import torch
    >>> part = ConsistencySpeciality(4, modalities=("rgb", "depth"))
    >>> {m: y.tolist() for m, y in part({"rgb": torch.zeros(1, 4), "depth": torch.ones(1, 4)}).items()}
    {'rgb': [[0.5, 0.5, 0.0, 0.0]], 'depth': [[0.5, 0.5, 1.0, 1.0]]}
    """

    placement = "after"

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        modalities: Sequence[str] | None = None,
        ratio: float = 0.5,
        consistent: bool = True,
        special: bool = True,
        weights: tuple[float, float] = (0.1, 0.1),
    ):
        super().__init__()
        self.dimensions = dimensions(channels, modalities, "ConsistencySpeciality")
        self.modalities = tuple(self.dimensions)
        sizes = set(self.dimensions.values())
        if len(self.modalities) < 2 or len(sizes) > 1:
            raise InputError(
                "ConsistencySpeciality needs two modalities or more with the same number of channels, got "
                f"{self.dimensions}"
            )
        size = sizes.pop()
        self.split = int(size * ratio + 1e-9)
        if not 0 < self.split < size:
            raise InputError(f"ConsistencySpeciality: a share of {ratio} of {size} channels leaves a part empty")
        self.consistent = consistent
        self.special = special
        self.weights = weights
        rest = size - self.split
        self.others = nn.ModuleDict({m: _zero_linear(rest) for m in self.modalities if special})

    def forward(self, features: Maps, present: Present = None) -> Maps:
        common, own = self._parts(visible(features, present))
        if self.consistent:
            mean = _mean(common, self.modalities, present)
            common = dict.fromkeys(self.modalities, mean)
        if self.special:
            added = {}
            for m, linear in self.others.items():
                x = _mean(own, [n for n in self.modalities if n != m], present)
                added[m] = linear(x.movedim(1, -1)).movedim(-1, 1) if x.ndim == 4 else linear(x)
            own = {m: x + added[m] for m, x in own.items()}
        axis = channel_axis(features[self.modalities[0]])
        return visible({m: torch.cat([common[m], own[m].to(common[m].dtype)], axis) for m in features}, present)

    def losses(self, features: Maps, present: Present = None) -> dict[str, Float[Tensor, ""]]:
        """Return ``{"consistency": λ_c (1 - CKA(c)), "speciality": λ_s |CKA(s)|}`` of the features that go in.

        ``CKA`` is the linear one with the unbiased HSIC, over the samples of the batch that have both modalities, of
        features averaged over time or space, and averaged over the pairs of modalities (arXiv:2010.15327 Eq. 3). It
        counts as 0, without gradient, where it does not exist: with fewer than 4 such samples, or a constant part. Only
        the parts that are fused have a loss.
        """
        common, own = self._parts(visible(features, present))
        pairs = list(combinations(self.modalities, 2))
        both = {(m, n): there(present, m, common[m]) & there(present, n, common[m]) for m, n in pairs}
        found: dict[str, Tensor] = {}
        dtype = torch.promote_types(features[self.modalities[0]].dtype, torch.float32)
        if self.consistent:
            values = [_cka(pool(common[m]), pool(common[n]), both[m, n]) for m, n in pairs]
            found["consistency"] = self.weights[0] * (1 - torch.stack(values).mean()).to(dtype)
        if self.special:
            values = [_cka(pool(own[m]), pool(own[n]), both[m, n]).abs() for m, n in pairs]
            found["speciality"] = self.weights[1] * torch.stack(values).mean().to(dtype)
        return found

    def _parts(self, features: Maps) -> tuple[Maps, Maps]:
        check_features(features, self.dimensions, "ConsistencySpeciality")
        check_alike(features, "ConsistencySpeciality")
        common, own = {}, {}
        for m in self.modalities:
            x = features[m]
            axis = channel_axis(x)
            common[m], own[m] = x.split((self.split, x.shape[axis] - self.split), axis)
        return common, own

    def extra_repr(self) -> str:
        return (
            f"{self.dimensions}, split={self.split}, consistent={self.consistent}, special={self.special}, "
            f"weights={self.weights}"
        )


def _zero_linear(size: int) -> nn.Linear:
    linear = nn.Linear(size, size, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


def _mean(features: Maps, modalities: Sequence[str], present: Present) -> Tensor:
    """Mean over those present; zero where none is."""
    total = features[modalities[0]]
    for m in modalities[1:]:
        total = total + features[m]
    if present is None or not any(m in present for m in modalities):
        return total / len(modalities)
    count = torch.stack([there(present, m, total) for m in modalities]).sum(0)
    return total / spread(count.clamp(min=1).to(total.dtype)[:, None], total)


def _cka(x: Float[Tensor, "b c"], y: Float[Tensor, "b d"], rows: Bool[Tensor, " b"]) -> Float[Tensor, ""]:
    """Unbiased linear CKA over ``rows``, differentiable; 0 where it does not exist."""
    K, L = (_u_centred_gram(t, rows) for t in (x, y))
    # The factor n(n-3) of the three HSIC cancels.
    own = torch.stack([K.square().sum(), L.square().sum()])
    # In float64, what is this small beside the features' own power is rounding of a constant.
    power = torch.stack([torch.where(rows[:, None], t.detach().double(), 0.0).square().sum() for t in (x, y)]).square()
    exists = ((own > 1e-20 * power).all() & (rows.sum() >= 4)).detach()
    safe = torch.where(exists, own, torch.ones_like(own))
    return torch.where(exists, (K * L).sum() / safe.sqrt().prod(), torch.zeros_like(own[0]))


def _u_centred_gram(x: Float[Tensor, "b c"], rows: Bool[Tensor, " b"]) -> Float[Tensor, "b b"]:
    """Gram matrix of ``rows`` with zero diagonal whose rows and columns sum to zero; zero elsewhere."""
    mask = rows.double()
    count = mask.sum()
    x = torch.where(rows[:, None], x.double(), 0.0)
    # Centring changes nothing but rounding.
    x = (x - x.sum(0) / count.clamp(min=1)) * mask[:, None]
    pairs = mask[:, None] * mask * (1 - torch.eye(x.shape[0], dtype=x.dtype, device=x.device))
    K = (x @ x.T) * pairs
    n = count.clamp(min=4)
    means = K.sum(1) / (n - 2)
    return (K - (means[:, None] + means - means.sum() / (n - 1))) * pairs
